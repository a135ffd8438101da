"""Which dimensions of different values are the same, by how their shapes are made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir

from onnxopt.graph import STANDARD_DOMAINS, array, given, rank

Size = int | str | tuple[Any, ...]
"""A number; the name of a dynamic dimension; value and axis where it comes from; or ``PRODUCT`` and factors."""
PRODUCT = "product"
UNKNOWN = "unk__"
"""How onnx's shape inference calls a dimension that it knows nothing of."""
SAME_SHAPE = frozenset(
    {
        *("Cast", "Erf", "Gelu", "Identity", "LayerNormalization", "Relu", "RMSNormalization", "Sigmoid"),
        *("SimplifiedLayerNormalization", "Softmax", "Tanh"),
    }
)
"""Operators whose output has the shape of the first input;"""
SAME_SHAPE_CONTRIB = frozenset(
    {"BiasGelu", "FastGelu", "Gelu", "QuickGelu", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization"}
)
"""and those of ONNX Runtime."""
SAME_NUMBERS = frozenset({"Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
"""Of a list of sizes, these keep the numbers and their order."""
LONGEST = 8
"""Numbers of a shape, at most."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of the values of one model.

    Attributes:
        known: each value with its twin, whose shape was inferred (see ``graph.inferred``).
    """

    known: Mapping[ir.Value, ir.Value]
    _found: dict[tuple[int, int], Size] = field(default_factory=dict)

    def rank(self, value: ir.Value) -> int | None:
        """The number of dimensions, if known."""
        return rank(self.known.get(value, value))

    def number(self, value: ir.Value, axis: int) -> int | None:
        """The size, if it is a number."""
        size = self.of(value, axis)
        return size if isinstance(size, int) else None

    def shape(self, value: ir.Value) -> list[Size] | None:
        """All sizes of a value; None where its rank is not known."""
        count = self.rank(value)
        return None if count is None else [self.of(value, axis) for axis in range(count)]

    def of(self, value: ir.Value, axis: int) -> Size:
        """The size of one axis; equal for two values where it is always the same."""
        key = id(value), axis
        if key not in self._found:
            self._found[key] = key  # should the graph lead back here
            self._found[key] = self._stated(value, axis) or self._derived(value, axis) or key
        return self._found[key]

    def alias(self, new: ir.Value, old: ir.Value, more: int) -> None:
        """Let a new value have the sizes of an old one, behind ``more`` ones."""
        shape = self.shape(old) or []
        for axis, size in enumerate([*[1] * more, *shape]):
            self._found[id(new), axis] = size

    def _stated(self, value: ir.Value, axis: int) -> Size | None:
        shape = self.known.get(value, value).shape
        dim = shape[axis] if shape is not None and axis < len(shape) else None
        if isinstance(dim, int):
            return dim
        name = None if dim is None else dim.value
        return name if isinstance(name, str) and not name.startswith(UNKNOWN) else None

    def _derived(self, value: ir.Value, axis: int) -> Size | None:
        node = value.producer()
        if node is None or not node.inputs or (first := node.inputs[0]) is None:
            return None
        if node.domain not in STANDARD_DOMAINS:
            is_attention = node.op_type in ("Attention", "MultiHeadAttention") and axis < 2
            return self.of(first, axis) if node.op_type in SAME_SHAPE_CONTRIB or is_attention else None
        rule = _RULES.get(node.op_type)
        if node.op_type in SAME_SHAPE:
            return self.of(first, axis)
        return None if rule is None else rule(self, node, axis)

    def read(self, value: ir.Value | None) -> list[Size] | None:
        """The numbers of a list of sizes (or of one), as far as they are known; None where it is no such list."""
        numbers = array(value)
        if numbers is not None:
            return [int(number) for number in numbers.reshape(-1)] if numbers.size <= LONGEST else None
        node = None if value is None else value.producer()
        if node is None or node.domain not in STANDARD_DOMAINS:
            return None
        if node.op_type in SAME_NUMBERS:
            return self.read(node.inputs[0])
        if node.op_type == "Concat":
            parts = [self.read(one) for one in node.inputs]
            return None if any(part is None for part in parts) else [size for part in parts for size in part or ()]
        if node.op_type == "Shape" and node.inputs[0] is not None:
            shape = self.shape(node.inputs[0])
            start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", None)
            return None if shape is None else shape[start:end]
        listed = self.read(node.inputs[0]) if node.op_type in ("Gather", "Slice") else None
        return None if listed is None else _picked(node, listed)


def _picked(node: ir.Node, listed: Sequence[Size]) -> list[Size] | None:
    """What Gather or Slice, with constants, takes of a list."""
    constants = [array(value) for value in node.inputs[1:]]
    if any(numbers is None or numbers.size == 0 for numbers in constants):
        return None
    numbers = [[int(n) for n in one.reshape(-1)] for one in constants if one is not None]
    if node.op_type == "Slice":
        if len(numbers) < 2 or (len(numbers) > 3 and numbers[3] != [1]):
            return None
        return list(listed[numbers[0][0] : numbers[1][0]])
    fits = all(-len(listed) <= place < len(listed) for place in numbers[0])
    return [listed[place] for place in numbers[0]] if fits else None


def _transpose(sizes: Sizes, node: ir.Node, axis: int) -> Size | None:
    perm = node.attributes.get_ints("perm", None)
    return None if perm is None or node.inputs[0] is None else sizes.of(node.inputs[0], perm[axis])


def _reshape(sizes: Sizes, node: ir.Node, axis: int) -> Size | None:
    target, x = sizes.read(given(node, 1)), node.inputs[0]
    if target is None or x is None or axis >= len(target):
        return None
    if node.attributes.get_int("allowzero", 0) == 0:
        target = [sizes.of(x, place) if size == 0 else size for place, size in enumerate(target)]
    if target[axis] != -1:
        return target[axis]
    before = sizes.shape(x)
    return None if before is None else rest(before, [size for size in target if size != -1])


def rest(before: Sequence[Size], after: Sequence[Size]) -> Size | None:
    """What is left of a product of sizes when others are divided out; None where they do not divide it."""
    (number, left), (divisor, gone) = _factors(before), _factors(after)
    names = left - gone
    if gone - left or divisor == 0 or number % divisor:
        return None
    quotient, factors = number // divisor, sorted(names.elements(), key=repr)
    if not factors:
        return quotient
    return factors[0] if len(factors) == 1 and quotient == 1 else (PRODUCT, quotient, *factors)


def _factors(sizes: Sequence[Size]) -> tuple[int, Counter[Size]]:
    """The product of the numbers, and the other factors."""
    number, names = 1, Counter[Size]()
    for size in sizes:
        parts = size[1:] if isinstance(size, tuple) and size[0] == PRODUCT else (size,)
        for part in parts:
            if isinstance(part, int):
                number *= part
            else:
                names[part] += 1
    return number, names


def _broadcast(sizes: Sizes, node: ir.Node, axis: int) -> Size | None:
    """Of a sum or product: the one size that both have, or that of the one that is not 1."""
    shapes = [sizes.shape(value) for value in node.inputs if value is not None]
    if any(shape is None for shape in shapes):
        return None
    count = max(len(shape or ()) for shape in shapes)
    found = {shape[axis - count + len(shape)] for shape in shapes if shape and axis - count + len(shape) >= 0}
    found -= {1} if len(found) > 1 else set()
    return found.pop() if len(found) == 1 else None


def _matmul(sizes: Sizes, node: ir.Node, axis: int) -> Size | None:
    """Of a product with a matrix, or of two stacks of matrices of the same rank."""
    a, b = node.inputs[:2]
    if a is None or b is None or (count := sizes.rank(a)) is None or count < 2:
        return None
    if axis == count - 1:
        other = sizes.rank(b)
        return None if other is None or other < 2 else sizes.of(b, other - 1)
    return sizes.of(a, axis) if axis == count - 2 or sizes.rank(b) == 2 else _broadcast(sizes, node, axis)


def _gemm(sizes: Sizes, node: ir.Node, axis: int) -> Size | None:
    index, name = (0, "transA") if axis == 0 else (1, "transB")
    value, turned = node.inputs[index], node.attributes.get_int(name, 0)
    return None if value is None else sizes.of(value, (1 - turned if index else turned))


def _squeeze(sizes: Sizes, node: ir.Node, axis: int) -> Size | None:
    x, axes = node.inputs[0], array(given(node, 1))
    count = None if x is None else sizes.rank(x)
    if x is None or axes is None or count is None:
        return None
    kept = [place for place in range(count) if place not in [int(one) % count for one in axes.reshape(-1)]]
    return sizes.of(x, kept[axis])


def _gather(sizes: Sizes, node: ir.Node, axis: int) -> Size | None:
    """Of rows that are looked up in a table."""
    table, rows = node.inputs[:2]
    count = None if rows is None else sizes.rank(rows)
    if table is None or rows is None or count is None or node.attributes.get_int("axis", 0) != 0:
        return None
    return sizes.of(rows, axis) if axis < count else sizes.of(table, axis - count + 1)


def _range(sizes: Sizes, node: ir.Node, _: int) -> Size | None:
    start, stop, step = (sizes.read(value) for value in node.inputs[:3])
    return stop[0] if start == [0] and step == [1] and stop else None


def _part(sizes: Sizes, node: ir.Node, axis: int) -> Size | None:
    """Of Split, or Slice with known axes: other axes keep their size."""
    x = node.inputs[0]
    if x is None or (count := sizes.rank(x)) is None:
        return None
    if node.op_type == "Split":
        cut: list[int] | None = [node.attributes.get_int("axis", 0)]
    else:
        axes = array(given(node, 3))
        cut = None if axes is None else [int(one) for one in axes.reshape(-1)]
    return None if cut is None or axis in [one % count for one in cut] else sizes.of(x, axis)


_RULES: Mapping[str, Callable[[Sizes, ir.Node, int], Size | None]] = {
    "Add": _broadcast,
    "Sum": _broadcast,
    "Mul": _broadcast,
    "Div": _broadcast,
    "Sub": _broadcast,
    "MatMul": _matmul,
    "Gather": _gather,
    "Gemm": _gemm,
    "Range": _range,
    "Reshape": _reshape,
    "Slice": _part,
    "Split": _part,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
}
