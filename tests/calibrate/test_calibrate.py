"""Calibration: the ranges that numpy finds, in one pass."""

import tracemalloc

import numpy as np
import pytest

from onnxopt import files
from onnxopt.calibrate import METHODS, calibrate, observe
from onnxopt.calibrate.estimators import estimate
from onnxopt.calibrate.histogram import Histogram
from onnxopt.calibrate.tap import Extremes
from onnxopt.errors import DataError, ModelError, UsageError
from onnxopt.runtime import Session
from onnxopt.target import Target
from onnxopt.testing import parse

CPU = Target()
NAMES = ["y", "x", "j", "k"]


@pytest.fixture
def values(conv_net, images) -> dict[str, np.ndarray]:
    """What the named values of conv_net are, without calibration."""
    tapped = conv_net.clone()
    tapped.graph.outputs.extend(v for n in tapped.graph for v in n.outputs if v.name in ("j", "k"))
    return {"x": images, **Session(tapped, CPU).run({"x": images})}


def test_ranges_are_those_of_all_samples(conv_net, sampled, images, values) -> None:
    learned = calibrate(conv_net, sampled(conv_net, x=images), NAMES, CPU)
    assert (learned.samples, learned.method) == (60, "min-max")
    for name in NAMES:
        expected = float(values[name].min()), float(values[name].max())
        assert learned.bounds[name] == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("method", ["percentile", "percentile:99", "entropy", "mse"])
def test_histograms_are_those_of_all_samples(conv_net, sampled, images, values, method: str) -> None:
    learned = calibrate(conv_net, sampled(conv_net, x=images), NAMES, CPU, method)
    for name in NAMES:
        histogram = Histogram()
        histogram.add(values[name])
        kind, _, percent = method.partition(":")
        expected = estimate(histogram, kind, *([float(percent)] if percent else []))
        assert learned.bounds[name] == pytest.approx(expected, rel=0.02)


def test_averages_are_over_samples(conv_net, sampled, images, values) -> None:
    learned = calibrate(conv_net, sampled(conv_net, x=images), NAMES, CPU, "moving-average")
    for name in NAMES:
        samples = values[name].reshape(60, -1)
        expected = samples.min(axis=1).mean(), samples.max(axis=1).mean()
        assert learned.bounds[name] == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_auto_says_what_it_chose(conv_net, sampled, images) -> None:
    data = sampled(conv_net, x=images)
    learned = calibrate(conv_net, data, NAMES, CPU, "auto")
    assert learned.chosen.keys() == set(NAMES)
    for name, chosen in learned.chosen.items():
        assert learned.bounds[name] == calibrate(conv_net, data, [name], CPU, chosen).bounds[name]


@pytest.mark.parametrize("method", METHODS)
def test_half_precision_values(sampled, method: str) -> None:
    model = parse("g (float16[n,4] x) => (float16[n,4] y) { y = Neg(x) }")
    data = np.arange(8, dtype=np.float16).reshape(2, 4)
    low, high = calibrate(model, sampled(model, x=data), ["y"], CPU, method).bounds["y"]
    assert (low, high) == pytest.approx((-5, -2) if method == "moving-average" else (-7, 0), abs=0.01)


@pytest.mark.parametrize("method", METHODS)
def test_states_are_fed_back(sampled, method: str) -> None:
    model = parse("g (float[1,2] x, float[1,2] h) => (float[1,2] y, float[1,2] z) { y = Add(x, h)  z = Neg(y) }")
    data = sampled(model, {"h": "y"}, x=np.ones((5, 2), np.float32))
    bounds = calibrate(model, data, ["y", "h", "z"], CPU, method).bounds
    if method == "moving-average":
        assert bounds == {"y": (3.0, 3.0), "h": (2.0, 2.0), "z": (-3.0, -3.0)}
    else:
        expected = {"y": (1.0, 5.0), "h": (0.0, 4.0), "z": (-5.0, -1.0)}
        assert bounds.keys() == expected.keys()
        for name, ends in expected.items():
            assert bounds[name] == pytest.approx(ends, abs=0.01)


@pytest.mark.parametrize("method", METHODS)
def test_one_sample(conv_net, sampled, images, method: str) -> None:
    learned = calibrate(conv_net, sampled(conv_net, x=images[:1]), NAMES, CPU, method)
    assert learned.samples == 1
    assert learned.bounds.keys() == set(NAMES)


@pytest.mark.parametrize("method", METHODS)
def test_zeros_and_constants(sampled, method: str) -> None:
    model = parse(
        """g (float[n,2] x) => (float[n,2] y) <float[2] w = {1.5, 1.5}, float[2] b = {0, 0}>
        { z = Mul(x, b)  c = Add(z, w)  y = Neg(c) }"""
    )
    data = sampled(model, x=np.random.default_rng(0).standard_normal((4, 2)).astype(np.float32))
    bounds = calibrate(model, data, ["z", "c", "y", "w"], CPU, method).bounds
    assert bounds == {"z": (0.0, 0.0), "c": (1.5, 1.5), "y": (-1.5, -1.5), "w": (1.5, 1.5)}


@pytest.mark.parametrize("method", METHODS)
def test_values_without_numbers_have_no_range(sampled, method: str) -> None:
    model = parse(
        """g (float[n,2] x) => (float[n,2] y) <int64[1] s = {0}, int64[1] e = {0}, int64[1] a = {1}>
        { past = Slice(x, s, e, a)  y = Concat<axis=1>(past, x) }"""
    )
    data = sampled(model, x=np.ones((3, 2), np.float32))
    assert calibrate(model, data, ["past", "y"], CPU, method).bounds == {"y": (1.0, 1.0)}


def test_no_names_are_no_ranges(conv_net, sampled, images) -> None:
    assert calibrate(conv_net, sampled(conv_net, x=images), [], CPU).bounds == {}


def test_types_that_the_file_does_not_state_are_inferred(conv_net, sampled, images) -> None:
    for node in conv_net.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.type = value.shape = None
    for method in ("min-max", "mse"):
        assert calibrate(conv_net, sampled(conv_net, x=images), ["j"], CPU, method).bounds["j"][0] == 0


# --- what cannot be calibrated ---


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("body", "number", "message"),
    [
        ("r = Sqrt(x)  y = Relu(r)", -1.0, "value 'r' becomes NaN on sample 37 of .*data.npz"),
        ("e = Exp(x)  y = Neg(e)", 1000.0, "value 'e' becomes inf on sample 37 of .*data.npz"),
    ],
)
def test_nan_and_infinity_are_errors_that_name_value_and_sample(
    sampled, method: str, body: str, number: float, message: str
) -> None:
    """NaN lies in the middle: ONNX Runtime's ReduceMin and ReduceMax would pass over it."""
    model = parse(f"g (float[n,5] x) => (float[n,5] y) {{ {body} }}")
    numbers = np.ones((60, 5), np.float32)
    numbers[37, 3] = number
    names = sorted({"x", "y", body[0]})
    with pytest.raises(DataError, match=message):
        calibrate(model, sampled(model, x=numbers), names, CPU, method)


@pytest.mark.parametrize("method", ["min-max", "mse"])
def test_the_sample_is_that_of_the_file_whatever_view_is_calibrated_on(sampled, method: str) -> None:
    model = parse("g (float[n,5] x) => (float[n,5] y) { y = Sqrt(x) }")
    numbers = np.ones((60, 5), np.float32)
    numbers[7, 3] = -1
    parts = sampled(model, x=numbers).split(0.5, seed=0)
    part = next(part for part in parts if 7 in part.data.index)
    with pytest.raises(DataError, match="on sample 7 of"):
        calibrate(model, part, ["y"], CPU, method)


@pytest.mark.parametrize("method", ["min-max", "mse"])
def test_the_sample_at_which_a_state_overflows(sampled, method: str) -> None:
    model = parse(
        "g (float[1,2] x, float[1,2] h) => (float[1,2] y) <float[1] c = {1e20}> { s = Add(x, h)  y = Mul(s, c) }"
    )
    data = sampled(model, {"h": "y"}, x=np.ones((5, 2), np.float32))
    with pytest.raises(DataError, match="value 'y' becomes inf on sample 1 "):
        calibrate(model, data, ["s", "y"], CPU, method)


def test_a_batch_that_cannot_be_taken_apart_names_all_its_samples(sampled) -> None:
    model = parse("g (float[3,2] x) => (float[3,2] y) { y = Sqrt(x) }")
    numbers = np.ones((9, 2), np.float32)
    numbers[4, 0] = -1
    with pytest.raises(DataError, match="on one of the samples 3, 4, 5 of"):
        calibrate(model, sampled(model, x=numbers), ["y"], CPU)


@pytest.mark.parametrize("method", METHODS)
def test_the_largest_numbers_of_attention_masks_are_no_error(sampled, method: str) -> None:
    """Their sum overflows."""
    model = parse("g (float[n,4] x) => (float[n,4] y) { y = Neg(x) }")
    mask = np.tile(np.float32([0, -3.4e38, -3.4e38, 3.4e38]), (40, 1))
    low, high = calibrate(model, sampled(model, x=mask), ["y"], CPU, method).bounds["y"]
    assert -3.5e38 < low < -3e38
    assert 3e38 < high < 3.5e38


@pytest.mark.parametrize("method", ["min-max", "mse"])
@pytest.mark.parametrize(
    ("name", "reason"), [("jj", "no value 'jj'; did you mean 'j'"), ("i", "'i' is INT64; only float")]
)
def test_a_value_that_is_not_there_or_not_float(sampled, method: str, name: str, reason: str) -> None:
    model = parse("g (float[n,2] x) => (float[n,2] y, int64[n,2] i) { j = Neg(x)  i = Cast<to=7>(j)  y = Neg(j) }")
    with pytest.raises(ModelError, match=reason):
        calibrate(model, sampled(model, x=np.ones((3, 2), np.float32)), ["j", name], CPU, method)


def test_an_unknown_method(conv_net, sampled, images) -> None:
    with pytest.raises(UsageError, match="did you mean 'entropy'"):
        calibrate(conv_net, sampled(conv_net, x=images), ["j"], CPU, "entrophy")


# --- what it costs ---


@pytest.mark.parametrize("method", METHODS)
def test_the_model_is_not_changed(conv_net, sampled, images, method: str) -> None:
    before = files.to_bytes(conv_net)
    calibrate(conv_net, sampled(conv_net, x=images), ["j"], CPU, method)
    assert files.to_bytes(conv_net) == before


@pytest.mark.parametrize("method", METHODS)
def test_memory_does_not_grow_with_the_samples(sampled, method: str) -> None:
    """The peak of what Python and numpy hold; one sample is 192 kB, and a value of it twice that.

    All samples are the same: a wider range takes other bins.
    """
    model = parse(
        """g (float[1,3,128,128] x) => (float[1,6,128,128] y) <float[6,3,3,3] w>
        { h = Conv<pads=[1,1,1,1]>(x, w)  y = Relu(h) }"""
    )
    image = np.random.default_rng(0).standard_normal((1, 3, 128, 128)).astype(np.float32)
    data = sampled(model, x=image.repeat(50, axis=0))
    calibrate(model, data.take(2), ["x", "h", "y"], CPU, method)  # what is imported late
    peaks = []
    for count in (5, 50):
        tracemalloc.start()
        calibrate(model, data.take(count), ["x", "h", "y"], CPU, method)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 100_000


def test_extremes_are_found_in_the_graph_and_nothing_else_is_returned(conv_net, sampled, images, monkeypatch) -> None:
    returned = []
    run = Session.run
    monkeypatch.setattr(Session, "run", lambda self, feeds: returned.append(run(self, feeds)) or dict(returned[-1]))
    calibrate(conv_net, sampled(conv_net, x=images), ["j", "k"], CPU)
    assert {array.size for outputs in returned for array in outputs.values()} == {1}


def test_each_extreme_is_taken_where_the_value_is_made(conv_net) -> None:
    """ONNX Runtime runs the branch of the last node first: in this order no value outlives its readers."""
    taps = [node.inputs[0].name for node in Extremes.of(conv_net, ["l", "j", "k"]).model.graph][-9:]
    assert taps == [*["l"] * 3, *["k"] * 3, *["j"] * 3]


def test_only_as_many_samples_at_once_as_fit(conv_net, sampled, images, monkeypatch) -> None:
    sizes = []
    run = Session.run
    monkeypatch.setattr(Session, "run", lambda self, feeds: sizes.append(len(feeds["x"])) or run(self, feeds))
    monkeypatch.setattr(observe, "FETCHED", 10 * 16 * 8 * 8 * 4)
    calibrate(conv_net, sampled(conv_net, x=images), ["j"], CPU, "mse")
    assert sizes == [1, *[10] * 6]
