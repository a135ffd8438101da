"""The accuracy gate: paired drop, interval, verdict."""

import numpy as np
import pytest

from onnxopt import gate as gates
from onnxopt.data import open_dataset
from onnxopt.gate import Gate, Limits
from onnxopt.metrics import find_metric
from onnxopt.runtime import Session, input_specs
from onnxopt.samples import with_state
from onnxopt.target import Target
from onnxopt.testing import parse

CPU = Target()
IDENTITY = "g (float[n,4] x) => (float[n,4] y) { y = Identity(x) }"
REVERSED = "g (float[n,4] x) => (float[n,4] y) <int64[4] i = {3,2,1,0}> { y = Gather<axis=1>(x, i) }"


def scores(count: int, wrong: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores whose largest is the label, but for the first ``wrong`` samples."""
    labels = np.arange(count) % 4
    x = np.eye(4, dtype=np.float32)[(labels + (np.arange(count) < wrong)) % 4]
    return x, labels


DEFAULT = Limits()


def make(save_npz, limits=DEFAULT, metric=None, wrong=0, labels=True):
    x, y = scores(100, wrong)
    model = parse(IDENTITY)
    data = open_dataset(str(save_npz(x=x, **({"labels": y} if labels else {}))), input_specs(model))
    found = find_metric(metric, data.has_labels, class_labels=data.has_class_labels)
    return model, Gate(model, found, with_state(data, model, {}), limits, CPU)


def test_the_original_does_not_drop(save_npz) -> None:
    model, gate = make(save_npz, wrong=10)
    drop = gate.measure(model)
    assert (drop.before, drop.after, drop.drop, drop.low, drop.high) == (0.9, 0.9, 0.0, 0.0, 0.0)
    assert drop.passed
    assert drop.samples == 100


def test_a_worse_model_is_refused_and_the_drop_is_absolute(save_npz) -> None:
    _, gate = make(save_npz)
    drop = gate.measure(parse(REVERSED))
    assert drop.drop == 1.0
    assert not drop.passed


def test_without_labels_agreement_is_asked(save_npz) -> None:
    _, gate = make(save_npz, labels=False)
    assert gate.metric.name == "agreement"
    assert gate.measure(parse(REVERSED)).after == 0.0


def test_the_interval_is_asked_where_confidence_is_given(save_npz) -> None:
    """2 of 100 become wrong: the point passes a limit of 0.03, the end of the interval does not."""
    x, labels = scores(100, 0)
    x[:2] = 0.0
    x[:2, 0] = 0.1  # samples 0 and 1 are decided by little
    x[0, 0], x[1, 1] = 0.2, 0.2
    model = parse(IDENTITY)
    path = save_npz(x=x, labels=labels)
    data = with_state(open_dataset(str(path), input_specs(model)), model, {})
    tilt = parse("g (float[n,4] x) => (float[n,4] y) <float[4] e = {0.0, 0.0, 0.0, 0.5}> { y = Add(x, e) }")
    point = Gate(model, find_metric("top1", True), data, Limits(0.03), CPU).measure(tilt)
    ends = Gate(model, find_metric("top1", True), data, Limits(0.03, strict_interval=True), CPU).measure(tilt)
    assert point.drop == pytest.approx(0.02)
    assert point.high > 0.03
    assert point.passed
    assert not ends.passed


def test_a_score_can_be_asked_in_place_of_a_drop(save_npz) -> None:
    model, gate = make(save_npz, Limits(min_score=0.95), wrong=10)
    assert not gate.measure(model).passed
    model, gate = make(save_npz, Limits(min_score=0.85), wrong=10)
    assert gate.measure(model).passed


def test_a_score_asked_of_an_error_is_an_upper_bound(save_npz) -> None:
    _, gate = make(save_npz, Limits(min_score=0.1), metric="mse")
    assert gate.measure(parse(IDENTITY)).passed
    assert not gate.measure(parse(REVERSED)).passed


def test_outputs_too_large_to_keep_are_computed_again(save_npz, monkeypatch) -> None:
    monkeypatch.setattr(gates, "KEPT_BYTES", 10)
    model, gate = make(save_npz, wrong=10)
    assert gate._kept is None
    assert gate.measure(model).drop == 0.0


def test_states_are_each_models_own_and_not_judged(save_npz) -> None:
    """The second model keeps a state of another scale but gives the same outputs: no drop."""
    text = "g (float[1,2] x, float[1,2] h) => (float[1,2] y, float[1,2] n) {{ n = Add(x, h)  y = {y}(n) }}"
    doubled = """g (float[1,2] x, float[1,2] h) => (float[1,2] y, float[1,2] n) <float t = {2.0}>
    { d = Mul(x, t)  n = Add(d, h)  i = Div(n, t)  y = Identity(i) }"""
    model = parse(text.format(y="Identity"))
    data = open_dataset(str(save_npz(x=np.ones((20, 2), np.float32))), input_specs(model), optional={"h"})
    samples = with_state(data, model, {"h": "n"})
    gate = Gate(model, find_metric("max-abs-error", False), samples, Limits(), CPU)
    assert gate.measure(parse(doubled)).drop == pytest.approx(0.0, abs=1e-6)
    assert gate.measure(parse(text.format(y="Neg"))).drop > 1
    assert Session(model, CPU).outputs == ("y", "n")
