"""Operators between floats and integers, and products of integers."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxopt.graph import given
from onnxopt.passes.prune.groups.tracer import Axes, Tracer, rule


@rule("QuantizeLinear", "DequantizeLinear")
@rule("QuantizeLinear", "DequantizeLinear", domain="com.microsoft")
def quantize(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """Scale and zero point are one number, one for each position of ``axis``, or one for each block of these."""
    axes = tracer.of(node.inputs[0])
    for value in filter(None, node.inputs[1:]):
        numbers = tracer.of(value)
        axis = node.attributes.get_int("axis", 1)
        if len(numbers) == len(axes) > 1:
            pairs = [pair for place, pair in enumerate(zip(axes, numbers, strict=True)) if place != axis % len(axes)]
            tracer.bar([axes[axis], numbers[axis]], "it has numbers for blocks of channels")
            for one, other in pairs:
                tracer.tie(one, other)
        elif len(numbers) == 1 and (numbers[0] is None or len(numbers[0]) > 1):
            tracer.tie(axes[axis], numbers[0])
    return [axes]


@rule("DynamicQuantizeLinear")
def dynamic_quantize(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """One scale and one zero point; the range has zero in it, so that channels of zeros do not change it."""
    return [tracer.of(given(node, 0)), [], []]
