"""LSTM layers in int8, with an operator that only ONNX Runtime has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxopt.core import Change, Context, Exactness, Pass, Refusal
from onnxopt.graph import array, constant, drop_unread, given, label, nodes
from onnxopt.passes.quantize.grids.grid import quantized_rows, weight_scales
from onnxopt.passes.quantize.grids.portable import bounds_pairs, portable_option

DOMAIN, OPERATOR = "com.microsoft", "DynamicQuantizeLSTM"
INPUTS = 12
"""Eight of LSTM, then scale and zero point of W and of R."""
Constants = list[ir.Value]
"""The integers, their scales, their zero points."""


@dataclass(frozen=True)
class QuantizeLstm(Pass):
    """Compute the matrix products of LSTM layers in integers, with the ranges of x and h taken at every run.

    Before:
        ``y, h, c = LSTM(x, W, R, b)``, W float32 [directions, 4 H, K], R float32 [directions, 4 H, H]
    After:
        ``y, h, c = com.microsoft.DynamicQuantizeLSTM(x, W8, R8, b, ..., scale_W, 0, scale_R, 0)``, W8 int8
        [directions, K, 4 H], R8 int8 [directions, H, 4 H], symmetric, with scales [directions, 4 H]. Where the
        processor would add pairs of products in 16 bits (``portable``), a scale is just as large as the largest pair
        of its column asks for, and the products are exact there, too.
    Left alone:
        all of them without ``--allow-contrib`` or on a GPU; weights that are not constant or not float32; batch-first
        layers (layout 1), which the operator lacks. Peepholes, clip, input_forget and activations stay as they are.
    Exact up to:
        lossy; the gate decides.
    Source:
        ONNX Runtime's ContribOperators.md and kernel. Measured on ONNX Runtime 1.31 and a Zen 3 (AVX2), 256 units in
        two directions, 100 steps: int8 3 times as fast as float, uint8, which needs no bound on pairs, 1.5 times.
    """

    name: ClassVar[str] = "quantize-lstm"
    exactness: ClassVar[Exactness] = Exactness.LOSSY

    portable: str = portable_option()

    def run(self, model: ir.Model, context: Context) -> list[Change | Refusal]:
        """Quantize in place."""
        found = nodes(model, "LSTM")
        if found and context.target.provider != "cpu":
            return [Refusal("", f"{OPERATOR} has a kernel for the CPU only")]
        if found and not context.allow_contrib:
            return [Refusal("", f"{OPERATOR} is an operator of ONNX Runtime only: --allow-contrib")]
        pairs = bounds_pairs(self.portable, context.target)
        known: dict[tuple[ir.Graph, ir.Value], Constants] = {}
        said = [_quantize(node, known, pairs=pairs) for node in found]
        if any(isinstance(item, Change) for item in said):
            model.opset_imports.setdefault(DOMAIN, 1)
        return said


def _quantize(node: ir.Node, known: dict[tuple[ir.Graph, ir.Value], Constants], *, pairs: bool) -> Change | Refusal:
    """Turn one LSTM into its quantized form; ``known`` holds the weights that were written already."""
    why, graph = _why_not(node), node.graph
    if why:
        return Refusal(label(node), why)
    assert isinstance(graph, ir.Graph)
    weights = [value for value in node.inputs[1:3] if value is not None]
    for value in weights:
        if (graph, value) not in known:
            known[graph, value] = _written(graph, value, pairs=pairs)
    (w, *w_grid), (r, *r_grid) = (known[graph, value] for value in weights)
    node.resize_inputs(INPUTS)
    for index, constant_input in {1: w, 2: r, **dict(enumerate([*w_grid, *r_grid], INPUTS - 4))}.items():
        node.replace_input_with(index, constant_input)
    node.domain, node.op_type = DOMAIN, OPERATOR
    node.attributes.pop("layout", None)
    drop_unread(weights)
    return Change(label(node), f"LSTM in int8, its inputs quantized at run time ({OPERATOR})", kernel=OPERATOR)


def _why_not(node: ir.Node) -> str | None:
    """Why a layer stays in float."""
    for name, weight in (("W", array(given(node, 1))), ("R", array(given(node, 2)))):
        if weight is None:
            return f"its {name} is not constant; if computed from constants: run fold-constants:growth-bytes=100000000"
        if weight.dtype != np.float32:
            return f"its {name} is {weight.dtype}, not float32"
    if node.attributes.get_int("layout", 0) != 0:
        return f"{OPERATOR} has no layout 1 (batch first)"
    return None


def _written(graph: ir.Graph, value: ir.Value, *, pairs: bool) -> Constants:
    """The weight as constants of the graph."""
    weight = array(value)
    assert weight is not None
    parts = zip(("int8", "scale", "zero"), quantized(weight, pairs=pairs), strict=True)
    return [constant(graph, f"{value.name}/{part}", numbers) for part, numbers in parts]


def quantized(weight: np.ndarray, *, pairs: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """W or R of an LSTM as integers.

    Args:
        weight: float32 [directions, channels, products].
        pairs: bound the sums of neighbouring products (see ``weight_scales``).

    Returns:
        int8 [directions, products, channels], scales float32 [directions, channels], zero points int8 likewise.
    """
    scales = [weight_scales(rows, None, 1.0, pairs=pairs) for rows in weight]
    integers = [quantized_rows(rows, scale, pairs=pairs).T for rows, scale in zip(weight, scales, strict=True)]
    return np.stack(integers), np.stack(scales), np.zeros(weight.shape[:2], np.int8)
