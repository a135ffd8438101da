"""StoreHalf."""

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from stored import CPU, assert_stays, model_with, numbers, store

from onnxopt.core import Context, Refusal, Saved
from onnxopt.passes.store.store_half import StoreHalf
from onnxopt.testing import assert_leaves, assert_refuses, assert_rewrites, parse

RNG = np.random.default_rng(0)
PRODUCT = "g (float[2,64] x) => (float[2,48] y) <float[64,48] w> { y = MatMul(x, w) }"
LOOKUP = "g (int64[3] i) => (float[3,48] y) <float[64,48] w> { y = Gather(w, i) }"
WEIGHT = RNG.normal(size=(64, 48)).astype(np.float32)

STORES = {
    "the weight of a product": (PRODUCT, ["Cast(const) -> w", "MatMul(x, w) -> y"]),
    "weight and bias of a convolution": (
        "g (float[1,8,6,6] x) => (float[1,96,4,4] y) <float[96,8,3,3] w, float[96] b> { y = Conv(x, w, b) }",
        ["Cast(const) -> b", "Cast(const) -> w", "Conv(x, w, b) -> y"],
    ),
    "a table, behind its lookups": (
        """g (int64[3] i, int64[2,2] j) => (float[3,48] y, float[2,2,48] z) <float[64,48] w>
        { y = Gather(w, i)  z = Gather<axis=0>(w, j) }""",
        ["Gather(const, i) -> y/half", "Cast(y/half) -> y", "Gather(const, j) -> z/half", "Cast(z/half) -> z"],
    ),
    "a table that the last layer reads as well": (
        """g (int64[3] i) => (float[3,64] y) <float[64,48] w>
        { a = Gather(w, i)  t = Transpose<perm=[1,0]>(w)  y = MatMul(a, t) }""",
        ["Cast(const) -> w", "Gather(w, i) -> a", "Transpose(w) -> t", "MatMul(a, t) -> y"],
    ),
    "a weight that a branch reads": (
        """g (bool c, float[64,48] x) => (float[64,48] y) <float[64,48] w> { y = If(c) <
        then_branch = t () => (float[64,48] o) { o = Add(x, w) }, else_branch = e () => (float[64,48] p) { p = Neg(x) }> }""",
        ["Cast(const) -> w", "If(c) -> y", "  Add(x, w) -> o", "  Neg(x) -> p"],
    ),
    "the rest where small constants stay": (
        "g (float[2,64] x) => (float[2,48] y) <float[64,48] w, float[48] b> { y = Gemm(x, w, b) }",
        ["Cast(const) -> w", "Gemm(x, w, const) -> y"],
    ),
}


@pytest.mark.parametrize("opset", [9, 13, 20])
@pytest.mark.parametrize(("text", "after"), STORES.values(), ids=STORES.keys())
def test_stores(text: str, after: list[str], opset: int) -> None:
    assert_rewrites(StoreHalf(), text, after=after, rtol=3e-3, opset=opset)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("text", [PRODUCT, LOOKUP], ids=["product", "lookup"])
def test_the_numbers_are_those_rounded_to_16_bits(text: str, dtype: str) -> None:
    model, (change,), refusals = store(model_with(text, w=WEIGHT), StoreHalf(dtype))
    rounded = WEIGHT.astype(np.float16 if dtype == "float16" else ml_dtypes.bfloat16).astype(np.float32)
    name, wanted = ("w", rounded) if text == PRODUCT else ("y", rounded[[0, 1, 2]])
    got = numbers(model, name) if text == PRODUCT else _looked_up(model)
    np.testing.assert_array_equal(got, wanted)
    error = np.linalg.norm(rounded - WEIGHT) / np.linalg.norm(WEIGHT)
    assert f"'w' in {dtype}, relative error {error:.1e}" in change.what
    assert not refusals


def _looked_up(model: ir.Model) -> np.ndarray:
    from onnxopt.runtime import Session

    found: np.ndarray = Session(model, CPU).run({"i": np.arange(3)})["y"]
    return found


def test_halves_that_are_written_as_floats_lose_nothing() -> None:
    weight = WEIGHT.astype(np.float16).astype(np.float32)
    model, (change,), _ = store(model_with(PRODUCT, w=weight), StoreHalf())
    np.testing.assert_array_equal(numbers(model, "w"), weight)
    assert change.what == "'w' in float16, without error"


def test_says_what_it_saves_in_memory() -> None:
    for text, session in ((PRODUCT, 0), (LOOKUP, 64 * 48 * 2)):
        _, (change,), _ = store(parse(text), StoreHalf())
        assert isinstance(change.saved, Saved)
        assert change.saved.session == session


@settings(derandomize=True, deadline=None, max_examples=50, database=None)
@given(arrays(np.float32, (8, 16), elements=st.floats(-60000, 60000, width=32)))
def test_no_number_is_off_by_more_than_half_a_step(weight: np.ndarray) -> None:
    model = model_with("g (float[2,8] x) => (float[2,16] y) <float[8,16] w> { y = MatMul(x, w) }", w=weight)
    stored, changes, refusals = store(model, StoreHalf())
    assert len(changes) + len(refusals) == 1
    if changes:
        step = np.maximum(np.abs(weight) * 2.0**-10, 2.0**-24)
        assert (np.abs(numbers(stored, "w") - weight) <= 0.5 * step).all()


LEFT_ALONE = {
    "a weight that a caller may override": (
        "g (float[2,64] x, float[64,48] w) => (float[2,48] y) <float[64,48] w> { y = MatMul(x, w) }",
        "can be overridden",
    ),
    "a weight that is returned": (
        "g (float[2,64] x) => (float[2,48] y, float[64,48] w) <float[64,48] w> { y = MatMul(x, w) }",
        "is an output of the graph",
    ),
    "a weight inside a branch": (
        f"""g (bool c, float[2,8] x) => (float[2,8] y) {{ y = If(c) <
        then_branch = t () => (float[2,8] o) <float[8,8] w = {{{", ".join(["1.5"] * 64)}}}> {{ o = MatMul(x, w) }},
        else_branch = e () => (float[2,8] p) {{ p = Neg(x) }}> }}""",
        "is a constant of a subgraph",
    ),
    "double weights": (
        "g (double[2,64] x) => (double[2,48] y) <double[64,48] w> { y = MatMul(x, w) }",
        "is DOUBLE, not float32",
    ),
    "scales": (
        """g (float[2,300] x) => (float[2,300] y) <float[300] s> { q = QuantizeLinear<axis=1>(x, s)
        y = Cast<to=1>(q) }""",
        "is read by QuantizeLinear 'q'",
    ),
    "small weights": ("g (float[2,4] x) => (float[2,4] y) <float[4,4] w> { y = MatMul(x, w) }", None),
    "weights that are halves already": (
        "g (float16[2,64] x) => (float16[2,48] y) <float16[64,48] w> { y = MatMul(x, w) }",
        None,
    ),
    "nodes that hold constants": (
        "g (float[2] x) => (float[2] y) { w = Constant<value = float[2] {1, 2}>()  y = Add(x, w) }",
        None,
    ),
}


@pytest.mark.parametrize(("text", "why"), LEFT_ALONE.values(), ids=LEFT_ALONE.keys())
def test_leaves(text: str, why: str | None) -> None:
    assert_refuses(StoreHalf(), text, why)


TOO = {
    "too great": (np.full((64, 48), 65600, np.float32), "float16", "'w' has numbers beyond 65504"),
    "too small": (np.full((64, 48), 1e-9, np.float32), "float16", "'w' has numbers too small for float16"),
    "great, in bfloat16": (np.full((64, 48), 65600, np.float32), "bfloat16", None),
    "small, in bfloat16": (np.full((64, 48), 1e-9, np.float32), "bfloat16", None),
    "minus infinity, as masks are": (np.full((64, 48), -np.inf, np.float32), "float16", None),
}


@pytest.mark.parametrize(("weight", "dtype", "why"), TOO.values(), ids=TOO.keys())
def test_refuses_numbers_that_do_not_fit(weight: np.ndarray, dtype: str, why: str | None) -> None:
    _, changes, refusals = store(model_with(PRODUCT, w=weight), StoreHalf(dtype))
    assert [refusal.why for refusal in refusals] == ([why] if why else [])
    assert len(changes) == (0 if why else 1)


def test_bfloat16_needs_opset_13() -> None:
    assert_refuses(StoreHalf("bfloat16"), PRODUCT, "bfloat16 needs opset 13", opset=12)


def test_what_saves_nothing_stays() -> None:
    text = "g (float[2,4] x) => (float[2,2] y) <float[4,2] w> { y = MatMul(x, w) }"
    assert_leaves(StoreHalf(min_bytes=1), text)
    (refusal,) = StoreHalf(min_bytes=1).run(parse(text), Context(CPU))
    assert isinstance(refusal, Refusal)
    assert "bytes larger so" in refusal.why


def test_the_default_recipe_does_not_undo_it(conv_net: ir.Model) -> None:
    assert_stays(store(conv_net, StoreHalf())[0])
