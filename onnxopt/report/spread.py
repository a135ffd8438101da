"""How the latencies of two models lie: percentiles with intervals, and a histogram.

Neighbouring iterations are correlated, so the intervals come from blocks of neighbours (the circular block bootstrap of
Politis and Romano, 1992), as those of the ratio do in ``onnxopt.benchmark``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxopt.benchmark import Comparison

PERCENTS = (50, 90, 99)
BINS = 40
RESAMPLES = 200
MOST = 5000
"""Iterations that are resampled; of more, every second, third and so on."""
TAIL = 1.0
"""Percent of the slowest iterations that the histogram puts in its last bin: one hiccup must not flatten the rest."""


def spread(speed: Comparison) -> dict[str, Any]:
    """Percentiles and histogram of a comparison, ready for JSON; seconds."""
    before, after = np.array(speed.a.seconds), np.array(speed.b.seconds)
    return {
        "confidence": speed.confidence,
        "before": percentiles(before, speed.confidence),
        "after": percentiles(after, speed.confidence),
        "histogram": histogram(before, after),
    }


def percentiles(seconds: np.ndarray, confidence: float, percents: Sequence[int] = PERCENTS) -> dict[str, Any]:
    """``p50`` and so on, each with ``value``, ``low`` and ``high``.

    Args:
        seconds: float[n], in the order in which they were taken.
        confidence: of the intervals.
        percents: which.
    """
    values = np.percentile(seconds, percents)
    few = seconds[:: -(-len(seconds) // MOST)]
    n = len(few)
    length = max(1, round(n ** (1 / 3)))
    starts = np.random.default_rng(0).integers(0, n, (RESAMPLES, -(-n // length), 1))
    chosen = ((starts + np.arange(length)) % n).reshape(RESAMPLES, -1)[:, :n]
    drawn = np.percentile(few[chosen], percents, axis=1)  # [percents, resamples]
    tail = 50 * (1 - confidence)
    low, high = np.percentile(drawn, [tail, 100 - tail], axis=1)
    rows = zip(percents, values, low, high, strict=True)
    return {
        f"p{percent}": {"value": float(v), "low": float(min(a, v)), "high": float(max(b, v))}
        for percent, v, a, b in rows
    }


def histogram(before: np.ndarray, after: np.ndarray) -> dict[str, list[float]]:
    """Shares of the iterations of both in the same bins; the last takes all that is slower.

    Returns:
        ``edges``, one more than there are bins, in seconds; ``before`` and ``after``, which sum to 1 each.
    """
    low = float(min(before.min(), after.min()))
    high = float(max(np.percentile(one, 100 - TAIL) for one in (before, after)))
    edges = np.linspace(low, high if high > low else low * 1.01 + 1e-9, BINS + 1)
    counts = [np.histogram(np.clip(one, edges[0], edges[-1]), edges)[0] / len(one) for one in (before, after)]
    return {"edges": edges.tolist(), "before": counts[0].tolist(), "after": counts[1].tolist()}
