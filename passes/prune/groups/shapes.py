"""Operators that move numbers without changing them, and those that make them of a given shape."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxopt.graph import array, given
from onnxopt.passes.prune.groups.numbers import Number, dims, say, told
from onnxopt.passes.prune.groups.tracer import Axes, Axis, Barrier, Tracer, rule

BLOCKS = "it is a part of blocks of pixels"


@rule("Transpose")
def transpose(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """Axes in the order of ``perm``; reversed without it."""
    axes = tracer.of(node.inputs[0])
    return [[axes[place] for place in node.attributes.get_ints("perm", range(len(axes))[::-1])]]


@rule("Squeeze")
def squeeze(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """Axes of size one go: those that are named, or all."""
    axes, places = tracer.of(node.inputs[0]), constant_axes(node)
    if places is None:
        sizes = [size.known for size in dims(tracer, node.inputs[0])]
        if None in sizes:
            raise Barrier("which of its axes are one is not known")
        places = [place for place, size in enumerate(sizes) if size == 1]
    gone = {place % len(axes) for place in places}
    return [[axis for place, axis in enumerate(axes) if place not in gone]]


@rule("Unsqueeze")
def unsqueeze(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """New axes of size one; places are counted in the output."""
    old, places = tracer.of(node.inputs[0]), constant_axes(node)
    if places is None:
        raise Barrier("its axes are not known")
    rank = len(old) + len(places)
    new, rest = {place % rank for place in places}, iter(old)
    return [[tracer.fresh(1) if place in new else next(rest) for place in range(rank)]]


def constant_axes(node: ir.Node, index: int = 1) -> list[int] | None:
    """``axes``, as an attribute or as an input; None where there are none.

    Raises:
        Barrier: if they are computed.
    """
    if "axes" in node.attributes:
        return list(node.attributes.get_ints("axes", []))
    if given(node, index) is None:
        return None
    numbers = array(given(node, index))
    if numbers is None:
        raise Barrier("its axes are computed")
    return [int(number) for number in numbers.ravel()]


@rule("Expand")
def expand(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """To a shape in numbers; axes of size one grow, and any position of those can go."""
    axes, numbers = list(tracer.of(node.inputs[0])), told(tracer, node, 1)
    if numbers is None:
        raise Barrier("its shape is not known")
    rank = max(len(axes), len(numbers))
    old = [*[np.zeros(1, np.int64)] * (rank - len(axes)), *axes]
    first = rank - len(numbers)
    grown = [_grown(tracer, axis, number) for axis, number in zip(old[first:], numbers, strict=True)]
    return [[*old[:first], *grown]]


def _grown(tracer: Tracer, axis: Axis, number: Number) -> Axis:
    """An axis that broadcasts with a number."""
    if axis is not None and len(axis) == 1:
        return filled(tracer, number)
    if number.known == 1:
        return axis
    if axis is not None and number.size is not None and number.known is None:
        tracer.bar([axis], "it meets a size that is not known")
    say(tracer, number, axis)
    return axis


def filled(tracer: Tracer, number: Number) -> Axis:
    """The axis of a size, all of whose positions hold the same."""
    if number.counts is not None:
        return number.counts
    if number.known is not None and number.known < 0:
        raise Barrier("a size is negative")
    axis = None if number.known is None else tracer.fresh(number.known)
    say(tracer, number, axis)
    return axis


@rule("ConstantOfShape")
def constant_of_shape(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """One number everywhere: any position can go."""
    numbers = told(tracer, node, 0)
    if numbers is None:
        raise Barrier("its shape is not known")
    return [[filled(tracer, number) for number in numbers]]


@rule("Range")
def number_range(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """Its numbers say places: none can go."""
    return [[None]]


@rule("Tile")
def tile(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """Each axis a number of times."""
    axes, numbers = tracer.of(node.inputs[0]), told(tracer, node, 1)
    if numbers is None or len(numbers) != len(axes):
        raise Barrier("how often it repeats is not known")
    return [[_tiled(tracer, axis, number) for axis, number in zip(axes, numbers, strict=True)]]


def _tiled(tracer: Tracer, axis: Axis, number: Number) -> Axis:
    if axis is not None and len(axis) == 1:
        return filled(tracer, number)
    say(tracer, number, None)
    if axis is not None and number.known is None:
        tracer.bar([axis], "how often it is repeated is not known")
    return None if axis is None or number.known is None else np.tile(axis, number.known)


@rule("DepthToSpace")
def depth_to_space(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """[N, C, H, W] to [N, C / b^2, H b, W b]: all that become pixels of one channel go together."""
    batch, channels, *pixels = tracer.of(node.inputs[0])
    block = node.attributes.get_int("blocksize", 0) ** 2
    tracer.bar(pixels, BLOCKS)
    if channels is not None:
        by_column = node.attributes.get_string("mode", "DCR") == "CRD"
        table = channels.reshape(-1, block).T if by_column else channels.reshape(block, -1)
        tracer.tie(np.tile(table[0], block - 1), table[1:].ravel())
        channels = table[0]
    return [[batch, channels, *[None] * len(pixels)]]


@rule("SpaceToDepth")
def space_to_depth(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """[N, C, H, W] to [N, b^2 C, H / b, W / b], a channel in as many places as a block has pixels."""
    batch, channels, *pixels = tracer.of(node.inputs[0])
    tracer.bar(pixels, BLOCKS)
    block = node.attributes.get_int("blocksize", 0) ** 2
    return [[batch, None if channels is None else np.tile(channels, block), *[None] * len(pixels)]]
