"""New nodes of an attention, and the forms of values that they need."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from onnxopt.graph import constant, label, walk
from onnxopt.passes.fuse.transformer.attention import HEADS_OUT, Attention, forbidden
from onnxopt.passes.fuse.transformer.sizes import Size, Sizes

Attribute = int | float | Sequence[int]


@dataclass
class Builder:
    """Writes nodes before a given one, under free names; what is asked for twice is written once.

    Attributes:
        sizes: of the model's values.
        names: that are taken.
        written: constants, and biases in full size, by what makes them.
    """

    sizes: Sizes
    names: set[str | None]
    written: dict[Hashable, ir.Value] = field(default_factory=dict)

    @classmethod
    def of(cls, model: ir.Model, sizes: Sizes) -> Builder:
        """One for a model."""
        given = {value.name for graph in model.graphs() for value in (*graph.inputs, *graph.initializers.values())}
        return cls(sizes, given | {value.name for node in walk(model) for value in node.outputs})

    def node(
        self, op: str, inputs: Sequence[ir.Value | None], before: ir.Node, domain: str = "", **attributes: Attribute
    ) -> ir.Value:
        """Add a node of the type that its first input has; its output."""
        values = [_attribute(name, value) for name, value in attributes.items()]
        new, graph = ir.Node(domain, op, inputs, values, num_outputs=1), before.graph
        assert graph is not None
        first, count = inputs[0], 0
        while (name := f"{label(before)}/{op}{count or ''}") in self.names:
            count += 1
        self.names.add(name)
        out = new.outputs[0]
        out.name = new.name = name
        out.type = None if first is None or op == "Shape" else first.type
        graph.insert_before(before, new)
        return out

    def constant(self, numbers: np.ndarray, before: ir.Node) -> ir.Value:
        """An initializer; the same one for the same numbers."""
        graph = before.graph
        assert isinstance(graph, ir.Graph)
        key = graph, str(numbers.dtype), numbers.shape, numbers.tobytes()
        if key not in self.written:
            self.written[key] = constant(graph, f"{label(before)}/const", numbers)
        return self.written[key]

    def integers(self, before: ir.Node, *numbers: int) -> ir.Value:
        """A list of int64."""
        return self.constant(np.array(numbers, np.int64), before)

    def length(self, value: ir.Value, axis: int, before: ir.Node) -> ir.Value:
        """The size of one axis, as a list of one number."""
        number = self.sizes.number(value, axis)
        if number is not None:
            return self.integers(before, number)
        out = self.node("Shape", [value], before, start=axis, end=axis + 1)
        out.type = ir.TensorType(ir.DataType.INT64)
        return out


def heads_inside(build: Builder, value: ir.Value, before: ir.Node) -> ir.Value:
    """[batch, heads, sequence, size] to [batch, sequence, heads, size]; what was turned before is taken from there."""
    return turned_from(value) or build.node("Transpose", [value], before, perm=HEADS_OUT)


def turned_from(value: ir.Value) -> ir.Value | None:
    """The value that a Transpose brought the heads of to the front."""
    node = value.producer()
    if node is None or node.op_type != "Transpose" or tuple(node.attributes.get_ints("perm", ())) != HEADS_OUT:
        return None
    return node.inputs[0]


def joined(build: Builder, value: ir.Value, width: int, before: ir.Node) -> ir.Value:
    """[batch, sequence, heads, size] to [batch, sequence, width]; what was parted before is taken from there."""
    node = value.producer()
    source = node.inputs[0] if node is not None and node.op_type == "Reshape" else None
    wanted: list[Size] = [build.sizes.of(value, 0), build.sizes.of(value, 1), width]
    if source is not None and build.sizes.shape(source) == wanted:
        return source
    return build.node("Reshape", [value, build.integers(before, 0, 0, width)], before)


def full_bias(build: Builder, attention: Attention) -> ir.Value | None:
    """What is added to the scores, with four dimensions, the last two in full size; None where that is nothing."""
    before, bias, total_axis = attention.product, attention.bias, 1 if attention.key_heads_inside else 2
    if attention.mask is not None:
        bias = _from_mask(build, attention)
    if bias is None:
        return None
    lengths = build.sizes.of(attention.query, 2), build.sizes.of(attention.key, total_axis)
    key = before.graph, bias, lengths
    if key not in build.written:
        count = build.sizes.rank(bias)
        if count is not None and count < 4:
            bias = build.node("Unsqueeze", [bias, build.integers(before, *range(4 - count))], before)
            build.sizes.alias(bias, key[1], 4 - count)
        if (build.sizes.of(bias, 2), build.sizes.of(bias, 3)) != lengths:
            sizes = [build.length(attention.query, 2, before), build.length(attention.key, total_axis, before)]
            target = build.node("Concat", [build.integers(before, 1, 1), *sizes], before, axis=0)
            bias = build.node("Expand", [bias, target], before)
        build.written[key] = bias
    return build.written[key]


def _from_mask(build: Builder, attention: Attention) -> ir.Value:
    """The number that forbids where the mask says so, else 0."""
    node, before = attention.mask, attention.product
    assert node is not None
    condition, number, where_true = forbidden(node)
    key = before.graph, condition, number, where_true
    if key not in build.written:
        kind = attention.query.dtype or ir.DataType.FLOAT
        zero, lowest = (build.constant(np.array(x, kind.numpy()), before) for x in (0.0, number))
        chosen = [lowest, zero] if where_true else [zero, lowest]
        out = build.node("Where", [condition, *chosen], before)
        out.type, out.shape = ir.TensorType(kind), build.sizes.known.get(condition, condition).shape
        build.sizes.alias(out, condition, 0)
        build.written[key] = out
    return build.written[key]


def _attribute(name: str, value: Attribute) -> ir.Attr:
    if isinstance(value, float):
        return ir.AttrFloat32(name, value)
    return ir.AttrInt64(name, value) if isinstance(value, int) else ir.AttrInt64s(name, value)
