"""FoldConstants."""

import onnx_ir as ir
import pytest

from onnxopt.passes.simplify.fold_constants import FoldConstants
from onnxopt.testing import assert_leaves, assert_refuses, assert_rewrites, parse, run_pass

FOLDS = {
    "weights among themselves": (
        "g (float[2,4] x) => (float[2,3] y) <float[3,4] w> { v = Transpose<perm=[1,0]>(w)  y = MatMul(x, v) }",
        ["MatMul(x, const) -> y"],
    ),
    "a static shape": (
        """g (float[2,3,4] x) => (float[2,12] y) <int64 i = {0}, int64[1] a = {0}, int64[1] m = {-1}> {
        s = Shape(x)  d = Gather(s, i)  e = Unsqueeze(d, a)  t = Concat<axis=0>(e, m)  y = Reshape(x, t) }""",
        ["Reshape(x, const) -> y"],
    ),
    "a division of sizes": (
        """g (float[8,12] x) => (float[4,24] y) <int64[2] p = {2, 1}, int64[2] q = {1, 2}> {
        s = Shape(x)  d = Div(s, p)  e = Mul(d, q)  y = Reshape(x, e) }""",
        ["Reshape(x, const) -> y"],
    ),
    "a Cast of 32 bits": (
        "g (int64[32] x) => (int64[32] y) <int32[32] n> { m = Cast<to=7>(n)  y = Add(x, m) }",
        ["Add(x, const) -> y"],
    ),
    "a small ConstantOfShape": (
        "g (float[8] x) => (float[8] y) <int64[1] n = {8}> { c = ConstantOfShape<value=float[1] {2}>(n)  y = Add(x, c) }",
        ["Add(x, const) -> y"],
    ),
    "a constant If": (
        """g (float[4] x) => (float[4] y) <bool c = {1}> { y = If(c) <
        then_branch = t () => (float[4] o) { o = Relu(x) }, else_branch = e () => (float[4] p) { p = Neg(x) }> }""",
        ["Relu(x) -> y"],
    ),
    "weights inside a branch": (
        """g (bool c, float[4] x) => (float[4] y) <float[4] w> { y = If(c) <
        then_branch = t () => (float[4] o) { v = Neg(w)  o = Add(x, v) }, else_branch = e () => (float[4] p) { p = Neg(x) }> }""",
        ["If(c) -> y", "  Add(x, const) -> o", "  Neg(x) -> p"],
    ),
}


@pytest.mark.parametrize(("text", "after"), FOLDS.values(), ids=FOLDS.keys())
def test_folds(text: str, after: list[str]) -> None:
    assert_rewrites(FoldConstants(), text, after=after)


@pytest.mark.parametrize("opset", [8, 11, 13, 17, 20])
def test_what_it_writes_is_valid_in_old_opsets(opset: int) -> None:
    text = "g (float[2,3] x) => (int64[2] y) { s = Shape(x)  y = Abs(s) }"
    assert_rewrites(FoldConstants(), text, after=[], opset=opset)


def test_does_not_believe_stale_shapes() -> None:
    model = parse("g (float[n,4] x) => (int64[2] y) { h = Relu(x)  s = Shape(h)  y = Neg(s) }")
    model.graph[0].outputs[0].shape = ir.Shape([1, 4])
    assert run_pass(FoldConstants(), model) == []


def test_weights_that_only_a_branch_not_taken_reads_go_with_it() -> None:
    text = """g (float[4] x) => (float[4] y) <bool c = {1}, float[4] w> { y = If(c) <
        then_branch = t () => (float[4] o) { o = Relu(x) }, else_branch = e () => (float[4] p) { p = Add(x, w) }> }"""
    assert not assert_rewrites(FoldConstants(), text, after=["Relu(x) -> y"]).graph.initializers


def test_weights_that_a_caller_may_override_keep_their_defaults() -> None:
    text = """g (float[2,3] x, float[3] w) => (float[2,3] y) <float[3] w = {1,2,3}, float[3] v>
        { a = Neg(v)  b = Add(x, a)  y = Add(b, w) }"""
    model = assert_rewrites(FoldConstants(), text, after=["Add(x, const) -> b", "Add(b, w) -> y"])
    assert model.graph.initializers["w"].is_graph_input()


LEFT_ALONE = {
    "random numbers": "g () => (float[2,2] y) { r = RandomNormal<shape=[2,2]>()  y = Relu(r) }",
    "Bernoulli of a constant": "g (float[4] x) => (float[4] y) <float[4] p> { b = Bernoulli(p)  y = Add(x, b) }",
    "int8 weights": """g (float[2,3] x) => (float[2,4] y) <int8[3,4] w, float s = {0.1}>
        { v = DequantizeLinear(w, s)  y = MatMul(x, v) }""",
    "weights to be quantized": """g (float[2,3] x) => (float[2,4] y) <float[3,4] w, float s = {0.1}, int8 z = {0}>
        { q = QuantizeLinear(w, s, z)  v = DequantizeLinear(q, s, z)  y = MatMul(x, v) }""",
    "a weight that a caller may override": """g (float[2,4] x, float[3,4] w) => (float[2,3] y) <float[3,4] w>
        { v = Transpose<perm=[1,0]>(w)  y = MatMul(x, v) }""",
    "a shape that a caller may override": """g (float[2,3] x, int64[2] s) => (float[a,b] y) <int64[2] s = {2, 3}>
        { h = Reshape(x, s)  y = Relu(h) }""",
    "unrolling grows the file": """g (float[100,1000] x) => (float[100,1000] y) <float w = {1}, int64[2] s = {100, 1000}>
        { v = Expand(w, s)  y = Add(x, v) }""",
    "float16 weights kept narrow": "g (float[64,64] x) => (float[64,64] y) <float16[64,64] w> { v = Cast<to=1>(w)  y = Add(x, v) }",
    "a few float16 weights kept narrow": "g (float[64] x) => (float[64] y) <float16[64] w> { v = Cast<to=1>(w)  y = Add(x, v) }",
    "a few int8 weights kept narrow": """g (float[64] x) => (float[64] y) <int8[64] w, float[64] s>
        { v = Cast<to=1>(w)  u = Mul(v, s)  y = Add(x, u) }""",
    "codes of weights in words": """g (float[400] x) => (float[400] y) <int64[1,100] w, int64[4,1] p = {1, 9, 81, 729},
        int64 l = {9}, float[9] t, int64[1] s = {400}> {
        q = Div(w, p)  d = Mod(q, l)  g = Gather(t, d)  v = Reshape(g, s)  y = Add(x, v) }""",
    "pairs of codes in bytes": """g (float[400] x) => (float[400] y) <uint8[200,1] w, uint8[1,2] l = {4, 0}, uint8 r = {4},
        float[16] t, int64[1] s = {400}> { a = BitShift<direction="LEFT">(w, l)  b = BitShift<direction="RIGHT">(a, r)
        d = Cast<to=6>(b)  g = Gather(t, d)  v = Reshape(g, s)  y = Add(x, v) }""",
    "a dynamic shape": "g (float[n,3] x) => (int64[2] y) { s = Shape(x)  y = Neg(s) }",
}


@pytest.mark.parametrize("text", LEFT_ALONE.values(), ids=LEFT_ALONE.keys())
def test_leaves(text: str) -> None:
    assert_leaves(FoldConstants(), text)


def test_growth_is_an_option() -> None:
    assert_rewrites(
        FoldConstants(growth_bytes=1 << 20), LEFT_ALONE["unrolling grows the file"], after=["Add(x, const) -> y"]
    )


def test_refuses_sequences_of_old_opsets() -> None:
    text = """g (float[4] x) => (float[4] y) <int64 n = {2}> { s = SplitToSequence(x, n)  y = ConcatFromSequence<axis=0>(s) }"""
    assert_refuses(FoldConstants(), text, opset=13, why="sequences")
