"""Grids: what is represented exactly, how far numbers move, and which sums must fit in 16 bits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxopt.passes.quantize.grids.grid import (
    PAIR_MAX,
    activation_grid,
    quantized_bias,
    quantized_rows,
    weight_scales,
)


@pytest.mark.parametrize(
    ("low", "high", "zero"), [(0.0, 5.1, 0), (-1.0, 1.0, 127), (-3.0, -1.0, 255), (2.0, 4.0, 0), (-0.1, 12.65, 2)]
)
def test_zero_and_both_ends_are_on_the_grid(low: float, high: float, zero: int) -> None:
    grid = activation_grid(low, high)
    assert grid.zero_point == zero
    levels = np.float64(grid.scale) * (np.arange(256) - int(grid.zero_point))
    assert 0.0 in levels
    for end in (min(low, 0), max(high, 0)):
        assert np.abs(levels - end).min() <= grid.scale / 2 * 1.001


def test_an_activation_that_is_always_zero_has_a_grid() -> None:
    grid = activation_grid(0.0, 0.0)
    assert (grid.scale, grid.zero_point) == (1.0, 0)


ROWS = st.integers(0, 2**32 - 1).map(
    lambda seed: (lambda r: r.standard_normal((5, int(r.integers(1, 40)))) * r.choice([1e-3, 1, 50]))(
        np.random.default_rng(seed)
    ).astype(np.float32)
)


@given(ROWS)
def test_weights_move_by_half_a_step(rows: np.ndarray) -> None:
    scales = weight_scales(rows, None, 0.1, pairs=False)
    integers = quantized_rows(rows, scales, pairs=False)
    assert np.abs(integers).max() <= 127
    assert np.all(np.abs(rows - integers * scales[:, None]) <= scales[:, None] * 0.5001)


@given(ROWS)
def test_pairs_of_products_fit_in_16_bits_and_weights_move_by_little_more(rows: np.ndarray) -> None:
    scales = weight_scales(rows, None, 0.1, pairs=True)
    integers = quantized_rows(rows, scales, pairs=True).astype(int)
    even = integers[:, : integers.shape[1] // 2 * 2].reshape(len(rows), -1, 2)
    for products in (np.maximum(even, 0), np.minimum(even, 0)):
        assert np.abs(products.sum(axis=2)).max(initial=0) <= PAIR_MAX
    assert np.all(np.abs(rows - integers * scales[:, None]) <= scales[:, None] * 1.501)


def test_the_scale_of_a_channel_grows_no_more_than_its_largest_pair_asks_for() -> None:
    rows = np.array([[1.0, 1.0, 0.5, 0.5], [1.0, 0.0, 1.0, 0.0], [1.0, -1.0, 0.1, 0.1]], np.float32)
    plain, safe = (weight_scales(rows, None, 1.0, pairs=pairs) for pairs in (False, True))
    np.testing.assert_allclose(safe / plain, [2 * 127 / 128, 1.0, 1.0], rtol=1e-6)


def test_a_channel_of_zeros_and_one_of_tiny_weights_hold_their_biases() -> None:
    rows = np.array([[0.0, 0.0], [1e-12, 0.0], [1.0, 0.5]], np.float32)
    bias = np.array([3.0, -2.0, 0.25], np.float32)
    scales = weight_scales(rows, bias, 0.01, pairs=False)
    real = quantized_bias(bias, scales, 0.01) * scales.astype(np.float64) * 0.01
    np.testing.assert_allclose(real, bias, rtol=1e-3)
    assert not quantized_rows(rows, scales, pairs=False)[0].any()
