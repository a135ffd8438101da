"""Tables of few values, and codes for weights."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxopt.passes.cluster.codebook import GRID, codebook, fitted, grid, halved, nearest, whole
from onnxopt.passes.cluster.coding import Coder, plain

RANDOM = np.random.default_rng(0)


def squared(table: np.ndarray, values: np.ndarray, weights: np.ndarray) -> float:
    return float((weights * np.square(table[nearest(table, values)] - values)).sum())


SPREADS = {
    "normal": lambda random: random.normal(size=3000),
    "heavy tails": lambda random: random.laplace(size=3000),
    "two humps": lambda random: random.normal(size=3000) + 8 * random.integers(0, 2, 3000),
    "even": lambda random: random.uniform(-1, 1, 3000),
}


@pytest.mark.parametrize("levels", [2, 5, 16])
@pytest.mark.parametrize("spread", SPREADS.values(), ids=SPREADS.keys())
def test_a_table_is_as_good_as_the_best_of_many_random_starts(levels: int, spread) -> None:
    from scipy.cluster.vq import kmeans

    values = spread(np.random.default_rng(0))
    found = codebook(values, np.ones_like(values), levels)
    assert (np.diff(found) >= 0).all()
    best, _ = kmeans(values, levels, iter=20, rng=0)
    assert squared(found, values, np.ones(())) <= 1.03 * squared(np.sort(best), values, np.ones(()))


def test_many_normal_values_get_the_levels_of_lloyd_and_max() -> None:
    """The optimal four levels of a normal distribution: 0.4528 and 1.510 on either side (Max, 1960)."""
    values = np.random.default_rng(0).normal(size=400_000)
    found = codebook(values, np.ones_like(values), 4)
    np.testing.assert_allclose(found, [-1.510, -0.4528, 0.4528, 1.510], atol=0.02)


def test_as_many_levels_as_distinct_values_lose_nothing() -> None:
    values = np.array([3.0, -1.0, 3.0, 0.5, -1.0])
    found = codebook(values, np.ones(5), 3)
    np.testing.assert_allclose(found[nearest(found, values)], values, atol=1e-3)


def test_equal_values_need_one_level() -> None:
    np.testing.assert_array_equal(codebook(np.full(7, 2.5), np.ones(7), 4), np.full(4, 2.5))


def test_values_that_weigh_nothing_do_not_count() -> None:
    values = np.array([0.0, 1.0, 50.0])
    assert codebook(values, np.array([1.0, 1.0, 0.0]), 2).max() < 2


def test_halves_are_taken_where_they_lose_nothing_but_digits() -> None:
    numbers = np.array([1 / 3, 1e6, 1e-9, 0.0, -2.5])
    found = halved(numbers)
    np.testing.assert_array_equal(found, [float(np.float16(1 / 3)), 1e6, float(np.float32(1e-9)), 0.0, -2.5])


@pytest.mark.parametrize("levels", [4, 16, GRID])
def test_a_scale_that_clips_is_taken_where_it_errs_less(levels: int) -> None:
    rows, one = RANDOM.laplace(size=(30, 400)), np.ones(())
    table, scales = fitted(rows, one, one, levels)
    unclipped = np.abs(rows).max(axis=1) / np.abs(table).max()
    errors = [
        np.square(table[nearest(table, rows / each[:, None])] * each[:, None] - rows).sum()
        for each in (scales, unclipped)
    ]
    assert errors[0] <= (1.001 if levels == GRID else 0.97) * errors[1]
    assert levels == GRID or (scales < 0.95 * unclipped).any()


def test_tables_for_given_scales_are_whole_numbers() -> None:
    scales = np.array([0.1, 0.7])
    rows = RANDOM.integers(-127, 128, (2, 300)) * scales[:, None]
    for levels in (4, 16, 128, GRID):
        table = whole(rows, np.ones(()), scales, levels)
        np.testing.assert_array_equal(table, np.rint(table))
        assert np.abs(table).max() <= 127
    np.testing.assert_array_equal(whole(rows, np.ones(()), scales, GRID), grid() * 127)


# --- codes that look at what a layer reads ---


def task(groups: int, channels: int, products: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Weights, and second moments of inputs that a few hidden causes decide."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(groups, 500, products)) + 2 * random.normal(size=(groups, 500, 3)) @ random.normal(
        size=(groups, 3, products)
    )
    return random.normal(size=(groups, channels, products)), x.transpose(0, 2, 1) @ x / 500


def loss(weights: np.ndarray, values: np.ndarray, moments: np.ndarray) -> float:
    off = weights - values
    return float(((off @ moments) * off).sum() / ((weights @ moments) * weights).sum())


@pytest.mark.parametrize("levels", [3, 4, 16, 52, GRID])
@pytest.mark.parametrize("shape", [(1, 8, 40), (3, 25, 9), (60, 1, 9), (1, 4, 200)])
def test_outputs_err_less_than_with_the_nearest_values(levels: int, shape: tuple[int, int, int]) -> None:
    weights, moments = task(*shape)
    found = Coder(weights, moments).coded(levels)
    assert found.codes.shape == weights.shape
    assert found.codes.max() < len(found.table)
    near = plain(weights.reshape(-1, shape[2]), levels).values.reshape(shape)
    assert loss(weights, found.values, moments) < 0.8 * loss(weights, near, moments)


def test_more_levels_err_less() -> None:
    weights, moments = task(1, 16, 64)
    coder = Coder(weights, moments)
    losses = [loss(weights, coder.coded(levels).values, moments) for levels in (3, 4, 8, 16, 38, 128)]
    assert all(b < 0.75 * a for a, b in itertools.pairwise(losses))


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_the_size_of_blocks_does_not_matter(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxopt.passes.cluster import coding

    weights, moments = task(2, 6, 30)
    before = Coder(weights, moments).coded(8)
    monkeypatch.setattr(coding, "BLOCK", block)
    after = Coder(weights, moments).coded(8)
    assert loss(weights, after.values, moments) == pytest.approx(loss(weights, before.values, moments), rel=1e-6)


def test_inputs_that_are_always_zero_are_no_trouble() -> None:
    weights, moments = task(1, 4, 10)
    moments[:, 5:], moments[..., 5:] = 0, 0
    found = Coder(weights, moments).coded(16)
    assert np.isfinite(found.values).all()
    silent = Coder(weights, np.zeros_like(moments)).coded(16)
    assert np.isfinite(silent.values).all()


def test_rows_of_zeros_stay_zero() -> None:
    weights, moments = task(1, 4, 10)
    weights[0, 1] = 0
    found = Coder(weights, moments).coded(16)
    assert np.abs(found.values[0, 1]).max() < 1e-6


def test_with_given_scales_all_values_are_whole_multiples_of_them() -> None:
    weights, moments = task(1, 4, 24)
    scales = np.abs(weights).max(axis=2) / 127
    for levels in (8, GRID):
        found = Coder(weights, moments, scales).coded(levels)
        np.testing.assert_array_equal(found.scales, scales)
        np.testing.assert_allclose(
            found.values / scales[..., None], np.rint(found.values / scales[..., None]), atol=1e-9
        )


@settings(deadline=None, max_examples=40, derandomize=True)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 20), st.sampled_from([2, 3, 5, 16]), st.integers(0, 99))
def test_codes_are_codes_whatever_the_shape(groups: int, channels: int, products: int, levels: int, seed: int) -> None:
    weights, moments = task(groups, channels, products, seed)
    found = Coder(weights, moments).coded(levels)
    assert found.codes.shape == weights.shape
    assert found.codes.max() < len(found.table) == levels
    assert np.isfinite(found.values).all()
