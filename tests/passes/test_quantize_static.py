"""QuantizeStatic."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxopt import files
from onnxopt.core import Change, Context, Refusal
from onnxopt.data import open_dataset
from onnxopt.passes.quantize.quantize_static import QuantizeStatic
from onnxopt.runtime import Session, input_specs
from onnxopt.samples import Samples, with_state
from onnxopt.target import Target
from onnxopt.testing import lines, parse

CPU = Target()


def calibration(model, path: Path) -> Samples:
    return with_state(open_dataset(str(path), input_specs(model)), model, {})


def quantize(model, path: Path, **options):
    """The quantized copy, and what the pass said."""
    copy = model.clone()
    return copy, QuantizeStatic(**options).run(copy, Context(CPU, calibration(model, path)))


def test_a_chain_becomes_int8_and_stays_close(conv_net, save_npz, images) -> None:
    quantized, said = quantize(conv_net, save_npz(x=images))
    assert {item.what for item in said if isinstance(item, Change)} >= {"Conv in int8", "Gemm in int8"}
    onnx.checker.check_model(files.to_proto(quantized), full_check=True)
    expected, got = (Session(m, CPU, optimize=False).run({"x": images})["y"] for m in (conv_net, quantized))
    assert np.abs(got - expected).max() < 0.05 * np.abs(expected).max()
    types = {tensor.dtype.name for tensor in (v.const_value for v in quantized.graph.initializers.values())}
    assert {"INT8", "UINT8", "INT32"} <= types


def test_weights_have_a_scale_per_channel(conv_net, save_npz, images) -> None:
    path = save_npz(x=images)
    shapes = {}
    for per_channel in (True, False):
        quantized, _ = quantize(conv_net, path, per_channel=per_channel)
        shapes[per_channel] = quantized.graph.initializers["w2_scale"].const_value.shape.numpy()
    assert shapes == {True: (16,), False: ()}


def test_reduced_range_keeps_weights_within_7_bits(conv_net, save_npz, images) -> None:
    quantized, _ = quantize(conv_net, save_npz(x=images), reduce_range=True)
    weight = quantized.graph.initializers["w2_quantized"].const_value.numpy()
    assert weight.dtype == np.int8
    assert np.abs(weight).max() <= 64


def test_only_the_chosen_operators(conv_net, save_npz, images) -> None:
    quantized, _ = quantize(conv_net, save_npz(x=images), ops=("Gemm",))
    assert [line for line in lines(quantized) if line.startswith("Conv")] == [
        "Conv(x, const) -> h",
        "Conv(j, const, const) -> k",
    ]


def test_a_gemm_bias_with_two_axes(save_npz) -> None:
    model = parse("g (float[n,8] x) => (float[n,4] y) <float[8,4] w, float[1,4] b> { y = Gemm(x, w, b) }")
    x = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32)
    quantized, said = quantize(model, save_npz(x=x))
    assert [item.what for item in said] == ["Gemm in int8"]
    expected, got = (Session(m, CPU, optimize=False).run({"x": x})["y"] for m in (model, quantized))
    np.testing.assert_allclose(got, expected, atol=0.05 * np.abs(expected).max())


def test_types_that_the_file_does_not_state_are_inferred(conv_net, save_npz, images) -> None:
    for node in conv_net.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.type = value.shape = None
    _, said = quantize(conv_net, save_npz(x=images))
    assert any(isinstance(item, Change) for item in said)


def test_the_same_input_gives_the_same_bytes(conv_net, save_npz, images) -> None:
    path = save_npz(x=images)
    first, second = (files.to_bytes(quantize(conv_net, path)[0]) for _ in range(2))
    assert first == second


LEFT_ALONE = {
    "an opset below 13": (
        "g (float[n,8] x) => (float[n,4] y) <float[8,4] w> { y = MatMul(x, w) }",
        {"opset": 11},
        "below 13",
    ),
    "quantized already": (
        """g (float[n,8] x) => (float[n,4] y) <float[8,4] w, float s = {0.1}, uint8 z = {128}>
        { q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)  y = MatMul(d, w) }""",
        {},
        "quantized already",
    ),
    "nothing heavy": (
        "g (float[n,8] x) => (float[n,8] y) { y = Relu(x) }",
        {},
        "no float convolution or matrix product",
    ),
    "integers": (
        "g (int32[n,8] x) => (int32[n,4] y) <int32[8,4] w> { y = MatMul(x, w) }",
        {},
        "no float convolution or matrix product",
    ),
}


@pytest.mark.parametrize(("text", "options", "reason"), LEFT_ALONE.values(), ids=LEFT_ALONE.keys())
def test_leaves(text: str, options: dict[str, int], reason: str, save_npz) -> None:
    model = parse(text, **options)
    dtype = np.int32 if "int32[n" in text else np.float32
    before = files.to_bytes(model)
    _, said = quantize(model, save_npz(x=np.ones((4, 8), dtype)))
    assert [type(item) for item in said] == [Refusal]
    assert reason in said[0].why
    assert files.to_bytes(model) == before


def test_without_data_nothing_happens(conv_net) -> None:
    said = QuantizeStatic().run(conv_net, Context(CPU))
    assert said == [Refusal("", "needs calibration data (--data)")]
