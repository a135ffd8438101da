"""What nodes are told in numbers: sizes, places, counts of repetitions; from constants, attributes, or Shape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from onnxopt.graph import STANDARD_DOMAINS, array, constant, drop_unread, given, label, tensor

if TYPE_CHECKING:
    from onnxopt.passes.prune.groups.tracer import Axis, Kept, Tracer

Writing = Callable[[int], int]
"""How many positions stay, as it is written."""
MOST = 64
"""A constant of more numbers says nothing of shapes."""
NUMERIC = {ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.INT32, ir.DataType.INT64}
"""Types of sizes, and of what becomes a size."""


@dataclass(frozen=True)
class Product:
    """A size: a number times the names of dimensions that are not known; ``names`` are in order."""

    factor: float = 1
    names: tuple[str, ...] = ()

    def __mul__(self, other: Product) -> Product:
        """The product of two sizes."""
        return Product(self.factor * other.factor, tuple(sorted(self.names + other.names)))

    def over(self, other: Product) -> Product | None:
        """How many times the other size this one is; None where that is no whole number."""
        names = Counter(self.names)
        names.subtract(other.names)
        if other.factor == 0 or self.factor % other.factor or min(names.values(), default=0) < 0:
            return None
        return Product(self.factor // other.factor, tuple(sorted(names.elements())))

    @property
    def known(self) -> int | None:
        """The size where it is a whole number."""
        return int(self.factor) if not self.names and self.factor == int(self.factor) else None


ONE = Product()


def product(sizes: Sequence[Product]) -> Product:
    """Of all of them."""
    total = ONE
    for size in sizes:
        total *= size
    return total


@dataclass(frozen=True)
class Number:
    """A number that a node is told.

    Attributes:
        size: where it is known.
        counts: the axis whose size it is, which it follows by itself; None if it follows none.
        source: the constant it comes from, and can be written anew in; None if it is computed.
        place: in that constant.
    """

    size: Product | None = None
    counts: Axis = None
    source: Source | None = None
    place: int = 0

    @property
    def known(self) -> int | None:
        """The number where it is one, and whole."""
        return None if self.size is None else self.size.known

    def changes(self, kept: Kept) -> bool:
        """Whether it is another number after all."""
        claimed = None if self.source is None else self.source.claims.get(self.place, (None,))[0]
        return not (kept.all(self.counts) and kept.all(claimed))


@dataclass(eq=False)
class Source:
    """A constant that a node reads, or an attribute of it, from which numbers come.

    Attributes:
        node: which reads it.
        where: index of the input, or name of the attribute.
        claims: of its numbers, the axis whose size each is, and how that is written; None where it cannot change.
    """

    node: ir.Node
    where: int | str
    claims: dict[int, tuple[Axis, Writing]] = field(default_factory=dict)

    def read(self) -> list[Number] | None:
        """Its numbers; None if it is no constant, or a large one."""
        if isinstance(self.where, str):
            attribute = self.node.attributes.get(self.where)
            found = None if attribute is None else np.ravel(attribute.value)
        else:
            found = array(given(self.node, self.where))
        if found is None or found.size > MOST or found.dtype.kind not in "if":
            return None
        return [Number(Product(one), None, self, place) for place, one in enumerate(found.ravel().tolist())]

    def write(self, kept: Kept) -> None:
        """Put the sizes of what stays in place of the old ones."""
        moved = {
            place: how(kept.count(axis))
            for place, (axis, how) in self.claims.items()
            if axis is not None and not kept.all(axis)
        }
        if not moved:
            return
        if isinstance(self.where, str):
            ints = np.ravel(self.node.attributes[self.where].value).tolist()
            ints = [moved.get(place, old) for place, old in enumerate(ints)]
            self.node.attributes[self.where] = ir.AttrInt64s(self.where, ints)
            return
        found = array(given(self.node, self.where))
        assert found is not None
        numbers = found.copy()
        numbers.reshape(-1)[list(moved)] = list(moved.values())
        renumber(self.node, self.where, numbers)


def renumber(node: ir.Node, index: int, numbers: np.ndarray) -> None:
    """Let a node read a new constant, of its own; no node goes, not even one that gave the old."""
    graph, old = node.graph, given(node, index)
    assert isinstance(graph, ir.Graph)
    node.resize_inputs(max(len(node.inputs), index + 1))
    node.replace_input_with(index, constant(graph, f"{label(node)}/{node.op_type}/{index}", numbers))
    if old is not None:
        drop_unread([old])


Follower = Callable[["Tracer", ir.Node], list[Number] | None]
FOLLOWERS: dict[str, Follower] = {}
"""Operator of the standard domain to the numbers of its output, given those of its inputs; None if not known."""


def follows(*operators: str) -> Callable[[Follower], Follower]:
    """Register a follower: as a rule is for axes, so this is for numbers that come from shapes."""

    def register(function: Follower) -> Follower:
        FOLLOWERS.update(dict.fromkeys(operators, function))
        return function

    return register


def told(tracer: Tracer, node: ir.Node, where: int | str) -> list[Number] | None:
    """The numbers at an input of a node or in an attribute; None where they are not known.

    Whoever asks must say of each number what it is to be (``say``, ``fix``).
    """
    if isinstance(where, int) and (value := given(node, where)) in tracer.numbers:
        tracer.understood.add((node, where))
        return tracer.numbers[value]
    if (node, where) not in tracer.sources:
        source = Source(node, where)
        tracer.sources[node, where] = source.read()
        tracer.adjust(source.write)
    return tracer.sources[node, where]


def plain(count: int) -> int:
    """As it is."""
    return count


def negative(count: int) -> int:
    """How many are cut off."""
    return -count


def from_end(count: int) -> int:
    """A place counted from the end, in front of so many; behind all where there is none."""
    return -count or int(np.iinfo(np.int32).max)


def say(tracer: Tracer, number: Number, axis: Axis, how: Writing = plain) -> None:
    """Let a number that a node is told be how many positions of an axis stay; None: as it is."""
    if number.counts is not None:
        if axis is None or how is not plain or len(axis) != len(number.counts):
            tracer.bar([number.counts, axis], "its size is read as a number")
        elif not np.array_equal(np.sort(axis), np.sort(number.counts)):
            tracer.tie(number.counts, axis)
    elif number.source is None:
        tracer.bar([axis], "a number for its size is computed")
    else:
        first, written = number.source.claims.setdefault(number.place, (axis, how))
        if first is None or axis is None or how is not written or len(first) != len(axis):
            tracer.bar([first, axis] if first is not axis else [], "its size is read from a constant with other uses")
        else:
            tracer.tie(first, axis)


def fix(tracer: Tracer, numbers: Sequence[Number]) -> None:
    """Let numbers stay as they are."""
    for number in numbers:
        say(tracer, number, None)


def dims(tracer: Tracer, value: ir.Value | None) -> list[Product]:
    """The sizes of a value; where one is not known, it has a name of its own."""
    assert value is not None
    shape = None if value not in tracer.twins else tracer.twins[value].shape
    axes = tracer.of(value)
    said = list(shape) if shape is not None and len(shape) == len(axes) else [None] * len(axes)
    return [_dim(value, place, axis, size) for place, (axis, size) in enumerate(zip(axes, said, strict=True))]


def _dim(value: ir.Value, place: int, axis: Axis, size: int | ir.SymbolicDim | None) -> Product:
    if axis is not None:
        return Product(len(axis))
    if isinstance(size, int):
        return Product(size)
    name = None if size is None else size.value
    return Product(1, (name or f"{value.name} axis {place}",))


def follow(tracer: Tracer, node: ir.Node) -> None:
    """Take down what numbers a node gives; those that it reads and nobody understands cannot change."""
    follower = FOLLOWERS.get(node.op_type) if node.domain in STANDARD_DOMAINS else None
    if follower is not None and _is_row(tracer, node):
        numbers = follower(tracer, node)
        if numbers is not None:
            tracer.numbers[node.outputs[0]] = numbers
    for index, value in enumerate(node.inputs):
        if value in tracer.numbers and (node, index) not in tracer.understood:
            fix(tracer, tracer.numbers[value])


def _is_row(tracer: Tracer, node: ir.Node) -> bool:
    """Whether a node makes a scalar or vector, from others that are known or constant."""
    held = [value for value in node.inputs if value is not None]
    flat = len(tracer.axes.get(node.outputs[0], [None, None])) < 2
    return flat and len(held) > 0 and all(value in tracer.numbers or _is_short(value) for value in held)


def _is_short(value: ir.Value) -> bool:
    contents = tensor(value)
    return contents is not None and len(contents.shape) < 2 and contents.size <= MOST and contents.dtype in NUMERIC
