"""Reshape and Flatten: axes that are split, and axes that are merged.

An input axis that is split keeps its classes on one of its parts, and is tied over the others (attention heads go
whole). An output axis that is merged has the classes of one of its parts, each repeated; the other parts must stay.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxopt.passes.prune.groups.atoms import Alignment, Atom, keeper_of
from onnxopt.passes.prune.groups.numbers import ONE, Number, Product, dims, product, renumber, say, told
from onnxopt.passes.prune.groups.tracer import Axes, Axis, Barrier, Classes, Kept, Tracer, rule

WHOLE = "it is a part of channels that go whole"
MIXED = "it is merged with other channels"
APART = "it is divided into parts whose sizes are not known"
UNKNOWN = "it is merged with sizes that are not known"


@rule("Reshape")
def reshape(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """A size of 0 is that of the input there, -1 is what is left; all others are said in numbers."""
    before, old = tracer.of(node.inputs[0]), dims(tracer, node.inputs[0])
    numbers = told(tracer, node, 1 if len(node.inputs) > 1 else "shape")
    if numbers is None:
        numbers = [Number() for _ in tracer.shape(node.outputs[0])]
    zeros = [place for place, number in enumerate(numbers) if number.known == 0]
    if zeros and node.attributes.get_int("allowzero", 0) == 1:
        raise Barrier("a size is zero")
    numbers = [Number(old[place], before[place]) if place in zeros else one for place, one in enumerate(numbers)]
    after = _targets(tracer, node.outputs[0], product(old), numbers)
    found = Alignment.of(old, after)
    axes = _rearranged(tracer, node, found, after)
    target = _target(found, after, numbers)
    if target is not None:
        tracer.adjust(lambda kept: _retarget(node, target, axes, numbers, kept))
        return [axes]
    for number, axis in zip(numbers, axes, strict=True):
        if number.known != -1:
            say(tracer, number, axis)
    return [axes]


def _target(found: Alignment, after: Sequence[Product], numbers: Sequence[Number]) -> list[int] | None:
    """The output's sizes as constants, with 0 where it is the input's in the same place; None if more are unknown."""
    copied = {place for source, place in found.moved().items() if source == place}
    target = [size.known or (0 if place in copied else -1) for place, size in enumerate(after)]
    if -1 not in target:
        target = [-1 if number.known == -1 else size for size, number in zip(target, numbers, strict=True)]
    return target if target.count(-1) < 2 else None


def _retarget(node: ir.Node, target: Sequence[int], axes: Axes, numbers: Sequence[Number], kept: Kept) -> None:
    """A target of its own, where it changes: what is computed from the shape of others may be read by many."""
    if all(map(kept.all, axes)) and not any(number.changes(kept) for number in numbers):
        return
    sizes = [
        kept.count(axis) if size > 0 and axis is not None else size for size, axis in zip(target, axes, strict=True)
    ]
    if len(node.inputs) > 1:
        node.attributes.pop("allowzero", None)
        renumber(node, 1, np.array(sizes, np.int64))
    else:
        node.attributes["shape"] = ir.AttrInt64s("shape", sizes)


def _targets(tracer: Tracer, after: ir.Value, total: Product, numbers: Sequence[Number]) -> list[Product]:
    """The sizes of the output: as said, what is left, as inferred, or unknown, in this order."""
    shape = tracer.twins[after].shape if after in tracer.twins else None
    inferred = list(shape) if shape is not None and len(shape) == len(numbers) else [None] * len(numbers)
    found: list[Product | None] = []
    for number, guess in zip(numbers, inferred, strict=True):
        known = number.size if number.known != -1 else None
        if known is None and guess is not None:
            known = Product(guess) if isinstance(guess, int) else Product(1, (guess.value,)) if guess.value else None
        found.append(known)
    rest = [place for place, number in enumerate(numbers) if number.known == -1] or [
        place for place, size in enumerate(found) if size is None
    ]
    others = [size for place, size in enumerate(found) if place not in rest and size is not None]
    if len(rest) == 1 and len(others) == len(found) - 1:
        found[rest[0]] = total.over(product(others)) or found[rest[0]]
    return [size or Product(1, (f"{after.name} axis {place}",)) for place, size in enumerate(found)]


@rule("Flatten")
def flatten(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """To two axes: what is before ``axis``, and the rest."""
    sizes = dims(tracer, node.inputs[0])
    axis = node.attributes.get_int("axis", 1)
    axis += len(sizes) if axis < 0 else 0
    after = [product(sizes[:axis]), product(sizes[axis:])]
    return [_rearranged(tracer, node, Alignment.of(sizes, after), after)]


def _rearranged(tracer: Tracer, node: ir.Node, found: Alignment, after: Sequence[Product]) -> Axes:
    """The axes of a node's output that has the input's numbers in the same order, and these sizes."""
    for source, axis in enumerate(tracer.of(node.inputs[0])):
        parts = found.of_input(source)
        if axis is None or source in found.loose[0]:
            tracer.bar([axis], APART)
        elif len(parts) == 1:
            parts[0].axis = axis
        elif product([part.size for part in parts]).known != len(axis):
            tracer.bar([axis], APART)
        elif parts:
            _split(tracer, node, axis, parts)
    return [
        _merged(tracer, size, found.of_output(target), target in found.loose[1]) for target, size in enumerate(after)
    ]


def _split(tracer: Tracer, node: ir.Node, axis: Classes, parts: Sequence[Atom]) -> None:
    """Give the classes of an axis to one of its parts, tied over the others; one that needs no ties, if there is."""
    tables = [_table(axis, parts, place) for place in range(len(parts))]
    merged = [part for part, table in zip(parts, tables, strict=True) if (table == table[:, :1]).all()]
    keeper = keeper_of(tracer, node.outputs[0], merged or parts)
    table = tables[parts.index(keeper)]
    tracer.tie(np.repeat(table[:, 0], table.shape[1] - 1), table[:, 1:].ravel())
    for part in parts:
        part.axis = table[:, 0] if part is keeper else tracer.fixed(int(part.size.factor), WHOLE)


def _table(axis: Classes, parts: Sequence[Atom], place: int) -> Classes:
    """The classes of an axis by position on one of its parts, and by position on the others."""
    sizes = [int(part.size.factor) for part in parts]
    return np.moveaxis(axis.reshape(sizes), place, 0).reshape(sizes[place], -1)


def _merged(tracer: Tracer, size: Product, parts: Sequence[Atom], loose: bool) -> Axis:
    """One axis from its parts: the first that may lose channels keeps its classes."""
    if size == ONE:
        return tracer.fresh(1)
    if len(parts) == 1 and not loose:
        return parts[0].axis
    known = [part for part in parts if part.axis is not None]
    if loose or not known or product([part.size for part in parts]).known is None:
        tracer.bar([part.axis for part in known], UNKNOWN)
        return None
    keeper = next((part for part in known if tracer.free(part.axis)), known[0])
    tracer.bar([part.axis for part in known if part is not keeper], MIXED)
    place = list(parts).index(keeper)
    outer, inner = (int(product([part.size for part in some]).factor) for some in (parts[:place], parts[place + 1 :]))
    assert keeper.axis is not None
    return np.tile(np.repeat(keeper.axis, inner), outer)
