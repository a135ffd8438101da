"""How much worse a model is than the original by a metric, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from onnxopt.errors import DataError, UsageError
from onnxopt.metrics.base import Array, Metric

_CHUNK = 1 << 20
"""Row numbers drawn at a time."""


def drop(metric: Metric, reference_evidence: Array, evidence: Array) -> float:
    """How much worse than the reference, > 0 is worse, whatever the direction of the metric.

    Args:
        metric: what made both.
        reference_evidence: (n, k) of the original model (for a fidelity metric: against itself).
        evidence: (n, k) of the model that is judged.

    Returns:
        The difference of the scores; inf where it cannot be told (both infinitely bad).

    Raises:
        DataError: if there are no rows, or not equally many.
    """
    _check_paired(reference_evidence, evidence)
    return _worse(metric, metric.score(reference_evidence), metric.score(evidence))


def drop_interval(
    metric: Metric,
    reference_evidence: Array,
    evidence: Array,
    confidence: float,
    seed: int,
    resamples: int = 2000,
) -> tuple[float, float]:
    """Percentile interval of the drop by paired bootstrap: the same rows are drawn for both models.

    An interval of samples like these: where no row differs it is (0, 0), however few rows there are.

    Args:
        metric: what made both.
        reference_evidence: (n, k) of the original model.
        evidence: (n, k) of the model that is judged, same samples in the same order.
        confidence: share of the resampled drops inside, such as 0.95.
        seed: of the resampling.
        resamples: number of them.

    Returns:
        Low and high end; (-inf, inf) for a single row, which says nothing about others.

    Raises:
        DataError: if there are no rows, or not equally many.
        UsageError: if ``confidence`` is not between 0 and 1 or ``resamples`` is under 1.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13.
    """
    if not 0 < confidence < 1 or resamples < 1:
        raise UsageError(f"confidence {confidence} must be between 0 and 1, and resamples {resamples} at least 1")
    _check_paired(reference_evidence, evidence)
    if len(evidence) < 2:
        return -np.inf, np.inf
    draws = _draws(len(evidence), resamples, seed)
    if type(metric).score is Metric.score:
        drops = _mean_drops(metric, reference_evidence[:, 0], evidence[:, 0], draws)
    else:
        drops = np.array([_resampled(metric, reference_evidence, evidence, row) for rows in draws for row in rows])
    tail = (1 - confidence) / 2  # whole order statistics: interpolating between infinities gives NaN
    return (
        float(np.quantile(drops, tail, method="lower")),
        float(np.quantile(drops, 1 - tail, method="higher")),
    )


def _draws(n: int, resamples: int, seed: int) -> Iterator[Array]:
    """Row numbers with replacement, (some, n) at a time, ``resamples`` in all."""
    random, step = np.random.default_rng(seed), max(_CHUNK // n, 1)
    for start in range(0, resamples, step):
        yield random.integers(0, n, (min(step, resamples - start), n))


def _mean_drops(metric: Metric, reference: Array, values: Array, draws: Iterator[Array]) -> Array:
    """The drop of a mean is the mean of the rows' drops."""
    with np.errstate(invalid="ignore"):
        drops = reference - values if metric.higher_is_better else values - reference
    drops = np.where(np.isnan(drops), np.inf, drops)
    with np.errstate(invalid="ignore"):
        means = np.concatenate([drops[rows].mean(axis=1) for rows in draws])
    return np.where(np.isnan(means), np.inf, means)


def _resampled(metric: Metric, reference: Array, evidence: Array, rows: Array) -> float:
    """The drop of these rows; inf where they cannot be scored."""
    try:
        return _worse(metric, metric.score(reference[rows]), metric.score(evidence[rows]))
    except DataError:
        return float("inf")


def _worse(metric: Metric, reference: float, score: float) -> float:
    difference = reference - score if metric.higher_is_better else score - reference
    return float("inf") if np.isnan(difference) else difference


def _check_paired(reference_evidence: Array, evidence: Array) -> None:
    if len(reference_evidence) != len(evidence) or not len(evidence):
        raise DataError(
            f"{len(reference_evidence)} rows of the original cannot be compared with {len(evidence)}; "
            "run both models on the same samples, at least one"
        )
