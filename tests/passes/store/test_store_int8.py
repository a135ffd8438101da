"""StoreInt8."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stored import CPU, assert_stays, feeds, model_with, numbers, store

from onnxopt import files
from onnxopt.core import Context
from onnxopt.errors import UsageError
from onnxopt.passes.store.store_int8 import StoreInt8
from onnxopt.runtime import Session, kernels
from onnxopt.testing import assert_refuses, lines, parse

RNG = np.random.default_rng(0)

LAYERS = {
    "Conv": ("g (float[1,8,6,6] x) => (float[1,12,4,4] y) <float[12,8,3,3] w> { y = Conv(x, w) }", (0,)),
    "Conv of each channel by itself": (
        "g (float[1,32,6,6] x) => (float[1,32,4,4] y) <float[32,1,3,3] w> { y = Conv<group=32>(x, w) }",
        (0,),
    ),
    "ConvTranspose": (
        "g (float[1,8,6,6] x) => (float[1,12,7,7] y) <float[8,12,2,2] w> { y = ConvTranspose(x, w) }",
        (1,),
    ),
    "MatMul": ("g (float[2,64] x) => (float[2,48] y) <float[64,48] w> { y = MatMul(x, w) }", (1,)),
    "MatMul of several matrices": (
        "g (float[3,2,32] x) => (float[3,2,24] y) <float[3,32,24] w> { y = MatMul(x, w) }",
        (0, 2),
    ),
    "Gemm": ("g (float[2,64] x) => (float[2,48] y) <float[64,48] w, float[48] b> { y = Gemm(x, w, b) }", (1,)),
    "Gemm with transB": ("g (float[2,64] x) => (float[2,48] y) <float[48,64] w> { y = Gemm<transB=1>(x, w) }", (0,)),
    "a last layer tied to its embedding": (
        """g (int64[3] i) => (float[3,64] y) <float[64,48] w>
        { a = Gather(w, i)  t = Transpose<perm=[1,0]>(w)  y = MatMul(a, t) }""",
        (0,),
    ),
    "LSTM": (
        "g (float[3,1,16] x) => (float[3,1,1,8] y) <float[1,32,16] w, float[1,32,8] r> { y = LSTM<hidden_size=8>(x, w, r) }",
        (0, 1),
    ),
    "GRU": (
        "g (float[3,1,16] x) => (float[3,1,1,8] y) <float[1,24,16] w, float[1,24,8] r> { y = GRU<hidden_size=8>(x, w, r) }",
        (0, 1),
    ),
}
MATMUL, MATMUL_AXES = LAYERS["MatMul"]


def steps(weight: np.ndarray, axes: tuple[int, ...], bits: int) -> np.ndarray:
    """The greatest magnitude of each channel over the greatest integer, in the shape of the weight."""
    others = tuple(axis for axis in range(weight.ndim) if axis not in axes)
    return np.abs(weight).max(axis=others, keepdims=True) / (2 ** (bits - 1) - 1)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(("text", "axes"), LAYERS.values(), ids=LAYERS.keys())
def test_the_channels_have_scales_of_their_own(text: str, axes: tuple[int, ...], bits: int) -> None:
    """Channels as unequal as 1 to 1000: with scales along another axis, small ones would be lost."""
    before = parse(text, opset=21)
    shape = before.graph.initializers["w"].shape.numpy()  # type: ignore[union-attr]
    unequal = 10.0 ** np.linspace(-3, 0, int(np.prod([shape[axis] for axis in axes])))
    weight = RNG.normal(size=shape) * unequal.reshape([dim if axis in axes else 1 for axis, dim in enumerate(shape)])
    before = model_with(text, opset=21, w=weight.astype(np.float32))
    model, changes, _ = store(before, StoreInt8(bits))
    assert any("'w' in" in change.what for change in changes)
    onnx.checker.check_model(files.to_proto(model), full_check=True)
    got, step = numbers(model, "w"), steps(weight, axes, bits)
    clipped = 1 if bits == 8 else 4
    assert (np.abs(got - weight) <= step * clipped).all()
    assert np.sqrt(np.mean(((got - weight) / step) ** 2)) < 0.5  # a step's rounding alone would be 0.29


@pytest.mark.parametrize("block", [16, 32])
@pytest.mark.parametrize("form", ["cast", "dequantize"])
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", ["MatMul", "Gemm with transB"])
def test_blocks_have_scales_of_their_own(name: str, bits: int, form: str, block: int) -> None:
    text, (axis,) = LAYERS[name]
    shape = (64, 48) if axis == 1 else (48, 64)
    unequal = np.repeat(10.0 ** np.linspace(-3, 0, 64 // block), block)
    weight = (RNG.normal(size=shape) * (unequal[:, None] if axis == 1 else unequal)).astype(np.float32)
    model, (change,), _ = store(model_with(text, opset=21, w=weight), StoreInt8(bits, block, form))
    onnx.checker.check_model(files.to_proto(model), full_check=True)
    rows = (weight.T if axis == 1 else weight).reshape(48, -1, block)
    got = numbers(model, "w")
    real = (got.T if axis == 1 else got).reshape(rows.shape)
    step = steps(rows, (0, 1), bits)
    assert (np.abs(real - rows) <= step * (1 if bits == 8 else 4)).all()
    assert change.saved is not None


def test_a_block_that_does_not_divide() -> None:
    text = "g (float[2,50] x) => (float[2,40] y) <float[50,40] w> { y = MatMul(x, w) }"
    cast, _, _ = store(parse(text, opset=21), StoreInt8(block=16))
    assert lines(cast) == ["Cast(const) -> w/float", "Mul(w/float, const) -> w", "MatMul(x, w) -> y"]
    blocked, (change,), _ = store(parse(text, opset=21), StoreInt8(block=16, form="dequantize"))
    assert blocked.graph.initializers["w/scale"].shape == ir.Shape([4, 40])
    onnx.checker.check_model(files.to_proto(blocked), full_check=True)
    weight = numbers(parse(text, opset=21), "w")
    error = np.linalg.norm(numbers(blocked, "w") - weight) / np.linalg.norm(weight)
    assert f"relative error {error:.1e}" in change.what
    assert error < 0.006


FORMS = {
    "cast": (StoreInt8(), ["Cast(const) -> w/float", "Mul(w/float, const) -> w", "MatMul(x, w) -> y"]),
    "cast, 4 bits": (StoreInt8(4), ["Cast(const) -> w/float", "Mul(w/float, const) -> w", "MatMul(x, w) -> y"]),
    "cast in blocks": (
        StoreInt8(block=16),
        [
            "Cast(const) -> w/float",
            "Mul(w/float, const) -> w/product",
            "Reshape(w/product, const) -> w",
            "MatMul(x, w) -> y",
        ],
    ),
    "dequantize": (StoreInt8(form="dequantize"), ["DequantizeLinear(const, const) -> w", "MatMul(x, w) -> y"]),
    "dequantize, 4 bits in blocks": (
        StoreInt8(4, 32, "dequantize"),
        ["DequantizeLinear(const, const) -> w", "MatMul(x, w) -> y"],
    ),
}


@pytest.mark.parametrize(("rewrite", "after"), FORMS.values(), ids=FORMS.keys())
def test_what_is_written(rewrite: StoreInt8, after: list[str]) -> None:
    model, (change,), refusals = store(parse(MATMUL, opset=21), rewrite)
    assert lines(model) == after
    assert not refusals
    assert change.saved is not None
    if rewrite.form == "cast":
        assert set(kernels(model, CPU).values()) == {"MatMul"}
        assert change.saved.session == 0
    else:
        assert set(kernels(model, CPU).values()) == {"MatMulNBits"}
        assert "makes one product with it" in change.what
        assert change.saved.session > 0
    exact, fused = (Session(model, CPU, optimize=on).run(feeds(model))["y"] for on in (False, True))
    assert np.abs(fused - exact).max() <= (1e-5 if rewrite.form == "cast" else 0.03) * np.abs(exact).max()


def test_says_where_dequantizing_is_done_at_each_run() -> None:
    _, (change,), _ = store(parse(LAYERS["Conv"][0]), StoreInt8(form="dequantize"))
    assert change.what.endswith("DequantizeLinear is computed at each run")


OPSETS = {
    "cast runs from the oldest": (StoreInt8(), 9, 9),
    "dequantize has channels from 13 on": (StoreInt8(form="dequantize"), 11, 13),
    "and blocks from 21 on": (StoreInt8(form="dequantize", block=16), 17, 21),
    "4 bits are there from 21 on": (StoreInt8(4), 17, 21),
}


@pytest.mark.parametrize(("rewrite", "opset", "after"), OPSETS.values(), ids=OPSETS.keys())
def test_raises_the_opset_where_it_must(rewrite: StoreInt8, opset: int, after: int) -> None:
    model, (_,), _ = store(parse(MATMUL, opset=opset), rewrite)
    assert model.opset_imports[""] == after
    assert model.ir_version >= (10 if rewrite.bits == 4 else 8)
    Session(model, CPU)


def test_an_opset_that_cannot_be_raised_is_a_reason() -> None:
    (refusal,) = StoreInt8(4).run(parse(MATMUL, opset=6), Context(CPU))
    assert "opset 6 is too old" in refusal.why


@settings(derandomize=True, deadline=None, max_examples=30, database=None)
@given(st.integers(0, 1000), st.integers(1, 127))
def test_a_dequantized_int8_file_is_stored_without_error(seed: int, greatest: int) -> None:
    rng = np.random.default_rng(seed)
    integers = rng.integers(-greatest, greatest + 1, size=(64, 48)).astype(np.float32)
    weight = integers * rng.uniform(1e-4, 1e-1, size=48).astype(np.float32)
    model, (change,), _ = store(model_with(MATMUL, w=weight), StoreInt8())
    np.testing.assert_allclose(numbers(model, "w"), weight, rtol=3e-7, atol=0)
    assert "without error" in change.what or "relative error" in change.what


LOOKUPS = """g (int64[3] i, int32[2,2] j) => (float[3,48] y, float[2,2,48] z) <float[64,48] w>
{ y = Gather(w, i)  z = Gather(w, j) }"""
IDS = {"i": np.array([0, 63, -1]), "j": np.array([[1, 2], [-64, 5]], np.int32)}


def test_tables_are_decoded_behind_their_lookups() -> None:
    before = parse(LOOKUPS)
    model, (change,), _ = store(before, StoreInt8())
    assert lines(model)[:4] == [
        "Gather(const, i) -> y/integers",
        "Gather(const, i) -> y/scale",
        "Cast(y/integers) -> y/float",
        "Mul(y/float, y/scale) -> y",
    ]
    check_lookups(before, model, 127)
    assert change.saved is not None
    assert change.saved.session == 64 * 48 * 4 - 64 * 48 - 64 * 4


@pytest.mark.parametrize("block", [0, 16])
@pytest.mark.parametrize("opset", [13, 21])
def test_tables_of_4_bits_are_looked_up_by_onnx_runtime(block: int, opset: int) -> None:
    before = parse(LOOKUPS, opset=opset)
    model, (change,), _ = store(before, StoreInt8(4, block), contrib=True)
    assert lines(model) == [
        "com.microsoft.GatherBlockQuantized(const, i, const) -> y",
        "com.microsoft.GatherBlockQuantized(const, j, const) -> z",
    ]
    assert model.opset_imports["com.microsoft"] == 1
    assert model.opset_imports[""] == opset
    check_lookups(before, model, 7)
    assert change.saved is not None
    assert change.saved.session == 64 * 48 * 4 - 64 * 24 - 64 * 4 * (48 // 16 if block else 2)


def check_lookups(before: ir.Model, model: ir.Model, top: int) -> None:
    """Within a step of the row; negative indices count from the end."""
    wanted, got = (Session(one, CPU).run(IDS) for one in (before, model))
    for name, rows in wanted.items():
        step = np.abs(rows).max(axis=-1, keepdims=True) / top
        assert (np.abs(got[name] - rows) <= step * (1 if top > 7 else 4)).all()


REFUSED = {
    "a table of 4 bits in standard operators": (
        StoreInt8(4),
        LOOKUPS,
        "is a table: in 4 bits it needs --allow-contrib",
    ),
    "a constant that is added": (
        StoreInt8(),
        "g (float[64,48] x) => (float[64,48] y) <float[64,48] w> { y = Add(x, w) }",
        "is neither the weight of a layer nor a table",
    ),
    "a weight that layers read along different axes": (
        StoreInt8(),
        """g (float[2,48] x) => (float[2,48] y) <float[48,48] w> { a = MatMul(x, w)  y = Gemm<transB=1>(a, w) }""",
        "is read by layers along different axes",
    ),
    "weights of an LSTM in one DequantizeLinear": (
        StoreInt8(form="dequantize", min_bytes=2000),
        LAYERS["LSTM"][0],
        "has a scale along two axes",
    ),
    "a weight that a caller may override": (
        StoreInt8(),
        "g (float[2,64] x, float[64,48] w) => (float[2,48] y) <float[64,48] w> { y = MatMul(x, w) }",
        "can be overridden",
    ),
    "double weights": (
        StoreInt8(),
        "g (double[2,64] x) => (double[2,48] y) <double[64,48] w> { y = MatMul(x, w) }",
        "is DOUBLE, not float32",
    ),
    "small weights": (StoreInt8(), "g (float[2,4] x) => (float[2,4] y) <float[4,4] w> { y = MatMul(x, w) }", None),
    "biases": (StoreInt8(), "g (float[2,128] x) => (float[2,128] y) <float[128] b> { y = Add(x, b) }", None),
}


@pytest.mark.parametrize(("rewrite", "text", "why"), REFUSED.values(), ids=REFUSED.keys())
def test_refuses(rewrite: StoreInt8, text: str, why: str | None) -> None:
    assert_refuses(rewrite, text, why, opset=21)


@pytest.mark.parametrize("text", [MATMUL, LOOKUPS], ids=["weight", "table"])
def test_refuses_what_is_not_finite(text: str) -> None:
    weight = np.full((64, 48), np.inf, np.float32)
    _, changes, (refusal,) = store(model_with(text, w=weight), StoreInt8())
    assert not changes
    assert "is not finite" in refusal.why


def test_an_odd_table_does_not_pack() -> None:
    text = "g (int64[3] i) => (float[3,33] y) <float[64,33] w> { y = Gather(w, i) }"
    _, changes, (refusal,) = store(parse(text), StoreInt8(4), contrib=True)
    assert not changes
    assert "odd number of columns" in refusal.why


@pytest.mark.parametrize("options", [{"bits": 6}, {"block": 8}, {"block": 24}])
def test_refuses_options_that_no_operator_knows(options: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        StoreInt8(**options)


@pytest.mark.parametrize("rewrite", [StoreInt8(), StoreInt8(4), StoreInt8(form="dequantize")], ids=str)
def test_the_default_recipe_does_not_undo_it(rewrite: StoreInt8, conv_net: ir.Model) -> None:
    assert_stays(store(conv_net, rewrite)[0])
