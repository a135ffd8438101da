"""Second moments, against numpy."""

import numpy as np
import pytest

from onnxopt.calibrate import second_moments
from onnxopt.errors import DataError, ModelError
from onnxopt.runtime import Session
from onnxopt.target import Target
from onnxopt.testing import parse

CPU = Target()
RANDOM = np.random.default_rng(0)


def test_channels_of_images(conv_net, sampled, images) -> None:
    tapped = conv_net.clone()
    tapped.graph.outputs.extend(v for n in tapped.graph for v in n.outputs if v.name == "j")
    j = Session(tapped, CPU).run({"x": images})["j"]
    found = second_moments(conv_net, sampled(conv_net, x=images), {"x": 1, "j": 1, "f": -1}, CPU)
    assert found.refused == {}
    assert found.known["f"].vectors == 60
    for name, values in (("x", images), ("j", j)):
        vectors = np.moveaxis(values, 1, -1).reshape(-1, values.shape[1]).astype(np.float64)
        moment = found.known[name]
        assert moment.vectors == len(vectors)
        np.testing.assert_allclose(moment.second, vectors.T @ vectors / len(vectors), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(moment.mean, vectors.mean(axis=0), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(moment.covariance, np.cov(vectors.T, bias=True), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float", "float16"])
def test_the_diagonal_alone(sampled, dtype: str) -> None:
    model = parse(f"g ({dtype}[n,t,4] x) => ({dtype}[n,t,4] y) {{ y = Neg(x) }}")
    x = RANDOM.standard_normal((6, 5, 4)).astype(np.float16 if dtype == "float16" else np.float32)
    data = sampled(model, x=x)
    full, diagonal = (second_moments(model, data, {"y": -1}, CPU, diagonal=only).known["y"] for only in (False, True))
    assert diagonal.second.shape == (4,)
    np.testing.assert_allclose(diagonal.second, np.diag(full.second), rtol=1e-6)
    np.testing.assert_allclose(diagonal.covariance, np.diag(full.covariance), rtol=1e-5)
    np.testing.assert_allclose(diagonal.second, np.square(x.astype(np.float64)).mean((0, 1)), rtol=1e-5)


def test_states_are_fed_back(sampled) -> None:
    model = parse("g (float[1,2] x, float[1,2] h) => (float[1,2] y) { y = Add(x, h) }")
    data = sampled(model, {"h": "y"}, x=np.ones((3, 2), np.float32))
    moment = second_moments(model, data, {"y": 1}, CPU).known["y"]
    np.testing.assert_allclose(moment.second, np.full((2, 2), 14 / 3), rtol=1e-6)


def test_what_exceeds_the_budget_is_refused_with_the_reason(conv_net, sampled, images) -> None:
    data = sampled(conv_net, x=images)
    axes = {"k": 1, "x": 1, "j": 1}
    found = second_moments(conv_net, data, axes, CPU, budget=12 * (16 * 16 + 3 * 3))
    assert found.known.keys() == {"k", "x"}
    assert found.refused == {"j": "16 channels need 3,072 bytes, and 0 of the budget are left"}
    diagonal = second_moments(conv_net, data, axes, CPU, budget=12 * (16 * 16 + 3 * 3), diagonal=True)
    assert diagonal.known.keys() == axes.keys()
    assert second_moments(conv_net, data, axes, CPU, budget=0).known == {}


def test_a_channel_axis_of_unknown_size_is_refused(sampled) -> None:
    model = parse("g (float[n,t] x) => (float[n,t] y) { y = Neg(x) }")
    found = second_moments(model, sampled(model, x=np.ones((3, 2), np.float32)), {"y": -1, "x": 4}, CPU)
    assert found.refused == {"y": "its axis -1 has no fixed size", "x": "its axis 4 has no fixed size"}


def test_nan_is_an_error_that_names_value_and_sample(sampled) -> None:
    model = parse("g (float[n,3] x) => (float[n,3] y) { y = Sqrt(x) }")
    x = np.ones((40, 3), np.float32)
    x[11, 1] = -1
    with pytest.raises(DataError, match="value 'y' becomes NaN on sample 11 "):
        second_moments(model, sampled(model, x=x), {"x": 1, "y": 1}, CPU)
    with pytest.raises(ModelError, match="no value 'z'"):
        second_moments(model, sampled(model, x=x), {"z": 1}, CPU)
