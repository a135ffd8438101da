"""Histogram: what numpy counts, the same to the last count however the numbers come."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxopt.calibrate.histogram import BINS, CHUNK, Histogram

EXAMPLES = settings(derandomize=True, deadline=None, max_examples=200, database=None)
NUMBERS = st.floats(width=32, allow_nan=False, allow_infinity=False)
SPREAD = st.one_of(NUMBERS, st.floats(-10, 10, width=32), st.integers(-3, 3).map(float), st.just(0.0))
BATCHES = st.lists(st.lists(SPREAD, max_size=30), min_size=1, max_size=6)


def filled(*batches: object, bins: int = BINS) -> Histogram:
    histogram = Histogram(bins)
    for batch in batches:
        histogram.add(np.array(batch, np.float32))
    return histogram


def state(histogram: Histogram) -> tuple[object, ...]:
    return histogram.low, histogram.high, histogram.width, histogram.first, histogram.counts.tolist()


@given(batches=BATCHES, bins=st.sampled_from([4, 5, 64]), seed=st.integers(0, 9))
@EXAMPLES
def test_any_split_in_any_order_gives_the_same(batches: list[list[float]], bins: int, seed: int) -> None:
    numbers = [number for batch in batches for number in batch]
    shuffled = np.random.default_rng(seed).permutation(np.array(numbers, np.float32))
    whole = filled(numbers, bins=bins)
    assert state(whole) == state(filled(*batches, bins=bins)) == state(filled(*shuffled[:, None], bins=bins))
    assert whole.total == len(numbers)
    if numbers:
        assert (whole.low, whole.high) == (min(shuffled), max(shuffled))


@given(batches=BATCHES)
@EXAMPLES
def test_every_number_lies_in_its_bin(batches: list[list[float]]) -> None:
    histogram = filled(*batches)
    numbers = np.array([number for batch in batches for number in batch], np.float32).astype(np.float64)
    if numbers.size:
        places = np.ceil(numbers / histogram.width) - histogram.first
        expected = np.bincount(places.astype(int), minlength=BINS)
        np.testing.assert_array_equal(histogram.counts, expected)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 3e7])
def test_numpy_counts_the_same(scale: float) -> None:
    """numpy's bins are open on the right, ours on the left: both are mirrored."""
    numbers = (scale * np.random.default_rng(0).standard_normal(3 * CHUNK + 5)).astype(np.float32)
    histogram = filled(*np.array_split(numbers, 7))
    edges = (histogram.first - 1 + np.arange(BINS + 1)) * histogram.width
    expected, _ = np.histogram(-numbers.astype(np.float64), -edges[::-1])
    np.testing.assert_array_equal(histogram.counts, expected[::-1])


def test_bins_are_as_narrow_as_they_can_be() -> None:
    numbers = np.random.default_rng(0).standard_normal(10_000)
    histogram = filled(numbers)
    edges, counts = histogram.density()
    assert BINS // 2 <= len(counts) <= BINS
    assert math.log2(histogram.width).is_integer()
    assert (edges[0], edges[-1]) == (np.float32(numbers.min()), np.float32(numbers.max()))
    assert counts.sum() == 10_000


def test_merging_keeps_every_count() -> None:
    histogram = filled([1e-30, 2e-30, -1e-30], [5.0], [-7e20], [0.0, 3e38])
    assert histogram.total == 7
    assert (histogram.low, histogram.high) == (np.float32(-7e20), np.float32(3e38))


def test_zeros_after_a_relu_are_a_point() -> None:
    edges, counts = filled(np.maximum(np.random.default_rng(0).standard_normal(1000), 0)).density()
    assert (edges[0], edges[1]) == (0.0, 0.0)
    assert 400 < counts[0] < 600


@pytest.mark.parametrize("number", [0.0, -0.0, 3.7, -1e-20, 1e30, 1e-42])
def test_a_constant_is_a_point(number: float) -> None:
    edges, counts = filled([number] * 5, [[number]]).density()
    np.testing.assert_array_equal(edges, np.float32([number, number]))
    assert counts.tolist() == [6]


def test_large_numbers_with_a_small_spread() -> None:
    edges, counts = filled(1e6 + np.arange(0, 1, 1 / 16)).density()
    assert np.count_nonzero(counts) == 16
    assert (edges[0], edges[-1]) == (1e6, 1e6 + 15 / 16)


def test_no_numbers_are_no_change() -> None:
    assert state(filled([], [[]])) == state(Histogram())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_and_nothing_counted(bad: float) -> None:
    histogram = filled([1.0, 2.0])
    before = state(histogram)
    with pytest.raises(FloatingPointError):
        histogram.add(np.array([3.0, bad], np.float32))
    assert state(histogram) == before


def test_the_size_is_fixed() -> None:
    histogram = filled(*np.random.default_rng(0).standard_normal((20, 1000)) * np.arange(1, 21)[:, None])
    assert histogram.counts.shape == (BINS,)
