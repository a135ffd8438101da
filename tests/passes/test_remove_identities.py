"""RemoveIdentities."""

import numpy as np
import onnx_ir as ir
import pytest

from onnxopt.passes.simplify.remove_identities import RemoveIdentities
from onnxopt.testing import assert_leaves, assert_rewrites, parse, run_pass

ONES = "int64[2] o = {1, 1}"
ZEROS = "int64[2] z = {0, 0}"


def between(node: str, params: str = "", shape: str = "2,3") -> str:
    """The node between two others, so that nothing but itself is in the way."""
    weights = f"<{params}>" if params else ""
    return f"g (float[{shape}] x) => (float[{shape}] y) {weights} {{ a = Neg(x)  b = {node}  y = Abs(b) }}"


NOTHING = {
    "Identity": between("Identity(a)"),
    "Dropout": between("Dropout(a)"),
    "Dropout with a ratio": between("Dropout(a, r)", "float r = {0.5}"),
    "Dropout, not training": between("Dropout(a, r, t)", "float r = {0.5}, bool t = {0}"),
    "Cast to the same type": between("Cast<to=1>(a)"),
    "CastLike of the same type": between("CastLike(a, x)"),
    "Transpose to the same order": between("Transpose<perm=[0,1]>(a)"),
    "Concat of one": between("Concat<axis=0>(a)"),
    "Sum of one": between("Sum(a)"),
    "Mean of one": between("Mean(a)"),
    "Max of one": between("Max(a)"),
    "Min of one": between("Min(a)"),
    "Reshape to the same shape": between("Reshape(a, s)", "int64[2] s = {2, 3}"),
    "Reshape with a dimension left to compute": between("Reshape(a, s)", "int64[2] s = {-1, 3}"),
    "Reshape that copies a dynamic dimension": between("Reshape(a, s)", "int64[2] s = {0, 3}", "n,3"),
    "Reshape that computes a dynamic dimension": between("Reshape(a, s)", "int64[2] s = {-1, 3}", "n,3"),
    "Flatten of a matrix": between("Flatten(a)", shape="n,3"),
    "Expand by ones": between("Expand(a, o)", ONES),
    "Expand to the same shape": between("Expand(a, s)", "int64[2] s = {2, 3}"),
    "Tile by ones": between("Tile(a, o)", ONES),
    "Pad by nothing": between("Pad(a, p)", "int64[4] p = {0, 0, 0, 0}"),
    "Slice from start to end": between("Slice(a, z, e)", ZEROS + ", int64[2] e = {9223372036854775807, 2147483647}"),
    "Slice to the last of a static dimension": between("Slice(a, z, e)", ZEROS + ", int64[2] e = {2, 3}"),
    "Slice of one axis with a step of 1": between(
        "Slice(a, s, e, x1, p)", "int64[1] s={0}, int64[1] e={3}, int64[1] x1={-1}, int64[1] p={1}"
    ),
    "Clip without bounds": between("Clip(a)"),
    "times 1": between("Mul(a, c)", "float c = {1}"),
    "1 times": between("Mul(c, a)", "float[1,1] c = {1}"),
    "times ones": between("Mul(a, c)", "float[3] c = {1, 1, 1}"),
    "by 1": between("Div(a, c)", "float[1] c = {1}"),
    "minus 0": between("Sub(a, c)", "float c = {0}"),
}


@pytest.mark.parametrize("text", NOTHING.values(), ids=NOTHING.keys())
def test_removes(text: str) -> None:
    model = assert_rewrites(RemoveIdentities(), text, after=["Neg(x) -> a", "Abs(a) -> y"])
    assert not model.graph.initializers


@pytest.mark.parametrize(
    "node", ["Slice<starts=[0,0], ends=[99,9999999999]>(a)", "Pad<pads=[0,0,0,0]>(a)", "Dropout(a)"]
)
def test_removes_in_opset_8(node: str) -> None:
    assert_rewrites(RemoveIdentities(), between(node), after=["Neg(x) -> a", "Abs(a) -> y"], opset=8)


def test_removes_a_chain_in_one_run_and_keeps_the_name_of_the_output() -> None:
    text = "g (float[4] x) => (float[4] y) { a = Neg(x)  b = Identity(a)  c = Dropout(b)  y = Identity(c) }"
    model = assert_rewrites(RemoveIdentities(), text, after=["Neg(x) -> y"])
    assert model.graph.outputs[0].dtype is ir.DataType.FLOAT


def test_removes_in_a_branch_what_reads_an_outer_value() -> None:
    text = """g (bool c, float[4] x) => (float[4] y) { a = Neg(x)
      y = If(c) <then_branch = t () => (float[4] o) { b = Identity(a)  o = Abs(b) },
                 else_branch = e () => (float[4] p) { p = Relu(a) }> }"""
    assert_rewrites(RemoveIdentities(), text, after=["Neg(x) -> a", "If(c) -> y", "  Abs(a) -> o", "  Relu(a) -> p"])


LEFT_ALONE = {
    "between an input and an output": "g (float[4] x) => (float[4] y) { y = Identity(x) }",
    "between a weight and an output": "g (float[4] x) => (float[4] y, float[4] z) <float[4] w> { y = Identity(w)  z = Neg(x) }",
    "a branch returns an outer value": """g (bool c, float[4] x) => (float[4] y) { a = Neg(x)
        y = If(c) <then_branch = t () => (float[4] o) { o = Identity(a) }, else_branch = e () => (float[4] p) { p = Relu(a) }> }""",
    "a loop returns its own condition": """g (float[4] x) => (float[4] y) <int64 n = {3}, bool t = {1}> {
        y = Loop(n, t, x) <body = b (int64 i, bool c, float[4] v) => (bool d, float[4] r) { d = Identity(c)  r = Neg(v) }> }""",
    "both are outputs": "g (float[4] x) => (float[4] a, float[4] y) { a = Neg(x)  y = Identity(a) }",
    "Dropout whose mask is read": "g (float[4] x) => (float[4] y, bool[4] m) { a = Neg(x)  b, m = Dropout(a)  y = Abs(b) }",
    "Dropout whose training mode is an input": """g (float[4] x, bool t) => (float[4] y) <float r = {0.5}>
        { a = Neg(x)  b = Dropout(a, r, t)  y = Abs(b) }""",
    "plus 0, which makes 0 of -0": between("Add(a, c)", "float c = {0}"),
    "minus -0, which makes 0 of -0": between("Sub(a, c)", "float c = {-0.0}"),
    "0 minus": between("Sub(c, a)", "float c = {0}"),
    "1 by": between("Div(c, a)", "float c = {1}"),
    "times 1, which makes it larger": "g (float[3] x) => (float[1,3] y) <float[1,1] c = {1}> { a = Neg(x)  b = Mul(a, c)  y = Abs(b) }",
    "times ones, which repeat it": "g (float[1] x) => (float[3] y) <float[3] c = {1, 1, 1}> { a = Neg(x)  b = Mul(a, c)  y = Abs(b) }",
    "times ones over a dynamic dimension": "g (float[n] x) => (float[m] y) <float[3] c = {1, 1, 1}> { a = Neg(x)  b = Mul(a, c)  y = Abs(b) }",
    "times a weight that a caller may override": """g (float[3] x, float c) => (float[3] y) <float c = {1}>
        { a = Neg(x)  b = Mul(a, c)  y = Abs(b) }""",
    "Cast to another type": "g (float[3] x) => (double[3] y) { a = Neg(x)  b = Cast<to=11>(a)  y = Abs(b) }",
    "Transpose without perm": "g (float[2,2] x) => (float[2,2] y) { a = Neg(x)  b = Transpose(a)  y = Abs(b) }",
    "Reshape to another shape": "g (float[2,3] x) => (float[3,2] y) <int64[2] s = {3, 2}> { a = Neg(x)  b = Reshape(a, s)  y = Abs(b) }",
    "Reshape of dynamic dimensions": "g (float[n,m] x) => (float[k,3] y) <int64[2] s = {-1, 3}> { a = Neg(x)  b = Reshape(a, s)  y = Abs(b) }",
    "Slice of a dynamic dimension": "g (float[n] x) => (float[m] y) <int64[1] s = {0}, int64[1] e = {9}> { a = Neg(x)  b = Slice(a, s, e)  y = Abs(b) }",
    "Slice backwards": """g (float[3] x) => (float[3] y) <int64[1] s = {0}, int64[1] e = {99999999999}, int64[1] i = {0}, int64[1] p = {2}>
        { a = Neg(x)  b = Slice(a, s, e, i, p)  y = Abs(b) }""",
    "Pad by something": "g (float[3] x) => (float[4] y) <int64[2] p = {0, 1}> { a = Neg(x)  b = Pad(a, p)  y = Abs(b) }",
    "another domain": '<ir_version: 8, opset_import: ["" : 17, "me" : 1]> g (float[3] x) => (float[3] y) { a = Neg(x)  b = me.Identity(a)  y = Abs(b) }',
}


@pytest.mark.parametrize("text", LEFT_ALONE.values(), ids=LEFT_ALONE.keys())
def test_leaves(text: str) -> None:
    assert_leaves(RemoveIdentities(), text)


def test_does_not_believe_stale_shapes() -> None:
    model = parse(
        "g (float[n,m] x) => (float[2,3] y) <int64[2] s = {2, 3}> { a = Neg(x)  b = Reshape(a, s)  y = Abs(b) }"
    )
    model.graph[0].outputs[0].shape = ir.Shape([2, 3])
    assert run_pass(RemoveIdentities(), model) == []


def test_signs_of_zero_and_nan_survive() -> None:
    special = np.array([[0.0, -0.0, np.nan], [np.inf, -np.inf, 1e-40]], np.float32)
    for name in ("times 1", "by 1", "minus 0"):
        text = NOTHING[name].replace("Abs", "Reciprocal")
        assert_rewrites(RemoveIdentities(), text, after=["Neg(x) -> a", "Reciprocal(a) -> y"], x=special)
