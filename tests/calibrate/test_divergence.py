"""How far outputs are off: divergence of scores, squared error of others; and what a layer's error does to them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from scipy.special import softmax

from onnxopt.calibrate.divergence import Reference
from onnxopt.calibrate.inputs import input_moments
from onnxopt.calibrate.sensitivity import output_error, sensitivities, shift
from onnxopt.core import Context
from onnxopt.data import open_dataset
from onnxopt.layers import changed, weights
from onnxopt.runtime import Session, input_specs
from onnxopt.samples import Samples
from onnxopt.target import Target
from onnxopt.testing import parse

CPU = Target()
NET = """g (float[n,6] x) => (float[n,3] y) <float[6,5] a, float[5] b, float[5,3] c, float[3] d>
{ h = Gemm(x, a, b)  i = Relu(h)  y = Gemm(i, c, d) }"""
X = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)


@pytest.fixture
def samples(save_npz: Callable[..., Path]) -> Callable[..., Samples]:
    """Samples of a model with one input ``x``."""

    def make(model: ir.Model, **arrays: np.ndarray) -> Samples:
        return Samples(open_dataset(str(save_npz(**{"x": X, **arrays})), input_specs(model)))

    return make


def outputs(model: ir.Model) -> np.ndarray:
    return np.asarray(Session(model, CPU).run({"x": X})["y"], np.float64)


def test_of_class_scores_it_is_the_divergence_of_their_distributions(samples: Callable[..., Samples]) -> None:
    model, other = parse(NET), parse(NET.replace("Relu", "Tanh"))
    labelled = samples(model, labels=np.zeros(40, np.int64))
    p, q = softmax(outputs(model), axis=1), softmax(outputs(other), axis=1)
    expected = (p * np.log(p / q)).sum(axis=1).mean()
    assert expected > 1e-3
    assert Reference(model, labelled, CPU).divergence(other) == pytest.approx(expected, rel=1e-6)
    assert Reference(model, labelled, CPU).divergence(model) == pytest.approx(0, abs=1e-12)


def test_probabilities_are_seen_without_labels(samples: Callable[..., Samples]) -> None:
    text = NET.replace("y = Gemm(i, c, d)", "k = Gemm(i, c, d)  y = Softmax(k)")
    model, other = parse(text), parse(text.replace("Relu", "Tanh"))
    p, q = outputs(model), outputs(other)
    expected = (p * np.log(p / q)).sum(axis=1).mean()
    assert Reference(model, samples(model), CPU).divergence(other) == pytest.approx(expected, rel=1e-4)


def test_of_other_floats_it_is_the_error_over_the_variance(samples: Callable[..., Samples]) -> None:
    model, other = parse(NET), parse(NET.replace("Relu", "Tanh"))
    y, z = outputs(model), outputs(other)
    expected = ((z - y) ** 2).sum() / ((y - y.mean(axis=0)) ** 2).sum()
    assert Reference(model, samples(model), CPU).divergence(other) == pytest.approx(expected, rel=1e-6)
    labelled = samples(model, labels=np.zeros(40, np.int64))
    assert Reference(model, labelled, CPU, errors=True).divergence(other) == pytest.approx(expected, rel=1e-6)


def test_what_is_not_finite_is_infinitely_far(samples: Callable[..., Samples]) -> None:
    model, broken = parse(NET), parse(NET.replace("i = Relu(h)", "z = Sub(h, h)  i = Div(h, z)"))
    for labels in ({}, {"labels": np.zeros(40, np.int64)}):
        assert Reference(model, samples(model, **labels), CPU).divergence(broken) == float("inf")


def test_a_state_that_is_fed_back_is_judged_only_where_there_is_nothing_else(save_npz: Callable[..., Path]) -> None:
    text = """g (float[1,6] x, float[1,6] s) => (float[1,6] y, float[1,6] t)
    { t = Add(x, s)  y = Identity(x) }"""
    model, other = parse(text), parse(text.replace("Add", "Sub"))
    state = {"s": "t"}
    data = open_dataset(str(save_npz(x=X)), input_specs(model), optional=state)
    walked = Samples(data, state, {"s": np.zeros((1, 6), np.float32)})
    assert Reference(model, walked, CPU).divergence(other) == 0


def test_the_error_of_outputs_is_computed_from_moments(samples: Callable[..., Samples]) -> None:
    model = parse(NET)
    context = Context(CPU, samples(model))
    rng = np.random.default_rng(1)
    moments = dict(input_moments(model, weights(model)[0], context))
    for weight, moment in moments.items():
        rows = (weight.rows + 0.1 * rng.normal(size=weight.rows.shape)).astype(np.float32)
        one = changed(model, {weight.name: (rows, shift(weight, rows, moment.mean))})
        (before, after) = (gives(each, weight.name) for each in (model, one))
        variance = ((before - before.mean(axis=0)) ** 2).sum()
        assert output_error(weight, rows, moment) == pytest.approx(((after - before) ** 2).sum() / variance, rel=1e-4)
        assert (after - before).mean(axis=0) == pytest.approx(0, abs=1e-5)


def test_without_a_bias_the_mean_counts(samples: Callable[..., Samples]) -> None:
    model = parse("g (float[n,6] x) => (float[n,3] y) <float[6,3] a> { y = MatMul(x, a) }")
    context = Context(CPU, samples(model, x=X + 2))
    ((weight, moment),) = input_moments(model, weights(model)[0], context)
    rows = weight.rows + np.float32(0.1)
    assert shift(weight, rows, moment.mean) is None
    after = gives(changed(model, {weight.name: (rows, None)}), "y", X + 2)
    before = gives(model, "y", X + 2)
    assert output_error(weight, rows, moment) == pytest.approx(
        ((after - before) ** 2).sum() / (before**2).sum(), rel=1e-4
    )


def gives(model: ir.Model, name: str, x: np.ndarray = X) -> np.ndarray:
    """A value inside the model."""
    copy = model.clone()
    value = next(value for node in copy.graph for value in node.outputs if value.name == name)
    value.type = ir.TensorType(ir.DataType.FLOAT)
    copy.graph.outputs.clear()
    copy.graph.outputs.append(value)
    return np.asarray(Session(copy, CPU).run({"x": x})[name], np.float64)


def test_a_layer_whose_outputs_hardly_count_is_less_sensitive(samples: Callable[..., Samples]) -> None:
    model = parse("""g (float[n,6] x) => (float[n,3] y) <float[6,3] a, float[3] b, float[6,3] c, float[3] d, float s>
    { h = Gemm(x, a, b)  k = Gemm(x, c, d)  l = Mul(k, s)  y = Add(h, l) }""")
    model.graph.initializers["s"].const_value = ir.tensor(np.float32(0.1))
    context = Context(CPU, samples(model))
    moments = dict(input_moments(model, weights(model)[0], context))
    found = {weight.name: value for weight, value in sensitivities(model, moments, context).items()}
    powers = {name: gives(model, name).var(axis=0).sum() for name in ("h", "k")}
    assert found["h"] / found["k"] == pytest.approx(powers["h"] / (0.01 * powers["k"]), rel=0.02)


def test_tokens_that_a_mask_hides_are_no_inputs(save_npz: Callable[..., Path]) -> None:
    model = parse("""g (float[n,4,3] x, int64[n,4] attention_mask) => (float[n,4,2] y, int64[n,4] m) <float[3,2] a>
    { y = MatMul(x, a)  m = Identity(attention_mask) }""")
    x = np.random.default_rng(0).normal(size=(8, 4, 3)).astype(np.float32)
    mask = np.tile(np.array([1, 1, 0, 0]), (8, 1))
    x[:, 2:] = 1000
    data = open_dataset(str(save_npz(x=x, attention_mask=mask)), input_specs(model))
    ((_, moment),) = input_moments(model, weights(model)[0], Context(CPU, Samples(data)))
    seen = x[:, :2].reshape(-1, 3).astype(np.float64)
    assert moment.vectors == 16
    np.testing.assert_allclose(moment.second[0], seen.T @ seen / 16, rtol=1e-5, atol=1e-5)


def test_what_a_model_gives_for_padding_does_not_count(save_npz: Callable[..., Path]) -> None:
    text = """g (float[n,4,3] x, int64[n,4] attention_mask) => (float[n,4,3] y, int64[n,4] m) <float[4,1] s>
    { y = Mul(x, s)  m = Identity(attention_mask) }"""
    model, other = parse(text), parse(text)
    for one, scale in ((model, [1, 1, 1, 1]), (other, [1, 1, 3, 3])):
        one.graph.initializers["s"].const_value = ir.tensor(np.array(scale, np.float32)[:, None])
    x = np.random.default_rng(0).normal(size=(8, 4, 3)).astype(np.float32)
    for mask, differs in (([1, 1, 0, 0], False), ([1, 1, 1, 0], True)):
        arrays = {"x": x, "attention_mask": np.tile(np.array(mask), (8, 1))}
        found = Samples(open_dataset(str(save_npz(**arrays)), input_specs(model)))
        assert (Reference(model, found, CPU).divergence(other) > 0) == differs
