"""Intervals of percentiles."""

import math

import numpy as np
import pytest

from onnxopt import quantiles
from onnxopt.benchmark import Timing
from onnxopt.quantiles import percentile_intervals


@pytest.mark.parametrize(("correlation", "at_least"), [(0.0, 0.9), (0.9, 0.88)])
def test_the_interval_covers_the_truth_about_as_often_as_it_says(
    correlation: float, at_least: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of values that drift, too: x[i] = r x[i-1] + noise, whose percentiles are those of a normal distribution."""
    monkeypatch.setattr(quantiles, "RESAMPLES", 200)
    truth, covered = np.array([0.0, 1.2815515655446004]), np.zeros(2)
    for seed in range(100):
        random = np.random.default_rng(seed)
        noise = random.normal(0, math.sqrt(1 - correlation**2), 600)
        values = [float(random.normal())]
        for step in noise:
            values.append(correlation * values[-1] + step)
        ends = np.array(percentile_intervals(values, [50, 90], seed=seed))
        covered += (ends[:, 0] <= truth) & (truth <= ends[:, 1])
    assert (covered / 100 >= at_least).all(), covered
    assert (covered / 100 < 1).all(), covered


def test_ranks_are_those_of_a_plain_resampling() -> None:
    values = np.random.default_rng(1).normal(size=50)
    order = np.argsort(values)
    ranks = quantiles._resampled_ranks(order, 7, np.array([0.5, 0.9]), np.random.default_rng(3))
    generator = np.random.default_rng(3)
    for found in ranks[:20]:
        starts = generator.integers(0, 50, 8)
        drawn = np.sort(values[((starts[:, None] + np.arange(7)) % 50).ravel()])
        assert values[order][found].tolist() == [drawn[27], drawn[50]]


@pytest.mark.parametrize(
    ("count", "known"), [(5, [0, 0, 0]), (6, [1, 0, 0]), (40, [1, 1, 0]), (367, [1, 1, 0]), (368, [1, 1, 1])]
)
def test_too_few_values_have_no_upper_end(count: int, known: list[int]) -> None:
    ends = percentile_intervals(np.linspace(1, 2, count).tolist(), [50, 90, 99])
    assert [math.isfinite(high) for _, high in ends] == [bool(one) for one in known]


def test_a_timing_gives_its_percentiles_with_intervals() -> None:
    timing = Timing(tuple(np.random.default_rng(0).normal(1, 0.1, 1000)))
    (low, high), _ = timing.intervals(50, 90)
    assert 0.98 < low < timing.median < high < 1.02
    assert Timing((1.0,) * 400).intervals(50, 99) == [(1.0, 1.0), (1.0, 1.0)]
