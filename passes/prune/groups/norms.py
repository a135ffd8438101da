"""Normalisations: over a batch or an image channels stay apart; over channels they depend on each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxopt.graph import given
from onnxopt.passes.prune.groups.elementwise import broadcast
from onnxopt.passes.prune.groups.tracer import Axes, Barrier, Kept, Tracer, rule

OVER = "the mean or norm is taken over it"


@rule("BatchNormalization")
def batch_norm(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """X [N, C, ...], and four times [C]; without training, each channel is for itself."""
    if node.attributes.get_int("training_mode", 0) or any(value.name for value in node.outputs[1:]):
        raise Barrier("it is in training mode")
    if not node.attributes.get_int("spatial", 1):
        raise Barrier("it has numbers for each pixel")
    return [_by_channel(tracer, node)]


@rule("InstanceNormalization")
def instance_norm(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """X [N, C, ...], scale and bias [C]; over the image, each channel for itself."""
    axes = _by_channel(tracer, node)
    tracer.bar(axes[2:], OVER)
    return [axes]


def _by_channel(tracer: Tracer, node: ir.Node) -> Axes:
    axes = tracer.of(node.inputs[0])
    if len(axes) < 2:
        raise Barrier("its input has no channels")
    for value in node.inputs[1:]:
        tracer.tie(axes[1], tracer.of(value)[0])
    return axes


@rule("GroupNormalization")
def group_norm(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """X [N, C, ...]; scale and bias have a number for each group (opset 18), or for each channel (21)."""
    axes, groups = tracer.of(node.inputs[0]), node.attributes.get_int("num_groups", 0)
    channels = axes[1]
    if channels is None or not groups or len(channels) % groups:
        raise Barrier("its groups are not known")
    whole = tracer.fresh(groups)
    tracer.tie(channels, np.repeat(whole, len(channels) // groups))
    for value in node.inputs[1:]:
        (numbers,) = tracer.of(value)
        tracer.tie(numbers, whole if numbers is not None and len(numbers) == groups else channels)
    tracer.bar(axes[2:], OVER)

    def adjust(kept: Kept) -> None:
        node.attributes["num_groups"] = ir.AttrInt64("num_groups", kept.count(whole))

    tracer.adjust(adjust)
    return [axes]


@rule("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
def layer_norm(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """X, scale and bias broadcast; mean and deviation over ``axis`` and all after it have X's shape with ones there."""
    rank = len(tracer.of(node.inputs[0]))
    axis = node.attributes.get_int("axis", -1) % max(rank, 1)
    return _over(tracer, node, [0, 1, 2], axis)


@rule("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain="com.microsoft")
def skip_layer_norm(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """Inputs are added, then normalised over the last axis; the sum is the last output."""
    outputs = _over(tracer, node, range(len(node.inputs)), len(tracer.of(node.inputs[0])) - 1)
    return [*outputs, outputs[0]]


def _over(tracer: Tracer, node: ir.Node, inputs: Sequence[int], axis: int) -> list[Axes]:
    """The output, and the shape of its mean and deviation; ``axis`` is the first that is normalised."""
    many = [tracer.of(value) for index in inputs if (value := given(node, index)) is not None]
    axes = broadcast(tracer, many)
    for normalised in axes[axis:]:
        tracer.soften(normalised, OVER)
    return [axes, *[[*axes[:axis], *[None] * (len(axes) - axis)]] * 2]


@rule("MeanVarianceNormalization")
def mean_variance(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """Over ``axes``, by default the batch and the image."""
    axes = tracer.of(node.inputs[0])
    for axis in node.attributes.get_ints("axes", [0, 2, 3]):
        tracer.soften(axes[axis], OVER)
    return [axes]
