"""Which nodes compute in 16 bits, so that the least is spent on Casts and on numbers that are wider than they need be.

What is spent is counted in bytes that a GPU moves to and from its memory. Starting a kernel takes as long as moving
about two million of them (2 microseconds at 1 TB/s and more), so that the number of Casts counts first.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable

import onnx_ir as ir

from onnxopt.graph import given
from onnxopt.macs import count
from onnxopt.passes.cast.half import Half
from onnxopt.passes.cast.kinds import Kinds
from onnxopt.passes.cast.network import Network, float_inputs, float_outputs
from onnxopt.passes.cut import least_cut

START = 2e6
"""Bytes in the time that a kernel takes to start."""
CAST = 4 + 2
"""Bytes that a Cast moves for each number."""
WIDER = 2
"""Bytes that a number takes more in float32."""
MAC = 0.2
"""Bytes in the time that a multiplication takes more in float32: 19 against 312 Tflop/s, beside 2 TB/s (A100)."""
LAYER = 8 * START
"""What a layer that multiplies gains at least: its Casts never cost more."""
LAYERS = (
    *("Conv", "ConvTranspose", "NhwcConv", "Gemm", "MatMul", "FusedMatMul", "TransposeMatMul", "Einsum"),
    *("GRU", "LSTM", "RNN", "MatMulBnb4", "MatMulNBits", "Attention", "GroupQueryAttention", "MultiHeadAttention"),
    *("PackedAttention", "PackedMultiHeadAttention", "DecoderMaskedMultiHeadAttention", "DecoderMaskedSelfAttention"),
)
KEPT = START / 100
"""What a Cast that there is costs less than a new one: where it makes no difference, it stays."""
TIMES = 8
"""How often the body of a Loop or Scan counts as run."""
UNKNOWN = 16
"""What an unknown dimension counts as."""
FLOAT_PLACE = 0


def least_casts(net: Network, stays: Iterable[ir.Node], known: Kinds, half: Half) -> set[ir.Node]:
    """The nodes that compute in 16 bits.

    Args:
        net: the model.
        stays: flexible nodes that must compute in float32.
        known: the type of every value.
        half: the format.
    """
    stays = set(stays)
    places: dict[ir.Node | None, int] = {None: FLOAT_PLACE, **dict.fromkeys(stays, FLOAT_PLACE)}
    in_half, in_float = [math.inf], [0.0]
    for node in (*net.flexible, *([net.signature] if net.signature else [])):
        if node not in stays:
            places[node] = len(in_float)
            in_half.append(0.0)
            in_float.append(0.0 if node is net.signature else _wider(net, node, known, half))
    meet: dict[tuple[int, int], float] = defaultdict(float)
    for value, home in net.made.items():
        cost = (START + CAST * _size(value, known)) * (TIMES if value.graph in net.repeated else 1)
        place = places.get(home, FLOAT_PLACE)
        if value in net.casts and place != FLOAT_PLACE:
            in_float[place] += cost
        readers = {places.get(read.reader, FLOAT_PLACE) for read in net.reads.get(value, ())} - {place}
        if not readers:
            continue
        up, down = (len(in_float), len(in_float) + 1) if len(readers) > 1 else (*readers, *readers)
        if len(readers) > 1:  # a Cast in either direction, which all readers share
            in_half += [0.0, 0.0]
            in_float += [0.0, 0.0]
            meet |= {(reader, up): math.inf for reader in readers} | {(down, reader): math.inf for reader in readers}
        meet[up, place] += 0.0 if value in net.casts else cost
        meet[place, down] += cost
    chosen = least_cut(in_half, in_float, meet)
    return {node for node, place in places.items() if node is not None and place in chosen}


def casts(net: Network, chosen: set[ir.Node]) -> int:
    """How many Casts a choice takes, those included that there are already."""
    found = len(net.casts)
    for value, home in net.made.items():
        wanted = {read.reader in chosen for read in net.reads.get(value, ())} - {home in chosen}
        found += len(wanted) - (value in net.casts and wanted == {True})
    return found


def _wider(net: Network, node: ir.Node, known: Kinds, half: Half) -> float:
    """What a node costs more in float32."""
    values = [*float_inputs(net, node, known), *float_outputs(net, node, known)]
    spent = float(WIDER * sum(_size(value, known) for value in values))
    if node.op_type == "Cast" and known.dtype(given(node, 0)) is half.dtype:
        spent = START + CAST * _size(node.outputs[0], known) - KEPT
    elif node.op_type in LAYERS:
        macs = count(node, lambda value: known.dims(value, UNKNOWN)) or 0
        spent = max(spent + MAC * macs, LAYER)
    return spent * (TIMES if node.graph in net.repeated else 1)


def _size(value: ir.Value, known: Kinds) -> int:
    return math.prod(known.dims(value, UNKNOWN))
