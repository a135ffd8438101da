"""Dynamic int8 quantization of matrix products with constant weights: no calibration, scales at run time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxopt.core import Change, Context, Exactness, Pass, Refusal
from onnxopt.graph import array, constant, label, nodes, opset, replace
from onnxopt.passes.quantize.grids.grid import quantized_rows, weight_scales
from onnxopt.passes.quantize.grids.portable import bounds_pairs, portable_option

MINIMUM_OPSET = 11
"""DynamicQuantizeLinear begins here."""
Quantized = tuple[ir.Value, ir.Value, ir.Value]
"""uint8 numbers, float scale, uint8 zero point."""


@dataclass(frozen=True)
class QuantizeDynamic(Pass):
    """Compute ``x @ W`` in integers, with the range of x taken from x itself at every run.

    Before:
        ``y = MatMul(x, W)``, W float32 [K, N]
    After:
        ``q, s, z = DynamicQuantizeLinear(x)``, ``i = MatMulInteger(q, W8, z, 0)``,
        ``y = Cast(i) * (s * scale)``, W8 int8 [K, N] symmetric with ``scale`` [N], one per column; nodes that
        read the same x share its quantization. ONNX Runtime fuses the chain into one kernel. Where the processor
        adds pairs of products in 16 bits (``portable``), a column's scale is as large as its largest pair asks for.
    Left alone:
        weights that are not constant, not float32 or not a matrix; convolutions (ConvInteger is 8 to 12 times
        slower than float in ONNX Runtime); models below opset 11.
    Exact up to:
        lossy; the gate decides.
    Source:
        ONNX operator specification; measured on transformers, where static int8 loses the accuracy.
    """

    name: ClassVar[str] = "quantize-dynamic"
    exactness: ClassVar[Exactness] = Exactness.LOSSY

    portable: str = portable_option()

    def run(self, model: ir.Model, context: Context) -> list[Change | Refusal]:
        """Quantize in place."""
        if context.target.no_int8:
            return [Refusal("", context.target.no_int8)]
        if opset(model) < MINIMUM_OPSET:
            return [Refusal("", f"opset {opset(model)} is below {MINIMUM_OPSET}: run upgrade-opset first")]
        pairs = bounds_pairs(self.portable, context.target)
        known: dict[ir.Value, Quantized] = {}
        found = [(node, array(node.inputs[1])) for node in nodes(model, "MatMul")]
        return [
            _quantize(node, weight, known, pairs=pairs)
            for node, weight in found
            if weight is not None and weight.ndim == 2 and weight.dtype == np.float32 and weight.size
        ]


def _quantize(node: ir.Node, weight: np.ndarray, known: dict[ir.Value, Quantized], *, pairs: bool) -> Change:
    graph, x = node.graph, node.inputs[0]
    assert graph is not None
    assert x is not None
    if x not in known or known[x][0].graph is not graph:
        known[x] = _dynamic(node, x)
    q, s, z = known[x]
    scale = weight_scales(weight.T, None, 1.0, pairs=pairs)
    base = label(node)
    weights = constant(graph, f"{base}/int8", quantized_rows(weight.T, scale, pairs=pairs).T)
    zero = constant(graph, f"{base}/zero", np.zeros(len(scale), np.int8))
    product = ir.node("MatMulInteger", [q, weights, z, zero])
    cast = ir.node("Cast", [product.outputs[0]], {"to": ir.DataType.FLOAT})
    scales = ir.node("Mul", [s, constant(graph, f"{base}/scale", scale)])
    graph.insert_before(node, [product, cast, scales])
    replace([node], "Mul", [cast.outputs[0], scales.outputs[0]])
    return Change(base, "MatMul in int8, its input quantized at run time", kernel=product.op_type)


def _dynamic(node: ir.Node, x: ir.Value) -> Quantized:
    """Quantize x just before its first reader."""
    assert node.graph is not None
    quantize = ir.node("DynamicQuantizeLinear", [x], num_outputs=3)
    node.graph.insert_before(node, quantize)
    q, s, z = quantize.outputs
    return q, s, z
