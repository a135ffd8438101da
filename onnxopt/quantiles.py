"""Intervals of percentiles of durations, which are correlated with their neighbours."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

BLOCKS = 20
"""What is resampled are blocks of at least this part of all values: so long that what drifts (clock rates, load,
how a model lies in memory after it was loaded anew) drifts between blocks."""
RESAMPLES = 1000


def percentile_intervals(
    values: Sequence[float], percents: Sequence[float], confidence: float = 0.95, seed: int = 0
) -> list[tuple[float, float]]:
    """The ends of an interval for each percentile; the upper end is inf where there are too few values to know one.

    A percentile bootstrap that draws blocks of neighbouring values from their circle (Politis and Romano 1992), at
    tails as far out as Student's distribution of so many blocks has them: few blocks differ less than they should.
    All n values lie below the true p-th percentile with the probability (p/100)^n at least: where that is more than
    what the interval may miss on one side, no value is an upper end. For p99 and 95 % that takes 368 values.

    Args:
        values: in the order they were taken.
        percents: in percent.
        confidence: of each interval.
        seed: of the resampling.
    """
    numbers, n = np.asarray(values, float), len(values)
    order, tail = np.argsort(numbers, kind="stable"), (1 - confidence) / 2
    length = max(1, round(n ** (1 / 3)), n // BLOCKS)
    far = _farther(tail, n / length)
    ranks = _resampled_ranks(order, length, np.asarray(percents) / 100, np.random.default_rng(seed))
    ends = np.quantile(numbers[order][ranks], [far, 1 - far], axis=0, method="inverted_cdf")  # [2, percents]
    points = np.percentile(numbers, percents)
    lows, highs = np.minimum(ends[0], points), np.maximum(ends[1], points)
    unknown = [(percent / 100) ** n > tail for percent in percents]
    return [(float(low), math.inf if u else float(high)) for low, high, u in zip(lows, highs, unknown, strict=True)]


def _farther(tail: float, blocks: float) -> float:
    """The tail of a normal distribution where Student's of these blocks has its own."""
    from scipy import stats

    if blocks <= 1:
        return 0.0
    return float(stats.norm.cdf(stats.t.ppf(tail, blocks - 1) * math.sqrt(blocks / (blocks - 1))))


def _resampled_ranks(order: np.ndarray, length: int, shares: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Of each resampling the ranks of its percentiles among all values: int[RESAMPLES, percents].

    How often each value is drawn is counted, in order of time, then summed up in order of size.
    """
    n = len(order)
    number = math.ceil(n / length)
    ranks = np.empty((RESAMPLES, len(shares)), int)
    for row in ranks:
        starts = generator.integers(0, n, number)
        ends = starts + length
        steps = np.bincount(starts, minlength=n) - np.bincount(ends % n, minlength=n)
        drawn = np.cumsum(steps) + np.count_nonzero(ends >= n)  # blocks that go over the end begin anew
        row[:] = np.searchsorted(np.cumsum(drawn[order]), shares * number * length)
    return np.minimum(ranks, n - 1)
