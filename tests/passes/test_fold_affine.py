"""FoldAffine."""

import numpy as np
import pytest

from onnxopt.passes.fuse.fold_affine import FoldAffine
from onnxopt.testing import assert_refuses, assert_rewrites

WEIGHTS = "float[4,2,3,3] w, float[4] c"
IMAGE = "(float[1,2,5,5] x) => (float[1,4,3,3] y)"

CONSTANTS = {
    "one number": "float k",
    "one number with axes": "float[1,1,1] k",
    "one number per channel": "float[4,1,1] k",
    "one number per channel, rank 4": "float[1,4,1,1] k",
}


@pytest.mark.parametrize("op", ["Mul(h, k)", "Mul(k, h)", "Add(h, k)", "Add(k, h)", "Sub(h, k)", "Div(h, k)"])
@pytest.mark.parametrize("constant", CONSTANTS.values(), ids=CONSTANTS.keys())
def test_folds_into_conv(op: str, constant: str) -> None:
    text = f"g {IMAGE} <{WEIGHTS}, {constant}> {{ h = Conv(x, w, c)  y = {op} }}"
    assert_rewrites(FoldAffine(), text, after=["Conv(x, const, const) -> y"])


def test_adds_no_bias_for_a_factor() -> None:
    text = f"g {IMAGE} <{WEIGHTS}, float[4,1,1] k> {{ h = Conv(x, w)  y = Mul(h, k) }}"
    assert_rewrites(FoldAffine(), text, after=["Conv(x, const) -> y"])


def test_keeps_a_shared_weight_shared_under_a_summand() -> None:
    text = f"""g (float[1,2,5,5] x) => (float[1,4,3,3] y, float[1,4,3,3] z) <{WEIGHTS}, float[4,1,1] k>
        {{ h = Conv(x, w)  y = Add(h, k)  z = Conv(x, w, c) }}"""
    model = assert_rewrites(FoldAffine(), text, after=["Conv(x, const, const) -> y", "Conv(x, const, const) -> z"])
    assert len(model.graph.initializers["w"].uses()) == 2


def test_folds_a_chain_in_one_run() -> None:
    text = f"""g {IMAGE} <{WEIGHTS}, float[4,1,1] k>
        {{ h1 = Conv(x, w)  h2 = Mul(h1, k)  h3 = Add(k, h2)  h4 = Div(h3, k)  y = Sub(h4, k) }}"""
    assert_rewrites(FoldAffine(), text, after=["Conv(x, const, const) -> y"])


@pytest.mark.parametrize("group", [1, 2, 4])
@pytest.mark.parametrize("op", ["Mul", "Add"])
def test_folds_into_conv_transpose(group: int, op: str) -> None:
    text = f"""g (float[1,8,5,5] x) => (float[1,4,7,7] y) <float[8,{4 // group},3,3] w, float[4] c, float[4,1,1] k>
        {{ h = ConvTranspose<group={group}>(x, w, c)  y = {op}(h, k) }}"""
    assert_rewrites(FoldAffine(), text, after=["ConvTranspose(x, const, const) -> y"])


@pytest.mark.parametrize("shape", ["2,7", "2,4,4,4"], ids=["1-D", "3-D"])
def test_folds_into_conv_of_other_dimensions(shape: str) -> None:
    ones = ",1" * shape.count(",")
    after = ",".join(str(int(n) - 2) for n in shape.split(",")[1:])
    text = f"""g (float[1,{shape}] x) => (float[1,4,{after}] y) <float[4,2{",3" * shape.count(",")}] w, float[4{ones}] k>
        {{ h = Conv(x, w)  y = Mul(h, k) }}"""
    assert_rewrites(FoldAffine(), text, after=["Conv(x, const) -> y"])


@pytest.mark.parametrize("gemm", ["Gemm<alpha=0.5>(x, w)", "Gemm<beta=2.0>(x, w, c)", "Gemm<transB=1>(x, t, one)"])
@pytest.mark.parametrize("op", ["Mul", "Sub"])
@pytest.mark.parametrize("constant", ["float k", "float[4] k", "float[1,4] k", "float[1,1] k"])
def test_folds_into_gemm(gemm: str, op: str, constant: str) -> None:
    text = f"""g (float[3,5] x) => (float[3,4] y) <float[5,4] w, float[4,5] t, float[4] c, float one, {constant}>
        {{ h = {gemm}  y = {op}(h, k) }}"""
    no_bias = op == "Mul" and gemm.endswith("w)")
    assert_rewrites(FoldAffine(), text, after=["Gemm(x, const) -> y" if no_bias else "Gemm(x, const, const) -> y"])


@pytest.mark.parametrize("rows", ["", "3,", "2,3,"])
@pytest.mark.parametrize("constant", ["float k", "float[4] k"])
@pytest.mark.parametrize("op", ["Mul(k, h)", "Div(h, k)"])
def test_scales_matmul_of_any_rank(rows: str, constant: str, op: str) -> None:
    text = f"g (float[{rows}5] x) => (float[{rows}4] y) <float[5,4] w, {constant}> {{ h = MatMul(x, w)  y = {op} }}"
    assert_rewrites(FoldAffine(), text, after=["MatMul(x, const) -> y"])


def test_scales_matmul_by_a_constant_with_leading_ones() -> None:
    text = "g (float[2,3,5] x) => (float[2,3,4] y) <float[5,4] w, float[1,1,4] k> { h = MatMul(x, w)  y = Mul(h, k) }"
    assert_rewrites(FoldAffine(), text, after=["MatMul(x, const) -> y"])


@pytest.mark.parametrize(("dtype", "rtol"), [("float16", 4e-3), ("double", 1e-14)])
def test_keeps_the_type(dtype: str, rtol: float) -> None:
    text = (
        f"g ({dtype}[3,5] x) => ({dtype}[3,4] y) <{dtype}[5,4] w, {dtype}[4] k> {{ h = Gemm(x, w, k) y = Mul(h, k) }}"
    )
    model = assert_rewrites(FoldAffine(), text, after=["Gemm(x, const, const) -> y"], rtol=rtol)
    kinds = {value.const_value.numpy().dtype for value in model.graph.initializers.values()}
    assert kinds == {np.dtype(dtype)}


@pytest.mark.parametrize("opset", [7, 11, 13])
def test_folds_in_old_opsets(opset: int) -> None:
    text = f"g {IMAGE} <{WEIGHTS}, float[4,1,1] k> {{ h = Conv(x, w) y = Mul(h, k) }}"
    assert_rewrites(FoldAffine(), text, opset=opset, after=["Conv(x, const) -> y"])


def test_folds_a_constant_node_of_an_outer_graph() -> None:
    text = f"""g (float[1,2,5,5] x, bool q) => (float[1,4,3,3] y) <{WEIGHTS}> {{
        k = Constant<value = float {{2.0}}>()
        y = If<then_branch = t () => (float[1,4,3,3] yt) {{ h = Conv(x, w)  yt = Mul(h, k) }},
               else_branch = e () => (float[1,4,3,3] ye) {{ ye = Conv(x, w, c) }}>(q) }}"""
    after = ["If(q) -> y", "  Conv(x, const) -> yt", "  Conv(x, const, const) -> ye"]
    assert_rewrites(FoldAffine(), text, after=after, q=np.array(True))


def image(constant: str, op: str, out: str = "1,4,3,3", weights: str = WEIGHTS) -> str:
    return f"g (float[1,2,5,5] x) => (float[{out}] y) <{weights}, {constant}> {{ h = Conv(x, w)  y = {op} }}"


REFUSED = {
    "constant along the width": ("not one number per channel", image("float[3] k", "Mul(h, k)")),
    "constant along the width, as many as channels": (
        "not one number per channel",
        "g (float[1,2,5,6] x) => (float[1,4,3,4] y) <float[4,2,3,3] w, float[4] k> { h = Conv(x, w) y = Mul(h, k) }",
    ),
    "constant along the height": ("not one number per channel", image("float[3,1] k", "Add(h, k)")),
    "constant for every element": ("not one number per channel", image("float[4,3,3] k", "Add(h, k)")),
    "constant that makes the batch larger": (
        "not one number per channel",
        image("float[2,4,1,1] k", "Mul(h, k)", out="2,4,3,3"),
    ),
    "constant that adds an axis": (
        "not one number per channel",
        image("float[1,1,4,1,1] k", "Mul(h, k)", out="1,1,4,3,3"),
    ),
    "constant that makes more channels": (
        "not one number per channel",
        image("float[4,1,1] k", "Mul(h, k)", weights="float[1,2,3,3] w"),
    ),
    "gemm with one constant per row": (
        "not one number per channel",
        "g (float[4,5] x) => (float[4,4] y) <float[5,4] w, float[4,1] k> { h = Gemm(x, w) y = Add(h, k) }",
    ),
    "matmul of unknown rank and a constant with axes": (
        "not one number per channel",
        """g (float[3,5] x, int64[n] s) => (float[a,b] y) <float[5,4] w, float[1,4] k>
        { r = Reshape(x, s) h = MatMul(r, w) y = Mul(h, k) }""",
    ),
    "vector times matrix with a matrix constant": (
        "not one number per channel",
        "g (float[5] x) => (float[1,4] y) <float[5,4] w, float[1,4] k> { h = MatMul(x, w) y = Mul(h, k) }",
    ),
    "constant minus output": ("on the left", image("float k", "Sub(k, h)")),
    "constant over output": ("on the left", image("float k", "Div(k, h)")),
    "division by zero": ("divides by zero", image("float[4,1,1] k = {1, 2, 0, 1}", "Div(h, k)")),
    "factor leaves the range of floats": ("do not fit", image("float k = {3e38}", "Mul(h, k)")),
    "constant can be overridden at run time": (
        "can be overridden",
        """g (float[1,2,5,5] x, float k) => (float[1,4,3,3] y) <float[4,2,3,3] w, float k>
        { h = Conv(x, w) y = Mul(h, k) }""",
    ),
    "weight can be overridden at run time": (
        "weight is not constant",
        """g (float[1,2,5,5] x, float[4,2,3,3] w) => (float[1,4,3,3] y) <float[4,2,3,3] w, float k>
        { h = Conv(x, w) y = Mul(h, k) }""",
    ),
    "output has another reader": (
        "also read",
        f"g {IMAGE} <{WEIGHTS}, float k> {{ h = Conv(x, w)  r = Mul(h, k)  y = Mul(r, h) }}",
    ),
    "output is an output of the graph": (
        "output of the graph",
        f"g (float[1,2,5,5] x) => (float[1,4,3,3] y, float[1,4,3,3] h) <{WEIGHTS}, float k> {{ h = Conv(x, w) y = Mul(h, k) }}",
    ),
    "factor inside a branch and conv outside": (
        "outer graph",
        f"""g (float[1,2,5,5] x, bool q) => (float[1,4,3,3] y) <{WEIGHTS}, float k> {{
        h = Conv(x, w)
        y = If<then_branch = t () => (float[1,4,3,3] yt) {{ yt = Mul(h, k) }},
               else_branch = e () => (float[1,4,3,3] ye) {{ ye = Conv(x, w, c) }}>(q) }}""",
    ),
}


@pytest.mark.parametrize(("why", "text"), REFUSED.values(), ids=REFUSED.keys())
def test_refuses(why: str, text: str) -> None:
    assert_refuses(FoldAffine(), text, why)


NOT_THERE = {
    "summand after matmul": (
        "g (float[3,5] x) => (float[3,4] y) <float[5,4] w, float[4] k> { h = MatMul(x, w) y = Add(h, k) }"
    ),
    "factor after a product of two activations": (
        "g (float[3,5] x, float[5,4] z) => (float[3,4] y) <float k> { h = MatMul(x, z) y = Mul(h, k) }"
    ),
    "integers": "g (int64[3,4] x) => (int64[3,4] y) <int64 k = {2}> { y = Mul(x, k) }",
    "factor is not constant": "g (float[1,2,5,5] x, float k) => (float[1,4,3,3] y) <float[4,2,3,3] w> "
    "{ h = Conv(x, w) y = Mul(h, k) }",
    "sum of two convolutions": f"g {IMAGE} <{WEIGHTS}> {{ h = Conv(x, w) r = Conv(x, w, c) y = Add(h, r) }}",
    "square": f"g {IMAGE} <{WEIGHTS}> {{ h = Conv(x, w) y = Mul(h, h) }}",
}


@pytest.mark.parametrize("text", NOT_THERE.values(), ids=NOT_THERE.keys())
def test_says_nothing_where_there_is_no_pair(text: str) -> None:
    assert_refuses(FoldAffine(), text, None)


def test_leaves_integer_gemm() -> None:
    text = "g (int32[3,5] x) => (int32[3,4] y) <int32[5,4] w, int32 k = {2}> { h = Gemm(x, w) y = Mul(h, k) }"
    assert_refuses(FoldAffine(), text, "float type")
