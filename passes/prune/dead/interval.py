"""Lowest and highest numbers, and arithmetic on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

UNIT = 2.0**-21
"""Relative error of an operation on float32 numbers, with room to spare: one rounding is 2^-24."""


@dataclass(frozen=True)
class Interval:
    """What the numbers of a value lie between, whatever the model is given.

    Rounding included: bounds are computed in float64 and then moved apart by more than float32 arithmetic may err.
    Numbers that are always the same have ``low == high``, the number itself as float64 gives it. All numbers of the
    running model are taken to be finite, so that zero times any of them is zero.

    Attributes:
        low: of the rank of the value, and of its size or 1 along each axis.
        high: likewise, of the same shape.
    """

    low: Numbers
    high: Numbers

    @classmethod
    def of(cls, low: Numbers, high: Numbers) -> Interval:
        """Between two bounds; those that are no numbers say nothing."""
        low, high = np.broadcast_arrays(low, high)
        wild = ~(low <= high) | (low == np.inf) | (high == -np.inf)
        return cls(np.where(wild, -np.inf, low), np.where(wild, np.inf, high))

    @classmethod
    def unknown(cls, rank: int) -> Interval:
        """Anything."""
        return cls(np.full([1] * rank, -np.inf), np.full([1] * rank, np.inf))

    @classmethod
    def constant(cls, numbers: npt.NDArray[np.generic]) -> Interval:
        """These numbers; those that are not finite count as unknown."""
        exact = numbers.astype(np.float64)
        finite = np.isfinite(exact)
        return cls(np.where(finite, exact, -np.inf), np.where(finite, exact, np.inf))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the bounds."""
        return self.low.shape

    @property
    def fixed(self) -> Flags:
        """Which numbers are always the same."""
        found: Flags = self.low == self.high
        return found

    @property
    def says_nothing(self) -> bool:
        """Whether it is the same as unknown."""
        return bool(np.all(self.low == -np.inf) and np.all(self.high == np.inf))

    def hull(self, axes: Sequence[int]) -> Interval:
        """The same for all positions along some axes, whose size becomes 1."""
        axes = tuple(axes)
        return Interval(self.low.min(axis=axes, keepdims=True), self.high.max(axis=axes, keepdims=True))

    def along(self, axis: int) -> Interval:
        """For each position along one axis, ``[size]``, or ``[1]`` where all are the same."""
        axis %= len(self.shape)
        flat = self.hull([other for other in range(len(self.shape)) if other != axis])
        return flat.reshaped([-1])

    def reshaped(self, shape: Sequence[int]) -> Interval:
        """The same bounds in another shape."""
        return Interval(self.low.reshape(shape), self.high.reshape(shape))

    def spread(self, shape: Sequence[int]) -> Interval:
        """The same bounds, repeated along axes of size 1."""
        return Interval(np.broadcast_to(self.low, shape), np.broadcast_to(self.high, shape))

    def widened(self, share: float) -> Interval:
        """Bounds moved apart by a share of themselves, where the numbers are not fixed."""
        move = np.where(self.fixed, 0.0, share)
        return Interval(self.low - _times(move, np.abs(self.low)), self.high + _times(move, np.abs(self.high)))

    def __or__(self, other: Interval) -> Interval:
        """Numbers of either."""
        return Interval.of(np.minimum(self.low, other.low), np.maximum(self.high, other.high))

    def __neg__(self) -> Interval:
        """Turned around zero."""
        return Interval(-self.high, -self.low)

    def __add__(self, other: Interval) -> Interval:
        """The sum, and what float32 arithmetic adds to it."""
        return self._plus(other, np.where(self.fixed & other.fixed, 0.0, UNIT))

    def __sub__(self, other: Interval) -> Interval:
        """The difference."""
        return self + -other

    def __mul__(self, other: Interval) -> Interval:
        """The product."""
        sides = [_times(one, two) for one in (self.low, self.high) for two in (other.low, other.high)]
        return Interval.of(np.minimum.reduce(sides), np.maximum.reduce(sides)).widened(UNIT)

    def _plus(self, other: Interval, share: Numbers) -> Interval:
        low = self.low + other.low - _times(share, np.abs(self.low) + np.abs(other.low))
        high = self.high + other.high + _times(share, np.abs(self.high) + np.abs(other.high))
        return Interval.of(low, high)


ZERO = Interval(np.zeros(()), np.zeros(()))


def weighted(x: Interval, positive: Numbers, negative: Numbers, products: int) -> Interval:
    """Sums of numbers times constant weights.

    Each term is at most its own upper bound, and float32 summation errs by at most ``products`` units of each term, so
    the bound of the sum is moved by that share of the terms at their bounds: also where the other bounds are infinite.

    Args:
        x: the numbers, ``[groups, inputs]``.
        positive: the sum of the positive weights of each input, ``[groups, outputs, inputs]``.
        negative: the sum of the negative ones.
        products: how many are summed up.

    Returns:
        ``[groups, outputs]``.
    """
    varies = ~x.fixed
    endless = [np.isinf(x.low), np.isinf(x.high)]
    low, high = np.where(endless[0], 0.0, x.low), np.where(endless[1], 0.0, x.high)
    columns = np.stack(np.broadcast_arrays(low, high, np.abs(low), np.abs(high), *endless, varies), axis=-1)
    of_positive, of_negative = (np.moveaxis(weights @ columns, -1, 0) for weights in (positive, negative))
    fixed = of_positive[6] - of_negative[6] == 0
    share = np.where(fixed, 0.0, products * UNIT)
    top = of_positive[1] + of_negative[0]
    bottom = np.where(fixed, top, of_positive[0] + of_negative[1])
    top = top + share * (of_positive[3] - of_negative[2])
    bottom = bottom - share * (of_positive[2] - of_negative[3])
    return Interval(
        np.where(of_positive[4] - of_negative[5] > 0, -np.inf, bottom),
        np.where(of_positive[5] - of_negative[4] > 0, np.inf, top),
    )


def _times(one: Numbers, other: Numbers) -> Numbers:
    """The product, zero where one is zero."""
    found: Numbers = np.where((one == 0) | (other == 0), 0.0, one * other)
    return found
