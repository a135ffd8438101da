"""Operators that look at several numbers of an axis: sums, pooling, softmax, sorting."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxopt.graph import array, given
from onnxopt.passes.prune.groups.shapes import constant_axes
from onnxopt.passes.prune.groups.tracer import Axes, Barrier, Tracer, rule

REDUCED = "a sum, mean or extreme is taken over it"
SUMMED = "a softmax is taken over it"
REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")


@rule(*(f"Reduce{name}" for name in REDUCTIONS))
def reduce(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """Over ``axes``, an attribute or an input; over all without them."""
    axes, places = tracer.of(node.inputs[0]), constant_axes(node)
    if not places and node.attributes.get_int("noop_with_empty_axes", 0) == 1:
        return [axes]
    gone = {place % len(axes) for place in places} if places else set(range(len(axes)))
    for place in gone:
        if node.op_type == "ReduceMean":
            tracer.soften(axes[place], REDUCED)
        else:
            tracer.bar([axes[place]], REDUCED)
    return [_without(tracer, node, axes, gone)]


def _without(tracer: Tracer, node: ir.Node, axes: Axes, gone: set[int]) -> Axes:
    """Axes of size one in place of those that went, or none."""
    if node.attributes.get_int("keepdims", 1):
        return [tracer.fresh(1) if place in gone else axis for place, axis in enumerate(axes)]
    return [axis for place, axis in enumerate(axes) if place not in gone]


@rule("ArgMax", "ArgMin")
def arg(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """Places along one axis."""
    axes = tracer.of(node.inputs[0])
    place = node.attributes.get_int("axis", 0) % len(axes)
    tracer.bar([axes[place]], "its output says places on it")
    return [_without(tracer, node, axes, {place})]


@rule("AveragePool", "LpPool", "MaxPool", "MaxUnpool")
def pool(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """[N, C, ...]: each channel for itself. MaxPool's places are counted over all channels, for MaxUnpool only."""
    axes = tracer.of(node.inputs[0])
    if node.op_type == "MaxUnpool":
        if given(node, 2) is not None:
            raise Barrier("its size is said in numbers")
        for one, other in zip(axes, tracer.of(node.inputs[1]), strict=True):
            tracer.tie(one, other)
    for places in node.outputs[1:]:
        if places.is_graph_output() or any(use.node.op_type != "MaxUnpool" for use in places.uses()):
            raise Barrier("its places are counted over all channels")
    return [_pooled(tracer, axes, None)] * len(node.outputs)


@rule("GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool")
def global_pool(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """[N, C, ...] to [N, C, 1, ...]."""
    return [_pooled(tracer, tracer.of(node.inputs[0]), 1)]


def _pooled(tracer: Tracer, axes: Axes, size: int | None) -> Axes:
    tracer.bar(axes[2:], "it is pooled")
    return [*axes[:2], *(None if size is None else tracer.fresh(size) for _ in axes[2:])]


@rule("MaxRoiPool", "RoiAlign", "GridSample")
def sampled(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """[N, C, ...] at places that the second input says: an image each, or a part of one."""
    axes = tracer.of(node.inputs[0])
    for value in node.inputs[1:]:
        tracer.bar(tracer.of(value), "it says places")
    tracer.bar([axes[0], *axes[2:]], "it is sampled")
    return [[None, axes[1], *[None] * (len(axes) - 2)]]


@rule("Softmax", "LogSoftmax", "Hardmax")
def softmax(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """Over ``axis``, before opset 13 over all from there on."""
    axes = tracer.of(node.inputs[0])
    newer = tracer.opset >= 13
    place = node.attributes.get_int("axis", -1 if newer else 1) % max(len(axes), 1)
    tracer.bar(axes[place : place + 1] if newer else axes[place:], SUMMED)
    return [axes]


@rule("LpNormalization", "CumSum", "TopK")
def along(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """Along one axis; what TopK gives has another size there."""
    axes = tracer.of(node.inputs[0])
    place = _place(node) % len(axes)
    tracer.bar([axes[place]], "its numbers depend on each other")
    if node.op_type == "TopK":
        axes = [None if number == place else axis for number, axis in enumerate(axes)]
    return [axes] * len(node.outputs)


def _place(node: ir.Node) -> int:
    if node.op_type != "CumSum":
        return node.attributes.get_int("axis", -1)
    numbers = array(node.inputs[1])
    if numbers is None:
        raise Barrier("its axis is computed")
    return int(numbers.ravel()[0])


@rule("LRN")
def local_response(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """Channels beside each other."""
    axes = tracer.of(node.inputs[0])
    tracer.bar(axes[1:2], "channels beside each other are normalised together")
    return [axes]
