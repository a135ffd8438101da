"""The squared error that a range causes, and the range that causes the least.

Asymmetric quantization of a range ``[low, high]`` that holds 0 (it is widened where it does not) to ``levels``
numbers, as QuantizeLinear has it: ``scale = (high - low) / (levels - 1)``, ``zero = round(-low / scale)``, and a number
``x`` becomes ``level * scale`` with ``level = clip(round(x / scale), -zero, levels - 1 - zero)``. The error is
``e = level * scale - x``, rounding and clipping alike.

Within a bin the numbers are taken to be evenly spread. Then the sums of e and of e^2 over a bin are differences of

    E1(x) = -e^2 / 2
    E2(x) = level * scale^3 / 12 - e^3 / 3

which are continuous and have the derivatives e and e^2. So nothing depends on how bins and levels lie to each other.
"""

from __future__ import annotations

import numpy as np

from onnxopt.calibrate.histogram import Array, Histogram

LEVELS = 256
"""Of 8 bits."""
COARSE = 0.5 ** (np.arange(33) / 4)
"""Ends are tried from the data's own down to 1/256 of it, in steps of a factor 2^(1/4),"""
FINE = 2.0 ** np.linspace(-1 / 4, 1 / 4, 17)
"""and then between the neighbours of the best."""
POINT = 1e-6
"""Bins under this share of the full width count as points: differences of E2 would lose their digits."""


def errors(histogram: Histogram, lows: Array, highs: Array, levels: int = LEVELS) -> tuple[Array, Array]:
    """Mean and mean square of the quantization error of every candidate range.

    Args:
        histogram: of the numbers to quantize; not empty.
        lows: float64[candidates].
        highs: float64[candidates].
        levels: of the quantized type.

    Returns:
        E[e], in the unit of the numbers, and E[e^2], in its square: float64[candidates] each.
    """
    edges, counts = histogram.density()
    share = counts / counts.sum()
    low, high = np.minimum(lows, 0.0)[:, None], np.maximum(highs, 0.0)[:, None]
    scale = np.maximum((high - low) / (levels - 1), np.finfo(np.float64).tiny)
    zero = np.round(-low / scale)
    level = np.clip(np.round(edges / scale), -zero, levels - 1 - zero)  # [candidates, edges], and so on
    e = level * scale - edges
    e1, e2 = -(e**2) / 2, level * scale**3 / 12 - e**3 / 3

    extent = np.diff(edges)
    point = extent <= POINT * histogram.width
    extent[point] = 1.0
    mean = np.where(point, e[:, 1:], np.diff(e1) / extent)
    square = np.where(point, e[:, 1:] ** 2, np.diff(e2) / extent)
    return mean @ share, square @ share


def least(histogram: Histogram, levels: int = LEVELS) -> tuple[float, float]:
    """The range with the least mean squared error (``mse``), as far as a search over its ends finds it.

    Both ends move inwards by one factor first, then each alone, twice. An end on the near side of 0 stays, for
    the grid reaches to 0 anyhow. The error is at most 1 % above the least that brute force finds by quantizing
    the numbers themselves (tests/calibrate/test_squared_error.py).
    """
    ends = np.array([histogram.low, histogram.high])
    free = ends * [-1, 1] > 0
    both, lower, upper = free, free & [True, False], free & [False, True]
    factors = np.ones(2)
    for moved in (both, upper, lower, upper, lower) if free.all() else (both,):
        for fine in (False, True):
            tried = np.outer(FINE, factors).clip(max=1.0) if fine else COARSE[:, None]
            candidates = np.vstack([factors, np.where(moved, tried, factors)])
            lows, highs = (candidates * ends).T
            _, square = errors(histogram, lows, highs, levels)
            factors = candidates[square.argmin()]
    low, high = factors * ends
    return float(low), float(high)
