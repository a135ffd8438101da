"""Shapes as values: Shape, and the operators through which sizes reach a Reshape, an Expand or a Slice."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from onnxopt.graph import array, given
from onnxopt.passes.prune.groups.numbers import NUMERIC, Number, Product, dims, fix, follows, product, told
from onnxopt.passes.prune.groups.tracer import Axes, Tracer, rule

Followed = list[Number] | None


@rule("Shape")
def shape(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """The sizes follow by themselves, each by its own axis."""
    sizes = _sizes(tracer, node)
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", len(sizes))
    tracer.numbers[node.outputs[0]] = sizes[start:end]
    return [[None]]


@rule("Size")
def size(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """The product of all sizes."""
    tracer.numbers[node.outputs[0]] = [_product(tracer, _sizes(tracer, node))]
    return [[]]


def _sizes(tracer: Tracer, node: ir.Node) -> list[Number]:
    axes = tracer.of(node.inputs[0])
    return [Number(size, axis) for size, axis in zip(dims(tracer, node.inputs[0]), axes, strict=True)]


def _product(tracer: Tracer, factors: Sequence[Number]) -> Number:
    """Follows the one factor that follows an axis; all others stay as they are."""
    known = [factor.size for factor in factors if factor.size is not None]
    if len(known) < len(factors):
        fix(tracer, factors)
        return Number()
    total = product(known)
    changing = [axis for factor in factors if (axis := factor.counts) is not None and tracer.free(axis)]
    times = total.over(Product(len(changing[0]))) if len(changing) == 1 else None
    if times is None or times.known is None:
        fix(tracer, factors)
        return Number(total)
    fix(tracer, [factor for factor in factors if factor.counts is not changing[0]])
    return Number(total, np.repeat(changing[0], times.known))


@follows("Cast")
def cast(tracer: Tracer, node: ir.Node) -> Followed:
    """The same numbers where they are whole, and stay so."""
    numbers = told(tracer, node, 0) or []
    if node.attributes.get_int("to", 0) in NUMERIC and all(n.size is None or n.size.factor % 1 == 0 for n in numbers):
        return numbers
    fix(tracer, numbers)
    return None


@follows("Identity", "Reshape", "Squeeze", "Unsqueeze")
def same(tracer: Tracer, node: ir.Node) -> Followed:
    """The same numbers, in the same order."""
    return told(tracer, node, 0)


@follows("Gather")
def gather(tracer: Tracer, node: ir.Node) -> Followed:
    """Those at constant places."""
    places = array(node.inputs[1])
    numbers = None if places is None else told(tracer, node, 0)
    return None if places is None or numbers is None else [numbers[place] for place in places.ravel().tolist()]


@follows("Slice")
def cut(tracer: Tracer, node: ir.Node) -> Followed:
    """Those of a constant range."""
    if any(array(value) is None for value in node.inputs[1:] if value is not None):
        return None
    start, end, step = (_one(node, index, name) for index, name in ((1, "starts"), (2, "ends"), (4, "steps")))
    return (told(tracer, node, 0) or [])[start:end:step]


def _one(node: ir.Node, index: int, name: str) -> int | None:
    numbers = array(given(node, index))
    found = node.attributes.get_ints(name, []) if numbers is None else numbers.ravel().tolist()
    return int(found[0]) if len(found) else None


@follows("Concat")
def concat(tracer: Tracer, node: ir.Node) -> Followed:
    """One after the other."""
    return [number for index in range(len(node.inputs)) for number in told(tracer, node, index) or []]


@follows("Mul")
def multiply(tracer: Tracer, node: ir.Node) -> Followed:
    """One by one."""
    return [_product(tracer, pair) for pair in _pairs(tracer, node)]


@follows("ReduceProd")
def multiply_all(tracer: Tracer, node: ir.Node) -> Followed:
    """All of a vector."""
    return [_product(tracer, told(tracer, node, 0) or [])]


ARITHMETIC: dict[str, Callable[[int, int], int | None]] = {
    "Add": lambda one, other: one + other,
    "Sub": lambda one, other: one - other,
    "Div": lambda one, other: one // other if other and one % other == 0 else None,
}


@follows(*ARITHMETIC)
def arithmetic(tracer: Tracer, node: ir.Node) -> Followed:
    """Sizes from which others are computed stay as they are."""
    pairs = _pairs(tracer, node)
    fix(tracer, [number for pair in pairs for number in pair])
    return [_computed(node.op_type, *(number.known for number in pair)) for pair in pairs]


def _computed(operator: str, one: int | None, other: int | None) -> Number:
    result = None if one is None or other is None else ARITHMETIC[operator](one, other)
    return Number() if result is None else Number(Product(result))


def _pairs(tracer: Tracer, node: ir.Node) -> list[tuple[Number, Number]]:
    """Two scalars or vectors, broadcast."""
    left, right = (told(tracer, node, index) or [] for index in (0, 1))
    return list(
        zip(left * (1 if len(left) > 1 else len(right)), right * (1 if len(right) > 1 else len(left)), strict=True)
    )
