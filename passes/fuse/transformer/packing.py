"""Query, key and value as linear maps of the same input, merged into one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxopt.graph import array, given
from onnxopt.passes.fuse.transformer.attention import Attention
from onnxopt.passes.fuse.transformer.building import Builder, turned_from
from onnxopt.passes.fuse.transformer.sizes import Size, Sizes

FIVE = (2, 0, 3, 1, 4)
"""[batch, sequence, 3, heads, size] to [3, batch, heads, sequence, size]."""


@dataclass(frozen=True)
class Linear:
    """``x @ weight + bias``, row by row.

    Attributes:
        x: [..., K].
        weight: [K, N].
        bias: [N].
    """

    x: ir.Value
    weight: np.ndarray
    bias: np.ndarray

    def columns(self, start: int, stop: int) -> Linear:
        """The map to some of the outputs."""
        return Linear(self.x, self.weight[:, start:stop], self.bias[start:stop])


def packed(build: Builder, attention: Attention) -> list[ir.Value] | None:
    """Input, weight [K, 3 width] and bias [3 width] of an Attention; None where they are no maps of one input."""
    heads, size, key = attention.heads, attention.size, attention.key
    if attention.value_size != size:
        return None
    inside = key if attention.key_heads_inside else turned_from(key)
    forms = (
        (attention.query, turned_from(attention.query)),
        (key, inside),
        (attention.value, turned_from(attention.value)),
    )
    maps = [
        _of_heads(heads_in, heads, size, build.sizes) or _of_five(front, heads, size, build.sizes)
        for front, heads_in in forms
    ]
    found = [one for one in maps if one is not None]
    if len(found) < 3 or any(one.x is not found[0].x or one.weight.shape[1] != heads * size for one in found):
        return None
    before = attention.product
    weight = build.constant(np.concatenate([one.weight for one in found], axis=1), before)
    return [found[0].x, weight, build.constant(np.concatenate([one.bias for one in found]), before)]


def _of_heads(value: ir.Value | None, heads: int, size: int, sizes: Sizes) -> Linear | None:
    """The map that [batch, sequence, heads, size] is."""
    node = None if value is None else value.producer()
    if value is None or node is None or node.op_type != "Reshape" or node.inputs[0] is None:
        return None
    found = _linear(node.inputs[0], sizes)
    return _of_rows(found, sizes.shape(value), [heads, size], sizes)


def _of_rows(found: Linear | None, parted: list[Size] | None, inner: list[int], sizes: Sizes) -> Linear | None:
    """The map, if its rows are those of a value [batch, sequence, *inner], and its input has the three dimensions."""
    if found is None or parted is None or parted[2:] != inner or found.weight.shape[1] != math.prod(inner):
        return None
    x = found.x
    while sizes.rank(x) != 3 and (node := x.producer()) is not None and node.op_type == "Reshape":
        if node.inputs[0] is None or last(node.inputs[0], sizes) != found.weight.shape[0]:
            return None
        x = node.inputs[0]
    return Linear(x, found.weight, found.bias) if sizes.shape(x) == [*parted[:2], found.weight.shape[0]] else None


def last(value: ir.Value, sizes: Sizes) -> Size | None:
    """The size of the last axis; None where the rank is not known."""
    count = sizes.rank(value)
    return None if not count else sizes.of(value, count - 1)


def _of_five(value: ir.Value, heads: int, size: int, sizes: Sizes) -> Linear | None:
    """The map that [batch, heads, sequence, size] is, one of three that were parted in five dimensions."""
    found = _third(value)
    turned = None if found is None else found[0].producer()
    if found is None or turned is None or turned.op_type != "Transpose" or turned.inputs[0] is None:
        return None
    parted = turned.inputs[0].producer()
    if tuple(turned.attributes.get_ints("perm", ())) != FIVE or parted is None or parted.op_type != "Reshape":
        return None
    source, width = parted.inputs[0], heads * size
    whole = None if source is None else _linear(source, sizes)
    whole = _of_rows(whole, sizes.shape(turned.inputs[0]), [3, heads, size], sizes)
    return None if whole is None else whole.columns(found[1] * width, (found[1] + 1) * width)


def _third(value: ir.Value) -> tuple[ir.Value, int] | None:
    """The value of which one of three was taken along axis 0, and which one."""
    node = value.producer()
    if node is None or node.inputs[0] is None:
        return None
    if node.op_type == "Gather" and node.attributes.get_int("axis", 0) == 0:
        index = array(given(node, 1))
        return None if index is None or index.ndim else (node.inputs[0], int(index) % 3)
    axes, inner = array(given(node, 1)), node.inputs[0].producer()
    if node.op_type != "Squeeze" or axes is None or axes.tolist() != [0] or inner is None or inner.inputs[0] is None:
        return None
    if inner.op_type == "Split" and inner.attributes.get_int("axis", 0) == 0 and len(inner.outputs) == 3:
        return inner.inputs[0], node.inputs[0].index() or 0
    cut = _cut(inner)
    return (inner.inputs[0], cut[0]) if cut is not None and cut[1] == cut[0] + 1 and cut[2] == 0 else None


def _cut(node: ir.Node) -> tuple[int, int, int] | None:
    """Start, stop and axis of a Slice of one axis with step 1."""
    numbers = [array(one) for one in node.inputs[1:]]
    if node.op_type != "Slice" or len(numbers) < 3 or any(one is None or one.size != 1 for one in numbers):
        return None
    start, stop, axis, *step = (int(one.reshape(-1)[0]) for one in numbers if one is not None)
    return (start, stop, axis) if step in ([], [1]) and 0 <= start < stop else None


def _linear(value: ir.Value, sizes: Sizes) -> Linear | None:
    """The map, with constant weights, that gives the rows of a value."""
    node = value.producer()
    if node is None or node.inputs[0] is None:
        return None
    match node.op_type:
        case "Slice" | "Split":
            return _part(node, value, sizes)
        case "Add" | "Sum" if len(node.inputs) == 2:
            return _sum(node, sizes)
        case "Reshape" if isinstance(last(value, sizes), int) and last(value, sizes) == last(node.inputs[0], sizes):
            return _linear(node.inputs[0], sizes)
        case "Gemm":
            return gemm(node)
        case "MatMul":
            weight = array(node.inputs[1])
            if weight is not None and weight.ndim == 2:
                return Linear(node.inputs[0], weight, np.zeros(weight.shape[1], weight.dtype))
    return None


def _sum(node: ir.Node, sizes: Sizes) -> Linear | None:
    for value, other in (node.inputs, reversed(node.inputs)):
        bias, inner = array(other), None if value is None else value.producer()
        if bias is not None and value is not None and inner is not None and inner.op_type == "MatMul":
            found = _linear(value, sizes)
            if found is not None and bias.shape == found.bias.shape:
                return Linear(found.x, found.weight, found.bias + bias)
    return None


def gemm(node: ir.Node) -> Linear | None:
    """The map of a Gemm whose weight and bias are constant; None where it is another."""
    x, weight, inside = node.inputs[0], array(node.inputs[1]), given(node, 2)
    factors = [node.attributes.get_float(name, 1.0) for name in ("alpha", "beta")]
    if x is None or weight is None or factors != [1.0, 1.0] or node.attributes.get_int("transA", 0) != 0:
        return None
    weight = weight.T if node.attributes.get_int("transB", 0) else weight
    bias = np.zeros(weight.shape[1], weight.dtype) if inside is None else array(inside)
    return None if bias is None or bias.shape != weight.shape[1:] else Linear(x, weight, bias)


def _part(node: ir.Node, value: ir.Value, sizes: Sizes) -> Linear | None:
    """Some of the outputs of a wider map."""
    x = node.inputs[0]
    whole, count = (None, None) if x is None else (_linear(x, sizes), sizes.rank(x))
    if whole is None or count is None:
        return None
    if node.op_type == "Slice":
        cut = _cut(node)
        return None if cut is None or cut[2] not in (-1, count - 1) else whole.columns(*cut[:2])
    widths = [last(out, sizes) for out in node.outputs]
    if node.attributes.get_int("axis", 0) not in (-1, count - 1):
        return None
    numbers = [width for width in widths if isinstance(width, int)]
    if len(numbers) < len(widths):
        return None
    start = sum(numbers[: value.index()])
    return whole.columns(start, start + numbers[value.index() or 0])
