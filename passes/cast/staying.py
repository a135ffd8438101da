"""Which nodes stay in float32, and why: the first reason that is found counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import onnx_ir as ir

from onnxopt.calibrate.rounding import Magnitude, magnitudes
from onnxopt.core import Context
from onnxopt.graph import given, label, tensor
from onnxopt.passes.cast.careful import careful
from onnxopt.passes.cast.constants import Fit, fits, unfit
from onnxopt.passes.cast.exact import whole_numbers
from onnxopt.passes.cast.half import Half
from onnxopt.passes.cast.kinds import Kinds
from onnxopt.passes.cast.masks import Masks, masks
from onnxopt.passes.cast.network import Network, float_inputs, float_outputs
from onnxopt.passes.cast.ranges import Seen, out_of_range
from onnxopt.passes.cast.slots import domain_of

SCATTERS = ("ScatterElements", "ScatterND")
Reasons = dict[ir.Node, str]


@dataclass(frozen=True)
class Found:
    """What was found out before anything is written.

    Attributes:
        reasons: flexible nodes that stay, each with the reason.
        masks: constants that may be saturated.
        fits: how each constant fits.
    """

    reasons: Reasons
    masks: Masks
    fits: Mapping[ir.Value, Fit]


def staying(
    model: ir.Model, net: Network, known: Kinds, half: Half, context: Context, block: Sequence[str], headroom: float
) -> Found:
    """Ask the user's list, the operators, the constants and the samples, in this order."""
    hidden, fitting = masks(model, net, known), fits(net, half)
    reasons = _blocked(net, block)
    for node, why in {**_operators(net), **whole_numbers(model, known)}.items():
        if node in net.flexible:
            reasons.setdefault(node, why)
    seen = _looked_at(model, net, known, half, context, hidden)
    looked_at = {node for node in net.flexible if _is_known(net, node, known, seen, hidden)}
    large = {node for node in net.flexible if _is_large(net, node, fitting, hidden)}
    for found in (
        unfit(net, fitting, hidden, half, seen),
        out_of_range(net, known, Seen(seen, hidden, half, headroom)),
        careful(net, known, half, looked_at, large),
    ):
        for node, why in found.items():
            reasons.setdefault(node, why)
    return Found(reasons, hidden, fitting)


def unmatched(net: Network, block: Sequence[str]) -> list[str]:
    """Words of the user's list that name nothing."""
    nodes = [*net.flexible, *net.fixed]
    return [word for word in block if not any(_matches(node, word) for node in nodes)]


def _blocked(net: Network, block: Sequence[str]) -> Reasons:
    """Nodes that the user named."""
    pairs = ((node, word) for node in net.flexible for word in block if _matches(node, word))
    return {node: f"block names {word!r}" for node, word in pairs}


def _matches(node: ir.Node, word: str) -> bool:
    return any(fnmatchcase(name, word) for name in (node.op_type, node.name or "", label(node)))


def _operators(net: Network) -> Reasons:
    """Where numbers become integers and come back, the scale is that of float32; and kernels that are missing."""
    found = {}
    for node in net.flexible:
        if domain_of(node):
            continue
        activation = node.op_type == "DequantizeLinear" and tensor(given(node, 0)) is None
        if activation or node.op_type == "QuantizeLinear":
            found[node] = "its scale was found for float32"
        elif node.op_type in SCATTERS and node.attributes.get_string("reduction", "none") != "none":
            found[node] = f"{node.op_type} has no kernel in 16 bits that reduces"
    return found


def _looked_at(
    model: ir.Model, net: Network, known: Kinds, half: Half, context: Context, hidden: Masks
) -> Mapping[str, Magnitude]:
    """The magnitudes of all that can become 16 bits, on the samples; nothing where there are none."""
    if context.calibration is None:
        return {}
    main = {*model.graph.inputs, *(value for node in model.graph for value in node.outputs)}
    values = {v for n in net.flexible for v in (*float_inputs(net, n, known), *float_outputs(net, n, known))}
    looked_at = (values & main) - hidden.values - net.constants.keys()
    names = {value.name for value in looked_at if value.name}
    return magnitudes(model, context.calibration, names, context.target, half.dtype)


def _is_known(net: Network, node: ir.Node, known: Kinds, seen: Mapping[str, Magnitude], hidden: Masks) -> bool:
    """Whether samples show what a node reads and gives."""
    values = [*float_inputs(net, node, known), *float_outputs(net, node, known)]
    return all(v.name in seen or v in net.constants or v in hidden.values for v in values)


def _is_large(net: Network, node: ir.Node, fitting: Mapping[ir.Value, Fit], hidden: Masks) -> bool:
    """Whether a node computes with a constant beyond the format, masks left out."""
    found = (fitting.get(value) for value in (*node.inputs, *node.outputs) if value and value not in hidden.sources)
    return any(fit is not None and fit.capped for fit in found)
