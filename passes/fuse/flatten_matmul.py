"""Write MatMul and its bias as Gemm of two dimensions, the form in which int8 kernels add the bias themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxopt.core import Change, Context, Exactness, Pass, Refusal
from onnxopt.graph import STANDARD_DOMAINS, added_row, array, constant, inferred, opset, rank

OLDEST = 15
"""From here Shape can leave out the last dimension."""


@dataclass(frozen=True)
class FlattenMatMul(Pass):
    """Write a product of more than two dimensions with a constant matrix, and its bias, as one Gemm.

    Before:
        ``y = MatMul(x, W) + b``, x [..., K] of rank 3 or more, W [K, N], b [N]
    After:
        ``y = Reshape(Gemm(Reshape(x, [-1, K]), W, b), [..., N])``; products that read the same x share its Reshape
    Left alone:
        products without a constant bias, or whose result is read before the bias is added; weights that can be
        overridden; other types than float; subgraphs; before opset 15, shapes of which two dimensions are dynamic.
    Exact up to:
        float rounding.
    Source:
        linearity; ONNX Runtime makes the same of the pair in float (MatMulAddFusion), but of MatMul in int8 and a
        float bias two kernels. MiniLM on AVX512: 3.71x in int8 instead of 3.53x (facts/ort_cpu_limits.md, section 2).
    """

    name: ClassVar[str] = "flatten-matmul"
    exactness: ClassVar[Exactness] = Exactness.ROUNDING

    def run(self, model: ir.Model, context: Context) -> list[Change | Refusal]:
        """Rewrite every such pair."""
        known = inferred(model)
        flat: dict[ir.Value, _Flat] = {}
        changes: list[Change | Refusal] = []
        for node in list(model.graph):
            add = _bias_add(node, known)
            if add is not None and (found := _flattened(node, known, flat, opset(model))) is not None:
                changes.append(_rewrite(node, add, found))
        if changes:
            model.graph.sort()
        return changes


@dataclass(frozen=True)
class _Flat:
    """A value [..., K] as a matrix [rows, K], and its other dimensions: numbers, -1 among them, or computed."""

    rows: ir.Value
    leading: list[int] | ir.Value


def _bias_add(node: ir.Node, known: Mapping[ir.Value, ir.Value]) -> ir.Node | None:
    """The node that adds a constant row to a product of three dimensions or more with a constant matrix."""
    if node.op_type != "MatMul" or node.domain not in STANDARD_DOMAINS:
        return None
    x, weight = node.inputs
    if x is None or known[x].dtype is not ir.DataType.FLOAT or (rank(known[x]) or 0) < 3:
        return None
    contents, added = array(weight), added_row(node)
    if contents is None or contents.ndim != 2 or added is None:
        return None
    adder, row = added
    return adder if _sizes(row) == contents.shape[1:] else None


def _flattened(
    node: ir.Node, known: Mapping[ir.Value, ir.Value], flat: dict[ir.Value, _Flat], version: int
) -> _Flat | None:
    """What the product reads as a matrix, made once for all its readers; None where its shape cannot be restored."""
    x, graph = node.inputs[0], node.graph
    assert x is not None
    assert graph is not None
    shape = known[x].shape
    if x in flat or shape is None:
        return flat.get(x)
    leading = [dim if isinstance(dim, int) else -1 for dim in shape][:-1]
    computed = leading.count(-1) > 1 or 0 in leading
    if computed and version < OLDEST:
        return None
    to = constant(graph, f"{x.name}/rows/shape", np.array([-1, _sizes(node.inputs[1])[0]], np.int64))
    made = [ir.node("Reshape", [x, to]), *([ir.node("Shape", [x], {"end": -1})] if computed else [])]
    for one, name, kind in zip(made, ("rows", "leading"), (ir.DataType.FLOAT, ir.DataType.INT64), strict=False):
        one.outputs[0].name, one.outputs[0].type = f"{x.name}/{name}", ir.TensorType(kind)
        graph.insert_before(node, one)
    flat[x] = _Flat(made[0].outputs[0], made[1].outputs[0] if computed else leading)
    return flat[x]


def _sizes(value: ir.Value | None) -> tuple[int, ...]:
    """The shape of a constant."""
    contents = array(value)
    assert contents is not None
    return contents.shape


def _rewrite(node: ir.Node, add: ir.Node, flat: _Flat) -> Change:
    """Put a Gemm and a Reshape in the place of product and sum."""
    graph, weight, out = node.graph, node.inputs[1], add.outputs[0]
    assert graph is not None
    assert weight is not None
    bias = next(value for value in add.inputs if value is not node.outputs[0])
    width, name = _sizes(weight)[1], out.name
    gemm = ir.node("Gemm", [flat.rows, weight, bias])
    gemm.outputs[0].name, gemm.outputs[0].type = f"{name}/rows", out.type
    made = [gemm]
    if isinstance(flat.leading, list):
        shape = constant(graph, f"{name}/shape", np.array([*flat.leading, width], np.int64))
    else:
        made.append(ir.node("Concat", [flat.leading, constant(graph, f"{name}/width", np.array([width]))], {"axis": 0}))
        shape = made[-1].outputs[0]
        shape.name, shape.type = f"{name}/shape", ir.TensorType(ir.DataType.INT64)
    made.append(ir.node("Reshape", [gemm.outputs[0], shape]))
    ir.convenience.replace_nodes_and_values(graph, add, [node, add], made, [out], made[-1].outputs)
    return Change(str(name), "MatMul and Add became one Gemm")
