"""MergeDuplicates."""

import pytest

from onnxopt.passes.simplify.merge_duplicates import MergeDuplicates
from onnxopt.testing import assert_leaves, assert_rewrites

SAME = {
    "two nodes": (
        "g (float[4] x) => (float[4] y) { a = Neg(x)  b = Neg(x)  y = Add(a, b) }",
        ["Neg(x) -> a", "Add(a, a) -> y"],
    ),
    "two chains": (
        "g (float[4] x) => (float[4] y) { a = Neg(x)  b = Neg(x)  c = Abs(a)  d = Abs(b)  y = Add(c, d) }",
        ["Neg(x) -> a", "Abs(a) -> c", "Add(c, c) -> y"],
    ),
    "equal small constants": (
        "g (float[4] x) => (float[4] y) <float c = {2}, float d = {2}> { a = Mul(x, c)  b = Mul(x, d)  y = Add(a, b) }",
        ["Mul(x, const) -> a", "Add(a, a) -> y"],
    ),
    "the second is an output": (
        "g (float[4] x) => (float[4] y, float[4] z) { a = Neg(x)  y = Neg(x)  z = Abs(a) }",
        ["Neg(x) -> y", "Abs(y) -> z"],
    ),
    "nodes with lists as attributes": (
        "g (float[2,3] x) => (float[3,2] y) { a = Transpose<perm=[1,0]>(x)  b = Transpose<perm=[1,0]>(x)  y = Add(a, b) }",
        ["Transpose(x) -> a", "Add(a, a) -> y"],
    ),
    "a node in a branch and one outside": (
        """g (bool c, float[4] x) => (float[4] y, float[4] z) { a = Neg(x)
        y = If(c) <then_branch = t () => (float[4] o) { b = Neg(x)  o = Abs(b) }, else_branch = e () => (float[4] p) { p = Relu(x) }>
        z = Sqrt(a) }""",
        ["Neg(x) -> a", "If(c) -> y", "  Abs(a) -> o", "  Relu(x) -> p", "Sqrt(a) -> z"],
    ),
    "two nodes in one branch": (
        """g (bool c, float[4] x) => (float[4] y) {
        y = If(c) <then_branch = t () => (float[4] o) { a = Neg(x)  b = Neg(x)  o = Add(a, b) },
                   else_branch = e () => (float[4] p) { p = Relu(x) }> }""",
        ["If(c) -> y", "  Neg(x) -> a", "  Add(a, a) -> o", "  Relu(x) -> p"],
    ),
}


@pytest.mark.parametrize(("text", "after"), SAME.values(), ids=SAME.keys())
def test_merges(text: str, after: list[str]) -> None:
    assert_rewrites(MergeDuplicates(), text, after=after)


def test_constants_that_nobody_reads_any_more_go() -> None:
    text, after = SAME["equal small constants"]
    assert len(assert_rewrites(MergeDuplicates(), text, after=after).graph.initializers) == 1


LEFT_ALONE = {
    "random operators": "g (float[4] x) => (float[4] y) { a = Bernoulli(x)  b = Bernoulli(x)  y = Add(a, b) }",
    "random operators with a seed": """g () => (float[4] y) { a = RandomNormal<shape=[4],seed=1.0>()
        b = RandomNormal<shape=[4],seed=1.0>()  y = Add(a, b) }""",
    "Dropout in training": """g (float[4] x) => (float[4] y) <float r = {0.5}, bool t = {1}>
        { a = Dropout(x, r, t)  b = Dropout(x, r, t)  y = Add(a, b) }""",
    "other attributes": "g (float[4] x) => (float[4] y) { a = LeakyRelu<alpha=0.1>(x)  b = LeakyRelu<alpha=0.2>(x)  y = Add(a, b) }",
    "0 and -0": "g (float[4] x) => (float[4] y) { a = LeakyRelu<alpha=0.0>(x)  b = LeakyRelu<alpha=-0.0>(x)  y = Add(a, b) }",
    "other constants": "g (float[4] x) => (float[4] y) <float c = {2}, float d = {3}> { a = Mul(x, c)  b = Mul(x, d)  y = Add(a, b) }",
    "equal constants of other shapes": """g (float[4] x) => (float[4] y) <float c = {2}, float[1] d = {2}>
        { a = Mul(x, c)  b = Mul(x, d)  y = Add(a, b) }""",
    "a constant that a caller may override": """g (float[4] x, float d) => (float[4] y) <float c = {2}, float d = {2}>
        { a = Mul(x, c)  b = Mul(x, d)  y = Add(a, b) }""",
    "both are outputs": "g (float[4] x) => (float[4] y, float[4] z) { y = Neg(x)  z = Neg(x) }",
    "a branch returns the second": """g (bool c, float[4] x) => (float[4] y, float[4] a) { a = Neg(x)
        y = If(c) <then_branch = t () => (float[4] o) { o = Neg(x) }, else_branch = e () => (float[4] p) { p = Relu(x) }> }""",
    "two sibling branches": """g (bool c, float[4] x) => (float[4] y) {
        y = If(c) <then_branch = t () => (float[4] o) { a = Neg(x)  o = Abs(a) }, else_branch = e () => (float[4] p) { b = Neg(x)  p = Relu(b) }> }""",
    "another number of outputs": """g (float[1,1,4,4] x) => (float[1,1,2,2] y, int64[1,1,2,2] i) {
        a = MaxPool<kernel_shape=[2,2],strides=[2,2]>(x)  b, i = MaxPool<kernel_shape=[2,2],strides=[2,2]>(x)  y = Add(a, b) }""",
    "dequantized twice": """g (int8[4] x) => (float[4] y) <float s = {0.1}>
        { a = DequantizeLinear(x, s)  b = DequantizeLinear(x, s)  y = Add(a, b) }""",
    "operators of an unknown domain": """<ir_version: 8, opset_import: ["" : 17, "me" : 1]> g (float[4] x) => (float[4] y)
        { a = me.Noise(x)  b = me.Noise(x)  y = Add(a, b) }""",
    "two loops": """g (float[4] x) => (float[4] y) <int64 n = {3}, bool t = {1}> {
        a = Loop(n, t, x) <body = b (int64 i, bool c, float[4] v) => (bool d, float[4] r) { d = Identity(c)  r = Neg(v) }>
        e = Loop(n, t, x) <body = f (int64 i, bool c, float[4] v) => (bool d, float[4] r) { d = Identity(c)  r = Neg(v) }>
        y = Add(a, e) }""",
}


@pytest.mark.parametrize("text", LEFT_ALONE.values(), ids=LEFT_ALONE.keys())
def test_leaves(text: str) -> None:
    assert_leaves(MergeDuplicates(), text)


def test_an_optional_output_left_out_is_not_read_instead() -> None:
    text = """g (float[3,1,2] x) => (float[1,1,2] y) <float[1,8,2] w, float[1,8,2] r> {
      , a = LSTM<hidden_size=2>(x, w, r)  , , b = LSTM<hidden_size=2>(x, w, r)  y = Add(a, b) }"""
    assert_leaves(MergeDuplicates(), text)
