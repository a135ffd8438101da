"""Operators that join, cut, pick and pad."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxopt.graph import array, given, tensor
from onnxopt.passes.prune.groups.numbers import Number, dims, fix, from_end, negative, renumber, say, told
from onnxopt.passes.prune.groups.shapes import constant_axes
from onnxopt.passes.prune.groups.tracer import Axes, Axis, Barrier, Classes, Kept, Tracer, rule

PICKED = "positions of it are picked by numbers that are computed"


@rule("Concat")
def concat(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """One after the other along ``axis``; other axes are one."""
    many = [list(tracer.of(value)) for value in node.inputs]
    place = node.attributes.get_int("axis", 1) % len(many[0])
    joined = [_sized(tracer, value, place) for value in node.inputs]
    axes = many[0]
    for other in many[1:]:
        axes = [
            tracer.tie(one, two) if number != place else None
            for number, (one, two) in enumerate(zip(axes, other, strict=True))
        ]
    axes[place] = _joined(tracer, joined)
    return [axes]


def _sized(tracer: Tracer, value: ir.Value | None, place: int) -> Axis:
    """An axis of a value; where nothing can go from it but its size is known, with classes all the same."""
    axis, size = tracer.of(value)[place], dims(tracer, value)[place].known
    return axis if axis is not None or size is None else tracer.fixed(size, "it is joined with what cannot go")


def _joined(tracer: Tracer, parts: Sequence[Axis]) -> Axis:
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        tracer.bar(known, "it is joined with channels whose number is not known")
        return None
    return np.concatenate(known)


@rule("Split")
def split(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """Into parts of said sizes, or into equal ones; what is left of these is then said."""
    axes = tracer.of(node.inputs[0])
    place = node.attributes.get_int("axis", 0) % len(axes)
    axis = axes[place]
    if axis is None:
        return [axes] * len(node.outputs)
    if "split" in node.attributes or given(node, 1) is not None:
        parts = _said_parts(tracer, node, axis)
    else:
        equal = -(-len(axis) // len(node.outputs))
        parts = [axis[index * equal : (index + 1) * equal] for index in range(len(node.outputs))]
        tracer.adjust(lambda kept: _say_sizes(tracer, node, parts, kept))
    return [[*axes[:place], part, *axes[place + 1 :]] for part in parts]


def _said_parts(tracer: Tracer, node: ir.Node, axis: Classes) -> list[Classes]:
    numbers = told(tracer, node, "split" if "split" in node.attributes else 1) or []
    sizes = [number.known or 0 for number in numbers]
    if len(sizes) != len(node.outputs) or sum(sizes) != len(axis):
        raise Barrier("the sizes of its parts are computed")
    parts = np.split(axis, np.cumsum(sizes)[:-1])
    for number, part in zip(numbers, parts, strict=True):
        say(tracer, number, part)
    return parts


def _say_sizes(tracer: Tracer, node: ir.Node, parts: Sequence[Classes], kept: Kept) -> None:
    """The sizes of parts that were equal."""
    if all(kept.all(part) for part in parts):
        return
    sizes = [kept.count(part) for part in parts]
    if tracer.opset >= 13:
        node.attributes.pop("num_outputs", None)
        renumber(node, 1, np.array(sizes, np.int64))
    else:
        node.attributes["split"] = ir.AttrInt64s("split", sizes)


@rule("Slice")
def slice_(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """From ``starts`` to ``ends``, attributes until opset 10; negative ones count from the end, all are clamped."""
    axes = list(tracer.of(node.inputs[0]))
    by_attribute = "starts" in node.attributes
    starts, ends = (told(tracer, node, where) for where in (("starts", "ends") if by_attribute else (1, 2)))
    places, steps = constant_axes(node, 3), array(given(node, 4))
    if places is None and starts is None:
        raise Barrier("which axes it cuts is computed")
    places = list(range(len(starts or ()))) if places is None else places
    unknown = [Number()] * len(places)
    every = [None] * len(places) if steps is None and given(node, 4) is not None else [1] * len(places)
    every = every if steps is None else [int(step) for step in steps.ravel()]
    for place, start, end, step in zip(places, starts or unknown, ends or unknown, every, strict=True):
        axes[place] = _cut(tracer, axes[place], start, end, step)
    return [axes]


def _cut(tracer: Tracer, axis: Axis, start: Number, end: Number, step: int | None) -> Axis:
    """A part of an axis; where it goes on in single steps, the ends follow what stays."""
    if axis is None or step is None or start.known is None or end.known is None:
        tracer.bar([axis], "it is cut at places that are computed")
        fix(tracer, [start, end])
        return None
    part = axis[start.known : end.known : step]
    if step != 1:
        fix(tracer, [start, end])
        if step != -1 or len(part) < len(axis):
            tracer.bar([axis], "single positions of it are taken")
        return part
    for number in (start, end):
        _place(tracer, number, axis)
    return part


def _place(tracer: Tracer, number: Number, axis: Classes) -> None:
    """Let a number be a place on an axis."""
    place, size = number.known, len(axis)
    assert place is not None
    if number.counts is not None or 0 <= place < size:
        say(tracer, number, axis[:place])
    elif -size <= place < 0:
        say(tracer, number, axis[place:], from_end)
    else:
        fix(tracer, [number])


@rule("Gather")
def gather(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """Positions of one axis, as many as there are indices."""
    data, indices = node.inputs[:2]
    axes, numbers = tracer.of(data), array(indices)
    place = node.attributes.get_int("axis", 0) % len(axes)
    axis = axes[place]
    table = tensor(data)
    if table is not None and len(axes) == 2 and table.dtype.is_floating_point():
        tracer.writes(node, data, 1 - place)
    if numbers is None:
        tracer.bar([axis], PICKED)
        return [[*axes[:place], *tracer.of(indices), *axes[place + 1 :]]]
    if axis is None:
        return [[*axes[:place], *[None] * numbers.ndim, *axes[place + 1 :]]]
    found = np.where(numbers < 0, numbers + len(axis), numbers).astype(np.int64)
    if numbers.ndim != 1:
        tracer.bar([axis[found.ravel()]], "it is picked by itself")
    tracer.adjust(lambda kept: _repick(node, axis, found, kept))
    picked: Axes = [axis[found]] if numbers.ndim == 1 else [None] * numbers.ndim
    return [[*axes[:place], *picked, *axes[place + 1 :]]]


def _repick(node: ir.Node, axis: Classes, found: Classes, kept: Kept) -> None:
    """Where what is picked and stays is after all."""
    if kept.all(axis):
        return
    stays = kept(axis)
    moved, old = (np.cumsum(stays) - 1)[found], array(node.inputs[1])
    assert old is not None
    renumber(node, 1, (moved[stays[found]] if found.ndim == 1 else moved).astype(old.dtype))


@rule("GatherND")
def gather_nd(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """Data [batch..., picked..., rest...], indices [batch..., places..., picked] to [batch..., places..., rest...]."""
    data, places, count = _by_places(tracer, node)
    batch = node.attributes.get_int("batch_dims", 0)
    for one, other in zip(data[:batch], places[:batch], strict=True):
        tracer.tie(one, other)
    tracer.bar(data[batch : batch + count], PICKED)
    return [[*places[:-1], *data[batch + count :]]]


@rule("ScatterND")
def scatter_nd(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """Data [picked..., rest...], indices [places..., picked], updates [places..., rest...]."""
    data, places, count = _by_places(tracer, node)
    updates = tracer.of(node.inputs[2])
    tracer.bar(data[:count], PICKED)
    for one, other in zip(updates, [*places[:-1], *data[count:]], strict=True):
        tracer.tie(one, other)
    return [data]


def _by_places(tracer: Tracer, node: ir.Node) -> tuple[Axes, Axes, int]:
    """Axes of data and indices, and how many axes an index says."""
    data, places = tracer.of(node.inputs[0]), tracer.of(node.inputs[1])
    count = dims(tracer, node.inputs[1])[-1].known
    if count is None:
        raise Barrier("what it picks is not known")
    tracer.bar(places if tensor(node.inputs[1]) is not None else places[-1:], "it holds places")
    return data, places, count


@rule("GatherElements", "Scatter", "ScatterElements")
def by_element(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """Not followed."""
    raise Barrier("it picks single numbers")


@rule("Pad")
def pad(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """Positions before and after, negative to cut off; what is added of a constant can go again."""
    axes = list(tracer.of(node.inputs[0]))
    attribute = next((name for name in ("pads", "paddings") if name in node.attributes), None)
    numbers, places = told(tracer, node, attribute or 1), constant_axes(node, 3)
    if numbers is None:
        raise Barrier("what it adds is computed")
    places = list(range(len(axes))) if places is None else places
    constant = node.attributes.get_string("mode", "constant") == "constant"
    for place, before, after in zip(places, numbers[: len(places)], numbers[len(places) :], strict=True):
        axes[place] = _padded(tracer, axes[place], before, after, constant)
    return [axes]


def _padded(tracer: Tracer, axis: Axis, before: Number, after: Number, constant: bool) -> Axis:
    if before.known == after.known == 0:
        fix(tracer, [before, after])
        return axis
    if axis is None or before.known is None or after.known is None or not constant:
        tracer.bar([axis], "what is added to it is computed" if constant else "what is added to it is its own")
        fix(tracer, [before, after])
        return None
    first, rest = _edge(tracer, axis, before)
    last, rest = _edge(tracer, rest[::-1], after)
    return np.concatenate([first, rest[::-1], last])


def _edge(tracer: Tracer, axis: Classes, number: Number) -> tuple[Classes, Classes]:
    """What is added in front of an axis, and what is left of it."""
    count = number.known or 0
    added = tracer.fresh(max(count, 0))
    if count < 0:
        say(tracer, number, axis[:-count], negative)
    else:
        say(tracer, number, added)
    return added, axis[max(-count, 0) :]


@rule("Resize", "Upsample")
def resize(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """By ``scales``, or to ``sizes``; an axis that stays as large as it is can lose channels."""
    axes, places = list(tracer.of(node.inputs[0])), constant_axes(node, len(node.inputs))
    if node.attributes.get_string("coordinate_transformation_mode", "") == "tf_crop_and_resize":
        raise Barrier("it crops")
    if node.attributes.get_string("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise Barrier("its sizes depend on each other")
    newer = node.op_type == "Resize" and tracer.opset >= 11
    sizes = told(tracer, node, 3) if newer else None
    scales = told(tracer, node, "scales" if "scales" in node.attributes else 2 if newer else 1)
    for place, number in zip(places or range(len(axes)), sizes or scales or _unknown(), strict=True):
        axis = axes[place]
        if number.known != (1 if not sizes else None if axis is None else len(axis)):
            tracer.bar([axis], "it is resized")
            axes[place] = None
        say(tracer, number, axes[place] if sizes else None)
    return [axes]


def _unknown() -> list[Number]:
    raise Barrier("its sizes are computed")


@rule("Trilu")
def trilu(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """The triangle is in the last two axes."""
    axes = tracer.of(node.inputs[0])
    tracer.bar(axes[-2:], "it holds a triangle")
    return [axes]


@rule("OneHot")
def one_hot(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """A new axis, of which no position can go."""
    axes = list(tracer.of(node.inputs[0]))
    place = node.attributes.get_int("axis", -1) % (len(axes) + 1)
    return [[*axes[:place], None, *axes[place:]]]


@rule("ReverseSequence")
def reverse_sequence(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """Along one axis, as far as another says."""
    axes = tracer.of(node.inputs[0])
    tracer.bar(
        [axes[node.attributes.get_int(name, one)] for name, one in (("batch_axis", 1), ("time_axis", 0))],
        "it is a sequence",
    )
    return [axes]
