"""A fit that knows of the Relu behind the layer: numbers that it cuts off need not be met.

Let t be what a layer, with what is added to it, should give in front of a Relu, and p what it gives. The loss
``|relu(t) - relu(p)|^2`` is at most ``(t - p)^2`` where t > 0, and ``max(p, 0)^2`` elsewhere; both are convex in p.
The sum of these bounds is minimised in steps, each least squares towards t where t > 0 and towards ``min(p, 0)``
elsewhere: a step never makes it larger, and all have the same G. At an upper end (Clip) numbers beyond it need not be
met either.

Source: Zhang, Zou, He, Sun, "Accelerating Very Deep Convolutional Networks for Classification and Detection", TPAMI
2016, section 3.1, with other auxiliary variables.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from onnxopt.graph import STANDARD_DOMAINS, given, scalar
from onnxopt.passes.repair.least_squares import Array, Fit, Moments, Sums, fitted

if TYPE_CHECKING:
    from onnxopt.passes.repair.drawn import Drawn

STEPS = 4
"""More change little."""


@dataclass(frozen=True)
class Bounds:
    """What an activation lets through as it is.

    Attributes:
        low: numbers below become this.
        high: numbers above become this.
    """

    low: float
    high: float

    def loss(self, target: Array, found: Array) -> float:
        """The squared error behind the activation."""
        ends = (np.clip(one, self.low, self.high) for one in (target, found))
        return float(np.square(next(ends) - next(ends), dtype=np.float64).sum())

    def wanted(self, target: Array, found: Array) -> Array:
        """The target where it passes; else what is found, as far as that is beyond the same end."""
        below = np.where(target <= self.low, np.minimum(found, self.low), target)
        return np.where(target >= self.high, np.maximum(found, self.high), below).astype(np.float32)


def bounds_after(value: ir.Value) -> Bounds | None:
    """Of the Relu or Clip that alone reads a value; None if there is none."""
    uses = list(value.uses())
    if len(uses) != 1 or value.is_graph_output() or uses[0].idx != 0:
        return None
    node = uses[0].node
    if node.domain not in STANDARD_DOMAINS or node.op_type not in ("Relu", "Clip"):
        return None
    if node.op_type == "Relu":
        return Bounds(0.0, math.inf)
    ends = [node.attributes.get_float("min", -math.inf), node.attributes.get_float("max", math.inf)]
    for place, end in enumerate((given(node, 1), given(node, 2))):
        number = ends[place] if end is None else scalar(end)
        if number is None:
            return None
        ends[place] = number
    return Bounds(ends[0], ends[1])


def rectified(parts: tuple[Drawn, Drawn], sums: Sequence[Sums], first: Fit, every: Fit, bounds: Bounds) -> Fit | None:
    """A fit on all vectors with less error behind the activation; None where that on the held-out ones is not less.

    Args:
        parts: vectors that are fitted on, and those held out.
        sums: of both.
        first: the least squares fit on the former, with a ridge.
        every: the same on both.
        bounds: of the activation.
    """
    found = _descended(parts[0], sums[0], first, bounds)
    target = parts[1].target
    if bounds.loss(target, _given(parts[1], found)) >= bounds.loss(target, _given(parts[1], first)):
        return None
    return _descended(parts[0] + parts[1], sums[0] + sums[1], every, bounds)


def _descended(part: Drawn, sums: Sums, start: Fit, bounds: Bounds) -> Fit:
    """The fit after all steps."""
    assert start.ridge is not None
    x = part.x - sums.about[:, None]
    turned = x.transpose(0, 2, 1)
    for _ in range(STEPS):
        off = bounds.wanted(part.target, _given(part, start)) - part.given
        sums = replace(sums, r=off.sum(1, dtype=np.float64), xr=(turned @ off).astype(np.float64), rr=0.0)
        start = fitted(Moments.of(sums), start.ridge, biased=True)
    return start


def _given(part: Drawn, found: Fit) -> Array:
    """What the layer gives, with what is added to it, once it has changed."""
    return part.given + part.x @ found.weights.astype(np.float32) + found.bias[:, None].astype(np.float32)
