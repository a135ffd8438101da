"""What becomes of values in 16 bits, against numpy."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from onnxopt.calibrate.rounding import magnitudes
from onnxopt.data import open_dataset
from onnxopt.errors import ModelError
from onnxopt.runtime import input_specs
from onnxopt.samples import Samples
from onnxopt.target import Target
from onnxopt.testing import parse

MODEL = "g (float[n,8] x) => (float[n,8] y) { h = Abs(x)  y = Sqrt(h) }"
CPU = Target()


def given(model: ir.Model, save_npz: Callable[..., Path], x: np.ndarray) -> Samples:
    return Samples(open_dataset(str(save_npz(x=x)), input_specs(model)))


@pytest.mark.parametrize("half", [ir.DataType.FLOAT16, ir.DataType.BFLOAT16], ids=["float16", "bfloat16"])
def test_as_numpy_has_it(half: ir.DataType, save_npz: Callable[..., Path]) -> None:
    model = parse(MODEL)
    x = np.random.default_rng(0).normal(size=(70, 8)).astype(np.float32) * np.float32(1e-3)
    x[3, 3] = 7
    found = magnitudes(model, given(model, save_npz, x), ["x", "h", "y"], CPU, half)
    for name, numbers in (("x", x), ("h", np.abs(x)), ("y", np.sqrt(np.abs(x)))):
        gap = numbers - numbers.astype(half.numpy()).astype(np.float32)
        one = found[name]
        assert (one.low, one.high) == pytest.approx((numbers.min(), numbers.max()), rel=1e-5)
        assert one.peak == pytest.approx(np.abs(numbers).max(), rel=1e-5)
        assert one.root == pytest.approx(np.sqrt(np.square(numbers).mean()), rel=1e-4)
        assert one.error == pytest.approx(np.sqrt(np.square(gap).sum() / np.square(numbers).sum()), rel=0.02)
    assert found["x"].least == 0
    assert found["h"].least == pytest.approx(np.abs(x).min(), rel=1e-5)


def test_infinity_hides_the_rest_but_not_the_size(save_npz: Callable[..., Path]) -> None:
    model = parse("g (float[n,8] x) => (float[n,8] y) { y = Log(x) }")
    x = np.ones((4, 8), np.float32)
    x[0, 0], x[1, 1] = 0, np.exp(3)
    found = magnitudes(model, given(model, save_npz, x), ["y"], CPU, ir.DataType.FLOAT16)["y"]
    assert found.peak == pytest.approx(3)
    assert np.isnan(found.error)


def test_values_beyond_float16_are_lost(save_npz: Callable[..., Path]) -> None:
    model = parse(MODEL)
    x = np.full((4, 8), 1e5, np.float32)
    assert np.isinf(magnitudes(model, given(model, save_npz, x), ["x"], CPU, ir.DataType.FLOAT16)["x"].lost)


def test_an_unknown_name(save_npz: Callable[..., Path]) -> None:
    model = parse(MODEL)
    with pytest.raises(ModelError, match="no value 'z'"):
        magnitudes(model, given(model, save_npz, np.ones((4, 8), np.float32)), ["z"], CPU, ir.DataType.FLOAT16)
    assert magnitudes(model, given(model, save_npz, np.ones((4, 8), np.float32)), [], CPU, ir.DataType.FLOAT16) == {}
