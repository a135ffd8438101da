"""A layer cut out of its model, with what ONNX Runtime fuses into it, to be timed by itself.

Where its neighbours have images in blocks of channels, a convolution stands on that side that only gives or takes
blocks: a layer that reads and gives blocks is then not charged for reorderings that its neighbours spare it, and one
that cannot is charged for those that it brings into the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxopt.graph import constant, label, tensor
from onnxopt.macs import Shape
from onnxopt.passes.convert.layout import in_blocks, read_in_blocks
from onnxopt.passes.convert.plan import only_reader
from onnxopt.stopwatch import ASIDE

ACTIVATIONS = ("Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh", "HardSigmoid")
"""What ONNX Runtime fuses into a convolution or Gemm before it."""
SUMS = ("Add", "Sum")
SMALL = 1024
"""Bytes of a constant whose numbers decide what is computed (a shape, an axis)."""
THIN = 16
"""Channels that the convolution behind a layer gives."""


@dataclass(frozen=True)
class Piece:
    """A small model of static shapes with one output.

    Attributes:
        model: in it, the layer stands alone.
        node: the layer.
    """

    model: ir.Model
    node: ir.Node

    @property
    def key(self) -> str:
        """All that decides its time: operators, attributes, shapes."""
        return f"layer opset {self.model.opset_imports['']} {'; '.join(_described(self.model.graph))}"


def with_fused(nodes: Sequence[ir.Node]) -> list[ir.Node]:
    """The nodes, and those behind them that ONNX Runtime may fuse into them: a sum, an activation."""
    found = list(nodes)
    for op_types in (SUMS, ACTIVATIONS):
        reader = only_reader(found[-1], *op_types)
        if reader is not None and len({*reader.inputs}) == len(reader.inputs):
            found.append(reader)
    return found


def wanted(nodes: Sequence[ir.Node]) -> set[str]:
    """The names of the values whose shapes are needed to cut the nodes out."""
    values = [value for node in nodes for value in (*node.inputs, *node.outputs) if value is not None]
    return {value.name for value in values if value.name}


def cut(nodes: Sequence[ir.Node], at: ir.Node, shapes: Mapping[str, Shape], opset: int) -> Piece | str:
    """The nodes as a model by themselves, or why they cannot be timed so.

    Args:
        nodes: in their order.
        at: the layer, one of them.
        shapes: of all their values, by name.
        opset: of the model.
    """
    graph = ir.Graph([], [], nodes=[], opset_imports={"": opset}, name="piece")
    copies: dict[ir.Value, ir.Value] = {}
    made = {}
    for place, node in enumerate(nodes):
        for value in node.inputs:
            if value is None or value in copies:
                continue
            found = _given(graph, value, shapes, len(copies))
            if isinstance(found, str):
                return found
            copies[value] = found
        inputs = [None if value is None else copies[value] for value in node.inputs]
        copy = ir.Node("", node.op_type, inputs, [*node.attributes.values()], name=f"{node.op_type}_{place}")
        copy.outputs[0].name, copy.outputs[0].type = f"v{place}", ir.TensorType(ir.DataType.FLOAT)
        graph.append(copy)
        copies[node.outputs[0]], made[node] = copy.outputs[0], copy
    last = nodes[-1].outputs[0]
    end, shape = copies[last], shapes.get(last.name or "")
    if shape is None or 0 in shape:
        return f"the shape of {label(nodes[-1])!r} is not known"
    if read_in_blocks(last) and len(shape) == 4:
        end = _taken(graph, end, shape)
    graph.outputs.append(end)
    return Piece(ir.Model(graph, ir_version=10), made[at])


def _given(graph: ir.Graph, value: ir.Value, shapes: Mapping[str, Shape], place: int) -> ir.Value | str:
    """A value that the nodes read: a constant, an input, or an input behind a convolution that gives it in blocks."""
    contents = tensor(value)
    if contents is not None:
        kind = ir.TensorType(contents.dtype)
        held = ir.Value(name=f"c{place}", shape=ir.Shape(contents.shape.numpy()), type=kind, const_value=contents)
        graph.register_initializer(held)
        return held
    shape = shapes.get(value.name or "")
    if shape is None or 0 in shape:
        return f"the shape of {value.name!r} is not known"
    kind, blocks = ir.TensorType(ir.DataType.FLOAT), in_blocks(value) and len(shape) == 4
    read = (shape[0], 1, *shape[2:]) if blocks else shape
    source = ir.Value(name=f"x{place}", shape=ir.Shape(read), type=kind)
    graph.inputs.append(source)
    return _aside(graph, "Conv", [source, _ones(graph, (shape[1], 1, 1, 1))]) if blocks else source


def _taken(graph: ir.Graph, value: ir.Value, shape: Shape) -> ir.Value:
    """What a convolution makes of a value that it takes in blocks: little, that costs nothing to be given."""
    thin = _aside(graph, "Conv", [value, _ones(graph, (THIN, shape[1], 1, 1))])
    return _aside(graph, "GlobalAveragePool", [thin])


def _aside(graph: ir.Graph, op_type: str, inputs: Sequence[ir.Value]) -> ir.Value:
    """The result of a node whose time does not count."""
    name = f"{ASIDE}/{len(graph)}"
    node = ir.Node("", op_type, inputs, name=name)
    node.outputs[0].name, node.outputs[0].type = f"{name}/y", ir.TensorType(ir.DataType.FLOAT)
    graph.append(node)
    return node.outputs[0]


def _ones(graph: ir.Graph, shape: Shape) -> ir.Value:
    return constant(graph, f"{ASIDE}/ones/{len(graph)}", np.ones(shape, np.float32))


def _described(graph: ir.Graph) -> Iterator[str]:
    """One line for each node; values by their number, with the shapes of those that nothing makes."""
    numbers: dict[ir.Value | None, int] = {}
    for node in graph:
        words = []
        for value in node.inputs:
            new = value not in numbers
            place = numbers.setdefault(value, len(numbers))
            words.append(f"{place}{_contents(value) if new and value is not None else ''}")
        numbers[node.outputs[0]] = len(numbers)
        attributes = sorted(f"{one.name}={one.value}" for one in node.attributes.values())
        yield f"{node.op_type}<{', '.join(attributes)}>({', '.join(words)})"


def _contents(value: ir.Value) -> str:
    contents = tensor(value)
    if contents is not None and contents.nbytes <= SMALL and contents.dtype is not ir.DataType.FLOAT:
        return f"={contents.numpy().tolist()}"
    return f":{[*value.shape]}" if value.shape is not None else ""
