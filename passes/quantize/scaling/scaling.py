"""Positive factors of channels that can be moved through a graph without changing what it computes.

``relu(x / f) = relu(x) / f`` for every ``f > 0``, and so for all that is homogeneous: where a layer gives ``y / f`` and
all readers of it are layers, their weights can take ``* f``. This module finds which channels of which values must have
the same factor, and which constants take it; choosing factors is the thought of the passes. Factors that are powers of
two change no bit of what reaches the outputs.

Every channel of every value has a *class*, an integer; channels of one class have one factor, and class 0 always has
factor 1. The classes of a value stand in an array that broadcasts to it: ``[1, C, 1, 1]`` of an image, ``[C]`` of
tokens, ``[]`` holding 0 where nothing can be moved.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxopt.core import Refusal
from onnxopt.graph import array, rewrite

Classes = npt.NDArray[np.int64]
Factors = npt.NDArray[np.float32]
FIXED: Classes = np.zeros((), np.int64)
FLOAT = ir.DataType.FLOAT


@dataclass(frozen=True)
class Parameter:
    """A constant that takes factors: ``p * f[times] / f[over]``, both of which broadcast with it."""

    node: ir.Node
    index: int
    times: Classes = field(default_factory=lambda: FIXED)
    over: Classes = field(default_factory=lambda: FIXED)


@dataclass(frozen=True)
class Reader:
    """A layer, as what reads channels.

    Attributes:
        node: Conv, ConvTranspose, Gemm or MatMul, with a constant weight.
        classes: of the channels it reads, ``[K]``.
        places: which of them each input of an output channel is, ``[outputs, inputs]``, or one row for all outputs.
        by_rows: whether the weight has output channels on axis 0, and inputs on axis 1.
    """

    node: ir.Node
    classes: Classes
    places: Classes
    by_rows: bool

    def rows(self) -> npt.NDArray[np.float32]:
        """The weight as it is in the model now, ``[outputs, inputs, kernel positions]``."""
        numbers = array(self.node.inputs[1])
        assert numbers is not None
        turned = numbers if self.by_rows else np.swapaxes(numbers, 0, 1)
        return turned.reshape(*turned.shape[:2], -1)


@dataclass
class Scaling:
    """What can be scaled.

    Attributes:
        count: the number of classes.
        parameters: the constants that take factors, in graph order.
        readers: the layers among their nodes.
        refusals: layers that hold their channels fixed, and why.
    """

    count: int = 1
    parameters: list[Parameter] = field(default_factory=list)
    readers: list[Reader] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)

    def groups(self) -> list[Classes]:
        """Classes that are read together, so that their ranges share a scale; sorted, without class 0."""
        ties = Ties(list(range(self.count)))
        for reader in self.readers:
            free = reader.classes[reader.classes > 0]
            ties.tie(free, free[:1])
        read = np.unique(np.concatenate([FIXED[None], *(reader.classes for reader in self.readers)]))[1:]
        found: dict[int, list[int]] = {}
        for one in read.tolist():
            found.setdefault(ties.root(one), []).append(one)
        return [np.array(group) for group in found.values()]

    def made_by(self, *op_types: str) -> set[int]:
        """Classes that constants of these operators make."""
        return {int(one) for p in self.parameters if p.node.op_type in op_types for one in p.over.flat}

    def apply(self, factors: Factors) -> list[ir.Node]:
        """Write the factors, one for each class, into the constants; the nodes whose constants changed."""
        changed: dict[ir.Node, None] = {}
        for parameter in self.parameters:
            times, over = factors[parameter.times], factors[parameter.over]
            if np.any(times != over):
                numbers = array(parameter.node.inputs[parameter.index])
                assert numbers is not None
                rewrite(parameter.node, parameter.index, (numbers * times / over).astype(np.float32))
                changed[parameter.node] = None
        return list(changed)


@dataclass
class Ties:
    """Integers from 0 on, and which of them are one: a union-find in which the smallest speaks for all."""

    parents: list[int] = field(default_factory=lambda: [0])

    def fresh(self, count: int) -> Classes:
        """New ones."""
        first = len(self.parents)
        self.parents += range(first, first + count)
        return np.arange(first, first + count)

    def root(self, one: int) -> int:
        """The one that speaks for it."""
        while self.parents[one] != one:
            self.parents[one] = one = self.parents[self.parents[one]]
        return one

    def roots(self, many: Classes) -> Classes:
        """The same for an array."""
        return np.array([self.root(one) for one in many.reshape(-1).tolist()], np.int64).reshape(many.shape)

    def tie(self, one: Classes, other: Classes) -> None:
        """Make them one, element by element as they broadcast."""
        for low, high in zip(*(part.reshape(-1).tolist() for part in np.broadcast_arrays(one, other)), strict=True):
            ends = sorted((self.root(low), self.root(high)))
            self.parents[ends[1]] = ends[0]


@dataclass
class Tracer:
    """Goes through a graph in order and notes the classes of each value.

    Attributes:
        twins: of the graph's values, with inferred types and shapes.
        ties: which classes are one.
        classes: of the values seen so far; those without are fixed.
        found: so far.
    """

    twins: Mapping[ir.Value, ir.Value]
    ties: Ties = field(default_factory=Ties)
    classes: dict[ir.Value, Classes] = field(default_factory=dict)
    found: Scaling = field(default_factory=Scaling)

    def of(self, value: ir.Value | None) -> Classes:
        """The classes of a value."""
        return FIXED if value is None else self.classes.get(value, FIXED)

    def full(self, value: ir.Value | None) -> Classes | None:
        """The same with all dimensions of the value; None where their number is not known."""
        shape = self.shape(value)
        return None if shape is None else padded(self.of(value), len(shape))

    def shape(self, value: ir.Value | None) -> list[int | None] | None:
        """The sizes of a value, None for those that are not known."""
        shape = self.twins[value].shape if value is not None and value in self.twins else None
        return None if shape is None else [size if isinstance(size, int) else None for size in shape]

    def fixed(self, classes: Classes) -> bool:
        """Whether none of them can have another factor than 1."""
        return not self.ties.roots(classes).any()

    def fix(self, many: Iterable[Classes]) -> None:
        """Let none of them have another factor than 1."""
        for classes in many:
            self.ties.tie(classes, FIXED)

    def note(self, node: ir.Node, outputs: Sequence[Classes] | None) -> None:
        """Take down what the node gives; None: it is not known, and all that it reads is fixed."""
        if outputs is None:
            self.fix(self.of(value) for value in node.inputs)
        for value, classes in zip(node.outputs, outputs or (), strict=False):
            self.classes[value] = classes
            inner = any(use.node.graph is not node.graph for use in value.uses())
            if inner or value.is_graph_output() or self.twins[value].dtype is not FLOAT:
                self.fix([classes])

    def result(self) -> Scaling:
        """What was found, with classes numbered anew."""
        names = np.unique(self.ties.roots(np.arange(len(self.ties.parents))), return_inverse=True)[1]
        parameters = [Parameter(p.node, p.index, names[p.times], names[p.over]) for p in self.found.parameters]
        readers = [Reader(r.node, names[r.classes], r.places, r.by_rows) for r in self.found.readers]
        return Scaling(int(names.max()) + 1, parameters, readers, self.found.refusals)


def padded(classes: Classes, rank: int) -> Classes:
    """With ``rank`` dimensions."""
    return classes.reshape([1] * (rank - classes.ndim) + list(classes.shape))
