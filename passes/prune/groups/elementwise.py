"""Operators that treat every number by itself, or numbers of the same place together."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxopt.graph import given
from onnxopt.passes.prune.groups.tracer import UNKNOWN, Axes, Axis, Barrier, Tracer, rule

# fmt: off
UNARY = (
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Cast", "Ceil", "Celu", "Cos", "Cosh",
    "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu",
    "Log", "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh",
    "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu",
)
TOGETHER = (
    "Add", "And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Clip", "Div", "Equal", "Greater",
    "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or", "Pow", "PRelu", "Sub", "Sum",
    "Where", "Xor",
)
# fmt: on


@rule(*UNARY)
@rule("FastGelu", "Gelu", "QuickGelu", domain="com.microsoft")
def unary(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """The output has the axes of the input; a second input (the bias of FastGelu) broadcasts."""
    return together(tracer, node)


@rule(*TOGETHER)
@rule("BiasGelu", "BiasAdd", domain="com.microsoft")
def together(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """All inputs broadcast."""
    many = [tracer.of(value) for value in node.inputs if value is not None]
    if tracer.opset < 7 and len({len(axes) for axes in many}) > 1:
        raise Barrier("before opset 7, it broadcasts along an axis")
    return [broadcast(tracer, many)]


@rule("CastLike")
def cast_like(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """Of the second input, only the type is used."""
    return [tracer.of(node.inputs[0])]


@rule("Constant")
def constant(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """Constants are the same as initializers."""
    return [tracer.of(node.outputs[0])]


@rule("Dropout")
def dropout(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """The mask has the axes of the data."""
    return [tracer.of(given(node, 0))] * len(node.outputs)


def broadcast(tracer: Tracer, many: Sequence[Axes]) -> Axes:
    """Numpy's broadcasting: axes are aligned at the end, and those of one position give way."""
    rank = max(map(len, many), default=0)
    padded: list[list[Axis | str]] = [["absent"] * (rank - len(axes)) + list(axes) for axes in many]
    return [
        _aligned(tracer, [axis for axis in column if not isinstance(axis, str)]) for column in zip(*padded, strict=True)
    ]


def _aligned(tracer: Tracer, axes: Sequence[Axis]) -> Axis:
    """One axis from those that meet."""
    if any(axis is None for axis in axes):
        long = [axis for axis in axes if axis is not None and len(axis) > 1]
        tracer.bar(long, UNKNOWN)
        return None
    known = [axis for axis in axes if axis is not None]
    long = [axis for axis in known if len(axis) > 1] or known[:1]
    for other in long[1:]:
        tracer.tie(long[0], other)
    return long[0]
