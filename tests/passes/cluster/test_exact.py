"""Constants that few levels hold exactly."""

import numpy as np
import pytest

from onnxopt.passes.cluster.exact import exact
from onnxopt.passes.cluster.forms import Grid, Packed

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("count", [1, 2, 16, 100, 128])
def test_few_distinct_numbers_are_kept_bit_by_bit(count: int) -> None:
    table = RANDOM.normal(size=count).astype(np.float32)
    numbers = table[RANDOM.integers(0, count, (40, 30))]
    found = exact(numbers, 0)
    assert isinstance(found, Packed)
    np.testing.assert_array_equal(found.values.view(np.uint32), numbers.view(np.uint32))


def test_zero_and_minus_zero_are_two() -> None:
    numbers = np.array([[0.0, -0.0, 1.0]], np.float32)
    found = exact(numbers, 0)
    assert isinstance(found, Packed)
    np.testing.assert_array_equal(np.signbit(found.values), np.signbit(numbers))


def test_too_many_distinct_numbers() -> None:
    assert exact(RANDOM.normal(size=(20, 30)).astype(np.float32), 0) is None
    late = np.zeros((100, 60), np.float32)
    late[90:] = RANDOM.normal(size=(10, 60))
    assert exact(late, 0) is None


@pytest.mark.parametrize("largest", [127, 126, 93])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_grid_of_integers_in_each_channel(largest: int, axis: int) -> None:
    integers = RANDOM.integers(-largest, largest + 1, (24, 36))
    integers[(slice(None), 0) if axis == 0 else (0, slice(None))] = largest
    scales = RANDOM.uniform(0.001, 3, integers.shape[axis]).astype(np.float32)
    numbers = (integers * (scales[:, None] if axis == 0 else scales)).astype(np.float32)
    found = exact(numbers, axis)
    assert isinstance(found, Grid)
    np.testing.assert_allclose(found.values, numbers, rtol=1e-6)
    np.testing.assert_array_equal(np.abs(found.integers), np.abs(integers))


def test_a_coarse_grid_takes_fewer_bits() -> None:
    scales = RANDOM.uniform(0.1, 3, (32, 1)).astype(np.float32)
    numbers = (RANDOM.integers(-3, 4, (32, 40)) * scales).astype(np.float32)
    numbers[:, 0] = 3 * scales[:, 0]
    found = exact(numbers, 0)
    assert isinstance(found, Packed)
    assert len(found.table) <= 7
    np.testing.assert_allclose(found.values, numbers, rtol=1e-6)


def test_channels_of_zeros_are_on_any_grid() -> None:
    numbers = (RANDOM.integers(-127, 128, (8, 50)) * 0.01).astype(np.float32)
    numbers[:, 0], numbers[3] = 1.27, 0
    found = exact(numbers, 0)
    assert found is not None
    np.testing.assert_allclose(found.values, numbers, atol=1e-7)


def test_a_number_beside_the_grid() -> None:
    numbers = (RANDOM.integers(-127, 128, (8, 50)) * 0.01).astype(np.float32)
    numbers[:, 0] = 1.27
    numbers[7, 20] += 0.003
    assert exact(numbers, 0) is None


def test_integers_of_few_kinds() -> None:
    numbers = RANDOM.choice(np.array([-100, 0, 3, 90], np.int8), (20, 20))
    found = exact(numbers, 0)
    assert isinstance(found, Packed)
    assert found.table.dtype == np.int8
    np.testing.assert_array_equal(found.values, numbers)
