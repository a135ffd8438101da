"""ConvertLayer: Gemm, MatMul and Einsum, each written as other layers."""

import string

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from onnxopt.passes.convert.convert_layer import ConvertLayer
from onnxopt.runtime import Session
from onnxopt.target import Target
from onnxopt.testing import (
    assert_refuses,
    assert_rewrites,
    assert_same_outputs,
    compare_outputs,
    lines,
    parse,
    run_pass,
)

EXAMPLES = settings(derandomize=True, deadline=None, max_examples=150, database=None)
CPU = Target()


def by(*names: str) -> ConvertLayer:
    return ConvertLayer(conversions=names, choose="always")


def gemm(a: str, weights: str, attributes: str = "", inputs: str = "a, w, c") -> str:
    return f"g (float[{a}] a) => (float[p,q] y) <{weights}> {{ y = Gemm<{attributes}>({inputs}) }}".replace("<>", "")


BIASES = ["float[3] c", "float[1] c", "float c", "float[1,3] c", "float[5,3] c", "float[5,1] c", "float[1,1] c"]


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("attributes", ["", "beta=0.5", "alpha=2.0, transB=1", "alpha=0.25, beta=2.0, transA=1"])
def test_gemm_to_matmul_and_add(bias: str, attributes: str) -> None:
    a, w = ("4,5" if "transA" in attributes else "5,4"), ("3,4" if "transB" in attributes else "4,3")
    product = ["MatMul(a, const) -> y/MatMul"]
    if "transA" in attributes:
        product = ["Transpose(a) -> y/Transpose", "MatMul(y/Transpose, const) -> y/MatMul"]
    after = [*product, "Add(y/MatMul, const) -> y"]
    assert_rewrites(by("gemm-to-matmul"), gemm(a, f"float[{w}] w, {bias}", attributes), after=after)


def test_gemm_without_a_summand_and_of_two_inputs() -> None:
    after = ["MatMul(a, const) -> y"]
    assert_rewrites(by("gemm-to-matmul"), gemm("n,4", "float[4,3] w", inputs="a, w"), after=after)
    text = """g (float[5,4] a, float[3,5] b, float[4,3] c) => (float[4,3] y)
        { y = Gemm<transA=1, transB=1>(a, b, c) }"""
    after = ["Transpose(a) -> y/Transpose", "Transpose(b) -> y/Transpose.1"]
    after += ["MatMul(y/Transpose, y/Transpose.1) -> y/MatMul", "Add(y/MatMul, c) -> y"]
    assert_rewrites(by("gemm-to-matmul"), text, after=after)


def test_a_weight_that_is_read_as_it_is_stays_the_same_constant() -> None:
    model = parse(gemm("5,4", "float[4,3] w, float[3] c"))
    assert run_pass(by("gemm-to-matmul"), model)
    assert {*model.graph.initializers} == {"w", "c"}


@pytest.mark.parametrize("body", ["Add(h, b)", "Add(b, h)"])
@pytest.mark.parametrize("bias", ["3", "1"])
def test_matmul_and_add_to_gemm(body: str, bias: str) -> None:
    text = f"g (float[n,4] a) => (float[n,3] y) <float[4,3] w, float[{bias}] b> {{ h = MatMul(a, w)  y = {body} }}"
    assert_rewrites(by("matmul-to-gemm"), text, after=["Gemm(a, const, const) -> y"])


def test_a_product_of_two_inputs_to_gemm() -> None:
    text = """g (float[n,4] a, float[4,3] v) => (float[n,3] y) <float[3] b> { h = MatMul(a, v)  y = Add(h, b) }"""
    assert_rewrites(by("matmul-to-gemm"), text, after=["Gemm(a, v, const) -> y"])


@pytest.mark.parametrize("bias", ["float[3] c", "float[1] c", "float c", "float[1,3] c"])
@pytest.mark.parametrize("attributes", ["", "beta=0.5", "alpha=2.0, transB=1"])
def test_gemm_to_conv(bias: str, attributes: str) -> None:
    w = "3,4" if "transB" in attributes else "4,3"
    after = ["Reshape(a, const) -> y/Reshape", "Conv(y/Reshape, const, const) -> y/Conv", "Reshape(y/Conv, const) -> y"]
    assert_rewrites(by("gemm-to-conv"), gemm("n,4", f"float[{w}] w, {bias}", attributes), after=after)


FLATTENED = {
    "Flatten": ("n,2,3,2", "h = Flatten(x)", True),
    "Flatten from a later axis": ("2,1,3,4", "h = Flatten<axis=2>(x)", False),
    "Reshape that copies": ("n,2,3,2", "h = Reshape(x, copied)", True),
    "Reshape of known sizes": ("n,2,3,2", "h = Reshape(x, told)", True),
    "Reshape of one image": ("1,2,3,2", "h = Reshape(x, one)", True),
    "Reshape to other rows": ("2,2,3,2", "h = Reshape(x, other)", False),
    "sizes that are not known": ("n,2,3,w", "h = Flatten(x)", False),
    "a second reader": ("n,2,3,2", "h = Flatten(x)  z = Relu(h)", False),
}


@pytest.mark.parametrize(("shape", "body", "taken"), FLATTENED.values(), ids=FLATTENED.keys())
def test_images_laid_flat_before_gemm(shape: str, body: str, taken: bool) -> None:
    more = ", float[r,s] z" if "z =" in body else ""
    columns = 6 if "other" in body else 12
    text = f"""g (float[{shape}] x) => (float[p,q] y{more}) <float[{columns},3] w, int64[2] copied = {{0, -1}},
        int64[2] told = {{-1, 12}}, int64[2] one = {{1, -1}}, int64[2] other = {{4, -1}}> {{ {body}  y = Gemm(h, w) }}"""
    model = parse(text)
    if "w" not in shape:
        assert_rewrites_same(by("gemm-to-conv"), text)
    run_pass(by("gemm-to-conv"), model)
    ops = [node.op_type for node in model.graph if node.op_type != "Relu"]
    assert (ops == ["Conv", "Reshape"]) == taken, ops


def assert_rewrites_same(rewrite: ConvertLayer, text: str, opset: int = 20) -> ir.Model:
    before = parse(text, opset=opset)
    model = before.clone()
    assert run_pass(rewrite, model)
    assert_same_outputs(before, model)
    assert run_pass(rewrite, model) == []
    return model


REFUSED = {
    "Gemm of double": (
        "gemm-to-matmul",
        "g (double[5,4] a) => (double[5,3] y) <double[4,3] w> { y = Gemm(a, w) }",
        "it computes in double",
    ),
    "a factor and no constant": (
        "gemm-to-matmul",
        "g (float[5,4] a, float[4,3] b) => (float[5,3] y) { y = Gemm<alpha=2.0>(a, b) }",
        "it scales a product of which no side is constant",
    ),
    "a factor of a summand that is an input": (
        "gemm-to-matmul",
        "g (float[5,4] a, float[3] c) => (float[5,3] y) <float[4,3] w> { y = Gemm<beta=2.0>(a, w, c) }",
        "it scales a summand that is not constant",
    ),
    "Gemm whose weight is an input": (
        "gemm-to-conv",
        "g (float[5,4] a, float[4,3] b) => (float[5,3] y) { y = Gemm(a, b) }",
        "its weight is not constant, or sparse",
    ),
    "Gemm whose bias is an input": (
        "gemm-to-conv",
        "g (float[5,4] a, float[3] c) => (float[5,3] y) <float[4,3] w> { y = Gemm(a, w, c) }",
        "its bias is not constant",
    ),
    "Gemm whose bias differs": ("gemm-to-conv", gemm("5,4", "float[4,3] w, float[5,3] c"), "its bias differs"),
    "Gemm that transposes its input": (
        "gemm-to-conv",
        gemm("4,5", "float[4,3] w, float[3] c", "transA=1"),
        "transposes",
    ),
    "a sum that may be wider than the product": (
        "matmul-to-gemm",
        "g (float[n,4] a, float[4,m] v) => (float[n,p] y) <float[3] b> { h = MatMul(a, v)  y = Add(h, b) }",
        "it is not known that the sum is as wide",
    ),
    "Einsum of double": (
        "einsum-to-matmul",
        'g (double[2,3] a) => (double[3,2] y) { y = Einsum<equation="ij->ji">(a) }',
        "it computes in double",
    ),
    "Einsum with an ellipsis": (
        "einsum-to-matmul",
        'g (float[2,3] a, float[3,2] b) => (float[2,2] y) { y = Einsum<equation="...j,jk->...k">(a, b) }',
        "ellipsis",
    ),
    "Einsum of three operands": (
        "einsum-to-matmul",
        'g (float[2,3] a, float[3,2] b, float[2] c) => (float[2] y) { y = Einsum<equation="ij,jk,k->i">(a, b, c) }',
        "more than two operands",
    ),
    "Einsum of a diagonal": (
        "einsum-to-matmul",
        'g (float[3,3] a) => (float[3] y) { y = Einsum<equation="ii->i">(a) }',
        "diagonal",
    ),
    "Einsum that broadcasts": (
        "einsum-to-matmul",
        'g (float[1,3] a, float[3,2] b) => (float[3] y) { y = Einsum<equation="ij,ik->i">(a, b) }',
        "index 'i' has two sizes",
    ),
    "Einsum that lays two unknown sizes together": (
        "einsum-to-matmul",
        'g (float[b,i,4,j] a, float[b,4,6] v) => (float[b,i,j,6] y) { y = Einsum<equation="bikj,bkl->bijl">(a, v) }',
        "two of the sizes that it lays together are not known",
    ),
    "Einsum of an unknown rank": (
        "einsum-to-matmul",
        """g (float[2,3] x, int64[n] s) => (float[q,p] y) { a = Reshape(x, s)  y = Einsum<equation="ij->ji">(a) }""",
        "rank",
    ),
}


@pytest.mark.parametrize(("name", "text", "why"), REFUSED.values(), ids=REFUSED.keys())
def test_refuses(name: str, text: str, why: str) -> None:
    assert_refuses(by(name), text, why)


NOT_MEANT = {
    "a product without a sum": "g (float[n,4] a) => (float[n,3] y) <float[4,3] w> { y = MatMul(a, w) }",
    "a product of three dimensions": """g (float[n,2,4] a) => (float[n,2,3] y) <float[4,3] w, float[3] b>
        { h = MatMul(a, w)  y = Add(h, b) }""",
    "a Sum, which ONNX Runtime does not fuse": """g (float[n,4] a) => (float[n,3] y) <float[4,3] w, float[3] b>
        { h = MatMul(a, w)  y = Sum(h, b) }""",
    "a product that others read": """g (float[n,4] a) => (float[n,3] y, float[n,3] h) <float[4,3] w, float[3] b>
        { h = MatMul(a, w)  y = Add(h, b) }""",
}


@pytest.mark.parametrize("text", NOT_MEANT.values(), ids=NOT_MEANT.keys())
def test_says_nothing_of_what_is_not_meant(text: str) -> None:
    assert_refuses(by("matmul-to-gemm"), text, None)


def einsum(equation: str, *shapes: str) -> str:
    given = ", ".join(f"float[{shape}] {name}" for shape, name in zip(shapes, "ab", strict=False))
    result = equation.split("->")[1].strip() if "->" in equation else "?" * 2
    out = ",".join(f"d{place}" for place, _ in enumerate(result.replace("?", "x")))
    names = ", ".join("ab"[: len(shapes)])
    return f'g ({given}) => (float{f"[{out}]" if out else ""} y) {{ y = Einsum<equation="{equation}">({names}) }}'


PRODUCT = ["MatMul(a, b) -> y"]
EINSUMS = [
    ("ij,jk->ik", ["2,3", "3,4"], PRODUCT),
    ("ij , jk -> ik", ["n,k", "k,m"], PRODUCT),
    ("ij,jk", ["2,3", "3,4"], PRODUCT),
    ("bhij,bhjd->bhid", ["b,2,t,s", "b,2,s,3"], PRODUCT),
    ("bti,io->bto", ["b,t,3", "3,4"], PRODUCT),
    ("jk,ij->ik", ["3,4", "2,3"], ["MatMul(b, a) -> y"]),
    ("bhid,bhjd->bhij", ["b,h,s,4", "b,h,t,4"], ["Transpose(b) -> y/Transpose", "MatMul(a, y/Transpose) -> y"]),
    (
        "bihd,bjhd->bhij",
        ["b,s,2,4", "b,t,2,4"],
        ["Transpose(a) -> y/Transpose", "Transpose(b) -> y/Transpose.1", "MatMul(y/Transpose, y/Transpose.1) -> y"],
    ),
    (
        "ij,jk->ki",
        ["2,3", "3,4"],
        ["Transpose(b) -> y/Transpose", "Transpose(a) -> y/Transpose.1", "MatMul(y/Transpose, y/Transpose.1) -> y"],
    ),
    (
        "nchw,mc->nmhw",
        ["n,3,h,4", "5,3"],
        [
            "Transpose(a) -> y/Transpose",
            "Transpose(b) -> y/Transpose.1",
            "MatMul(y/Transpose, y/Transpose.1) -> y/MatMul",
            "Transpose(y/MatMul) -> y",
        ],
    ),
    ("ij,jk->i", ["2,3", "3,4"], None),
    ("ij,j->i", ["n,3", "3"], None),
    ("i,i->", ["3", "3"], None),
    ("bi,bi->b", ["b,3", "b,3"], None),
    ("bijk,bjkl->bil", ["b,2,3,4", "b,3,4,5"], None),
    ("bijk,bl->bijkl", ["b,2,3,k", "b,5"], None),
    ("i,j->ij", ["3", "4"], ["Unsqueeze(a, const) -> y/Unsqueeze", "Mul(y/Unsqueeze, b) -> y"]),
    ("j,ijk->ijk", ["3", "2,3,4"], ["Unsqueeze(a, const) -> y/Unsqueeze", "Mul(y/Unsqueeze, b) -> y"]),
    ("ij,ij->ij", ["n,4", "n,4"], ["Mul(a, b) -> y"]),
    ("ij,ji->ij", ["2,4", "4,2"], ["Transpose(b) -> y/Transpose", "Mul(a, y/Transpose) -> y"]),
    ("ij->ji", ["n,m"], ["Transpose(a) -> y"]),
    ("ij->ij", ["n,m"], ["Identity(a) -> y"]),
    ("ijk->ki", ["2,n,m"], ["ReduceSum(a, const) -> y/ReduceSum", "Transpose(y/ReduceSum) -> y"]),
    ("ij->", ["2,m"], ["ReduceSum(a, const) -> y"]),
]


@pytest.mark.parametrize(("equation", "shapes", "after"), EINSUMS, ids=[equation for equation, *_ in EINSUMS])
def test_einsum(equation: str, shapes: list[str], after: list[str] | None) -> None:
    text = einsum(equation, *shapes)
    model = assert_rewrites_same(by("einsum-to-matmul"), text)
    assert "Einsum" not in [node.op_type for node in model.graph]
    assert after is None or lines(model) == after


@pytest.mark.parametrize("equation", ["i,j->ij", "ijk->ki", "ij,jk->i"])
def test_einsum_before_axes_were_inputs(equation: str) -> None:
    shapes = {"i,j->ij": ["3", "4"], "ijk->ki": ["2,3,4"], "ij,jk->i": ["2,3", "3,4"]}[equation]
    model = assert_rewrites_same(by("einsum-to-matmul"), einsum(equation, *shapes), opset=12)
    assert not model.graph.initializers or "Reshape" in [node.op_type for node in model.graph]


@given(data=st.data(), terms=st.integers(1, 2), dynamic=st.booleans())
@EXAMPLES
def test_any_einsum(data: st.DataObject, terms: int, dynamic: bool) -> None:
    """Indices drawn for the operands and the result, sizes for the indices; as ONNX Runtime computes it."""
    indices = string.ascii_lowercase[:5]
    sizes = dict(zip(indices, data.draw(st.permutations([1, 2, 3, 4, 5])), strict=True))
    words = ["".join(data.draw(st.lists(st.sampled_from(indices), max_size=4, unique=True))) for _ in range(terms)]
    assume(any(words))
    used = sorted({*"".join(words)})
    result = "".join(data.draw(st.lists(st.sampled_from(used), max_size=4, unique=True)))
    unknown = data.draw(st.sampled_from(used)) if dynamic else None
    infos, feeds, random = [], {}, np.random.default_rng(0)
    for name, word in zip("ab", words, strict=False):
        shape = [index if index == unknown else sizes[index] for index in word]
        infos.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        feeds[name] = random.normal(size=[sizes[index] for index in word]).astype(np.float32)
    node = helper.make_node("Einsum", [*feeds], ["y"], equation=f"{','.join(words)}->{result}")
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [f"d{place}" for place, _ in enumerate(result)])
    graph = helper.make_graph([node], "g", infos, [out])
    proto = helper.make_model(
        graph, ir_version=8, opset_imports=[helper.make_opsetid("", data.draw(st.sampled_from([12, 13, 20])))]
    )
    model = ir.serde.deserialize_model(proto)
    expected = Session(model, CPU, optimize=False).run(feeds)
    assume(run_pass(by("einsum-to-matmul"), model))
    onnx.checker.check_model(ir.serde.serialize_model(model), full_check=True)
    np.testing.assert_allclose(expected["y"], np.einsum(f"{','.join(words)}->{result}", *feeds.values()), atol=1e-4)
    compare_outputs(expected, Session(model, CPU, optimize=False).run(feeds), rtol=1e-5)
    assert unknown is not None or "Einsum" not in [one.op_type for one in model.graph]
