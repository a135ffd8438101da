"""Bias correction: the channels of a quantized layer have the means they had."""

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from onnxopt.core import Context
from onnxopt.passes.quantize.quantize_int8 import QuantizeInt8
from onnxopt.runtime import Session
from onnxopt.samples import Samples, random_samples
from onnxopt.target import Target
from onnxopt.testing import parse

CPU = Target()
NETS = {
    "a convolution without bias": (
        """g (float[n,4,6,6] x) => (float[n,6,6,6] y) <float[6,4,3,3] w>
        { h = Relu(x)  y = Conv<pads=[1,1,1,1]>(h, w) }""",
        (0, 2, 3),
    ),
    "one with bias": (
        """g (float[n,4,6,6] x) => (float[n,6,6,6] y) <float[6,4,3,3] w, float[6] b>
        { h = Relu(x)  y = Conv<pads=[1,1,1,1]>(h, w, b) }""",
        (0, 2, 3),
    ),
    "a Gemm": ("g (float[n,16] x) => (float[n,6] y) <float[16,6] w> { h = Relu(x)  y = Gemm(h, w) }", (0,)),
    "a convolution in one dimension": (
        "g (float[n,4,9] x) => (float[n,6,7] y) <float[6,4,3] w> { h = Relu(x)  y = Conv(h, w) }",
        (0, 2),
    ),
}


def channel_errors(model: ir.Model, samples: Samples, axes: tuple[int, ...], **options: Any) -> np.ndarray:
    """How far the mean of each channel of y is off in the quantized model."""
    quantized = model.clone()
    QuantizeInt8(placement="everywhere", rounding="nearest", portable="no", **options).run(
        quantized, Context(CPU, samples)
    )
    wanted, got = ([o["y"] for _, o in samples.run(Session(m, CPU, optimize=False))] for m in (model, quantized))
    return (np.concatenate(got) - np.concatenate(wanted)).mean(axis=axes)


@pytest.mark.parametrize("opset", [13, 17, 20])
@pytest.mark.parametrize(("text", "axes"), NETS.values(), ids=NETS.keys())
def test_the_means_of_the_channels_come_back(text: str, axes: tuple[int, ...], opset: int) -> None:
    model = parse(text, opset=opset)
    weight = model.graph.initializers["w"].const_value.numpy().copy()
    weight[weight.shape[0] // 2] += 0.3  # rounding errors that all have one sign move a mean
    weight = np.round(weight * 20) / 20 + 0.0049
    model.graph.initializers["w"].const_value = ir.tensor(weight.astype(np.float32))
    samples = random_samples(model, CPU, {}, count=24)
    plain, corrected = (channel_errors(model, samples, axes, correct_bias=on) for on in (False, True))
    assert np.abs(corrected).mean() < 0.5 * np.abs(plain).mean()


def test_a_depthwise_layer_is_measured_with_the_weights_that_are_written() -> None:
    """Its kernel adds in 32 bits, so its weights keep their scales where pair sums are bounded."""
    model = parse(
        """g (float[n,8,6,6] x) => (float[n,8,6,6] y) <float[8,1,3,3] w>
        { h = Relu(x)  y = Conv<group=8, pads=[1,1,1,1]>(h, w) }"""
    )
    weight = np.random.default_rng(0).uniform(0.5, 1.0, (8, 1, 3, 3)).astype(np.float32)
    model.graph.initializers["w"].const_value = ir.tensor(weight)
    samples = random_samples(model, CPU, {}, count=12)
    biases = []
    for portable in ("yes", "no"):
        quantized = model.clone()
        QuantizeInt8(placement="everywhere", portable=portable).run(quantized, Context(CPU, samples))
        biases.append(quantized.graph.initializers["y/bias/int32"].const_value.numpy())
    np.testing.assert_array_equal(*biases)
