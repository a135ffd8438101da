"""Query, key and value as linear maps of the same input, merged into one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxopt.graph import array, given
from onnxopt.passes.fuse.transformer.attention import Attention
from onnxopt.passes.fuse.transformer.building import Builder, turned_from
from onnxopt.passes.fuse.transformer.sizes import Sizes

FIVE = (2, 0, 3, 1, 4)
"""[batch, sequence, 3, heads, size] to [3, batch, heads, sequence, size]."""


@dataclass(frozen=True)
class Linear:
    """``x @ weight + bias``.

    Attributes:
        x: [batch, sequence, K].
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
    sizes, heads, size = build.sizes, attention.heads, attention.size
    width, key = heads * size, attention.key
    if attention.value_size != size:
        return None
    key_inside = key if attention.key_heads_inside else turned_from(key)
    parts = [
        _of_heads(turned_from(attention.query), width, sizes) or _of_five(attention.query, heads, size, sizes),
        _of_heads(key_inside, width, sizes)
        or (None if attention.key_heads_inside else _of_five(key, heads, size, sizes)),
        _of_heads(turned_from(attention.value), width, sizes) or _of_five(attention.value, heads, size, sizes),
    ]
    maps = [part for part in parts if part is not None and part.weight.shape[1] == width]
    if len(maps) < 3 or any(part.x is not maps[0].x for part in maps):
        return None
    before = attention.product
    weight = build.constant(np.concatenate([part.weight for part in maps], axis=1), before)
    bias = build.constant(np.concatenate([part.bias for part in maps]), before)
    return [maps[0].x, weight, bias]


def _of_heads(value: ir.Value | None, width: int, sizes: Sizes) -> Linear | None:
    """The map that [batch, sequence, heads, size] is."""
    node = None if value is None else value.producer()
    if value is None or node is None or node.op_type != "Reshape" or node.inputs[0] is None:
        return None
    wanted = [sizes.of(value, 0), sizes.of(value, 1), width]
    return _linear(node.inputs[0], sizes) if sizes.shape(node.inputs[0]) == wanted else None


def _of_five(value: ir.Value, heads: int, size: int, sizes: Sizes) -> Linear | None:
    """The map that [batch, heads, sequence, size] is, one of three that were parted in five dimensions."""
    found = _third(value)
    turned = None if found is None else found[0].producer()
    if found is None or turned is None or turned.op_type != "Transpose" or turned.inputs[0] is None:
        return None
    parted = turned.inputs[0].producer()
    if tuple(turned.attributes.get_ints("perm", None) or ()) != FIVE or parted is None or parted.op_type != "Reshape":
        return None
    source, shape = parted.inputs[0], sizes.shape(turned.inputs[0])
    if source is None or shape is None or shape[2:] != [3, heads, size]:
        return None
    if sizes.shape(source) != [*shape[:2], 3 * heads * size]:
        return None
    whole, width = _linear(source, sizes), heads * size
    return None if whole is None else whole.columns(found[1] * width, (found[1] + 1) * width)


def _third(value: ir.Value) -> tuple[ir.Value, int] | None:
    """The value of which one of three was taken along axis 0, and which one."""
    node = value.producer()
    if node is None:
        return None
    if node.op_type == "Gather" and node.attributes.get_int("axis", 0) == 0:
        index = array(given(node, 1))
        if index is not None and index.ndim == 0 and node.inputs[0] is not None:
            return node.inputs[0], int(index) % 3
    if node.op_type != "Squeeze" or (axes := array(given(node, 1))) is None or axes.tolist() != [0]:
        return None
    inner = None if node.inputs[0] is None else node.inputs[0].producer()
    if inner is None or inner.inputs[0] is None or node.inputs[0] is None:
        return None
    if inner.op_type == "Split" and inner.attributes.get_int("axis", 0) == 0 and len(inner.outputs) == 3:
        return inner.inputs[0], node.inputs[0].index() or 0
    numbers = [array(one) for one in inner.inputs[1:]]
    if inner.op_type != "Slice" or len(numbers) < 3 or any(one is None or one.size != 1 for one in numbers):
        return None
    start, stop, axis, *_ = (int(one.reshape(-1)[0]) for one in numbers if one is not None)
    return (inner.inputs[0], start) if axis == 0 and stop == start + 1 and start in (0, 1, 2) else None


def _linear(value: ir.Value, sizes: Sizes) -> Linear | None:
    """The map, with constant weights, that gives a value of three dimensions."""
    node = value.producer()
    if node is None or sizes.rank(value) != 3:
        return None
    match node.op_type:
        case "Slice" | "Split":
            return _part(node, value, sizes)
        case "Add" | "Sum" if len(node.inputs) == 2:
            return _sum(node, sizes)
        case "Reshape":
            return _gemm(node, value, sizes)
        case "MatMul":
            weight, x = array(node.inputs[1]), node.inputs[0]
            if weight is None or weight.ndim != 2 or x is None or sizes.rank(x) != 3:
                return None
            return Linear(x, weight, np.zeros(weight.shape[1], weight.dtype))
    return None


def _sum(node: ir.Node, sizes: Sizes) -> Linear | None:
    for value, other in (node.inputs, reversed(node.inputs)):
        bias, inner = array(other), None if value is None else value.producer()
        if bias is not None and value is not None and inner is not None and inner.op_type == "MatMul":
            found = _linear(value, sizes)
            if found is not None and bias.shape == found.bias.shape:
                return Linear(found.x, found.weight, found.bias + bias)
    return None


def _gemm(node: ir.Node, value: ir.Value, sizes: Sizes) -> Linear | None:
    """A Gemm of [batch * sequence, K], parted again."""
    gemm = None if node.inputs[0] is None else node.inputs[0].producer()
    flat = None if gemm is None or gemm.op_type != "Gemm" or gemm.inputs[0] is None else gemm.inputs[0].producer()
    if gemm is None or flat is None or flat.op_type != "Reshape" or flat.inputs[0] is None:
        return None
    x, weight, given_bias = flat.inputs[0], array(gemm.inputs[1]), given(gemm, 2)
    factors = [gemm.attributes.get_float(name, 1.0) for name in ("alpha", "beta")]
    if weight is None or factors != [1.0, 1.0] or gemm.attributes.get_int("transA", 0):
        return None
    weight = weight.T if gemm.attributes.get_int("transB", 0) else weight
    bias = np.zeros(weight.shape[1], weight.dtype) if given_bias is None else array(given_bias)
    before = sizes.shape(x)
    if bias is None or bias.shape != weight.shape[1:] or before is None or len(before) != 3:
        return None
    if before[2] != weight.shape[0] or sizes.shape(value) != [*before[:2], weight.shape[1]]:
        return None
    return Linear(x, weight, bias)


def _part(node: ir.Node, value: ir.Value, sizes: Sizes) -> Linear | None:
    """Some of the outputs of a wider map."""
    whole = None if node.inputs[0] is None else _linear(node.inputs[0], sizes)
    if whole is None:
        return None
    if node.op_type == "Split":
        widths = [sizes.number(out, 2) for out in node.outputs]
        if node.attributes.get_int("axis", 0) not in (-1, 2) or any(width is None for width in widths):
            return None
        start = sum(width or 0 for width in widths[: value.index()])
        return whole.columns(start, start + (widths[value.index() or 0] or 0))
    numbers = [array(one) for one in node.inputs[1:]]
    if len(numbers) < 3 or any(one is None or one.size != 1 for one in numbers):
        return None
    start, stop, axis, *step = (int(one.reshape(-1)[0]) for one in numbers if one is not None)
    return whole.columns(start, stop) if axis in (-1, 2) and step in ([], [1]) and 0 <= start < stop else None
