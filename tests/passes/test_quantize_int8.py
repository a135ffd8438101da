"""QuantizeInt8."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnxopt import files
from onnxopt.core import Change, Context, Refusal
from onnxopt.data import open_dataset
from onnxopt.passes.quantize.quantize_int8 import QuantizeInt8
from onnxopt.runtime import Session, input_specs, kernels
from onnxopt.samples import Samples, random_samples, with_state
from onnxopt.target import Target
from onnxopt.testing import parse

CPU = Target()
ONCE = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def quantize(
    model: ir.Model, samples: Samples | None = None, **options: Any
) -> tuple[ir.Model, list[Change | Refusal]]:
    """The quantized copy, and what the pass said."""
    copy, options = model.clone(), {"placement": "everywhere", **options}
    samples = samples or random_samples(model, CPU, {}, count=8)
    return copy, list(QuantizeInt8(**options).run(copy, Context(CPU, samples)))


def integer(model: ir.Model) -> list[str]:
    """The operators that ONNX Runtime builds, conversions and movements left out, in order of their names."""
    return sorted(kernels(model, CPU).values())


def noise(model: ir.Model, quantized: ir.Model, samples: Samples) -> float:
    """Error of the first output, relative to its standard deviation."""
    wanted, got = ([o for _, o in samples.run(Session(m, CPU))] for m in (model, quantized))
    name = model.graph.outputs[0].name or ""
    one, other = (np.concatenate([np.ravel(o[name]) for o in part]) for part in (wanted, got))
    return float(np.sqrt(np.mean((one - other) ** 2)) / one.std())


def test_a_chain_becomes_int8_and_stays_close(conv_net: ir.Model, save_npz: Callable[..., Path], images) -> None:
    samples = with_state(open_dataset(str(save_npz(x=images)), input_specs(conv_net)), conv_net, {})
    quantized, said = quantize(conv_net, samples)
    assert [item.what for item in said if isinstance(item, Change)] == [
        "Conv in int8 (QLinearConv)",
        "Conv in int8 (QLinearConv)",
        "Gemm in int8 (QGemm)",
    ]
    onnx.checker.check_model(files.to_proto(quantized), full_check=True)
    assert noise(conv_net, quantized, samples) < 0.05
    held = {value.const_value.dtype.name for value in quantized.graph.initializers.values()}
    assert {"INT8", "UINT8", "INT32"} <= held


BUILT = {
    "a residual block": (
        """g (float[n,8,6,6] x) => (float[n,8,6,6] y) <float[8,8,3,3] a, float[8,8,3,3] b, float[8,8,1,1] c>
        { s = Conv(x, c)  r = Relu(s)  h = Conv<pads=[1,1,1,1]>(r, a)  i = Relu(h)  j = Conv<pads=[1,1,1,1]>(i, b)
          k = Add(j, r)  y = Relu(k) }""",
        ["QLinearAdd", "QLinearConv", "QLinearConv", "QLinearConv"],
        ["Add", "Relu", "Conv"],
    ),
    "a shortcut that is computed in float": (
        """g (float[n,8,6,6] x) => (float[n,8,6,6] y) <float[8,8,3,3] a, float[8,8,3,3] b>
        { t = Tanh(x)  h = Conv<pads=[1,1,1,1]>(x, a)  k = Add(h, t)  r = Relu(k)  y = Conv<pads=[1,1,1,1]>(r, b) }""",
        ["QLinearAdd", "QLinearConv", "QLinearConv", "Tanh"],
        ["Add", "Relu", "Conv"],
    ),
    "two branches and their concatenation": (
        """g (float[n,8,6,6] x) => (float[n,8,6,6] y) <float[8,8,1,1] a, float[8,8,3,3] b, float[8,16,1,1] c>
        { h = Conv(x, a)  i = Relu(h)  j = Conv<pads=[1,1,1,1]>(x, b)  k = Relu(j)  l = Concat<axis=1>(i, k)
          y = Conv(l, c) }""",
        ["QLinearConcat", "QLinearConv", "QLinearConv", "QLinearConv"],
        ["Concat", "Relu", "Conv"],
    ),
    "a concatenation of what is positive and what is not": (
        """g (float[n,8,6,6] x) => (float[n,8,6,6] y) <float[8,8,1,1] a, float[8,8,3,3] b, float[8,16,1,1] c>
        { t = Tanh(x)  h = Conv(t, a)  i = Relu(h)  j = Conv<pads=[1,1,1,1]>(t, b)  d = Sub(j, x)  k = Conv(d, a)
          l = Concat<axis=1>(i, k)  y = Conv(l, c) }""",
        ["QLinearConcat", "QLinearConv", "QLinearConv", "QLinearConv", "QLinearConv"],
        ["Concat", "Relu", "Conv"],
    ),
    "Clip, pooling and a layer at the end": (
        """g (float[n,8,6,6] x) => (float[n,4] y)
        <float[8,8,3,3] a, float low = {0.0}, float high = {6.0}, float[8,4] w, float[4] d>
        { h = Conv<pads=[1,1,1,1]>(x, a)  i = Clip(h, low, high)  m = MaxPool<kernel_shape=[2,2]>(i)
          p = GlobalAveragePool(m)  f = Flatten(p)  y = Gemm(f, w, d) }""",
        ["QGemm", "QLinearConv", "QLinearGlobalAveragePool"],
        ["Clip", "Conv", "Gemm", "GlobalAveragePool"],
    ),
    "a gate": (
        """g (float[n,8,6,6] x) => (float[n,8,6,6] y) <float[8,8,3,3] a, float[8,8,1,1] b, float[8,8,1,1] c>
        { h = Conv<pads=[1,1,1,1]>(x, a)  p = GlobalAveragePool(h)  q = Conv(p, b)  s = HardSigmoid(q)  m = Mul(h, s)
          y = Conv(m, c) }""",
        ["HardSigmoid", "QLinearConv", "QLinearConv", "QLinearConv", "QLinearGlobalAveragePool", "QLinearMul"],
        ["Mul", "Conv"],
    ),
    "SiLU": (
        """g (float[n,8,6,6] x) => (float[n,8,6,6] y) <float[8,8,3,3] a, float[8,8,1,1] c>
        { h = Conv<pads=[1,1,1,1]>(x, a)  s = Sigmoid(h)  m = Mul(h, s)  y = Conv(m, c) }""",
        ["QLinearConv", "QLinearConv", "QLinearMul", "QLinearSigmoid"],
        ["Sigmoid", "Mul", "Conv"],
    ),
    "a choice between two images": (
        """g (float[n,8,6,6] x) => (float[n,8,6,6] y) <float[8,8,3,3] a, float[8,8,1,1] b, float[8,8,1,1] c, float[1] z>
        { h = Conv<pads=[1,1,1,1]>(x, a)  i = Conv(x, b)  p = Greater(x, z)  w = Where(p, h, i)  y = Conv(w, c) }""",
        ["QLinearConv", "QLinearConv", "QLinearConv", "QLinearWhere"],
        ["Where", "Conv"],
    ),
    "a matrix product among floats keeps its bias apart": (
        """g (float[n,7,16] x) => (float[n,7,16] y) <float[16,16] w, float[16] b, float[16] s, float[16] t>
        { h = MatMul(x, w)  i = Add(h, b)  j = Add(i, x)  y = LayerNormalization(j, s, t) }""",
        ["MatMulIntegerToFloat", "Sum"],
        ["MatMul", "Gemm"],
    ),
    "layers after each other": (
        """g (float[n,16] x) => (float[n,4] y) <float[16,8] a, float[8] b, float[8,4] c, float[4] d>
        { h = Gemm(x, a, b)  i = Relu(h)  y = Gemm(i, c, d) }""",
        ["QGemm", "QGemm"],
        ["Gemm", "Relu"],
    ),
    "a transposed weight": (
        """g (float[n,16] x) => (float[n,4] y) <float[4,16] a, float[1,4] b>
        { y = Gemm<transB=1>(x, a, b) }""",
        ["QGemm"],
        ["Gemm"],
    ),
    "a convolution in one dimension": (
        """g (float[n,8,20] x) => (float[n,4,18] y) <float[4,8,3] a, float[4] b> { y = Conv(x, a, b) }""",
        ["QLinearConv"],
        ["Conv"],
    ),
}


@pytest.mark.parametrize(("text", "there", "gone"), BUILT.values(), ids=BUILT.keys())
def test_onnx_runtime_builds_integer_kernels(text: str, there: list[str], gone: list[str]) -> None:
    model = parse(text, opset=17)
    samples = random_samples(model, CPU, {}, count=16)
    quantized, said = quantize(model, samples)
    assert not [item for item in said if isinstance(item, Refusal)]
    built = integer(quantized)
    assert [op for op in built if op in there] == there
    assert not {*gone} & {*built}
    onnx.checker.check_model(files.to_proto(quantized), full_check=True)
    assert [v.name for v in quantized.graph.outputs] == ["y"]
    assert noise(model, quantized, samples) < 0.06


def test_the_sums_of_a_transformer_stay_in_float() -> None:
    model = parse(
        """g (float[n,16] x) => (float[n,16] y) <float[16,16] a, float[16] b, float[16] s, float[16] t>
        { h = Gemm(x, a, b)  j = Add(h, x)  y = LayerNormalization(j, s, t) }""",
        opset=17,
    )
    built = integer(quantize(model)[0])
    assert "QLinearAdd" not in built
    assert built.count("DequantizeLinear") == 0


def test_named_layers_stay_in_float(conv_net: ir.Model) -> None:
    quantized, said = quantize(conv_net, leave=("k", "h"))
    assert [item.node for item in said if isinstance(item, Change)] == ["y"]
    assert "Conv" in integer(quantized)


def test_tied_weights_stay_one() -> None:
    model = parse(
        """g (float[n,16] x) => (float[n,16] y) <float[16,16] w>
        { h = MatMul(x, w)  i = Relu(h)  y = MatMul(i, w) }"""
    )
    quantized, _ = quantize(model)
    assert sum(v.const_value.dtype is ir.DataType.INT8 for v in quantized.graph.initializers.values()) == 2  # + zeros
    assert "w" not in quantized.graph.initializers


def test_a_weight_with_another_reader_stays_for_it() -> None:
    model = parse(
        """g (int64[n] i, float[n,8] x) => (float[n,16] y) <float[16,8] w>
        { e = Gather(w, i)  s = Add(e, x)  y = Gemm<transB=1>(s, w) }"""
    )
    quantized, said = quantize(model)
    assert any(isinstance(item, Change) for item in said)
    assert "w" in quantized.graph.initializers


def test_a_last_layer_tied_to_an_embedding_is_quantized_and_the_embedding_is_not() -> None:
    model = parse(
        """g (int64[n] i) => (float[n,24] y) <float[24,8] w, float[8] s, float[8] t>
        { e = Gather(w, i)  l = LayerNormalization(e, s, t)  u = Transpose<perm=[1,0]>(w)  y = MatMul(l, u) }""",
        opset=17,
    )
    samples = random_samples(model, CPU, {}, count=8)
    quantized, said = quantize(model, samples)
    assert [item.what for item in said] == ["MatMul in int8 (MatMulIntegerToFloat)"]
    assert "Transpose" not in [node.op_type for node in quantized.graph]
    assert quantized.graph.initializers["w"].const_value.dtype is ir.DataType.FLOAT
    assert noise(model, quantized, samples) < 0.05


def test_the_same_input_gives_the_same_bytes(conv_net: ir.Model) -> None:
    first, second = (files.to_bytes(quantize(conv_net)[0]) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("portable", ["yes", "no"])
def test_portable_weights_are_exact_on_every_processor(portable: str, save_npz: Callable[..., Path]) -> None:
    """All activations at 255, all weights of a pair as large as can be: where pairs are summed in 16 bits, these overflow."""
    model = parse("""g (float[n,16,4,4] x) => (float[n,8,2,2] y) <float[8,16,3,3] w> { h = Conv(x, w)  y = Relu(h) }""")
    weight = np.ones((8, 16, 3, 3), np.float32)
    model.graph.initializers["w"].const_value = ir.tensor(weight)
    x = np.ones((4, 16, 4, 4), np.float32)
    quantized, _ = quantize(
        model, with_state(open_dataset(str(save_npz(x=x)), input_specs(model)), model, {}), portable=portable
    )
    (got,) = Session(quantized, CPU).run({"x": x}).values()
    (wanted,) = Session(model, CPU).run({"x": x}).values()
    exact = portable == "yes" or not CPU.int8_saturates
    assert np.allclose(got, wanted, rtol=0.02) == exact


@ONCE
@given(st.data())
def test_convolutions_of_any_shape(data: st.DataObject) -> None:
    group = data.draw(st.sampled_from([1, 2, 4]))
    channels, filters = group * data.draw(st.integers(1, 4)), group * data.draw(st.integers(1, 4))
    kernel = [data.draw(st.integers(1, 3)) for _ in range(2)]
    strides, dilations = ([data.draw(st.integers(1, 2)) for _ in range(2)] for _ in range(2))
    pads = [data.draw(st.integers(0, 2)) for _ in range(4)]
    model = parse(
        f"""g (float[2,{channels},9,8] x) => (float[2,{filters},h,w] y)
        <float[{filters},{channels // group},{kernel[0]},{kernel[1]}] a, float[{filters}] b>
        {{ y = Conv<group={group}, strides={strides}, dilations={dilations}, pads={pads}>(x, a, b) }}"""
    )
    samples = random_samples(model, CPU, {}, count=6)
    quantized, said = quantize(model, samples)
    assert [item.what for item in said] == ["Conv in int8 (QLinearConv)"]
    assert noise(model, quantized, samples) < 0.06


LEFT_ALONE = {
    "an opset below 13": ("g (float[n,8] x) => (float[n,4] y) <float[8,4] w> { y = MatMul(x, w) }", 11, "below 13"),
    "quantized already": (
        """g (float[n,8] x) => (float[n,4] y) <float[8,4] w, float s = {0.1}, uint8 z = {128}>
        { q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)  y = MatMul(d, w) }""",
        17,
        "quantized already",
    ),
    "no layer with weights": ("g (float[n,8] x) => (float[n,8] y) { y = Relu(x) }", 17, "no layer of the main graph"),
    "integers": ("g (int32[n,8] x) => (int32[n,4] y) <int32[8,4] w> { y = MatMul(x, w) }", 17, "no layer of the main"),
    "half precision": (
        "g (float16[n,8] x) => (float16[n,4] y) <float16[8,4] w> { y = MatMul(x, w) }",
        17,
        "its weight is FLOAT16",
    ),
    "weights that a caller may override": (
        "g (float[n,3,8,8] x, float[4,3,3,3] w) => (float[n,4,6,6] y) <float[4,3,3,3] w> { y = Conv(x, w) }",
        17,
        "its weight is not constant",
    ),
    "a Gemm that scales": (
        "g (float[n,8] x) => (float[n,4] y) <float[8,4] w> { y = Gemm<alpha=2.0>(x, w) }",
        17,
        "it scales or transposes",
    ),
    "a bias for each sample": (
        "g (float[3,8] x) => (float[3,4] y) <float[8,4] w, float[3,1] b> { y = Gemm(x, w, b) }",
        17,
        "not one number for each output",
    ),
}


@pytest.mark.parametrize(("text", "opset", "reason"), LEFT_ALONE.values(), ids=LEFT_ALONE.keys())
def test_leaves(text: str, opset: int, reason: str) -> None:
    model = parse(text, opset=opset)
    before = files.to_bytes(model)
    copy, said = quantize(model)
    assert all(isinstance(item, Refusal) for item in said)
    assert any(reason in item.why for item in said)
    assert files.to_bytes(copy) == before


def test_without_data_nothing_is_done(conv_net: ir.Model) -> None:
    (refusal,) = QuantizeInt8().run(conv_net, Context(CPU))
    assert "needs calibration data" in refusal.why


PROCESSORS = {
    "AMX": (frozenset({"avx512_vnni", "amx_int8"}), {"deep": 1, "wide": 0, "depthwise": 0, "thin": 0}, False),
    "VNNI": (frozenset({"avx512_vnni"}), dict.fromkeys(("deep", "wide", "depthwise", "thin"), 0), False),
    "neither": (frozenset({"avx2"}), dict.fromkeys(("deep", "wide", "depthwise", "thin"), 0), True),
}


@pytest.mark.parametrize(("features", "zeros", "bounded"), PROCESSORS.values(), ids=PROCESSORS.keys())
def test_each_processor_gets_its_form(features: frozenset[str], zeros: dict[str, int], bounded: bool) -> None:
    model = parse(
        """g (float[n,64,6,6] x) => (float[n,64,6,6] y)
        <float[64,64,3,3] deep, float[128,64,1,1] wide, float[128,1,3,3] depthwise, float[64,128,1,1] thin>
        { h = Conv<pads=[1,1,1,1]>(x, deep)  i = Conv(h, wide)
          j = Conv<group=128, pads=[1,1,1,1]>(i, depthwise)  y = Conv(j, thin) }"""
    )
    samples = random_samples(model, CPU, {}, count=4)
    copy = model.clone()
    QuantizeInt8().run(copy, Context(Target(features=features), samples))
    held = {name: value.const_value.numpy() for name, value in copy.graph.initializers.items()}
    assert {name: int(held[f"{name}/zero"].max()) for name in zeros} == zeros
    pairs = held["thin/int8"].reshape(64, 64, 2).astype(int)
    largest = max(np.maximum(sign * pairs, 0).sum(axis=2).max() for sign in (1, -1))
    assert (largest <= 128) == bounded
    wanted, got = ([o["y"] for _, o in samples.run(Session(m, CPU, optimize=False))] for m in (model, copy))
    one, other = np.concatenate(wanted), np.concatenate(got)
    assert np.sqrt(np.mean((one - other) ** 2)) / one.std() < 0.05


def test_cuda_is_refused_and_float16_proposed(conv_net: ir.Model) -> None:
    said = QuantizeInt8().run(conv_net, Context(Target("cuda"), random_samples(conv_net, CPU, {})))
    assert [type(item) for item in said] == [Refusal]
    assert "no int8 kernels" in said[0].why
    assert "float16" in said[0].why


@pytest.mark.parametrize("placement", ["fastest", "everywhere"])
def test_weights_in_a_file_of_their_own_are_not_held_open(conv_net: ir.Model, tmp_path: Path, placement: str) -> None:
    """A view of them would keep the file from being closed when the model is written."""
    proto = files.to_proto(conv_net)
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="w.data", size_threshold=0)
    model = files.load(tmp_path / "m.onnx")
    samples = random_samples(model, CPU, {}, count=8)
    quantized, _ = quantize(model, samples, placement=placement)
    assert files.to_bytes(quantized)
    assert files.to_bytes(model)
