"""Which channels must go together: every position along every axis of every value has a *class*, an integer.

A rule for each operator says which positions are one: what a convolution reads on axis 1 is axis 1 of its weight, what
an Add adds has the same channels on both sides. What is left after all rules ran is exact by construction: taking away
all positions of a class, wherever it occurs, leaves a graph in which every node still finds what belongs together.

A new operator is a function with ``@rule("Its", "Names")`` in one of the files of this folder: it takes the tracer and
the node, ties what is one, and gives the axes of the outputs. Constants are values like others: each axis of one has
fresh classes when a rule first asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxopt.graph import STANDARD_DOMAINS, inferred, opset, subgraphs, tensor
from onnxopt.passes.prune.groups.numbers import Number, fix, follow

Classes = npt.NDArray[np.int64]
"""The class of each position along an axis, ``[size]``."""
Axis = Classes | None
"""None: nothing can be taken away there, or the size is not known."""
Axes = list[Axis]
"""One for each axis of a value."""
Rule = Callable[["Tracer", ir.Node], Sequence[Axes]]
RULES: dict[tuple[str, str], Rule] = {}
"""(domain, operator) to its rule; the standard domain is ``""``."""
UNKNOWN = "its size is not known"
MOST_STEPS = 64
"""Nodes between a layer and constants from which its weight is computed."""


class Barrier(Exception):
    """What a rule raises where channels of a node cannot be told apart: none of what it reads can go."""


def rule(*operators: str, domain: str = "") -> Callable[[Rule], Rule]:
    """Register a rule for operators of a domain."""

    def register(function: Rule) -> Rule:
        RULES.update({(domain, operator): function for operator in operators})
        return function

    return register


class Kept:
    """Which classes stay, asked by adjustments."""

    def __init__(self, stays: npt.NDArray[np.bool_], names: Classes) -> None:
        """``stays`` by final class, ``names`` from the classes that rules see to final ones."""
        self._stays, self._names = stays, names

    def __call__(self, axis: Axis) -> npt.NDArray[np.bool_]:
        """Of each position of an axis, whether it stays."""
        assert axis is not None
        mask: npt.NDArray[np.bool_] = self._stays[self._names[axis]]
        return mask

    def count(self, axis: Axis) -> int:
        """How many positions stay."""
        return int(self(axis).sum())

    def all(self, axis: Axis) -> bool:
        """Whether nothing goes."""
        return axis is None or bool(self(axis).all())


Adjustment = Callable[[Kept], None]
"""Rewrites what a node says in numbers of its own (an attribute, a shape) once it is known what stays."""


@dataclass(frozen=True)
class Role:
    """An axis of a constant that makes channels, or reads them.

    Attributes:
        node: of which the constant is an input, or what is computed from it.
        value: the constant.
        axis: of it.
    """

    node: ir.Node
    value: ir.Value
    axis: int


@dataclass
class Tracer:
    """Goes through a graph in order.

    Attributes:
        twins: of the graph's values, with inferred types and shapes.
        opset: the version of the standard operators.
        normalised: whether channels may go from an axis over which a LayerNormalization or the like takes its mean.
        count: of classes so far.
        axes: of the values seen so far.
        ties: pairs of equally long arrays of classes that are one.
        barriers: classes that must stay, and why.
        inexact: classes whose removal changes what others become even where all their numbers are zero, and why.
        adjustments: what has to be rewritten, by node.
        writers: axes that make channels.
        readers: axes that read them.
        numbers: what values hold that come from shapes.
        sources: what inputs and attributes hold that are constants, by node and index or name.
        understood: inputs, by node and index, whose numbers the node's rule takes care of.
    """

    twins: dict[ir.Value, ir.Value]
    opset: int
    normalised: bool = False
    count: int = 0
    axes: dict[ir.Value, Axes] = field(default_factory=dict)
    ties: list[tuple[Classes, Classes]] = field(default_factory=list)
    barriers: list[tuple[Classes, str]] = field(default_factory=list)
    inexact: list[tuple[Classes, str]] = field(default_factory=list)
    adjustments: list[Adjustment] = field(default_factory=list)
    writers: list[Role] = field(default_factory=list)
    readers: list[Role] = field(default_factory=list)
    numbers: dict[ir.Value | None, list[Number]] = field(default_factory=dict)
    sources: dict[tuple[ir.Node, int | str], list[Number] | None] = field(default_factory=dict)
    understood: set[tuple[ir.Node, int]] = field(default_factory=set)
    _barred: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(1024, bool))

    def of(self, value: ir.Value | None) -> Axes:
        """The axes of a value.

        Raises:
            Barrier: if its rank is not known, or it is left out.
        """
        if value is None:
            raise Barrier("an input is missing")
        if value not in self.axes:
            self.axes[value] = [self.fresh(size) if size is not None else None for size in self.shape(value)]
            if tensor(value) is None:
                self.bar(self.axes[value], f"{value.name!r} comes from outside")
        return self.axes[value]

    def shape(self, value: ir.Value | None) -> list[int | None]:
        """The sizes of a value, None for those that are not known.

        Raises:
            Barrier: if its rank is not known.
        """
        contents = tensor(value)
        if contents is not None:
            return list(contents.shape.numpy())
        shape = None if value is None or value not in self.twins else self.twins[value].shape
        if shape is None:
            raise Barrier(f"the shape of {value.name if value else None!r} is not known")
        return [size if isinstance(size, int) else None for size in shape]

    def fresh(self, size: int) -> Classes:
        """New classes."""
        self.count += size
        return np.arange(self.count - size, self.count)

    def tie(self, one: Axis, other: Axis) -> Axis:
        """Make two axes one, position by position; the one that is known."""
        if one is None or other is None:
            self.bar([one, other], UNKNOWN)
            return None
        if len(one) != len(other):
            raise Barrier(f"{len(one)} channels meet {len(other)}")
        if one is not other:
            self.ties.append((one, other))
        return one

    def tie_all(self, axis: Axis, rows: int) -> None:
        """Make positions one that differ by a multiple of ``rows``: ``axis`` is a whole number of repetitions."""
        if axis is not None:
            table = axis.reshape(-1, rows)
            for other in table[1:]:
                self.tie(table[0], other)

    def bar(self, axes: Sequence[Axis], why: str) -> None:
        """Let nothing go from these axes."""
        found = [axis for axis in axes if axis is not None]
        self.barriers += [(axis, why) for axis in found]
        for axis in found:
            self._flags()[axis] = True

    def fixed(self, size: int, why: str) -> Classes:
        """New classes that must stay."""
        axis = self.fresh(size)
        self.bar([axis], why)
        return axis

    def free(self, axis: Axis) -> bool:
        """Whether channels of an axis may go, for all that is known so far."""
        return axis is not None and len(axis) > 1 and not self._flags()[axis].all()

    def _flags(self) -> npt.NDArray[np.bool_]:
        """Of each class, whether it is barred by itself."""
        if len(self._barred) < self.count:
            self._barred = np.concatenate([self._barred, np.zeros(self.count, bool)])
        return self._barred

    def soften(self, axis: Axis, why: str) -> None:
        """Let channels of an axis go although the others change with them, where that is asked for; else bar them."""
        if axis is not None and self.normalised:
            self.inexact.append((axis, why))
        else:
            self.bar([axis], why)

    def writes(self, node: ir.Node, value: ir.Value | None, axis: int) -> None:
        """Note that an axis of a constant, or of what is computed from constants, makes channels."""
        self.writers += self._roles(node, value, axis)

    def reads(self, node: ir.Node, value: ir.Value | None, axis: int) -> None:
        """Note that an axis of a constant, or of what is computed from constants, reads channels."""
        self.readers += self._roles(node, value, axis)

    def _roles(self, node: ir.Node, value: ir.Value | None, axis: int) -> Iterator[Role]:
        """The axis itself, or those from which its channels come."""
        if tensor(value) is not None and value is not None:
            yield Role(node, value, axis)
            return
        classes = self.of(value)[axis]
        if classes is None:
            return
        for one in _origins(value):
            for place, other in enumerate(self.axes.get(one, [])):
                if other is not None and np.isin(other, classes).any():
                    yield Role(node, one, place)

    def adjust(self, how: Adjustment) -> None:
        """Note what to rewrite once it is known what stays."""
        self.adjustments.append(how)

    def trace(self, graph: ir.Graph) -> None:
        """Take down all nodes of a graph; sizes that it returns cannot change."""
        for node in graph:
            self._node(node)
        for value in graph.outputs:
            fix(self, self.numbers.get(value, []))

    def _node(self, node: ir.Node) -> None:
        domain = "" if node.domain in STANDARD_DOMAINS else node.domain
        try:
            if (domain, node.op_type) not in RULES:
                raise Barrier(f"{node.op_type} has no rule")
            outputs = list(RULES[domain, node.op_type](self, node))
        except Barrier as reason:
            self.block(node, f"{node.op_type} {node.outputs[0].name!r}: {reason}" if node.outputs else str(reason))
            outputs = []
        for value, axes in zip(node.outputs, outputs, strict=False):
            self.axes[value] = self._with_ones(value, axes)
        follow(self, node)

    def _with_ones(self, value: ir.Value, axes: Axes) -> Axes:
        """Axes that are known to be of size one broadcast, which those that are not known do not."""
        shape = self.twins[value].shape if value in self.twins else None
        if shape is None or len(shape) != len(axes):
            return list(axes)
        return [self.fresh(1) if axis is None and size == 1 else axis for axis, size in zip(axes, shape, strict=True)]

    def block(self, node: ir.Node, why: str) -> None:
        """Let nothing go from what a node and its bodies read; what it gives has nothing that could go."""
        for value in [*node.inputs, *_inside(node)]:
            if value is not None and (value in self.axes or tensor(value) is not None):
                self.bar(self.of(value), why)
        for value in node.outputs:
            shape = self.twins[value].shape if value in self.twins else None
            if shape is not None:
                self.axes[value] = [None] * len(shape)


def _origins(value: ir.Value | None) -> list[ir.Value]:
    """The constants from which a value is computed, where these are all that it is computed from."""
    found, left, steps = [], [value], 0
    while left:
        one = left.pop()
        if one is None:
            continue
        producer, steps = one.producer(), steps + 1
        if tensor(one) is not None:
            found.append(one)
        elif producer is None or steps > MOST_STEPS:
            return []
        else:
            left += producer.inputs
    return list(dict.fromkeys(found))


def _inside(node: ir.Node) -> Iterator[ir.Value | None]:
    """All values that are met in the bodies of a node."""
    for body in subgraphs(node):
        yield from body.outputs
        for inner in ir.traversal.RecursiveGraphIterator(body):
            yield from (*inner.inputs, *inner.outputs)


def trace(model: ir.Model, *, normalised: bool = False) -> Tracer:
    """Follow all channels of the main graph."""
    tracer = Tracer(inferred(model), opset(model), normalised)
    tracer.trace(model.graph)
    for value in model.graph.outputs:
        if value in tracer.axes:
            tracer.bar(tracer.axes[value], f"{value.name!r} is an output of the model")
    return tracer
