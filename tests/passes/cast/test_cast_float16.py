"""CastFloat16 without samples: what becomes float16, where Casts go, and what stays."""

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from halves import CPU, cast, emulated, model_with, run

from onnxopt.core import Change, Context, Refusal
from onnxopt.errors import UsageError
from onnxopt.passes import parse as parse_pass
from onnxopt.passes.cast.cast_float16 import CastFloat16
from onnxopt.testing import assert_leaves, assert_rewrites, lines, parse

RTOL = 4e-3
"""float16 rounds to 2**-11, and a few roundings add up."""

REWRITES = {
    "a product": (
        "g (float[2,8] x) => (float[2,4] y) <float[8,4] w> { y = MatMul(x, w) }",
        ["Cast(x) -> x/float16", "MatMul(x/float16, const) -> y/float32", "Cast(y/float32) -> y"],
    ),
    "layers in a row need no Cast between them": (
        """g (float[1,3,8,8] x) => (float[1,8,4,4] y) <float[8,3,3,3] w, float[8,8,3,3] v, float[8] c>
        { h = Conv(x, w)  i = Relu(h)  y = Conv(i, v, c) }""",
        [
            "Cast(x) -> x/float16",
            "Conv(x/float16, const) -> h",
            "Relu(h) -> i",
            "Conv(i, const, const) -> y/float32",
            "Cast(y/float32) -> y",
        ],
    ),
    "one Cast for all readers of an input": (
        """g (float[4,4] x) => (float[4,4] y) <float[4,4] w, float[4,4] v>
        { a = MatMul(x, w)  b = MatMul(x, v)  y = MatMul(a, b) }""",
        [
            "Cast(x) -> x/float16",
            "MatMul(x/float16, const) -> a",
            "MatMul(x/float16, const) -> b",
            "MatMul(a, b) -> y/float32",
            "Cast(y/float32) -> y",
        ],
    ),
    "an output that a layer reads, too": (
        """g (float[4,4] x) => (float[4,4] h, float[4,4] y) <float[4,4] w, float[4,4] v>
        { h = MatMul(x, w)  y = MatMul(h, v) }""",
        [
            "Cast(x) -> x/float16",
            "MatMul(x/float16, const) -> h/float32",
            "Cast(h/float32) -> h",
            "MatMul(h/float32, const) -> y/float32",
            "Cast(y/float32) -> y",
        ],
    ),
    "a weight that both worlds read exists in each": (
        """g (float[4,4] x, int64[1] i) => (float[4,4] y, float[1] z) <float[4,4] w>
        { y = MatMul(x, w)  a = Det(w)  z = Expand(a, i) }""",
        [
            "Cast(x) -> x/float16",
            "MatMul(x/float16, const) -> y/float32",
            "Cast(y/float32) -> y",
            "Det(const) -> a",
            "Expand(a, i) -> z",
        ],
    ),
    "a Cast to float32 in between follows": (
        """g (int64[4,4] i) => (float[4,4] y) <float[4,4] w> { x = Cast<to=1>(i)  y = MatMul(x, w) }""",
        ["Cast(i) -> x", "MatMul(x, const) -> y/float32", "Cast(y/float32) -> y"],
    ),
    "a weight stored in float16 needs no Cast": (
        """g (float[4,4] x) => (float[4,4] y) <float16[4,4] w> { v = Cast<to=1>(w)  y = MatMul(x, v) }""",
        ["Cast(x) -> x/float16", "MatMul(x/float16, const) -> y/float32", "Cast(y/float32) -> y"],
    ),
    "a part in float16 already": (
        """g (float[4,4] x) => (float[4,4] y) <float[4,4] w, float16[4,4] v>
        { a = MatMul(x, w)  b = Cast<to=10>(a)  c = MatMul(b, v)  d = Cast<to=1>(c)  y = MatMul(d, w) }""",
        [
            "Cast(x) -> x/float16",
            "MatMul(x/float16, const) -> a",
            "MatMul(a, const) -> c",
            "MatMul(c, const) -> y/float32",
            "Cast(y/float32) -> y",
        ],
    ),
    "both branches, and what they read from outside": (
        """g (bool q, float[4,4] x) => (float[4,4] y) <float[4,4] w, float[4,4] v> {
        h = MatMul(x, w)
        i = If(q) <then_branch = t () => (float[4,4] o) { o = MatMul(h, v) },
                   else_branch = e () => (float[4,4] p) { p = Relu(h) }>
        y = MatMul(i, w) }""",
        [
            "Cast(x) -> x/float16",
            "MatMul(x/float16, const) -> h",
            "If(q) -> i",
            "  MatMul(h, const) -> o",
            "  Relu(h) -> p",
            "MatMul(i, const) -> y/float32",
            "Cast(y/float32) -> y",
        ],
    ),
    "the body of a Loop, with the state it carries": (
        """g (int64 n, bool t, float[4,4] x) => (float[4,4] y) <float[4,4] w> {
        h = MatMul(x, w)
        i = Loop(n, t, h) <body = b (int64 k, bool c, float[4,4] s) => (bool d, float[4,4] r)
            { d = Identity(c)  u = MatMul(s, w)  r = Tanh(u) }>
        y = MatMul(i, w) }""",
        [
            "Cast(x) -> x/float16",
            "MatMul(x/float16, const) -> h",
            "Loop(n, t, h) -> i",
            "  Identity(c) -> d",
            "  MatMul(s, const) -> u",
            "  Tanh(u) -> r",
            "MatMul(i, const) -> y/float32",
            "Cast(y/float32) -> y",
        ],
    ),
    "the body of a Scan": (
        """g (float[3,4,4] x) => (float[3,4,4] y) <float[4,4] w> {
        y = Scan<num_scan_inputs = 1, body = b (float[4,4] s) => (float[4,4] r) { r = MatMul(s, w) }>(x) }""",
        [
            "Cast(x) -> x/float16",
            "Scan(x/float16) -> y/float32",
            "  MatMul(s, const) -> r",
            "Cast(y/float32) -> y",
        ],
    ),
    "an optional input that is left out": (
        """g (float[1,4,4] x) => (float[1,4,4] y) <float[4,4] w>
        { h = MatMul(x, w)  i = Clip(h, , c)  c = Constant<value = float {1.0}>()  y = MatMul(i, w) }""".replace(
            "i = Clip(h, , c)  c = Constant<value = float {1.0}>()",
            "c = Constant<value = float {1.0}>()  i = Clip(h, , c)",
        ),
        [
            "Cast(x) -> x/float16",
            "MatMul(x/float16, const) -> h",
            "Clip(h, , const) -> i",
            "MatMul(i, const) -> y/float32",
            "Cast(y/float32) -> y",
        ],
    ),
    "weights in 8 bits: their scale becomes float16": (
        """g (float[2,8] x) => (float[2,4] y) <int8[8,4] w, float[4] s>
        { v = DequantizeLinear<axis=1>(w, s)  y = MatMul(x, v) }""",
        [
            "Cast(x) -> x/float16",
            "DequantizeLinear(const, const) -> v",
            "MatMul(x/float16, v) -> y/float32",
            "Cast(y/float32) -> y",
        ],
    ),
    "a table": (
        """g (int64[3] i) => (float[3,4] y) <float[9,8] e, float[8,4] w> { h = Gather(e, i)  y = MatMul(h, w) }""",
        ["Gather(const, i) -> h", "MatMul(h, const) -> y/float32", "Cast(y/float32) -> y"],
    ),
}


@pytest.mark.parametrize(("text", "after"), REWRITES.values(), ids=REWRITES.keys())
def test_rewrites(text: str, after: list[str]) -> None:
    assert_rewrites(CastFloat16(), text, after=after, rtol=RTOL)


STAYS = {
    "a model without layers: Casts would cost more": "g (float[4] x) => (float[4] y) { y = Relu(x) }",
    "integers": "g (int64[4] x) => (int64[4] y) { y = Neg(x) }",
    "an operator without a kernel": "g (float[3,3] x) => (float y) { y = Det(x) }",
    "float64": "g (double[2,8] x) => (double[2,4] y) <double[8,4] w> { y = MatMul(x, w) }",
    "float16": "g (float16[2,8] x) => (float16[2,4] y) <float16[8,4] w> { y = MatMul(x, w) }",
}


@pytest.mark.parametrize("text", STAYS.values(), ids=STAYS.keys())
def test_leaves(text: str) -> None:
    assert_leaves(CastFloat16(), text)


REFUSALS = {
    "no kernel on CUDA": ("i = Asin(h)", "i", "no float16 kernel"),
    "exponents may overflow": ("i = Exp(h)", "i", "65504"),
    "squares may overflow": ("t = Constant<value = float {2.0}>()  i = Pow(h, t)", "i", "square"),
    "a product with itself is a square": ("i = Mul(h, h)", "i", "square"),
    "a sum of squares": ("i = ReduceSumSquare(h)", "i", "squares"),
    "products of many numbers": ("i = ReduceProd(h)", "i", "products"),
    "a constant beyond float16": ("t = Constant<value = float {1e6}>()  i = Add(h, t)", "i", "reaches 1e+06"),
    "a constant too small for float16": ("t = Constant<value = float {1e-9}>()  i = Mul(h, t)", "i", "too small"),
    "what divides by something that a small constant keeps from zero": (
        "t = Constant<value = float {1e-12}>()  a = Abs(h)  b = Add(a, t)  c = Sqrt(b)  i = Div(h, c)",
        "i",
        "it divides by what its constant",
    ),
    "angles": ("i = Cos(h)", "i", "angle"),
    "random numbers": ("r = RandomNormal<shape=[4,4]>()  i = Add(h, r)", "r", "other numbers"),
    "a scatter that adds": (
        """j = Constant<value = int64[1,2] {0, 1}>()  u = Constant<value = float[1] {1.0}>()
        i = ScatterND<reduction="add">(h, j, u)""",
        "i",
        "no kernel in 16 bits that reduces",
    ),
    "a sequence": ("s = SequenceConstruct(h, x)  i = ConcatFromSequence<axis=0>(s)", "s", "no plain tensor"),
    "what becomes an integer": ("j = Cast<to=7>(h)  i = Cast<to=1>(j)", "h", "becomes an integer"),
    "quantized activations": (
        """t = Constant<value = float {0.1}>()  z = Constant<value = int8 {0}>()
        q = QuantizeLinear(h, t, z)  i = DequantizeLinear(q, t, z)""",
        "q",
        "scale",
    ),
    "what stands between": (
        "a = Atan(h)  b = Relu(a)  i = Atan(b)",
        "b",
        "between nodes in float32",
    ),
}


@pytest.mark.parametrize(("middle", "node", "why"), REFUSALS.values(), ids=REFUSALS.keys())
def test_says_why_a_node_stays(middle: str, node: str, why: str) -> None:
    text = f"""g (float[4,4] x) => (float y, float[4,4] k) <float[4,4] w, float[4,4] v>
        {{ h = MatMul(x, w)  {middle}  k = MatMul(x, v)  y = ReduceMin<keepdims=0>(i) }}"""
    _, changes, refusals = cast(parse(text))
    assert changes
    assert why in refusals[node]


def test_positions_and_their_angles_stay_in_float32() -> None:
    """Rotary embedding: at position 2049 float16 would be off by one, and an angle by a radian."""
    text = """g (int64[1,5] p, float[1,5,4] x) => (float[1,5,4] y) <float[1,4] f, float[4,4] w> {
        a = Constant<value = int64[1] {2}>()  b = Unsqueeze(p, a)  c = Cast<to=1>(b)  d = MatMul(c, f)
        s = Sin(d)  h = MatMul(x, w)  y = Mul(h, s) }"""
    model = parse(text)
    got, _, refusals = cast(model)
    assert {"d", "s"} <= refusals.keys()
    feeds = {"p": np.array([[0, 1, 2047, 2049, 4095]]), "x": np.ones((1, 5, 4), np.float32)}
    np.testing.assert_allclose(run(emulated(got), **feeds)["y"], run(model, **feeds)["y"], atol=0.01)


def test_masks_become_smaller_and_stay_out_of_the_way() -> None:
    text = """g (float[1,4] m, float[1,4,4] x) => (float[1,4,4] y) <float[4,4] w> {
        h = MatMul(x, w)  o = Constant<value = float {1.0}>()  v = Constant<value = float {-3.4028235e38}>()
        a = Sub(o, m)  b = Mul(a, v)  s = Add(h, b)  t = Softmax(s)  y = MatMul(t, h) }"""
    model = parse(text)
    got, changes, refusals = cast(model)
    assert refusals == {}
    assert any("1 of 1 numbers became 32752" in change.what for change in changes)
    feeds = {
        "m": np.array([[1, 1, 0, 1]], np.float32),
        "x": np.random.default_rng(0).normal(size=(1, 4, 4)).astype(np.float32),
    }
    expected, found = run(model, **feeds)["y"], run(emulated(got), **feeds)["y"]
    np.testing.assert_allclose(found, expected, atol=4e-3 * np.abs(expected).max())
    assert np.isfinite(run(got, m=np.zeros((1, 4), np.float32), x=feeds["x"])["y"]).all(), "all masked"


def test_counts_the_numbers_that_become_zero() -> None:
    numbers = np.full((8, 4), 0.5, np.float32)
    numbers[0] = 1e-9
    model = model_with("g (float[2,8] x) => (float[2,4] y) <float[8,4] w> { y = MatMul(x, w) }", w=numbers)
    _, changes, _ = cast(model)
    (change,) = [change for change in changes if "constant" in change.what]
    assert change.what == "constant in float16, 4 of 32 numbers became zero"
    assert change.saved is not None
    assert change.saved.file == 64


@pytest.mark.parametrize("layer", ["Gemm(x, w, c)", "Add(h, c)"])
def test_a_bias_of_dust_is_no_reason(layer: str) -> None:
    """The result is rounded to float16 by more than what is left out."""
    text = f"g (float[2,8] x) => (float[2,4] y) <float[8,4] w, float[4] c> {{ h = MatMul(x, w)  y = {layer} }}"
    _, changes, refusals = cast(model_with(text, c=np.full(4, 1e-9, np.float32)))
    assert refusals == {}
    assert any("4 of 4 numbers became zero" in change.what for change in changes)


def test_bfloat16_needs_opset_13() -> None:
    text = "g (float[2,8] x) => (float[2,4] y) <float[8,4] w> { y = MatMul(x, w) }"
    model = parse(text, opset=12)
    assert CastFloat16("bfloat16").run(model, Context(CPU)) == [
        Refusal("", "bfloat16 needs opset 13, and the model has 12; upgrade-opset first")
    ]
    got, _, _ = cast(parse(text, opset=13), CastFloat16("bfloat16"))
    assert lines(got)[1] == "MatMul(x/bfloat16, const) -> y/float32"
    assert got.graph.initializers["w"].const_value.numpy().dtype == ml_dtypes.bfloat16  # type: ignore[union-attr]


def test_a_convolution_in_bfloat16_needs_opset_22() -> None:
    text = "g (float[1,3,8,8] x) => (float[1,8,6,6] y) <float[8,3,3,3] w> { y = Conv(x, w) }"
    _, changes, refusals = cast(parse(text, opset=21), CastFloat16("bfloat16"))
    assert not changes
    assert refusals["y"] == "Conv has a bfloat16 kernel on CUDA from opset 22 on only; upgrade-opset first"
    _, changes, _ = cast(parse(text, opset=22), CastFloat16("bfloat16"))
    assert changes


def test_bfloat16_does_not_overflow() -> None:
    text = """g (float[2,8] x) => (float[2,4] y) <float[8,4] w>
        { h = MatMul(x, w)  t = Constant<value = float {1e6}>()  i = Mul(h, t)  y = Exp(i) }"""
    _, _, refusals = cast(parse(text), CastFloat16("bfloat16"))
    assert refusals == {}


def test_inputs_and_outputs_in_float16_on_request() -> None:
    model = parse("g (float[2,8] x, int64[1] i) => (float[2,4] y) <float[8,4] w> { y = MatMul(x, w) }")
    got, changes, _ = cast(model, CastFloat16(keep_io_types=False))
    assert lines(got) == ["MatMul(x, const) -> y"]
    assert Change("x", "input in float16") in changes
    assert [value.dtype for value in (*got.graph.inputs, *got.graph.outputs)] == [
        ir.DataType.FLOAT16,
        ir.DataType.INT64,
        ir.DataType.FLOAT16,
    ]
    x = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)
    i = np.zeros(1, np.int64)
    np.testing.assert_allclose(run(got, x=x.astype(np.float16), i=i)["y"], run(model, x=x, i=i)["y"], atol=0.02)


def test_the_default_of_an_input_changes_with_it() -> None:
    text = "g (float[2,8] x, float[8,4] w) => (float[2,4] y) <float[8,4] w = {WEIGHT}> { y = MatMul(x, w) }"
    model = parse(text.replace("WEIGHT", ",".join(["0.5"] * 32)))
    got, _, _ = cast(model, CastFloat16(keep_io_types=False))
    assert got.graph.initializers["w"].const_value.dtype is ir.DataType.FLOAT16  # type: ignore[union-attr]


BLOCKS = {
    "an operator": ("MatMul", ["y", "h"]),
    "an output of a node": ("h", ["h"]),
    "a pattern": ("?", ["y", "h"]),
}


@pytest.mark.parametrize(("word", "names"), BLOCKS.values(), ids=BLOCKS.keys())
def test_what_the_user_names_stays(word: str, names: list[str]) -> None:
    text = "g (float[2,4] x) => (float[2,4] y) <float[4,4] w> { h = MatMul(x, w)  y = MatMul(h, w) }"
    _, _, refusals = cast(parse(text), CastFloat16(block=(word,)))
    assert {node for node, why in refusals.items() if why == f"block names {word!r}"} == set(names)


def test_a_name_that_blocks_nothing_is_reported() -> None:
    text = "g (float[2,4] x) => (float[2,4] y) <float[4,4] w> { y = MatMul(x, w) }"
    _, changes, refusals = cast(parse(text), CastFloat16(block=("Matmul",)))
    assert changes
    assert refusals[""] == "block: no node is 'Matmul'"


def test_options_as_words() -> None:
    found = parse_pass("cast-float16:dtype=bfloat16,block=Softmax+*/head/*,keep-io-types=no,headroom=2")
    assert found == CastFloat16("bfloat16", False, ("Softmax", "*/head/*"), 2.0)
    with pytest.raises(UsageError, match="not one of float16, bfloat16"):
        parse_pass("cast-float16:dtype=float8")


def test_local_functions_stay_as_they_are() -> None:
    text = """<ir_version: 8, opset_import: ["" : 20, "own" : 1]>
        g (float[2,4] x) => (float[2,4] y) <float[4,4] w> { h = MatMul(x, w)  i = own.twice(h)  y = MatMul(i, w) }
        <opset_import: ["" : 20], domain: "own"> twice (a) => (b) { b = Add(a, a) }"""
    model = parse(text)
    got, changes, refusals = cast(model)
    assert changes
    assert "own" not in refusals
    assert any("unknown type" in why or "no float16 kernel" in why for why in refusals.values())
    x = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)
    np.testing.assert_allclose(run(got, x=x)["y"], run(model, x=x)["y"], rtol=0.02, atol=0.02)
