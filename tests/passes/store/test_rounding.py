"""Rounding to signed integers with a scale for each row."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from onnxopt.passes.store import rounding
from onnxopt.passes.store.rounding import rounded

RNG = np.random.default_rng(0)
EXAMPLES = settings(derandomize=True, deadline=None, max_examples=100, database=None)


def squared_error(rows: np.ndarray, integers: np.ndarray, scales: np.ndarray) -> np.ndarray:
    real = integers.astype(np.float64) * scales.astype(np.float64)[:, None]
    return np.square(rows - real).sum(axis=1)


def to_greatest(rows: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """Without any thought: the greatest magnitude becomes the greatest integer."""
    scales = np.maximum(np.abs(rows).max(axis=1) / top, 1e-30)
    return np.clip(np.rint(rows / scales[:, None]), -top, top), scales


@pytest.mark.parametrize("bits", [8, 4])
@EXAMPLES
@given(rows=arrays(np.float32, (4, 12), elements=st.floats(-10, 10, width=32, allow_subnormal=False)))
def test_is_never_worse_than_the_greatest_magnitude(bits: int, rows: np.ndarray) -> None:
    top = 2 ** (bits - 1) - 1
    integers, scales = rounded(rows, bits)
    assert integers.dtype == np.int8
    assert scales.dtype == np.float32
    assert np.abs(integers).max() <= top
    plain = squared_error(rows, *to_greatest(rows, top))
    assert (squared_error(rows, integers, scales) <= plain * (1 + 1e-5) + 1e-12).all()


@pytest.mark.parametrize("bits", [8, 4])
@EXAMPLES
@given(data=st.data())
def test_numbers_on_a_grid_keep_every_bit(bits: int, data: st.DataObject) -> None:
    greatest = data.draw(st.integers(1, 2 ** (bits - 1) - 1))
    integers = data.draw(arrays(np.int8, (3, 40), elements=st.integers(-greatest, greatest)))
    steps = data.draw(arrays(np.float32, 3, elements=st.floats(2.0**-20, 4, width=32)))
    rows = integers.astype(np.float32) * steps[:, None]
    found, scales = rounded(rows, bits)
    np.testing.assert_allclose(found * scales[:, None], rows, rtol=3e-7, atol=0)


@pytest.mark.parametrize("greatest", [127, 100, 7])
def test_the_grid_of_an_int8_file_is_found_again(greatest: int) -> None:
    integers = RNG.integers(-greatest, greatest + 1, size=(50, 700)).astype(np.int8)
    scales = RNG.uniform(1e-4, 1e-2, size=50).astype(np.float32)
    rows = integers * scales[:, None]
    found, again = rounded(rows, 8)
    np.testing.assert_array_equal(found * again[:, None], rows)


def test_clips_where_that_is_better() -> None:
    rows = RNG.normal(size=(20, 500)).astype(np.float32)
    ours, plain = squared_error(rows, *rounded(rows, 4)), squared_error(rows, *to_greatest(rows, 7))
    assert (ours < plain).all()
    assert ours.sum() < 0.75 * plain.sum()


def test_scales_are_the_best_for_their_integers() -> None:
    rows = RNG.normal(size=(20, 60)).astype(np.float32)
    integers, scales = rounded(rows, 4)
    best = squared_error(rows, integers, scales)
    for factor in (0.99, 1.01):
        assert (squared_error(rows, integers, scales * np.float32(factor)) > best).all()


def test_rows_of_zeros_and_rows_of_one_number() -> None:
    integers, scales = rounded(np.zeros((2, 5), np.float32), 8)
    assert not integers.any()
    assert np.isfinite(scales).all()
    rows = np.array([[3.25], [-1e-20], [0]], np.float32)
    integers, scales = rounded(rows, 8)
    np.testing.assert_array_equal(integers * scales[:, None], rows)


def test_parts_are_put_together(monkeypatch) -> None:
    rows = RNG.normal(size=(37, 11)).astype(np.float32)
    whole = rounded(rows, 8)
    monkeypatch.setattr(rounding, "CHUNK", 30)
    for one, other in zip(whole, rounded(rows, 8), strict=True):
        np.testing.assert_array_equal(one, other)
