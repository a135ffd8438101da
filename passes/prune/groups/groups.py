"""Dependency groups: the channels that one or several layers make together, with all places where each is met."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from onnxopt.core import Refusal
from onnxopt.graph import array, given, label, scalar, tensor
from onnxopt.passes.prune.groups.tracer import UNKNOWN, Axes, Classes, Kept, Role, Tracer, trace

FIXED = 0
"""The class of what must stay."""
CONVOLUTIONS = ("Conv", "ConvTranspose")
DIVISORS = {("Div", 1), ("Mod", 1), ("QuantizeLinear", 1)}
"""Operator and input."""


@dataclass(frozen=True)
class Group:
    """Channels among which a width is chosen.

    Attributes:
        name: the first output that has them.
        classes: of the channels that can go, in the order in which the first layer makes them.
        fixed: how many others stand beside them on the axes that make them.
        why: the reason for those; empty where there are none.
        width: all positions on the axis that first makes them, those of other groups too.
        each: positions of one channel there: a head has many.
        writers: axes of constants that make them.
        readers: axes that read them, or some of them.
        others: axes of further constants that have one number for each: biases, scales.
        inexact: why the rest changes where one goes although its numbers are zero; empty where it does not.
    """

    name: str
    classes: Classes
    fixed: int
    why: str
    width: int
    each: int
    writers: tuple[Role, ...]
    readers: tuple[Role, ...]
    others: tuple[tuple[ir.Value, int], ...]
    inexact: str = ""

    def __len__(self) -> int:
        """How many channels can go."""
        return len(self.classes)

    @property
    def convolved(self) -> bool:
        """Whether convolutions make or read the channels: their kernels want certain counts."""
        return any(role.node.op_type in CONVOLUTIONS for role in (*self.writers, *self.readers))

    def __str__(self) -> str:
        """A readable list of what shrinks together."""
        beside = f", {self.fixed} more stay ({self.why})" if self.fixed else ""
        lines = [f"{self.name}: {len(self)} channels{beside}"]
        lines += [f"  made by   {_role(role)}" for role in self.writers]
        lines += [f"  read by   {_role(role)}" for role in self.readers]
        lines += [f"  also in   {value.name} axis {axis}" for value, axis in self.others]
        return "\n".join([*lines, *([f"  inexact   {self.inexact}"] if self.inexact else [])])


def _role(role: Role) -> str:
    return f"{role.node.op_type} {label(role.node)}: {role.value.name} axis {role.axis}"


@dataclass(frozen=True)
class Groups:
    """All groups of a model, and what it takes to remove channels from it.

    Attributes:
        groups: in the order in which their first layer stands.
        count: of classes; class 0 holds all that must stay.
        axes: of each value of the main graph, the class of each position.
        refusals: layers whose channels must stay, and why.
    """

    groups: tuple[Group, ...]
    count: int
    axes: Mapping[ir.Value, Axes]
    refusals: tuple[Refusal, ...]
    _tracer: Tracer
    _names: Classes

    @classmethod
    def of(cls, tracer: Tracer) -> Groups:
        """What a tracer found."""
        found = _Components.of(tracer)
        axes = {
            value: [None if axis is None else found.names[axis] for axis in many] for value, many in tracer.axes.items()
        }
        groups, refusals = _grouped(tracer, found, axes)
        return cls(tuple(groups), int(found.names.max(initial=0)) + 1, axes, tuple(refusals), tracer, found.names)

    def __iter__(self) -> Iterator[Group]:
        """The groups."""
        return iter(self.groups)

    def __len__(self) -> int:
        """How many."""
        return len(self.groups)

    def channels(self, value: ir.Value | None, axis: int) -> Classes | None:
        """The classes along an axis of a value; None where nothing can go."""
        axes = self.axes.get(value) if value is not None else None
        return None if axes is None or not -len(axes) <= axis < len(axes) else axes[axis]

    def read_by(self, node: ir.Node) -> Classes | None:
        """The classes of the channels that a layer reads."""
        return self.channels(node.inputs[0], channel_axis(node))

    def made_by(self, node: ir.Node) -> Classes | None:
        """The classes of the channels that a layer makes."""
        return self.channels(node.outputs[0], channel_axis(node))

    def constants(self) -> dict[ir.Value, Axes]:
        """The constants that have channels which can go."""
        return {
            value: axes
            for value, axes in self.axes.items()
            if tensor(value) is not None and any(axis is not None and axis.any() for axis in axes)
        }

    def zero(self, gone: Classes) -> None:
        """Set the numbers of channels in every constant that has them to what stands for zero there."""
        stays = self._stays(gone)
        for value, axes in self.constants().items():
            numbers = _numbers(value).copy()
            nothing = _nothing(value)
            for place, axis in enumerate(axes):
                if axis is not None and not stays[axis].all():
                    np.moveaxis(numbers, place, 0)[~stays[axis]] = nothing
            _store(value, numbers)

    def remove(self, gone: Classes) -> None:
        """Take channels away, from the constants, the shapes of values, and what nodes say in numbers.

        Only once: the classes are then no longer those of the model.

        Raises:
            ValueError: if one of them must stay, or nothing would be left along an axis.
        """
        stays = self._stays(gone)
        for value, axes in self.axes.items():
            if any(axis is not None and len(axis) and not stays[axis].any() for axis in axes):
                raise ValueError(f"no channel of {value.name!r} would be left")
        for value, axes in self.constants().items():
            numbers = _numbers(value)
            for place, axis in enumerate(axes):
                if axis is not None and not stays[axis].all():
                    numbers = np.compress(stays[axis], numbers, axis=place)
            if numbers.shape != _numbers(value).shape:
                _store(value, np.ascontiguousarray(numbers))
        for value, axes in self.axes.items():
            _reshape(value, axes, stays)
        kept = Kept(stays, self._names)
        for adjust in self._tracer.adjustments:
            adjust(kept)

    def _stays(self, gone: Classes) -> npt.NDArray[np.bool_]:
        stays = np.ones(self.count, bool)
        stays[gone] = False
        if not stays[FIXED]:
            raise ValueError("a channel that must stay is to go")
        return stays


def find(model: ir.Model, *, normalised: bool = False) -> Groups:
    """The dependency groups of a model.

    Args:
        model: not changed.
        normalised: whether channels may go from an axis over which the mean or norm is taken (LayerNormalization).
    """
    return Groups.of(trace(model, normalised=normalised))


@dataclass(frozen=True)
class _Components:
    """Which classes are one after all.

    Attributes:
        of_class: the component of each class of the tracer.
        reasons: component to why it must stay.
        names: the final class of each class of the tracer.
    """

    of_class: Classes
    reasons: dict[int, str]
    names: Classes

    @classmethod
    def of(cls, tracer: Tracer) -> _Components:
        components = connected(tracer.count, tracer.ties)
        reasons: dict[int, str] = {}
        for classes, why in tracer.barriers:
            for one in np.unique(components[classes]).tolist():
                reasons.setdefault(one, why)
        free = np.ones(components.max(initial=-1) + 1, bool)
        free[list(reasons)] = False
        return cls(components, reasons, np.where(free, np.cumsum(free), FIXED)[components])

    def why(self, axis: Classes) -> str:
        """Why the first of those that must stay must."""
        return next((self.reasons[one] for one in self.of_class[axis].tolist() if one in self.reasons), "")


def channel_axis(node: ir.Node) -> int:
    """The axis of the channels in what a layer reads and makes."""
    return 1 if node.op_type in CONVOLUTIONS else -1


def connected(count: int, ties: Sequence[tuple[Classes, Classes]]) -> Classes:
    """Which of the numbers below ``count`` hang together: a number for each, in the order of their first."""
    ones, others = (np.concatenate([np.zeros(0, np.int64), *(pair[end] for pair in ties)]) for end in (0, 1))
    links = coo_array((np.ones(len(ones), np.int8), (ones, others)), shape=(count, count))
    found: Classes = connected_components(links, directed=False)[1].astype(np.int64)
    return found


def _grouped(tracer: Tracer, found: _Components, axes: Mapping[ir.Value, Axes]) -> tuple[list[Group], list[Refusal]]:
    """Classes that the same axes make are one group; axes that make none are refused."""
    made = [(role, axis) for role in tracer.writers if (axis := axes[role.value][role.axis]) is not None]
    free = [(role, np.unique(axis[axis != FIXED])) for role, axis in made]
    homes = _homes(int(found.names.max(initial=0)) + 1, [classes for _, classes in free])
    refusals = []
    members: dict[int, list[Role]] = {}
    for role, classes in free:
        for home in np.unique(homes[classes]).tolist():
            members.setdefault(home, []).append(role)
        if not len(classes):
            raw = tracer.axes[role.value][role.axis]
            refusals.append(Refusal(label(role.node), found.why(raw) if raw is not None else UNKNOWN))
    places, names = _places(tracer, axes, homes), Counter[str]()
    groups = []
    for home, roles in members.items():
        name = label(roles[0].node)
        names[name] += 1
        name = f"{name}#{names[name]}" if names[name] > 1 else name
        groups.append(_group(name, np.flatnonzero(homes == home), tracer, found, axes, roles, places[home]))
    return groups, refusals


def _homes(count: int, axes: Sequence[Classes]) -> Classes:
    """A number for each class, the same for those that are on the same axes; 0 for those on none."""
    homes, last = np.zeros(count, np.int64), 0
    for classes in axes:
        before, inverse = np.unique(homes[classes], return_inverse=True)
        homes[classes] = last + 1 + inverse
        last += len(before)
    return homes


def _places(tracer: Tracer, axes: Mapping[ir.Value, Axes], homes: Classes) -> dict[int, list[tuple[ir.Value, int]]]:
    """Where in constants the classes of each home are."""
    found: dict[int, list[tuple[ir.Value, int]]] = {}
    for value, many in axes.items():
        if tensor(value) is None:
            continue
        for place, axis in enumerate(many):
            if axis is not None and axis.any():
                for home in np.unique(homes[axis[axis != FIXED]]).tolist():
                    found.setdefault(home, []).append((value, place))
    return found


def _group(
    name: str,
    members: Classes,
    tracer: Tracer,
    found: _Components,
    axes: Mapping[ir.Value, Axes],
    writers: list[Role],
    places: list[tuple[ir.Value, int]],
) -> Group:
    """The group that these writers make."""
    first, made = writers[0], _axis(axes, writers[0])
    made = made[np.isin(made, members)]
    classes = made[np.sort(np.unique(made, return_index=True)[1])]
    readers = [role for role in tracer.readers if (role.value, role.axis) in places]
    known = {(role.value, role.axis) for role in (*writers, *readers)}
    raw = next((axis for role in writers if (axis := tracer.axes[role.value][role.axis]) is not None), None)
    inexact = (why for many, why in tracer.inexact if np.isin(found.names[many], classes).any())
    return Group(
        name,
        classes,
        int((_axis(axes, first) == FIXED).sum()),
        "" if raw is None else found.why(raw),
        len(_axis(axes, first)),
        len(made) // len(classes),
        tuple(writers),
        tuple(readers),
        tuple(place for place in places if place not in known),
        next(inexact, ""),
    )


def _axis(axes: Mapping[ir.Value, Axes], role: Role) -> Classes:
    axis = axes[role.value][role.axis]
    assert axis is not None
    return axis


def _numbers(value: ir.Value) -> npt.NDArray[np.generic]:
    numbers = array(value)
    assert numbers is not None
    return numbers


def _nothing(value: ir.Value) -> float:
    """What stands for zero in a constant: one if it divides, a zero point if it is quantized."""
    for node, index in value.uses():
        if (node.op_type, index) in DIVISORS:
            return 1
        if node.op_type == "DequantizeLinear" and index == 0:
            return scalar(given(node, 2)) or 0
    return 0


def _store(value: ir.Value, numbers: npt.NDArray[np.generic]) -> None:
    """New numbers of a constant, for all that read it."""
    producer, old = value.producer(), tensor(value)
    assert old is not None
    contents = ir.Tensor(numbers, dtype=old.dtype, name=old.name)
    if producer is not None:
        producer.attributes.clear()
        producer.attributes["value"] = ir.AttrTensor("value", contents)
    if producer is None or value.const_value is not None:
        value.const_value = contents
    value.shape = ir.Shape(numbers.shape)


def _reshape(value: ir.Value, axes: Axes, stays: npt.NDArray[np.bool_]) -> None:
    """What the file says of the shape of a value."""
    if value.shape is None or len(value.shape) != len(axes) or value.is_initializer():
        return
    sizes = [
        size if axis is None or stays[axis].all() else int(stays[axis].sum())
        for size, axis in zip(value.shape, axes, strict=True)
    ]
    value.shape = ir.Shape(sizes)
