"""MergeLinear."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from onnxopt import files
from onnxopt.core import Change, Context, Refusal
from onnxopt.graph import array
from onnxopt.passes.factorize.merge_linear import MergeLinear
from onnxopt.target import Target
from onnxopt.testing import (
    assert_leaves,
    assert_refuses,
    assert_rewrites,
    assert_same_outputs,
    lines,
    parse,
    run_pass,
)

CPU = Target()
MORE = "float[16] a, float[4] b, float[4,4] q"
"""Constants of products; ``w`` widens 4 to 16, ``v`` narrows 16 to 4, so that the product is cheaper."""


def product(body: str, shape: str = "n,4", out: str = "n,4", weights: str = "float[4,16] w, float[16,4] v") -> str:
    return f"g (float[{shape}] x) => (float[{out}] y) <{weights}, {MORE}> {{ {body} }}"


PRODUCTS = {
    "two products": ("h = MatMul(x, w)  y = MatMul(h, v)", ["MatMul(x, const) -> y"]),
    "a bias behind the second": (
        "h = MatMul(x, w)  i = MatMul(h, v)  y = Add(b, i)",
        ["MatMul(x, const) -> i", "Add(const, i) -> y"],
    ),
    "a bias behind the first": (
        "h = MatMul(x, w)  i = Add(h, a)  y = MatMul(i, v)",
        ["MatMul(x, const) -> y/product", "Add(y/product, const) -> y"],
    ),
    "a bias behind both": (
        "h = MatMul(x, w)  i = Sum(a, h)  j = MatMul(i, v)  y = Add(j, b)",
        ["MatMul(x, const) -> j", "Add(j, const) -> y"],
    ),
    "Gemm": ("h = Gemm(x, w)  y = Gemm(h, v)", ["Gemm(x, const) -> y"]),
    "Gemm with a bias each": ("h = Gemm(x, w, a)  y = Gemm(h, v, b)", ["Gemm(x, const, const) -> y"]),
    "Gemm with a bias in front": ("h = Gemm(x, w, a)  y = Gemm(h, v)", ["Gemm(x, const, const) -> y"]),
    "Gemm, then a product": (
        "h = Gemm(x, w, a)  y = MatMul(h, v)",
        ["MatMul(x, const) -> y/product", "Add(y/product, const) -> y"],
    ),
    "a product, then Gemm": ("h = MatMul(x, w)  i = Add(h, a)  y = Gemm(i, v, b)", ["Gemm(x, const, const) -> y"]),
}


@pytest.mark.parametrize(("body", "after"), PRODUCTS.values(), ids=PRODUCTS.keys())
def test_products(body: str, after: list[str]) -> None:
    assert_rewrites(MergeLinear(), product(body), after=after)


def test_four_in_a_row() -> None:
    text = product(
        "h = MatMul(x, w)  i = MatMul(h, v)  j = MatMul(i, s)  y = MatMul(j, t)",
        weights="float[4,16] w, float[16,4] v, float[4,16] s, float[16,4] t",
    )
    assert_rewrites(MergeLinear(), text, after=["MatMul(x, const) -> y"])


@pytest.mark.parametrize(("first", "second"), [(0, 1), (1, 0), (1, 1)])
def test_gemm_reads_its_weights_either_way(first: int, second: int) -> None:
    shapes = ("16,4" if first else "4,16", "4,16" if second else "16,4")
    body = f"h = Gemm<transB={first}>(x, w, a)  y = Gemm<transB={second}>(h, v, b)"
    text = product(body, weights=f"float[{shapes[0]}] w, float[{shapes[1]}] v")
    assert_rewrites(MergeLinear(), text, after=["Gemm(x, const, const) -> y"])


def test_a_weight_that_is_read_through_a_transpose() -> None:
    text = product(
        "t = Transpose<perm=[1,0]>(v)  h = MatMul(x, w)  y = MatMul(h, t)", weights="float[4,16] w, float[4,16] v"
    )
    assert_rewrites(MergeLinear(), text, after=["MatMul(x, const) -> y"])


@pytest.mark.parametrize("shape", ["4", "2,3,4", "n,2,t,4"])
def test_products_of_any_rank(shape: str) -> None:
    text = product("h = MatMul(x, w)  i = Add(h, a)  j = MatMul(i, v)  y = Add(j, b)", shape, shape)
    assert_rewrites(MergeLinear(), text, after=["MatMul(x, const) -> j", "Add(j, const) -> y"])


def convs(
    first: str, second: str, one: str, two: str, biases: str = "", out: str = "n,4,p,q", size: str = "11,9"
) -> str:
    """Two convolutions, 4 channels to 16 to 4; ``biases`` names those that have one."""
    a, b = (f", {name}" if name in biases else "" for name in "ab")
    return f"""g (float[n,4,{size}] x) => (float[{out}] y) <float[16,4,{one}] w, float[4,16,{two}] v, {MORE}>
    {{ h = Conv{first}(x, w{a})  y = Conv{second}(h, v{b}) }}"""


CONVS = {
    "1x1 and 1x1": convs("", "", "1,1", "1,1", "ab"),
    "1x1 and 1x1, both with strides": convs("<strides=[2,1]>", "<strides=[2,3]>", "1,1", "1,1", "ab"),
    "1x1 that pads, and 1x1": convs("<pads=[1,0,2,1]>", "", "1,1", "1,1", "ab"),
    "3x3 and 1x1": convs("<pads=[1,1,1,1]>", "", "3,3", "1,1", "ab"),
    "3x3 with stride and dilation, and 1x1 with stride": convs(
        "<pads=[1,0,2,3], strides=[2,1], dilations=[1,2]>", "<strides=[1,2]>", "3,3", "1,1", "a"
    ),
    "1x1 and 3x3 that pads": convs("", "<pads=[1,0,2,1], strides=[2,1], dilations=[1,2]>", "1,1", "3,3", "b"),
    "1x1 with a bias, and 3x3 that does not pad": convs("", "<strides=[2,2]>", "1,1", "3,3", "ab"),
    "1x1 that states its kernel, and 3x3": convs("<kernel_shape=[1,1]>", "<kernel_shape=[3,3]>", "1,1", "3,3"),
    "3x1 and 1x3": convs("<pads=[1,0,1,0], strides=[2,1]>", "<pads=[0,1,0,1], strides=[1,2]>", "3,1", "1,3", "b"),
    "1x3 and 5x1 with a bias, nothing padded": convs("", "<strides=[3,1]>", "1,3", "5,1", "ab"),
    "1x1 and 3x3 that pads itself": convs("", '<auto_pad="SAME_UPPER", strides=[2,2]>', "1,1", "3,3", "b"),
    "3x3 that pads itself, and 1x1": convs('<auto_pad="SAME_LOWER", strides=[2,2]>', "", "3,3", "1,1", "ab"),
    "3x1 and 1x3 that pad themselves": convs(
        '<auto_pad="SAME_UPPER", strides=[2,1]>', '<auto_pad="SAME_UPPER", strides=[1,2]>', "3,1", "1,3", "b"
    ),
    "not padded": convs('<auto_pad="VALID">', '<auto_pad="VALID", strides=[2,2]>', "3,1", "1,2", "ab"),
    "one dimension": convs("", "<pads=[2,1]>", "1", "3", "b", out="n,4,p", size="11"),
    "three dimensions": convs("<pads=[0,1,0,0,1,0]>", "", "1,3,1", "2,1,2", "ab", out="n,4,p,q,r", size="5,4,3"),
}


@pytest.mark.parametrize("text", CONVS.values(), ids=CONVS.keys())
@pytest.mark.parametrize("opset", [11, 20])
def test_convolutions(text: str, opset: int) -> None:
    biased = "v, b" in text or "w, a" in text
    after = "Conv(x, const, const) -> y" if biased else "Conv(x, const) -> y"
    assert_rewrites(MergeLinear(), text, after=[after], opset=opset)


NARROW = "float[16,4] w, float[4,16] v"
"""Rank 4 in place of 16 x 16: cheaper as it is."""
LEFT = {
    "what costs more in one": (
        product("h = MatMul(x, w)  y = MatMul(h, v)", "n,16", "n,16", NARROW),
        "256 multiply-accumulates for each output position instead of 128",
    ),
    "what costs as much in one": (
        product("h = MatMul(x, w)  y = MatMul(h, v)", "n,8", "n,8", "float[8,4] w, float[4,8] v"),
        "64 multiply-accumulates for each output position instead of 64",
    ),
    "weights that others read, too": (
        """g (float[n,4] x, float[n,4] z) => (float[n,4] y, float[n,16] u, float[n,4] s) <float[4,16] w, float[16,4] v>
        { h = MatMul(x, w)  y = MatMul(h, v)  u = MatMul(z, w)  r = Relu(u)  s = MatMul(r, v) }""",
        "weights that other layers read would be copied",
    ),
    "a bias in front of padding": (
        convs("", "<pads=[1,1,1,1]>", "1,1", "3,3", "a"),
        "the first has a bias, and the second pads what that gives",
    ),
    "a bias in front of a kernel that pads itself": (
        convs("", '<auto_pad="SAME_UPPER">', "1,1", "3,3", "a"),
        "the first has a bias, and the second pads what that gives",
    ),
    "padding in front of a kernel": (
        convs("<pads=[1,0,1,0]>", "", "1,1", "3,3"),
        "both have a kernel, a stride or padding on the same axis",
    ),
    "a stride in front of a kernel": (
        convs("<strides=[2,1]>", "", "1,1", "3,3"),
        "both have a kernel, a stride or padding on the same axis",
    ),
    "two kernels": (convs("", "", "3,3", "3,3"), "both have a kernel, a stride or padding on the same axis"),
    "padding that depends on the stride": (
        convs('<auto_pad="SAME_UPPER">', "<strides=[2,2]>", "3,3", "1,1"),
        "the padding of the first depends on its stride",
    ),
    "padding of two kinds": (
        convs('<auto_pad="SAME_UPPER">', "<pads=[0,1,0,1]>", "3,1", "1,3"),
        "they are padded in different ways",
    ),
    "kernels that pad themselves and do not": (
        convs('<auto_pad="SAME_UPPER">', "", "3,1", "1,3"),
        "they are padded in different ways",
    ),
    "padding before and after": (
        convs('<auto_pad="SAME_UPPER">', '<auto_pad="SAME_LOWER">', "3,1", "1,3"),
        "they are padded in different ways",
    ),
    "groups": (
        """g (float[n,4,9,9] x) => (float[n,4,p,q] y) <float[16,2,1,1] w, float[4,16,1,1] v>
        { h = Conv<group=2>(x, w)  y = Conv(h, v) }""",
        "one of the two is grouped",
    ),
    "what does not fit float32": (
        """g (float[n,1] x) => (float[n,1] y) <float[1,2] w = {1e30, 0}, float[2,1] v = {1e30, 0}>
        { h = MatMul(x, w)  y = MatMul(h, v) }""",
        "the product does not fit float32",
    ),
}


@pytest.mark.parametrize(("text", "why"), LEFT.values(), ids=LEFT.keys())
def test_leaves_with_a_reason(text: str, why: str) -> None:
    model = parse(text)
    before = files.to_bytes(model)
    found = MergeLinear().run(model, Context(CPU))
    assert found == [Refusal("y", why)]
    assert files.to_bytes(model) == before


SILENT = {
    "an activation between": product("h = MatMul(x, w)  i = Relu(h)  y = MatMul(i, v)"),
    "a second reader": product("h = MatMul(x, w)  i = MatMul(h, v)  j = MatMul(h, v)  y = Add(i, j)"),
    "the first bias read elsewhere": product(
        "h = MatMul(x, w)  k = Add(h, a)  i = MatMul(k, v)  j = MatMul(k, v)  y = Mul(i, j)"
    ),
    "the product read before the bias": product(
        "h = MatMul(x, w)  i = Add(h, a)  j = MatMul(i, v)  s = ReduceSum(h)  y = Add(j, s)"
    ),
    "an output of the graph between": """g (float[n,4] x) => (float[n,4] y, float[n,16] h) <float[4,16] w, float[16,4] v>
        { h = MatMul(x, w)  y = MatMul(h, v) }""",
    "a residual between": product(
        "h = MatMul(x, w)  i = Add(h, h)  y = MatMul(i, v)",
    ),
    "a bias of more dimensions": product(
        "h = MatMul(x, w)  i = Add(h, c)  y = MatMul(i, v)", weights="float[4,16] w, float[16,4] v, float[1,16] c"
    ),
    "both constants on the left": """g (float[4,n] x) => (float[4,n] y) <float[16,4] w, float[4,16] v>
        { h = MatMul(w, x)  y = MatMul(v, h) }""",
    "a weight that is the product": product("h = MatMul(x, w)  y = MatMul(q, h)", "4,4", "4,16"),
    "a branch around the second": """g (float[n,4] x, bool t) => (float[n,4] y) <float[4,16] w, float[16,4] v>
        { h = MatMul(x, w)
          y = If(t) <then_branch = p () => (float[n,4] o) { o = MatMul(h, v) },
                     else_branch = q () => (float[n,4] r) { r = Identity(x) }> }""",
    "a branch around both": """g (float[n,4] x, bool t) => (float[n,4] y) <float[4,16] w, float[16,4] v>
        { y = If(t) <then_branch = p () => (float[n,4] o) { h = MatMul(x, w)  o = MatMul(h, v) },
                     else_branch = q () => (float[n,4] r) { r = Identity(x) }> }""",
    "a weight that can be overridden": """g (float[n,4] x, float[4,16] w) => (float[n,4] y) <float[4,16] w, float[16,4] v>
        { h = MatMul(x, w)  y = MatMul(h, v) }""",
    "a bias that can be overridden": """g (float[n,4] x, float[16] a) => (float[n,4] y)
        <float[4,16] w, float[16,4] v, float[16] a> { h = Gemm(x, w, a)  y = Gemm(h, v) }""",
    "half precision": """g (float16[n,4] x) => (float16[n,4] y) <float16[4,16] w, float16[16,4] v>
        { h = MatMul(x, w)  y = MatMul(h, v) }""",
    "double precision": """g (double[n,4] x) => (double[n,4] y) <double[4,16] w, double[16,4] v>
        { h = MatMul(x, w)  y = MatMul(h, v) }""",
    "scaled products": product("h = Gemm<alpha=0.5>(x, w)  y = Gemm(h, v)"),
    "a convolution transposed": """g (float[n,4,5,5] x) => (float[n,4,p,q] y) <float[4,16,1,1] w, float[4,16,1,1] v>
        { h = ConvTranspose(x, w)  y = Conv(h, v) }""",
    "empty weights": """g (float[n,4] x) => (float[n,0] y) <float[4,16] w, float[16,0] v>
        { h = MatMul(x, w)  y = MatMul(h, v) }""",
    "nothing to merge": product("y = MatMul(x, q)"),
}


@pytest.mark.parametrize("text", SILENT.values(), ids=SILENT.keys())
def test_leaves(text: str) -> None:
    assert_leaves(MergeLinear(), text)
    found = MergeLinear().run(parse(text), Context(CPU))
    assert found == []


def test_other_domains_are_left_alone() -> None:
    model = parse(product("h = MatMul(x, w)  y = MatMul(h, v)"), opsets={"other": 1})
    model.graph.node(0).domain = "other"
    assert run_pass(MergeLinear(), model) == []


def test_always_merges_what_costs_more() -> None:
    text = product("h = MatMul(x, w)  y = MatMul(h, v)", "n,16", "n,16", NARROW)
    assert_rewrites(MergeLinear(always=True), text, after=["MatMul(x, const) -> y"])


def test_weights_that_others_read_stay_where_the_product_is_small_enough() -> None:
    model = parse(
        """g (float[n,4] x, float[n,4] z) => (float[n,4] y, float[n,16] u) <float[4,16] w, float[16,4] v>
        { h = MatMul(x, w)  y = MatMul(h, v)  u = MatMul(z, w) }"""
    )
    before = model.clone()
    assert run_pass(MergeLinear(), model) == [Change("y", "MatMul 'h' multiplied into it")]
    assert lines(model) == ["MatMul(x, const) -> y", "MatMul(z, const) -> u"]
    assert sorted(value.shape.numpy() for value in model.graph.initializers.values() if value.shape) == [
        (4, 4),
        (4, 16),
    ]
    assert_same_outputs(before, model)


def test_the_chain_is_merged_from_both_ends_only_where_it_pays() -> None:
    """4 -> 16 -> 2 -> 16: the first two are one cheaper product, which with the third would cost more."""
    assert_rewrites(
        MergeLinear(),
        """g (float[n,4] x) => (float[n,16] y) <float[4,16] w, float[16,2] v, float[2,16] u>
        { h = MatMul(x, w)  i = MatMul(h, v)  y = MatMul(i, u) }""",
        after=["MatMul(x, const) -> i", "MatMul(i, const) -> y"],
    )


def test_a_stride_behind_makes_the_first_dear() -> None:
    """Per output the 1x1 convolution runs at four positions: 4 * 8 * 8 + 8 * 8 instead of 8 * 8."""
    text = """g (float[n,8,9,9] x) => (float[n,8,p,q] y) <float[8,8,1,1] w, float[8,8,1,1] v>
    { h = Conv(x, w)  y = Conv<strides=[2,2]>(h, v) }"""
    model = assert_rewrites(MergeLinear(), text, after=["Conv(x, const) -> y"])
    assert list(model.graph.node(0).attributes["strides"].as_ints()) == [2, 2]


def test_clones_keep_their_weights() -> None:
    original = parse(CONVS["3x3 and 1x1"])
    before = files.to_bytes(original)
    assert run_pass(MergeLinear(), original.clone())
    assert files.to_bytes(original) == before


@settings(derandomize=True, deadline=None, max_examples=60, database=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_random_pairs_of_convolutions_stay_the_same(data: st.DataObject) -> None:
    """Whatever is merged, with ``always``, computes the same; a refusal leaves the bytes."""

    def ints(low: int, high: int, count: int) -> list[int]:
        return data.draw(st.lists(st.integers(low, high), min_size=count, max_size=count))

    def attributes(kernel: list[int]) -> str:
        mode = data.draw(st.sampled_from(["pads", "pads", "SAME_UPPER", "SAME_LOWER", "VALID"]))
        pads = f"pads={ints(0, 1, 4)}" if mode == "pads" else f'auto_pad="{mode}"'
        dilations = ints(1, 2, 2) if mode in ("pads", "VALID") else [1, 1]
        return f"<strides={ints(1, 2, 2)}, dilations={dilations}, {pads}>"

    kernels = [data.draw(st.sampled_from([[1, 1], [1, 1], [3, 1], [1, 2], [3, 3]])) for _ in range(2)]
    one, two = (",".join(map(str, kernel)) for kernel in kernels)
    biases = data.draw(st.sampled_from(["", "a", "b", "ab"]))
    text = convs(attributes(kernels[0]), attributes(kernels[1]), one, two, biases)
    model = parse(text)
    before, contents = model.clone(), files.to_bytes(model)
    changes = run_pass(MergeLinear(always=True), model)
    if not changes:
        assert files.to_bytes(model) == contents
        assume(False)
    onnx.checker.check_model(files.to_proto(model), full_check=True)
    assert len(lines(model)) == 1
    assert_same_outputs(before, model)


def weight(model: ir.Model) -> np.ndarray:
    found = array(model.graph.node(0).inputs[1])
    assert found is not None
    return found


def test_the_bias_of_one_is_seen_through_the_other() -> None:
    model = parse(CONVS["1x1 with a bias, and 3x3 that does not pad"])
    w, v, a, b = (array(model.graph.initializers[name]) for name in "wvab")
    assert w is not None
    assert v is not None
    assert a is not None
    assert b is not None
    assert run_pass(MergeLinear(), model)
    np.testing.assert_allclose(weight(model), np.einsum("omij,mc->ocij", v, w[:, :, 0, 0]), rtol=1e-5, atol=1e-6)
    found = array(model.graph.node(0).inputs[2])
    np.testing.assert_allclose(found, b + v.sum((2, 3)) @ a, rtol=1e-5)


@pytest.mark.parametrize("opset", [8, 13])
def test_old_opsets(opset: int) -> None:
    assert_rewrites(
        MergeLinear(),
        product("h = Gemm(x, w, a)  y = Gemm(h, v, b)"),
        after=["Gemm(x, const, const) -> y"],
        opset=opset,
    )


def test_refusals_name_the_layer_behind() -> None:
    text = product("h = MatMul(x, w)  y = MatMul(h, v)", "n,16", "n,16", NARROW)
    assert_refuses(MergeLinear(), text, "256 multiply-accumulates")
