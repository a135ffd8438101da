"""FlattenMatMul."""

import onnx_ir as ir
import pytest

from onnxopt.core import Change, Context
from onnxopt.passes.fuse.flatten_matmul import FlattenMatMul
from onnxopt.passes.quantize.quantize_int8 import QuantizeInt8
from onnxopt.runtime import Session, kernels
from onnxopt.samples import random_samples
from onnxopt.target import Target
from onnxopt.testing import assert_leaves, assert_rewrites, compare_outputs, parse, run_pass

CPU = Target()
FLAT = ["Reshape(x, const) -> x/rows", "Gemm(x/rows, const, const) -> y/rows", "Reshape(y/rows, const) -> y"]
COMPUTED = [
    "Reshape(x, const) -> x/rows",
    "Shape(x) -> x/leading",
    "Gemm(x/rows, const, const) -> y/rows",
    "Concat(x/leading, const) -> y/shape",
    "Reshape(y/rows, y/shape) -> y",
]


def pair(shape: str, out: str, body: str = "h = MatMul(x, w)  y = Add(h, b)", more: str = "") -> str:
    """A graph from x to y, with weight w [4, 3] and bias b [3]."""
    return f"g (float[{shape}] x) => (float[{out}] y) <float[4,3] w, float[3] b{more}> {{ {body} }}"


@pytest.mark.parametrize("body", ["Add(h, b)", "Add(b, h)", "Sum(h, b)", "Sum(b, h)"])
def test_a_product_and_its_bias_become_gemm(body: str) -> None:
    assert_rewrites(FlattenMatMul(), pair("2,5,4", "2,5,3", f"h = MatMul(x, w)  y = {body}"), after=FLAT)


@pytest.mark.parametrize("shape", ["n,5,4", "5,n,4", "2,n,5,4", "1,1,4"])
@pytest.mark.parametrize("opset", [13, 20])
def test_one_dynamic_dimension_is_restored_without_computing_it(shape: str, opset: int) -> None:
    assert_rewrites(FlattenMatMul(), pair(shape, shape[:-1] + "3"), after=FLAT, opset=opset)


@pytest.mark.parametrize("shape", ["n,t,4", "n,2,t,4", "0,5,4", "0,n,4"])
def test_two_dynamic_dimensions_and_empty_ones_are_computed(shape: str) -> None:
    assert_rewrites(FlattenMatMul(), pair(shape, shape[:-1] + "3"), after=COMPUTED)


@pytest.mark.parametrize("shape", ["n,t,4", "0,5,4"])
def test_before_opset_15_they_are_left_alone(shape: str) -> None:
    assert_rewrites(FlattenMatMul(), pair(shape, shape[:-1] + "3"), after=COMPUTED, opset=15)
    assert_leaves(FlattenMatMul(), pair(shape, shape[:-1] + "3"), opset=14)


@pytest.mark.parametrize(("shape", "opset"), [("2,5,4", 13), ("n,t,4", 20)])
def test_products_that_read_the_same_share_its_reshape(shape: str, opset: int) -> None:
    text = f"""g (float[{shape}] x) => (float[{shape}] q, float[{shape}] k, float[{shape}] v)
    <float[4,4] a, float[4,4] b, float[4,4] c, float[4] d, float[4] e, float[4] f>
    {{ h = MatMul(x, a)  q = Add(h, d)  i = MatMul(x, b)  k = Add(e, i)  j = MatMul(x, c)  v = Sum(j, f) }}"""
    model = parse(text, opset=opset)
    assert len(run_pass(FlattenMatMul(), model)) == 3
    ops = [node.op_type for node in model.graph]
    assert ops.count("Gemm") == 3
    assert sum(node.inputs[0] is model.graph.inputs[0] for node in model.graph if node.op_type == "Reshape") == 1
    assert ops.count("Shape") == (opset == 20)
    samples = random_samples(parse(text, opset=opset), CPU, {})
    feeds = samples.first()
    outputs = [Session(one, CPU, optimize=False).run(feeds) for one in (parse(text, opset=opset), model)]
    compare_outputs(*outputs, rtol=1e-5)


def test_layers_after_each_other() -> None:
    assert_rewrites(
        FlattenMatMul(),
        """g (float[n,5,4] x) => (float[n,5,4] y) <float[4,3] w, float[3] b, float[3,4] u, float[4] c>
        { h = MatMul(x, w)  i = Add(h, b)  j = Relu(i)  k = MatMul(j, u)  y = Add(k, c) }""",
        after=[
            "Reshape(x, const) -> x/rows",
            "Gemm(x/rows, const, const) -> i/rows",
            "Reshape(i/rows, const) -> i",
            "Relu(i) -> j",
            "Reshape(j, const) -> j/rows",
            "Gemm(j/rows, const, const) -> y/rows",
            "Reshape(y/rows, const) -> y",
        ],
    )


def test_a_residual_after_the_bias_stays() -> None:
    assert_rewrites(
        FlattenMatMul(),
        pair("2,5,4", "2,5,3", "h = MatMul(x, w)  i = Add(h, b)  j = Split<axis=2, num_outputs=1>(i)  y = Add(i, j)"),
        after=[
            "Reshape(x, const) -> x/rows",
            "Gemm(x/rows, const, const) -> i/rows",
            "Reshape(i/rows, const) -> i",
            "Split(i) -> j",
            "Add(i, j) -> y",
        ],
    )


LEFT_ALONE = {
    "rank 2, which Gemm reads as it is": pair("5,4", "5,3"),
    "rank unknown": """g (float[2,5,4] x, int64[k] s) => (float[a,b,3] y) <float[4,3] w, float[3] b>
        { r = Reshape(x, s)  h = MatMul(r, w)  y = Add(h, b) }""",
    "no bias": pair("2,5,4", "2,5,3", "y = MatMul(x, w)"),
    "a bias that is not constant": """g (float[2,5,4] x, float[3] b) => (float[2,5,3] y) <float[4,3] w>
        { h = MatMul(x, w)  y = Add(h, b) }""",
    "a bias that can be overridden": """g (float[2,5,4] x, float[3] b) => (float[2,5,3] y) <float[4,3] w, float[3] b>
        { h = MatMul(x, w)  y = Add(h, b) }""",
    "a weight that can be overridden": """g (float[2,5,4] x, float[4,3] w) => (float[2,5,3] y)
        <float[4,3] w, float[3] b> { h = MatMul(x, w)  y = Add(h, b) }""",
    "a bias for each row": pair("2,5,4", "2,5,3", "h = MatMul(x, w)  y = Add(h, c)", ", float[5,3] c"),
    "one number": pair("2,5,4", "2,5,3", "h = MatMul(x, w)  y = Add(h, c)", ", float[1] c"),
    "a bias with a dimension more": pair("2,5,4", "2,5,3", "h = MatMul(x, w)  y = Add(h, c)", ", float[1,3] c"),
    "the product added to itself": pair("2,5,4", "2,5,3", "h = MatMul(x, w)  y = Add(h, h)"),
    "a sum of three": pair("2,5,4", "2,5,3", "h = MatMul(x, w)  y = Sum(h, b, b)"),
    "another operator": pair("2,5,4", "2,5,3", "h = MatMul(x, w)  y = Sub(h, b)"),
    "a second reader": pair("2,5,4", "2,5,3", "h = MatMul(x, w)  i = Add(h, b)  y = Mul(h, i)"),
    "an output of the graph in between": """g (float[2,5,4] x) => (float[2,5,3] y, float[2,5,3] h)
        <float[4,3] w, float[3] b> { h = MatMul(x, w)  y = Add(h, b) }""",
    "a reader in a subgraph": """g (float[2,5,4] x, bool t) => (float[2,5,3] y, float[2,5,3] z)
        <float[4,3] w, float[3] b>
        { h = MatMul(x, w)  y = Add(h, b)
          z = If(t) <then_branch = p () => (float[2,5,3] o) { o = Neg(h) },
                     else_branch = q () => (float[2,5,3] r) { r = Abs(h) }> }""",
    "the bias added in a subgraph": """g (float[2,5,4] x, bool t) => (float[2,5,3] z) <float[4,3] w, float[3] b>
        { h = MatMul(x, w)
          z = If(t) <then_branch = p () => (float[2,5,3] o) { o = Add(h, b) },
                     else_branch = q () => (float[2,5,3] r) { r = Identity(b) }> }""",
    "both in a subgraph": """g (float[2,5,4] x, bool t) => (float[2,5,3] z) <float[4,3] w, float[3] b>
        { z = If(t) <then_branch = p () => (float[2,5,3] o) { h = MatMul(x, w)  o = Add(h, b) },
                     else_branch = q () => (float[2,5,3] r) { i = MatMul(x, w)  r = Abs(i) }> }""",
    "a weight of three dimensions": """g (float[2,5,4] x) => (float[2,5,3] y) <float[2,4,3] w, float[3] b>
        { h = MatMul(x, w)  y = Add(h, b) }""",
    "a vector": """g (float[2,5,4] x) => (float[2,5] y) <float[4] w, float[5] b> { h = MatMul(x, w)  y = Add(h, b) }""",
    "the constant on the left": """g (float[2,4,5] x) => (float[2,3,5] y) <float[3,4] w, float[5] b>
        { h = MatMul(w, x)  y = Add(h, b) }""",
    "another type": """g (double[2,5,4] x) => (double[2,5,3] y) <double[4,3] w, double[3] b>
        { h = MatMul(x, w)  y = Add(h, b) }""",
}


@pytest.mark.parametrize("text", LEFT_ALONE.values(), ids=LEFT_ALONE.keys())
def test_leaves(text: str) -> None:
    assert_leaves(FlattenMatMul(), text)


def test_operators_of_other_domains_are_left_alone() -> None:
    model = parse(pair("2,5,4", "2,5,3"), opsets={"other": 1})
    model.graph.node(0).domain = "other"
    assert run_pass(FlattenMatMul(), model) == []


def test_in_int8_the_kernel_adds_the_bias_itself() -> None:
    text = """g (float[n,7,16] x) => (float[n,7,16] y) <float[16,16] w, float[16] b, float[16] s, float[16] t>
    { h = MatMul(x, w)  i = Add(h, b)  j = Add(i, x)  y = LayerNormalization(j, s, t) }"""

    def built(model: ir.Model) -> set[str]:
        said = QuantizeInt8(placement="everywhere").run(model, Context(CPU, random_samples(model, CPU, {}, count=8)))
        assert [type(item) for item in said] == [Change]
        return set(kernels(model, CPU).values())

    flat = parse(text, opset=17)
    assert run_pass(FlattenMatMul(), flat)
    assert {"MatMulIntegerToFloat", "Sum"} <= built(parse(text, opset=17))
    found = built(flat)
    assert "QGemm" in found
    assert not {"Sum", "MatMulIntegerToFloat", "Gemm", "MatMul"} & found
