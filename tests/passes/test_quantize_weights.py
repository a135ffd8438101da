"""QuantizeWeights."""

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxopt import files
from onnxopt.core import Change, Context, Refusal
from onnxopt.errors import UsageError
from onnxopt.graph import array, nodes
from onnxopt.passes import parse as parse_pass
from onnxopt.passes.quantize.grids.blocks import quantized
from onnxopt.passes.quantize.quantize_weights import QuantizeWeights
from onnxopt.runtime import Session, kernels
from onnxopt.samples import random_samples
from onnxopt.target import Target
from onnxopt.testing import lines, parse

CPU = Target()
RNG = np.random.default_rng(0)
TEXT = "g (float[n,64] x) => (float[n,48] y) <float[64,48] w> { y = MatMul(x, w) }"
FORMS = {
    "8 bits in blocks": {"block": 16},
    "8 bits by channel": {"block": 0},
    "4 bits in blocks": {"bits": 4, "block": 32},
    "4 bits by channel": {"bits": 4, "block": 0},
}


def quantize(model: ir.Model, **options: Any) -> tuple[ir.Model, list[Change | Refusal]]:
    """The quantized copy, and what the pass said; matrices of any size."""
    copy = model.clone()
    context = Context(CPU, random_samples(model, CPU, {}))
    return copy, list(QuantizeWeights(**{"size": 1, **options}).run(copy, context))


def real(model: ir.Model) -> list[np.ndarray]:
    """The weights that the DequantizeLinear nodes stand for."""
    found = []
    for node in nodes(model, "DequantizeLinear"):
        integers, scales, zeros = (np.asarray(array(value), np.float32) for value in node.inputs)
        if block := node.attributes.get_int("block_size", 0):
            scales, zeros = (np.repeat(part, block, axis=0)[: len(integers)] for part in (scales, zeros))
        found.append((integers - zeros) * scales)
    return found


def reasons(said: list[Change | Refusal]) -> list[str]:
    """Why layers were left."""
    return [item.why for item in said if isinstance(item, Refusal)]


@pytest.mark.parametrize("options", FORMS.values(), ids=FORMS.keys())
@pytest.mark.parametrize("shape", [(64, 48), (50, 7), (33, 1), (9, 5)], ids=str)
def test_the_product_is_that_of_the_integers(options: dict[str, int], shape: tuple[int, int]) -> None:
    rows, columns = shape
    text = f"g (float[n,{rows}] x) => (float[n,{columns}] y) <float[{rows},{columns}] w> {{ y = MatMul(x, w) }}"
    before = parse(text, opset=21)
    model, said = quantize(before, **options)
    assert [(item.node, type(item)) for item in said] == [("y", Change)]
    assert lines(model) == ["DequantizeLinear(const, const, const) -> y/dq", "MatMul(x, y/dq) -> y"]
    onnx.checker.check_model(files.to_proto(model), full_check=True)
    (weight,) = real(model)
    x = RNG.normal(size=(3, rows)).astype(np.float32)
    exact, fused = (Session(model, CPU, optimize=on).run({"x": x})["y"] for on in (False, True))
    np.testing.assert_allclose(exact, x @ weight, rtol=0, atol=1e-5 * np.abs(exact).max())
    assert np.abs(fused - exact).max() < 0.03 * np.abs(exact).max()
    wanted = x @ array(before.graph.initializers["w"])
    assert np.abs(exact - wanted).max() < (0.02 if options.get("bits") != 4 else 0.4) * np.abs(wanted).max()


def test_no_processor_saturates() -> None:
    """All products at their greatest: neighbouring ones may not overflow where they are added in 16 bits."""
    signs = np.where(RNG.normal(size=(64, 48)) > 0, 1, -1).astype(np.float32)
    for weight in (np.ones_like(signs), -np.ones_like(signs), signs):
        before = parse(TEXT, opset=21)
        before.graph.initializers["w"].const_value = ir.Tensor(weight)
        for options in FORMS.values():
            model, _ = quantize(before, **options)
            for x in (np.ones((4, 64), np.float32), -np.ones((4, 64), np.float32), np.sign(weight.T[:4])):
                y = Session(model, CPU).run({"x": x})["y"]
                np.testing.assert_allclose(y, x @ real(model)[0], atol=0.02 * 64)


def test_onnx_runtime_computes_with_integers() -> None:
    text = """g (float[n,64] x) => (float[n,48] y) <float[64,64] w, float[64] b, float[48,64] v, float[48] c>
    { [p] h = MatMul(x, w)  [a] i = Add(h, b)  [r] j = Relu(i)  [q] k = Gemm<transB=1>(j, v, c)  [s] y = Relu(k) }"""
    model, said = quantize(parse(text, opset=21))
    assert [item.what for item in said if isinstance(item, Change)] == [
        "MatMul with 8-bit weights (MatMulNBits)",
        "Gemm with 8-bit weights (MatMulNBits)",
    ]
    assert sorted(kernels(model, CPU).values()) == ["MatMulNBits", "MatMulNBits", "Max", "Max"]
    x = RNG.normal(size=(2, 64)).astype(np.float32)
    wanted, got = (Session(m, CPU).run({"x": x})["y"] for m in (parse(text, opset=21), model))
    assert np.abs(got - wanted).max() < 0.03 * np.abs(wanted).max()


HALVES = """g (float16[n,64] x) => (float16[n,48] y) <float16[64,64] w, float16[64] b, float16[48,64] v, float16[48] c>
    { [p] h = MatMul(x, w)  [a] i = Add(h, b)  [r] j = Relu(i)  [q] k = Gemm<transB=1>(j, v, c)  [s] y = Relu(k) }"""


@pytest.mark.parametrize("options", FORMS.values(), ids=FORMS.keys())
def test_weights_of_a_float16_model_get_float16_scales(options: dict[str, int]) -> None:
    before = parse(HALVES, opset=18)
    model, said = quantize(before, **options)
    assert [type(item) for item in said] == [Change, Change]
    assert model.opset_imports[""] == (19 if options == FORMS["8 bits by channel"] else 21)
    onnx.checker.check_model(files.to_proto(model), full_check=True)
    scales = [array(node.inputs[1]) for node in nodes(model, "DequantizeLinear")]
    assert [one.dtype for one in scales if one is not None] == [np.float16, np.float16]
    assert sorted(set(kernels(model, CPU).values())) == ["Cast", "MatMulNBits", "Max"]
    x = RNG.normal(size=(2, 64)).astype(np.float16)
    wanted, got = (Session(m, CPU).run({"x": x})["y"].astype(np.float32) for m in (before, model))
    assert np.abs(got - wanted).max() < (0.03 if options.get("bits") != 4 else 0.3) * np.abs(wanted).max()


def test_small_weights_lose_little_to_the_rounding_of_float16_scales() -> None:
    """Scales of 8-bit weights this small are no normal numbers in float16."""
    weight = 0.005 * RNG.normal(size=(64, 32)).astype(np.float32)
    errors = []
    for kind in (np.float32, np.float16):
        integers, scales, zeros = quantized(weight, 8, 32, kind)
        assert scales.dtype == kind
        steps, origins = (np.repeat(part.astype(np.float32), 32, axis=0) for part in (scales, zeros))
        errors.append(np.abs((integers - origins) * steps - weight).max() / steps.max())
    assert errors[1] < 1.2 * errors[0]


def test_each_reader_gets_its_own_integers() -> None:
    text = """g (float[n,64] x) => (float[n,64] y) <float[64,64] w, float[64] b>
    { [p] h = MatMul(x, w)  [q] i = MatMul(h, w)  [r] y = Gemm<transB=1>(i, w, b) }"""
    model, said = quantize(parse(text, opset=21))
    assert [item.node for item in said if isinstance(item, Change)] == ["h", "i", "y"]
    assert sorted(kernels(model, CPU).values()) == ["MatMulNBits"] * 3
    assert "w" not in model.graph.initializers
    by_rows, again, by_columns = real(model)
    np.testing.assert_array_equal(by_rows, again)
    assert np.abs(by_rows - by_columns.T).max() > 0


TIED = """g (int64[n] i) => (float[n,40] y{more}) <float[40,64] e>
{{ x = Gather(e, i)  t = Transpose<perm=[1,0]>(e)  y = MatMul(x, t) {rest} }}"""


def test_a_product_tied_to_an_embedding_gets_a_copy() -> None:
    model, said = quantize(parse(TIED.format(more="", rest=""), opset=21))
    assert [type(item) for item in said] == [Change]
    assert lines(model) == [
        "Gather(const, i) -> x",
        "DequantizeLinear(const, const, const) -> y/dq",
        "MatMul(x, y/dq) -> y",
    ]
    (weight,) = real(model)
    assert np.abs(weight - array(model.graph.initializers["e"]).T).max() < 0.03


def test_a_transpose_with_another_reader_stays() -> None:
    model, _ = quantize(parse(TIED.format(more=", float[64,40] t", rest=""), opset=21))
    assert [node.op_type for node in model.graph] == ["Gather", "Transpose", "DequantizeLinear", "MatMul"]


def test_what_onnx_runtime_does_not_fuse_is_undone() -> None:
    text = """g (float[n,64] x) => (float[n,48] y) <float[48,64] w, float[1,48] b>
    { h = Gemm<transB=1>(x, w, b)  i = Relu(h)  y = Neg(i) }"""
    before = parse(text, opset=21)
    for bits in (8, 4):
        model, said = quantize(before, bits=bits)
        assert reasons(said) == ["ONNX Runtime does not fuse it with its weights"]
        assert files.to_bytes(model) == files.to_bytes(before)


LEFT: dict[str, tuple[str, dict[str, Any], str]] = {
    "many rows": (TEXT.replace("n,64", "9,64").replace("n,48", "9,48"), {}, "9 rows, more than 4"),
    "many rows in a batch": (
        "g (float[3,2,64] x) => (float[3,2,48] y) <float[64,48] w> { y = MatMul(x, w) }", {}, "6 rows, more than 4"
    ),
    "few weights": (TEXT, {"size": 4096}, "3072 weights are fewer than 4096"),
    "to be left": (TEXT, {"leave": ("y",)}, "is to be left"),
    "a weight that a caller may override": (
        "g (float[n,64] x, float[64,48] w) => (float[n,48] y) <float[64,48] w> { y = MatMul(x, w) }", {}, "not constant"
    ),
    "both sides are computed": (
        "g (float[2,64] x) => (float[2,2] y) { t = Transpose(x)  y = MatMul(x, t) }", {}, "not constant"
    ),
    "a scaled Gemm": (
        "g (float[n,64] x) => (float[n,48] y) <float[64,48] w> { y = Gemm<alpha=2.0>(x, w) }", {}, "scales or transposes"
    ),
    "double precision": (
        "g (double[n,64] x) => (double[n,48] y) <double[64,48] w> { y = MatMul(x, w) }", {}, "not float32"
    ),
    "a batch of weights": (
        "g (float[2,3,64] x) => (float[2,3,48] y) <float[2,64,48] w> { y = MatMul(x, w) }", {}, "no matrix"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "options", "why"), LEFT.values(), ids=LEFT.keys())
def test_left_alone(text: str, options: dict[str, Any], why: str) -> None:
    before = parse(text, opset=21)
    model, said = quantize(before, **options)
    (reason,) = reasons(said)
    assert len(said) == 1
    assert why in reason
    assert files.to_bytes(model) == files.to_bytes(before)


OPSETS: dict[str, tuple[int, dict[str, int], int]] = {
    "blocks": (20, {}, 21),
    "4 bits": (20, {"bits": 4, "block": 0}, 21),
    "8 bits by channel": (20, {"block": 0}, 20),
    "no channels yet": (12, {"block": 0}, 13),
}


@pytest.mark.parametrize(("before", "options", "after"), OPSETS.values(), ids=OPSETS.keys())
def test_the_opset_is_raised_as_far_as_the_integers_need(before: int, options: dict[str, int], after: int) -> None:
    model, said = quantize(parse(TEXT, opset=before), **options)
    assert reasons(said) == []
    assert model.opset_imports[""] == after
    assert nodes(model, "DequantizeLinear")


def test_the_opset_stays_where_nothing_is_quantized() -> None:
    before = parse(TEXT, opset=20)
    model, _ = quantize(before, size=1 << 30)
    assert files.to_bytes(model) == files.to_bytes(before)


@pytest.mark.parametrize(("share", "quantized"), [(0.4, True), (0.6, False)])
def test_products_that_hold_too_little_of_the_model_are_not_worth_it(share: float, quantized: bool) -> None:
    """Two matrices alike, one of which is read by many rows."""
    before = parse("""g (float[1,64] x, float[50,64] z) => (float[1,48] y, float[50,48] u) <float[64,48] v, float[64,48] w>
    { y = MatMul(x, v)  u = MatMul(z, w) }""", opset=21)  # fmt: skip
    model, said = quantize(before, share=share)
    assert bool(nodes(model, "DequantizeLinear")) is quantized
    assert ("products with few rows hold 50% of the weights" in reasons(said)) is not quantized


def test_an_opset_that_cannot_be_raised_is_said() -> None:
    _, said = quantize(parse(TEXT, opset=6))
    assert "opset 6 is too old" in reasons(said)[0]


def test_needs_data() -> None:
    said = QuantizeWeights().run(parse(TEXT, opset=21), Context(CPU))
    assert said == [Refusal("", "needs calibration data (--data)")]


@pytest.mark.parametrize("words", ["bits=5", "bits=2", "block=24", "block=8"])
def test_wrong_options(words: str) -> None:
    with pytest.raises(UsageError, match=words.split("=")[0]):
        parse_pass(f"quantize-weights:{words}")


def test_same_bytes_each_time_and_nothing_left_for_a_second_run() -> None:
    once, again = (files.to_bytes(quantize(parse(TEXT, opset=21), bits=4)[0]) for _ in range(2))
    assert once == again
    model, said = quantize(ir.serde.deserialize_model(onnx.load_model_from_string(once)), bits=4)
    assert reasons(said) == ["its weight is not constant"]
    assert files.to_bytes(model) == once


def test_rounding_is_to_nearest_within_half_a_step() -> None:
    weight = RNG.normal(size=(70, 5)).astype(np.float32)
    weight[:, 2] = 0
    weight[:32, 3] = 4.0
    integers, scales, zeros = quantized(weight, 8, 32)
    assert (integers.shape, scales.shape, zeros.shape) == ((70, 5), (3, 5), (3, 5))
    steps, origins = (np.repeat(part, 32, axis=0)[:70] for part in (scales, zeros.astype(np.float32)))
    assert (np.abs((integers - origins) * steps - weight) <= steps * 0.5001).all()
    np.testing.assert_array_equal(integers[:, 2], zeros[0, 2])


def test_columns_are_quantized_apart_from_each_other() -> None:
    weight = RNG.normal(size=(32, 1100)).astype(np.float32)
    whole, part = quantized(weight, 4, 16), quantized(weight[:, 1000:], 4, 16)
    for one, other in zip(whole, part, strict=True):
        np.testing.assert_array_equal(np.asarray(one, np.float32)[..., 1000:], np.asarray(other, np.float32))


def test_clipping_outliers_makes_the_error_of_4_bits_less() -> None:
    weight = RNG.standard_t(5, size=(512, 64)).astype(np.float32)
    integers, scales, zeros = (np.asarray(part, np.float32) for part in quantized(weight, 4, 0))
    clipped = np.square((integers - zeros) * scales - weight).sum()
    step = (weight.max(axis=0) - weight.min(axis=0)) / 15
    unclipped = np.square(np.rint(weight / step) * step - weight).sum()
    assert clipped < 0.8 * unclipped
