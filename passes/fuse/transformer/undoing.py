"""Forms that exact passes like and the libraries do not know, written as exporters write them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxopt.graph import array, constant, given, inferred, label, nodes, only_read_by, opset, replace
from onnxopt.passes.fuse.transformer.packing import gemm, last
from onnxopt.passes.fuse.transformer.sizes import Sizes

AXES_AS_INPUT = 18
"""From this opset ReduceMean takes its axes as an input."""


def undo(model: ir.Model, *, sums: bool) -> None:
    """Rewrite in place; each form computes the same.

    Args:
        model: of opset 13 or later.
        sums: whether the sum of two becomes Add, and a Gemm of rows MatMul and Add, so that the Add can be fused.
    """
    known = inferred(model)
    for node in nodes(model, "GlobalAveragePool"):
        _mean(node, known, opset(model))
    for node in nodes(model, "Reshape"):
        _squeeze(node, known)
    if sums:
        for node in nodes(model, "Sum"):
            node.op_type = "Add" if len(node.inputs) == 2 else "Sum"
        sizes = Sizes(inferred(model))
        for node in nodes(model, "Reshape"):
            _product(node, sizes)


def _mean(node: ir.Node, known: dict[ir.Value, ir.Value], version: int) -> None:
    """Of [batch, sequence, width], the mean over the width."""
    x = node.inputs[0]
    shape = None if x is None else known[x].shape
    if x is None or shape is None or len(shape) != 3:
        return
    if version < AXES_AS_INPUT:
        replace([node], "ReduceMean", [x], [ir.AttrInt64s("axes", [2]), ir.AttrInt64("keepdims", 1)])
    else:
        replace([node], "ReduceMean", [x, np.array([2], np.int64)], [ir.AttrInt64("keepdims", 1)])


def _squeeze(node: ir.Node, known: dict[ir.Value, ir.Value]) -> None:
    """Take a first dimension of 1 away by itself, where a Reshape does that among others, so that keys have four."""
    x, graph = node.inputs[0], node.graph
    shape = None if x is None or x not in known else known[x].shape
    if x is None or shape is None or len(shape) != 5 or shape[0] != 1 or not isinstance(graph, ir.Graph):
        return
    name = f"{label(node)}/squeezed"
    squeeze = ir.Node("", "Squeeze", [x, constant(graph, f"{name}/axes", np.array([0], np.int64))], num_outputs=1)
    squeeze.outputs[0].type, squeeze.outputs[0].name = x.type, name
    graph.insert_before(node, squeeze)
    node.replace_input_with(0, squeeze.outputs[0])


def _product(node: ir.Node, sizes: Sizes) -> None:
    """A Gemm of the rows of [batch, sequence, K], parted again: MatMul and Add."""
    rows, out = node.inputs[0], node.outputs[0]
    middle = None if rows is None else rows.producer()
    if rows is None or middle is None or middle.op_type != "Gemm" or not only_read_by(rows, node):
        return
    found, first = gemm(middle), None if middle.inputs[0] is None else middle.inputs[0].producer()
    x = None if first is None or first.op_type != "Reshape" else first.inputs[0]
    graph, before = node.graph, None if x is None else sizes.shape(x)
    if found is None or x is None or before is None or not isinstance(graph, ir.Graph):
        return
    depth, width = found.weight.shape
    if len(before) != 3 or last(x, sizes) != depth or sizes.shape(out) != [*before[:2], width]:
        return
    turned = middle.attributes.get_int("transB", 0)
    weight = constant(graph, f"{label(middle)}/weight", found.weight) if turned else middle.inputs[1]
    bias = given(middle, 2) if array(given(middle, 2)) is not None else None
    product = ir.Node("", "MatMul", [x, weight], num_outputs=1)
    product.outputs[0].type, product.outputs[0].name = out.type, f"{label(node)}/product"
    graph.insert_before(node, product)
    values = [product.outputs[0], bias if bias is not None else np.zeros(width, found.weight.dtype)]
    replace([node], "Add", values)
