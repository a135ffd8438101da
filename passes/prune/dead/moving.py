"""Bounds behind operators that move, join and cut numbers, or pick and average some of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxopt.graph import array, given, scalar
from onnxopt.passes.prune.dead.analysis import LARGEST, Intervals, Unknown, bounds, numbers_of
from onnxopt.passes.prune.dead.interval import ZERO, Interval
from onnxopt.passes.prune.dead.products import padded

MEAN_ERROR = 2.0**-10
"""Relative error of a float32 mean over many numbers."""


@bounds("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(known: Intervals, node: ir.Node) -> Sequence[Interval]:
    """The numbers in their order.

    Where the bounds are the same along the first axes, and the sizes of the others multiply to what the last sizes of
    the output multiply to, these are the same numbers.
    """
    x, before, after = known.of(node.inputs[0]), known.shape(node.inputs[0]), known.shape(node.outputs[0])
    first = next((axis for axis, size in enumerate(x.shape) if size > 1), len(before))
    if first == len(before):
        return [x.reshaped([1] * len(after))]
    ends = {_product(after[axis:]): axis for axis in reversed(range(len(after)))}
    for start in reversed(range(first + 1)):
        size = _product(before[start:])
        if size is not None and size in ends and size <= LARGEST:
            spread = x.reshaped(x.shape[start:]).spread([_size(one) for one in before[start:]])
            return [spread.reshaped([*[1] * ends[size], *(_size(one) for one in after[ends[size] :])])]
    return [x.hull(range(len(before))).reshaped([1] * len(after))]


def _size(size: int | None) -> int:
    """A size that is known.

    Raises:
        Unknown: if it is not.
    """
    if size is None:
        raise Unknown
    return size


def _product(sizes: Sequence[int | None]) -> int | None:
    known = [size for size in sizes if size is not None]
    return int(np.prod(known)) if len(known) == len(sizes) else None


@bounds("Transpose")
def transpose(known: Intervals, node: ir.Node) -> Sequence[Interval]:
    """Axes in another order."""
    x = known.of(node.inputs[0])
    order = node.attributes.get_ints("perm", range(len(x.shape))[::-1])
    return [Interval(x.low.transpose(order), x.high.transpose(order))]


@bounds("Expand")
def expand(known: Intervals, node: ir.Node) -> Sequence[Interval]:
    """The same numbers, more often."""
    x, rank = known.of(node.inputs[0]), len(known.shape(node.outputs[0]))
    return [x.reshaped([*[1] * (rank - len(x.shape)), *x.shape])]


@bounds("Concat")
def concat(known: Intervals, node: ir.Node) -> Sequence[Interval]:
    """Joined along an axis."""
    many, axis = [known.of(value) for value in node.inputs], node.attributes.get_int("axis", 0)
    sizes = [_size(known.shape(value)[axis]) for value in node.inputs]
    shape = list(np.broadcast_shapes(*(_with(one.shape, axis, 1) for one in many)))
    spread = [one.spread(_with(shape, axis, size)) for one, size in zip(many, sizes, strict=True)]
    sides = ([one.low for one in spread], [one.high for one in spread])
    return [Interval(*(np.concatenate(side, axis=axis) for side in sides))]


def _with(shape: Sequence[int], axis: int, size: int) -> list[int]:
    found = list(shape)
    found[axis] = size
    return found


@bounds("Split")
def split(known: Intervals, node: ir.Node) -> Sequence[Interval]:
    """Cut along an axis."""
    x, axis = known.of(node.inputs[0]), node.attributes.get_int("axis", 0)
    ends = np.cumsum([_size(known.shape(value)[axis]) for value in node.outputs])
    return [_cut(x, axis, slice(start, end)) for start, end in zip([0, *ends], ends, strict=False)]


@bounds("Slice")
def slice_(known: Intervals, node: ir.Node) -> Sequence[Interval]:
    """Pieces along axes: attributes before opset 10, then inputs."""
    x = known.of(node.inputs[0])
    starts, ends, axes, steps = (
        _numbers(node, name, index) for index, name in enumerate(("starts", "ends", "axes", "steps"), start=1)
    )
    if starts is None or ends is None:
        raise Unknown
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    for axis, *borders in zip(axes, starts, ends, steps, strict=True):
        x = _cut(x, axis, slice(*borders))
    return [x]


def _cut(x: Interval, axis: int, piece: slice) -> Interval:
    """A piece along an axis; where all positions are the same, so are those of a piece."""
    if x.shape[axis] == 1:
        return x
    index = [slice(None)] * len(x.shape)
    index[axis] = piece
    return Interval(x.low[tuple(index)], x.high[tuple(index)])


def _numbers(node: ir.Node, name: str, index: int) -> list[int] | None:
    """An attribute, or in later opsets a constant input; None where it is left out.

    Raises:
        Unknown: if the input is not constant.
    """
    if name in node.attributes:
        return list(node.attributes.get_ints(name))
    return None if given(node, index) is None else [int(one) for one in numbers_of(node.inputs[index]).reshape(-1)]


@bounds("Gather")
def gather(known: Intervals, node: ir.Node) -> Sequence[Interval]:
    """Positions along an axis: those that a constant names, or any."""
    x, indices = known.of(node.inputs[0]), array(node.inputs[1])
    axis, rank = node.attributes.get_int("axis", 0) % len(x.shape), len(known.shape(node.inputs[1]))
    if indices is None or x.shape[axis] == 1:
        x = x.hull([axis])
        return [x.reshaped([*x.shape[:axis], *[1] * rank, *x.shape[axis + 1 :]])]
    return [Interval(np.take(x.low, indices, axis), np.take(x.high, indices, axis))]


@bounds("Pad")
def pad(known: Intervals, node: ir.Node) -> Sequence[Interval]:
    """A constant around the numbers; numbers of the same axis in other modes."""
    x, pads, axes = known.of(node.inputs[0]), _numbers(node, "pads", 1), _numbers(node, "axes", 3)
    number = node.attributes.get_float("value", 0.0) if given(node, 2) is None else scalar(node.inputs[2])
    if pads is None or number is None:
        raise Unknown
    axes = list(range(len(x.shape))) if axes is None else axes
    around = Interval.constant(np.array(number))
    for axis, before, after in zip(axes, pads, pads[len(axes) :], strict=False):
        if before == after == 0:
            continue
        if node.attributes.get_string("mode", "constant") != "constant":
            x = x.hull([axis])
        elif x.shape[axis] == 1:
            x = x | around if max(before, after) > 0 else x
        else:
            x = _padded(x, axis, before, after, around)
    return [x]


def _padded(x: Interval, axis: int, before: int, after: int, around: Interval) -> Interval:
    """Positions before and after, or fewer where these numbers are negative."""
    x = _cut(x, axis, slice(max(-before, 0), x.shape[axis] + min(after, 0)))
    width = [(0, 0)] * len(x.shape)
    width[axis] = (max(before, 0), max(after, 0))
    return Interval(*(np.pad(side, width, constant_values=float(around.low)) for side in (x.low, x.high)))


@bounds("MaxPool", "GlobalMaxPool", "AveragePool", "GlobalAveragePool")
def pool(known: Intervals, node: ir.Node) -> Sequence[Interval]:
    """The largest or the mean of some numbers of a channel; padding may count into a mean."""
    x = known.of(node.inputs[0])
    x = x.hull(range(2, len(x.shape)))
    if node.op_type == "AveragePool" and (padded(node) or node.attributes.get_int("ceil_mode", 0) == 1):
        x = x | ZERO
    return [x.widened(0.0 if "Max" in node.op_type else MEAN_ERROR)]


@bounds("ReduceMean", "ReduceMax", "ReduceMin")
def reduction(known: Intervals, node: ir.Node) -> Sequence[Interval]:
    """The mean or an extreme along some axes."""
    x, axes = known.of(node.inputs[0]), _numbers(node, "axes", 1)
    if not axes:
        if axes is not None or node.attributes.get_int("noop_with_empty_axes", 0) == 1:
            raise Unknown
        axes = list(range(len(x.shape)))
    x = x.hull(axes).widened(MEAN_ERROR if node.op_type == "ReduceMean" else 0.0)
    if node.attributes.get_int("keepdims", 1) == 1:
        return [x]
    gone = {axis % len(x.shape) for axis in axes}
    return [x.reshaped([size for axis, size in enumerate(x.shape) if axis not in gone])]


@bounds("Resize", "Upsample")
def resize(known: Intervals, node: ir.Node) -> Sequence[Interval]:
    """Numbers between neighbours of the same channel."""
    x = known.of(node.inputs[0])
    outside = node.attributes.get_string("coordinate_transformation_mode", "") == "tf_crop_and_resize"
    if outside or node.attributes.get_string("mode", "nearest") not in ("nearest", "linear"):
        raise Unknown
    same = [
        one is not None and one == other
        for one, other in zip(known.shape(node.inputs[0]), known.shape(node.outputs[0]), strict=True)
    ]
    return [x.hull([axis for axis, kept in enumerate(same) if not kept]).widened(MEAN_ERROR)]
