"""Calibration: the ranges that numpy finds, in one pass."""

from pathlib import Path

import numpy as np
import pytest

from onnxopt.calibrate import calibrate
from onnxopt.data import open_dataset
from onnxopt.errors import DataError
from onnxopt.runtime import Session, input_specs
from onnxopt.samples import with_state
from onnxopt.target import Target
from onnxopt.testing import parse

CPU = Target()


def samples(model, path: Path, state=None):
    return with_state(open_dataset(str(path), input_specs(model), optional=state or {}), model, state or {})


def test_ranges_are_those_of_all_samples(conv_net, save_npz, images) -> None:
    names = ["x", "j", "k", "y"]
    learned = calibrate(conv_net, samples(conv_net, save_npz(x=images)), names, CPU)
    tapped = conv_net.clone()
    tapped.graph.outputs.extend(v for n in tapped.graph for v in n.outputs if v.name in ("j", "k"))
    values = {"x": images, **Session(tapped, CPU, optimize=False).run({"x": images})}
    assert learned.samples == 60
    for name in names:
        expected = float(values[name].min()), float(values[name].max())
        assert learned.bounds[name] == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_half_precision_values(save_npz) -> None:
    model = parse("g (float16[n,4] x) => (float16[n,4] y) { y = Neg(x) }")
    data = np.arange(8, dtype=np.float16).reshape(2, 4)
    assert calibrate(model, samples(model, save_npz(x=data)), ["y"], CPU).bounds == {"y": (-7.0, 0.0)}


def test_states_are_fed_back(save_npz) -> None:
    model = parse("g (float[1,2] x, float[1,2] h) => (float[1,2] y) { y = Add(x, h) }")
    data = samples(model, save_npz(x=np.ones((5, 2), np.float32)), {"h": "y"})
    assert calibrate(model, data, ["y"], CPU).bounds == {"y": (1.0, 5.0)}


def test_a_value_that_becomes_infinite_is_an_error_that_names_it(save_npz) -> None:
    model = parse("g (float[n,2] x) => (float[n,2] y) { e = Exp(x)  y = Neg(e) }")
    with pytest.raises(DataError, match="'e' becomes inf"):
        calibrate(model, samples(model, save_npz(x=np.full((3, 2), 1000, np.float32))), ["e"], CPU)


def test_the_model_is_not_changed(conv_net, save_npz, images) -> None:
    outputs = [value.name for value in conv_net.graph.outputs]
    calibrate(conv_net, samples(conv_net, save_npz(x=images)), ["j"], CPU)
    assert [value.name for value in conv_net.graph.outputs] == outputs
