"""Put the layers of a split into the graph, in the place of a layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from onnxopt.graph import constant, drop_constant, label, opset, walk
from onnxopt.layers import Layer, Rows, Weight
from onnxopt.passes.factorize.split import Split

BIASLESS_GEMM = 11
"""Opset from which Gemm may have no bias."""


def write(model: ir.Model, weight: Weight, split: Split, numbers: Sequence[Rows]) -> list[list[str]]:
    """Split all layers of a weight; they share the new constants.

    The last of the new layers is the old node: it keeps its name, its output and its bias.

    Args:
        model: that the weight is of.
        weight: stale then.
        split: of it.
        numbers: the weight of each layer, ``[outputs, inputs, *kernel]``.

    Returns:
        For each layer the labels of those that it has become, in order.
    """
    graph, spatial = model.graph, weight.layers[0].node.op_type == "Conv"
    values = [
        constant(graph, f"{weight.name}/factor{place}", one if spatial else one.T) for place, one in enumerate(numbers)
    ]
    return [_split(model, layer, split, values) for layer in weight.layers]


def _split(model: ir.Model, layer: Layer, split: Split, values: Sequence[ir.Value]) -> list[str]:
    """Put layers in front of the node, which becomes the last of them; the labels of all."""
    node, graph = layer.node, model.graph
    taken, names = _names(model), []
    for place, value in enumerate(values[:-1]):
        name = _free(f"{label(node)}/rank{place}", taken)
        first = ir.Node("", _operator(model, node), [node.inputs[0], value], name=name, num_outputs=1)
        first.outputs[0].name, first.outputs[0].type = name, ir.TensorType(ir.DataType.FLOAT)
        first.attributes.update({one.name: one for one in _attributes(node, split.axes[place], value)})
        graph.insert_before(node, first)
        node.replace_input_with(0, first.outputs[0])
        names.append(name)
    old = node.inputs[1]
    attributes = list(_attributes(node, split.axes[-1], values[-1]))
    for gone in ("transB", "pads", "auto_pad"):
        node.attributes.pop(gone, None)
    node.attributes.update({one.name: one for one in attributes})
    node.replace_input_with(1, values[-1])
    if old is not None:
        drop_constant(old)
    return [*names, label(node)]


def _operator(model: ir.Model, node: ir.Node) -> str:
    """Of the layers before the last."""
    return "MatMul" if node.op_type == "Gemm" and opset(model) < BIASLESS_GEMM else node.op_type


def _names(model: ir.Model) -> set[str | None]:
    """All that are taken."""
    graphs = list(model.graphs())
    given = {value.name for graph in graphs for value in (*graph.inputs, *graph.initializers.values())}
    return given | {value.name for node in walk(model) for value in node.outputs}


def _free(name: str, taken: set[str | None]) -> str:
    """The name, or the first like it that no value has."""
    found, count = name, 1
    while found in taken:
        found, count = f"{name}.{count}", count + 1
    taken.add(found)
    return found


def _attributes(node: ir.Node, axes: Sequence[int], weight: ir.Value) -> Iterator[ir.Attr]:
    """Those of a layer that has the kernel of a convolution along some of its axes, and its way over them."""
    if node.op_type != "Conv":
        return
    assert weight.shape is not None
    kernel = weight.shape.numpy()[2:]
    count, attributes = len(kernel), node.attributes
    yield ir.AttrInt64s("kernel_shape", kernel)
    for name in ("strides", "dilations"):
        steps = attributes.get_ints(name, [1] * count)
        yield ir.AttrInt64s(name, [step if axis in axes else 1 for axis, step in enumerate(steps)])
    mode = attributes.get_string("auto_pad", "NOTSET")
    if mode != "NOTSET":
        yield ir.AttrString("auto_pad", mode)
        return
    pads = np.array(attributes.get_ints("pads", [0] * 2 * count)).reshape(2, count)
    pads[:, [axis for axis in range(count) if axis not in axes]] = 0
    yield ir.AttrInt64s("pads", pads.reshape(-1).tolist())
