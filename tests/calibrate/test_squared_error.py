"""The squared error by the histogram, against numbers that are really quantized."""

import itertools

import numpy as np
import pytest

from onnxopt.calibrate.histogram import Histogram
from onnxopt.calibrate.squared_error import errors, least

COUNT = 200_000
RANDOM = np.random.default_rng(0)
NORMAL = RANDOM.standard_normal(COUNT)
CASES = {
    "normal": NORMAL,
    "after a Relu": np.maximum(NORMAL, 0),
    "after a Relu6": np.clip(4 * NORMAL, 0, 6),
    "after a SiLU": NORMAL / (1 + np.exp(-NORMAL)),
    "Laplace": RANDOM.laplace(size=COUNT),
    "heavy tails": RANDOM.standard_t(3, COUNT),
    "log-normal": np.exp(NORMAL),
    "uniform": RANDOM.uniform(-1, 2, COUNT),
    "away from zero": RANDOM.uniform(3, 4, COUNT),
    "one outlier": np.append(NORMAL, 60),
}


def quantization_error(numbers: np.ndarray, low: float, high: float, levels: int = 256) -> np.ndarray:
    """As QuantizeLinear and DequantizeLinear do it."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / (levels - 1)
    zero = round(-low / scale)
    return (np.clip(np.round(numbers / scale) + zero, 0, levels - 1) - zero) * scale - numbers


def histogram_of(numbers: np.ndarray) -> Histogram:
    histogram = Histogram()
    histogram.add(numbers.astype(np.float32))
    return histogram


@pytest.mark.parametrize("levels", [16, 256])
@pytest.mark.parametrize("numbers", CASES.values(), ids=CASES.keys())
def test_errors_are_those_of_real_quantization(numbers: np.ndarray, levels: int) -> None:
    histogram = histogram_of(numbers)
    lows, highs = np.array([(f * histogram.low, g * histogram.high) for f in (1, 0.6) for g in (1, 0.7, 0.3)]).T
    mean, square = errors(histogram, lows, highs, levels)
    for i, (low, high) in enumerate(zip(lows, highs, strict=True)):
        real = quantization_error(numbers, low, high, levels)
        assert square[i] == pytest.approx(np.mean(real**2), rel=0.03)
        assert mean[i] == pytest.approx(np.mean(real), abs=0.03 * np.sqrt(np.mean(real**2)))


@pytest.mark.parametrize("numbers", CASES.values(), ids=CASES.keys())
def test_the_best_range_is_that_of_brute_force(numbers: np.ndarray) -> None:
    """The numbers themselves quantized, for 24 x 24 ends or 200 where one moves; a sample of them, for time."""
    numbers = numbers[-20_000:]
    histogram = histogram_of(numbers)
    low, high = histogram.low, histogram.high
    steps = np.linspace(1, 0.15, 24 if low < 0 < high else 200)
    tried = itertools.product(low * steps if low < 0 else [low], high * steps if high > 0 else [high])
    best = min(float(np.mean(quantization_error(numbers, *ends) ** 2)) for ends in tried)
    found = float(np.mean(quantization_error(numbers, *least(histogram)) ** 2))
    assert found <= 1.01 * best


def test_points_are_exact() -> None:
    """A constant is on its own grid; clipped, it is not."""
    constant = histogram_of(np.full(10, 3.7))
    assert errors(constant, np.array([3.7]), np.array([np.float32(3.7)]))[1] == pytest.approx([0], abs=1e-12)
    mean, square = errors(constant, np.array([0.0]), np.array([3.2]))
    assert (mean[0], square[0]) == pytest.approx((-0.5, 0.25))


@pytest.mark.parametrize(
    "numbers", [np.zeros(9), np.full(9, 5.0), np.full(9, -5.0), np.array([2.0])], ids=["zeros", "5", "-5", "one number"]
)
def test_constants_are_not_clipped(numbers: np.ndarray) -> None:
    assert least(histogram_of(numbers)) == (numbers[0], numbers[0])
