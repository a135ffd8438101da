"""Ratios and their intervals, from seconds of A, B, B and A."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from onnxopt.benchmark.value import Interval, Verdict

LOADS_FLOOR = 0.005
"""What differs from load to load is in the interval of many loads; a difference this small is no gain to anybody."""
RESAMPLES, BATCHES = 1000, 10


def judge(low: float, high: float, floor: float = LOADS_FLOOR) -> Verdict:
    """Faster or slower if the whole interval of the ratio lies beyond the floor."""
    if low > 1 + floor:
        return Verdict.FASTER
    if high < 1 / (1 + floor):
        return Verdict.SLOWER
    return Verdict.NOT_SIGNIFICANT


def interval(quads: np.ndarray, confidence: float = 0.95, seed: int = 0) -> Interval:
    """Ratio of A over B, and the ends of its interval, for two contenders as they lie in memory.

    The ratio is the median of the ratios of all pairs, A B and B A alike. Under load (1.5 other CPUs, 15
    quads) it was off by 1.7 % (RMS), the mean of the medians of either order by 3.8 %, the median of quads
    by 5.9 %. Where the order matters, because the second of a pair finds the other's data in the caches, the
    pairs form two heaps of one size: the median lies between them, and the interval is wide.

    The interval is a percentile bootstrap that draws blocks of neighbouring quads from their circle (Politis
    and Romano 1992), because neighbours are correlated; the blocks grow as the cube root of n (Künsch 1989).

    Args:
        quads: float[n, 4], seconds of A, B, B and A; zeros (of a coarse clock) count as a nanosecond.
        confidence: of the interval.
        seed: of the resampling.
    """
    pairs, n = _log_ratios(quads), len(quads)
    length = round(n ** (1 / 3))
    generator = np.random.default_rng(seed)
    medians = []
    for _ in range(BATCHES):
        starts = generator.integers(0, n, (RESAMPLES // BATCHES, math.ceil(n / length), 1))
        chosen = ((starts + np.arange(length)) % n).reshape(len(starts), -1)[:, :n]
        drawn = np.sort(pairs[chosen].reshape(len(starts), -1), axis=1)  # faster than np.median
        medians.append((drawn[:, n - 1] + drawn[:, n]) / 2)
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(medians), [tail, 1 - tail])
    ratio = np.median(pairs)
    return Interval(float(np.exp(ratio)), float(np.exp(min(low, ratio))), float(np.exp(max(high, ratio))))


def load_interval(parts: Sequence[np.ndarray], confidence: float = 0.95) -> Interval:
    """Ratio of A over B, and the ends of its interval, from pairs of loads that each were timed for a while.

    Student's interval of the mean over loads: each load is one number, so that what differs from load to load is
    in the interval. From 0 to infinity where there is one load.

    Args:
        parts: of each pair of loads float[n, 4], seconds of A, B, B and A.
        confidence: of the interval.

    Source: Kalibera and Jones, section 6. Measured on 60 loads of four models with themselves
    (benchmarks/selfcheck.py): drawn from them, 10 s of loads gave 4 to 6 % intervals without 1, as they should.
    """
    logs = np.array([np.median(_log_ratios(part)) for part in parts])
    ratio = float(np.exp(logs.mean()))
    if len(logs) < 2:
        return Interval(ratio, 0.0, math.inf)
    from scipy import stats

    error = float(logs.std(ddof=1)) / math.sqrt(len(logs))
    half = float(stats.t.ppf((1 + confidence) / 2, len(logs) - 1)) * error
    return Interval(ratio, ratio * math.exp(-half), ratio * math.exp(half))


def _log_ratios(quads: np.ndarray) -> np.ndarray:
    """float[n, 2]: of seconds of A, B, B and A, the logarithms of the ratios of A B and of B A."""
    a1, b1, b2, a2 = np.log(np.maximum(quads, 1e-9)).T
    return np.stack([a1 - b1, a2 - b2], axis=1)
