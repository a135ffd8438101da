"""Bounds behind operators that treat every number by itself, or numbers of the same place together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import numpy as np
import onnx_ir as ir

from onnxopt.graph import given, scalar
from onnxopt.passes.prune.dead.analysis import FLOATS, HALVES, Intervals, Unknown, bounds, numbers_of
from onnxopt.passes.prune.dead.interval import UNIT, Interval, Numbers

Function = Callable[[Numbers], Numbers]
ERROR = 2.0**-17
"""Relative error of a transcendental function of a float32 number."""


def _rising(x: Interval, function: Function) -> Interval:
    """Through a function that never falls."""
    return Interval.of(function(x.low), function(x.high))


def _dipping(x: Interval, function: Function, least: float) -> Interval:
    """Through a function that falls to a minimum, which is at a negative number and above ``least``, and then rises."""
    low, high = function(np.maximum(x.low, -1e30)), function(np.maximum(x.high, -1e30))
    dips = ~x.fixed & (x.low < 0)
    return Interval.of(np.where(dips, least, low), np.maximum(low, high))


@bounds("Identity")
def identity(known: Intervals, node: ir.Node) -> Sequence[Interval]:
    """As they are."""
    return [known.of(node.inputs[0])]


@bounds("Cast")
def cast(known: Intervals, node: ir.Node) -> Sequence[Interval]:
    """Float to float, up to rounding."""
    before, after = (known.twins[value].dtype for value in (node.inputs[0], node.outputs[0]) if value is not None)
    if before not in (*FLOATS, *HALVES):
        raise Unknown
    return [known.of(node.inputs[0]).widened(UNIT)] if after in (*FLOATS, *HALVES) else []


@bounds("Dropout")
def dropout(known: Intervals, node: ir.Node) -> Sequence[Interval]:
    """Out of training, nothing happens."""
    if given(node, 2) is not None and scalar(node.inputs[2]) != 0:
        raise Unknown
    return [known.of(node.inputs[0])]


@bounds("Relu")
def relu(known: Intervals, node: ir.Node) -> Sequence[Interval]:
    """Below zero is zero."""
    return [_rising(known.of(node.inputs[0]), lambda x: np.maximum(x, 0))]


@bounds("Clip")
def clip(known: Intervals, node: ir.Node) -> Sequence[Interval]:
    """``min(max(x, least), most)``: attributes before opset 11, then inputs."""
    found = known.of(node.inputs[0])
    least, most = (
        Interval.constant(np.array(node.attributes.get_float(name)))
        if name in node.attributes
        else known.of(node.inputs[index])
        if given(node, index) is not None
        else None
        for index, name in ((1, "min"), (2, "max"))
    )
    found = found if least is None else _larger(found, least)
    return [found if most is None else -_larger(-found, -most)]


def _larger(one: Interval, other: Interval) -> Interval:
    return Interval.of(np.maximum(one.low, other.low), np.maximum(one.high, other.high))


@bounds("Max", "Min")
def extreme(known: Intervals, node: ir.Node) -> Sequence[Interval]:
    """The larger or the smaller one."""
    many = [known.of(value) for value in node.inputs]
    return [reduce(_larger, many) if node.op_type == "Max" else -reduce(_larger, [-one for one in many])]


@bounds("Abs")
def absolute(known: Intervals, node: ir.Node) -> Sequence[Interval]:
    """``max(x, -x)``, and never below zero."""
    x = known.of(node.inputs[0])
    found = _larger(x, -x)
    return [Interval.of(np.maximum(found.low, 0), found.high)]


@bounds("LeakyRelu", "PRelu")
def leaky(known: Intervals, node: ir.Node) -> Sequence[Interval]:
    """``max(x, 0) + slope min(x, 0)``."""
    x = known.of(node.inputs[0])
    if node.op_type == "LeakyRelu":
        slope = Interval.constant(np.full([1] * len(x.shape), node.attributes.get_float("alpha", 0.01)))
    else:
        slope = known.of(node.inputs[1])
    return [_rising(x, lambda x: np.maximum(x, 0)) + _rising(x, lambda x: np.minimum(x, 0)) * slope]


@bounds("HardSigmoid")
def hard_sigmoid(known: Intervals, node: ir.Node) -> Sequence[Interval]:
    """``alpha x + beta`` between 0 and 1."""
    alpha, beta = node.attributes.get_float("alpha", 0.2), node.attributes.get_float("beta", 0.5)
    return [_gate(known.of(node.inputs[0]), alpha, beta)]


def _gate(x: Interval, alpha: float, beta: float) -> Interval:
    one, other = (Interval.constant(np.array(number)) for number in (alpha, beta))
    return _rising(x * one + other, lambda x: np.clip(x, 0, 1))


@bounds("HardSwish")
def hard_swish(known: Intervals, node: ir.Node) -> Sequence[Interval]:
    """``x`` times ``x / 6 + 1 / 2`` between 0 and 1: zero below -3."""
    x = known.of(node.inputs[0])
    exact = _dipping(x, lambda x: x * np.clip(x / 6 + 0.5, 0, 1), -0.375).widened(ERROR)
    off = _gate(x, 1 / 6, 0.5).high == 0
    return [Interval(np.where(off, 0.0, exact.low), np.where(off, 0.0, exact.high))]


@bounds("Sigmoid", "Tanh", "Erf", "Exp", "Softplus", "Elu", "Selu", "Celu")
def smooth(known: Intervals, node: ir.Node) -> Sequence[Interval]:
    """Functions that rise."""
    from scipy.special import erf, expit

    alpha = node.attributes.get_float("alpha", 1.6732632 if node.op_type == "Selu" else 1.0)
    gamma = node.attributes.get_float("gamma", 1.0507010)
    if alpha <= 0 or gamma <= 0:
        raise Unknown
    functions: dict[str, Function] = {
        "Sigmoid": expit,
        "Tanh": np.tanh,
        "Erf": erf,
        "Exp": np.exp,
        "Softplus": lambda x: np.logaddexp(x, 0),
        "Elu": lambda x: np.where(x > 0, x, alpha * np.expm1(x)),
        "Selu": lambda x: gamma * np.where(x > 0, x, alpha * np.expm1(x)),
        "Celu": lambda x: np.where(x > 0, x, alpha * np.expm1(x / alpha)),
    }
    return [_rising(known.of(node.inputs[0]), functions[node.op_type]).widened(ERROR)]


@bounds("Gelu")
def gelu(known: Intervals, node: ir.Node) -> Sequence[Interval]:
    """``x Phi(x)``, and its approximation by tanh, whose minima are -0.16997 and -0.17004."""
    from scipy.special import ndtr

    x = known.of(node.inputs[0])
    if node.attributes.get_string("approximate", "none") == "none":
        return [_dipping(x, lambda x: x * ndtr(x), -0.1701).widened(ERROR)]
    return [_dipping(x, lambda x: x * (1 + np.tanh(0.7978845608 * (x + 0.044715 * x**3))) / 2, -0.1701).widened(ERROR)]


@bounds("Softmax")
def softmax(known: Intervals, node: ir.Node) -> Sequence[Interval]:
    """Between 0 and 1."""
    one = np.ones([1] * len(known.shape(node.inputs[0])))
    return [Interval(0 * one, one * (1 + ERROR))]


@bounds("Neg")
def negative(known: Intervals, node: ir.Node) -> Sequence[Interval]:
    """Turned around."""
    return [-known.of(node.inputs[0])]


@bounds("Add", "Sum")
def plus(known: Intervals, node: ir.Node) -> Sequence[Interval]:
    """The sum."""
    return [reduce(Interval.__add__, [known.of(value) for value in node.inputs])]


@bounds("Sub")
def minus(known: Intervals, node: ir.Node) -> Sequence[Interval]:
    """The difference."""
    return [known.of(node.inputs[0]) - known.of(node.inputs[1])]


@bounds("Mul")
def times(known: Intervals, node: ir.Node) -> Sequence[Interval]:
    """The product."""
    return [known.of(node.inputs[0]) * known.of(node.inputs[1])]


@bounds("Div")
def divided(known: Intervals, node: ir.Node) -> Sequence[Interval]:
    """By what is not zero."""
    divisor = known.of(node.inputs[1])
    if not np.all((divisor.low > 0) | (divisor.high < 0)):
        raise Unknown
    inverse = Interval.of(1 / divisor.high, 1 / divisor.low).widened(UNIT)
    return [known.of(node.inputs[0]) * inverse]


@bounds("Where")
def where(known: Intervals, node: ir.Node) -> Sequence[Interval]:
    """Either."""
    shape = np.ones([1] * len(known.shape(node.inputs[0])))
    either = known.of(node.inputs[1]) | known.of(node.inputs[2])
    return [Interval(*(side * shape for side in (either.low, either.high)))]


@bounds("BatchNormalization")
def batch_norm(known: Intervals, node: ir.Node) -> Sequence[Interval]:
    """``(x - mean) * gain + shift``, per channel."""
    trains = node.attributes.get_int("training_mode", 0) == 1 or node.attributes.get_int("spatial", 1) == 0
    if trains or len(node.outputs) > 1:
        raise Unknown
    scale, shift, mean, variance = (numbers_of(value).astype(np.float64) for value in node.inputs[1:5])
    gain = scale / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
    x = known.of(node.inputs[0])
    parts = [Interval.constant(part.reshape(-1, *[1] * (len(x.shape) - 2))) for part in (mean, gain, shift)]
    return [(x - parts[0]) * parts[1] + parts[2]]


@bounds("InstanceNormalization")
def instance_norm(known: Intervals, node: ir.Node) -> Sequence[Interval]:
    """Anything, times ``scale``, plus ``shift``: a channel of scale 0 is its shift."""
    rank = len(known.shape(node.inputs[0]))
    parts = [Interval.constant(numbers_of(value).reshape(-1, *[1] * (rank - 2))) for value in node.inputs[1:3]]
    return [Interval.unknown(rank) * parts[0] + parts[1]]
