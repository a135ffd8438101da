"""QuantizeDynamic."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxopt import files
from onnxopt.core import Context, Refusal
from onnxopt.passes.quantize.quantize_dynamic import QuantizeDynamic
from onnxopt.runtime import Session
from onnxopt.target import Target
from onnxopt.testing import assert_leaves, lines, parse, run_pass

CPU = Target()
TEXT = "g (float[n,32] x) => (float[n,16] y) <float[32,16] w> { y = MatMul(x, w) }"
X = np.random.default_rng(0).normal(size=(20, 32)).astype(np.float32)


def quantized(text: str, **options):
    model = parse(text)
    changes = run_pass(QuantizeDynamic(**options), model)
    onnx.checker.check_model(files.to_proto(model), full_check=True)
    return model, changes


def test_the_product_is_close_and_its_weight_a_quarter() -> None:
    model, changes = quantized(TEXT)
    assert [change.node for change in changes] == ["y"]
    assert [line.split("(")[0] for line in lines(model)] == [
        "DynamicQuantizeLinear",
        "MatMulInteger",
        "Cast",
        "Mul",
        "Mul",
    ]
    expected, got = (Session(m, CPU, optimize=False).run({"x": X})["y"] for m in (parse(TEXT), model))
    assert np.abs(got - expected).max() < 0.03 * np.abs(expected).max()
    assert len(files.to_bytes(model)) < len(files.to_bytes(parse(TEXT)))


def test_readers_of_the_same_input_share_its_quantization() -> None:
    model, changes = quantized("""g (float[n,32] x) => (float[n,16] a, float[n,16] b) <float[32,16] v, float[32,16] w>
    { a = MatMul(x, v)  b = MatMul(x, w) }""")
    assert len(changes) == 2
    assert [node.op_type for node in model.graph].count("DynamicQuantizeLinear") == 1


def test_a_product_inside_a_branch() -> None:
    text = """g (bool c, float[n,32] x) => (float[n,16] y) <float[32,16] w>
    { y = If(c) <then_branch = t () => (float[n,16] a) { a = MatMul(x, w) },
                 else_branch = e () => (float[n,16] b) { m = MatMul(x, w)  b = Neg(m) }> }"""
    model, changes = quantized(text)
    assert len(changes) == 2
    for condition in (True, False):
        feeds = {"c": np.array(condition), "x": X}
        expected, got = (Session(m, CPU, optimize=False).run(feeds)["y"] for m in (parse(text), model))
        assert np.abs(got - expected).max() < 0.03 * np.abs(expected).max()


def test_a_second_run_finds_nothing() -> None:
    model, _ = quantized(TEXT)
    assert run_pass(QuantizeDynamic(), model) == []


@pytest.mark.parametrize(("portable", "largest"), [("no", 127), ("yes", 64)])
def test_pairs_of_products_fit_in_16_bits_where_asked(portable: str, largest: int) -> None:
    """All weights alike: the worst there is."""
    model = parse("g (float[n,32] x) => (float[n,16] y) <float[32,16] w> { y = MatMul(x, w) }")
    model.graph.initializers["w"].const_value = ir.tensor(np.ones((32, 16), np.float32))
    QuantizeDynamic(portable=portable).run(model, Context(CPU))
    assert np.unique(model.graph.initializers["y/int8"].const_value.numpy()).tolist() == [largest]
    if portable == "yes":
        x = np.full((3, 32), 5, np.float32)
        np.testing.assert_allclose(Session(model, CPU).run({"x": x})["y"], 160, rtol=0.02)


def test_columns_of_zeros() -> None:
    model = parse("g (float[n,4] x) => (float[n,2] y) <float[4,2] w = {0, 1, 0, -2, 0, 3, 0, 4}> { y = MatMul(x, w) }")
    QuantizeDynamic().run(model, Context(CPU))
    y = Session(model, CPU).run({"x": np.eye(4, dtype=np.float32)})["y"]
    np.testing.assert_allclose(y, [[0, 1], [0, -2], [0, 3], [0, 4]], atol=0.05)


LEFT_ALONE = {
    "both sides are computed": "g (float[4,4] x, float[4,4] w) => (float[4,4] y) { y = MatMul(x, w) }",
    "the weight can be overridden": "g (float[4,4] x, float[4,4] w) => (float[4,4] y) <float[4,4] w> { y = MatMul(x, w) }",
    "double precision": "g (double[4,4] x) => (double[4,4] y) <double[4,4] w> { y = MatMul(x, w) }",
    "a batch of weights": "g (float[2,4,4] x) => (float[2,4,4] y) <float[2,4,4] w> { y = MatMul(x, w) }",
    "a convolution": "g (float[1,4,5,5] x) => (float[1,4,3,3] y) <float[4,4,3,3] w> { y = Conv(x, w) }",
}


@pytest.mark.parametrize("text", LEFT_ALONE.values(), ids=LEFT_ALONE.keys())
def test_leaves(text: str) -> None:
    assert_leaves(QuantizeDynamic(), text)


def test_old_opsets_are_refused() -> None:
    model = parse(TEXT, opset=9)
    assert QuantizeDynamic().run(model, Context(CPU)) == [Refusal("", "opset 9 is below 11: run upgrade-opset first")]
