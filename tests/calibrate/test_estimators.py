"""Estimators on distributions whose best range is known."""

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxopt.calibrate.estimators import ESTIMATORS, METHODS, Method, automatic, estimate, percentile
from onnxopt.calibrate.histogram import Histogram
from onnxopt.calibrate.observe import Seen
from onnxopt.calibrate.readers import bias_weights
from onnxopt.errors import UsageError
from onnxopt.testing import parse

CLIPPING = [name for name in ESTIMATORS if name != "min-max"]
RANDOM = np.random.default_rng(0)
NORMAL = RANDOM.standard_normal(1_000_000).astype(np.float32)


def histogram_of(numbers: np.ndarray) -> Histogram:
    histogram = Histogram()
    histogram.add(np.asarray(numbers, np.float32))
    return histogram


@pytest.mark.parametrize("relu", [False, True], ids=["both signs", "after a Relu"])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_all_but_min_max_clip_one_huge_outlier(name: str, relu: bool) -> None:
    numbers = np.append(np.maximum(NORMAL, 0) if relu else NORMAL, 50)
    low, high = estimate(histogram_of(numbers), name)
    assert high == 50 if name == "min-max" else 3 < high < 35
    assert low == 0 if relu else -5 < low < -3


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_uniform_distribution_is_hardly_clipped(name: str) -> None:
    low, high = estimate(histogram_of(RANDOM.uniform(-1, 2, 100_000)), name)
    assert (low, high) == pytest.approx((-1, 2), abs=0.005)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_end_on_the_near_side_of_zero_stays(name: str, sign: int) -> None:
    for numbers in (np.maximum(NORMAL, 0), 3 + np.abs(NORMAL)):
        near, far = sorted(estimate(histogram_of(sign * numbers), name), key=abs)
        assert abs(near) == numbers.min()
        assert 0.7 * numbers.max() < abs(far) <= numbers.max()


CONSTANT = {
    "all zeros": ([0.0] * 100, (0.0, 0.0)),
    "a constant": ([3.5] * 100, (3.5, 3.5)),
    "a negative constant": ([-3.5] * 100, (-3.5, -3.5)),
    "one number": ([2.25], (2.25, 2.25)),
    "zeros and one number": ([0.0] * 100 + [7.0], (0.0, 7.0)),
    "two signs": ([-1.0, 1.0], (-1.0, 1.0)),
}


@pytest.mark.parametrize("name", ["min-max", "entropy", "mse"])
@pytest.mark.parametrize(("numbers", "expected"), CONSTANT.values(), ids=CONSTANT.keys())
def test_few_different_numbers_are_kept(numbers: list[float], expected: tuple[float, float], name: str) -> None:
    assert estimate(histogram_of(np.array(numbers)), name) == pytest.approx(expected, rel=1e-6)


@given(numbers=st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=50), name=st.sampled_from(ESTIMATORS))
@settings(derandomize=True, deadline=None, max_examples=100, database=None)
def test_a_range_never_reaches_beyond_the_numbers(numbers: list[float], name: str) -> None:
    low, high = estimate(histogram_of(np.array(numbers)), name)
    assert min(numbers) <= low <= high <= max(numbers)


@pytest.mark.parametrize("percent", [99.0, 99.9, 99.99])
def test_percentile_is_that_of_numpy_within_a_bin(percent: float) -> None:
    histogram = histogram_of(NORMAL)
    expected = np.percentile(NORMAL, [(100 - percent) / 2, (100 + percent) / 2])
    assert percentile(histogram, percent) == pytest.approx(tuple(expected), abs=histogram.width)


def test_percentile_of_everything_is_min_max() -> None:
    assert percentile(histogram_of(NORMAL), 100) == (NORMAL.min(), NORMAL.max())


def test_entropy_keeps_the_zeros_of_a_relu_out_of_it() -> None:
    positive = np.abs(RANDOM.laplace(size=300_000)).astype(np.float32)
    plain, with_zeros = (estimate(histogram_of(x), "entropy") for x in (positive, np.append(positive, np.zeros(10**6))))
    assert plain[1] == pytest.approx(with_zeros[1], rel=0.1)


def test_moving_average_by_hand() -> None:
    seen = Seen()
    for low, high in ((-1.0, 1.0), (-4.0, 2.0), (-1.0, 6.0)):
        seen.add(low, high)
    assert seen.average == pytest.approx((-2.0, 3.0))
    assert (seen.low, seen.high) == (-4.0, 6.0)
    for _ in range(97):
        seen.add(-2.0, 3.0)
    seen.add(-102.0, 103.0)  # number 101 has the weight 0.01, as all after it
    assert seen.average == pytest.approx((-3.0, 4.0))


# --- auto ---


def output_error(numbers: np.ndarray, weights: np.ndarray, low: float, high: float) -> float:
    """Mean squared error of ``numbers @ weights`` through real quantization."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / 255
    zero = round(-low / scale)
    error = (np.clip(np.round(numbers / scale) + zero, 0, 255) - zero) * scale - numbers
    return float(np.mean((error @ weights) ** 2))


WEIGHTS = {"signs cancel": RANDOM.standard_normal((256, 16)), "all of one sign": np.full((256, 16), 1 / 256)}


@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS.keys())
def test_auto_moves_the_layers_output_the_least(weights: np.ndarray) -> None:
    numbers = np.abs(np.random.default_rng(1).laplace(size=(4000, 256))).astype(np.float32)
    histogram = histogram_of(numbers)
    weight = float(np.square(weights.sum(0)).sum() / np.square(weights).sum())
    ranges = {name: estimate(histogram, name) for name in ESTIMATORS}
    real = {name: output_error(numbers, weights, *ends) for name, ends in ranges.items()}
    name, ends = automatic(histogram, 99.99, weight)
    assert ends == ranges[name]
    assert real[name] <= 1.1 * min(real.values())


def test_auto_clips_less_where_a_bias_adds_up() -> None:
    """A layer that sums millions of numbers alike: errors of rounding cancel in it, those of clipping do not."""
    histogram = histogram_of(np.append(np.linspace(0, 1, 1_000_001), [1.5, 1.5]))
    assert automatic(histogram, 99.99, 1.0)[0] != "min-max"
    assert automatic(histogram, 99.99, 1e7)[0] == "min-max"


def test_auto_does_not_clip_for_less_than_one_percent() -> None:
    assert automatic(histogram_of(RANDOM.uniform(0, 1, 100_000)), 99.99, 1.0)[0] == "min-max"


def test_bias_weights_are_those_of_the_linear_readers() -> None:
    model = parse(
        """g (float[1,4,5,5] x, float[2,4] z) => (float[1,2,5,5] a, float[2,2] b, float[2,2] c, float[2,4] d)
        <float[2,4,1,1] v, float[4,2] w, float[2,4] u, float[2] s>
        { a = Conv(x, v)  b = MatMul(z, w)  c = Gemm<transB=1>(z, u, s)  r = Relu(x)  d = Relu(z) }"""
    )
    arrays = {"v": [[1, 1, 1, 1], [1, -1, 1, -1]], "w": [[1, 2]] * 4, "u": [[1, 0, 0, 0], [0, 0, 0, 2]]}
    for name, numbers in arrays.items():
        value = model.graph.initializers[name]
        shape = value.shape.numpy()
        value.const_value = ir.tensor(np.array(numbers, np.float32).reshape(shape), name=name)
    found = bias_weights(model, ["x", "z", "r"])
    assert found == pytest.approx({"x": 16 / 8, "z": (16 + 64 + 1 + 4) / (4 + 16 + 1 + 4), "r": 1.0})


# --- words ---


@pytest.mark.parametrize("words", [*METHODS, "percentile:99.9", "percentile:100"])
def test_methods_are_parsed_and_printed(words: str) -> None:
    method = Method.parse(words)
    assert Method.parse(str(method)) == method
    assert method.needs_histogram == (method.name not in ("min-max", "moving-average"))


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("percentil", "did you mean 'percentile'"),
        ("percentile:x", "50 to 100"),
        ("percentile:101", "50 to 100"),
        ("mse:99", "percentile alone takes a number"),
    ],
)
def test_unknown_methods_are_errors(words: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        Method.parse(words)
