"""MeanToGlobalPool."""

import numpy as np
import pytest

from onnxopt.core import Context, Refusal
from onnxopt.passes.fuse.mean_to_pool import MeanToGlobalPool
from onnxopt.target import Target
from onnxopt.testing import assert_leaves, assert_refuses, assert_rewrites, parse, run_pass

POOL = ["GlobalAveragePool(x) -> y"]
POOL_FLAT = ["GlobalAveragePool(x) -> y/GlobalAveragePool", "Flatten(y/GlobalAveragePool) -> y"]


def mean(op: str, *, x: str = "float[2,4,5,5] x", y: str = "float y", params: str = "") -> str:
    return f"g ({x}) => ({y}) <{params}> {{ y = {op} }}"


KEPT = {
    "axes as an input": mean("ReduceMean(x, a)", y="float[2,4,1,1] y", params="int64[2] a = {2, 3}"),
    "negative axes": mean("ReduceMean<keepdims=1>(x, a)", y="float[2,4,1,1] y", params="int64[2] a = {-1, 2}"),
    "one spatial axis": mean("ReduceMean(x, a)", x="float[2,4,7] x", y="float[2,4,1] y", params="int64[1] a = {2}"),
    "three spatial axes": mean(
        "ReduceMean(x, a)", x="float[2,4,3,3,3] x", y="float[2,4,1,1,1] y", params="int64[3] a = {4, 2, 3}"
    ),
    "symbolic sizes": mean(
        "ReduceMean(x, a)", x="float[n,4,h,w] x", y="float[n,4,1,1] y", params="int64[2] a = {2, 3}"
    ),
}


@pytest.mark.parametrize("text", KEPT.values(), ids=KEPT.keys())
def test_rewrites(text: str) -> None:
    assert_rewrites(MeanToGlobalPool(), text, after=POOL)


def test_flattens_where_axes_are_not_kept() -> None:
    text = mean("ReduceMean<keepdims=0>(x, a)", y="float[2,4] y", params="int64[2] a = {2, 3}")
    assert_rewrites(MeanToGlobalPool(), text, after=POOL_FLAT)


@pytest.mark.parametrize("opset", [7, 11, 13, 17])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_rewrites_axes_as_an_attribute(opset: int, keepdims: int) -> None:
    text = mean(
        f"ReduceMean<axes=[2,3], keepdims={keepdims}>(x)",
        y="float[2,4,1,1] y" if keepdims else "float[2,4] y",
    )
    assert_rewrites(MeanToGlobalPool(), text, opset=opset, after=POOL if keepdims else POOL_FLAT)


def test_rewrites_half_precision() -> None:
    text = mean("ReduceMean(x, a)", x="float16[2,4,5,5] x", y="float16[2,4,1,1] y", params="int64[2] a = {2, 3}")
    assert_rewrites(MeanToGlobalPool(), text, after=POOL, rtol=4e-3)


NORMS = {
    "a LayerNormalization written out": """g (float[2,4,8] x) => (float[2,4,8] y) <float two = {2}, float e = {1e-5}>
        { m = ReduceMean<axes=[2]>(x)  d = Sub(x, m)  s = Pow(d, two)  v = ReduceMean<axes=[2]>(s)
          w = Add(v, e)  q = Sqrt(w)  y = Div(d, q) }""",
    "an RMSNormalization written out": """g (float[2,4,8] x) => (float[2,4,8] y) <float e = {1e-5}>
        { s = Mul(x, x)  v = ReduceMean<axes=[2]>(s)  w = Add(v, e)  q = Sqrt(w)  y = Div(x, q) }""",
}


@pytest.mark.parametrize("text", NORMS.values(), ids=NORMS.keys())
def test_norms_keep_their_means(text: str) -> None:
    assert_leaves(MeanToGlobalPool(), text, opset=17)
    found = MeanToGlobalPool().run(parse(text, opset=17), Context(Target()))
    assert found
    assert all("it is part of a normalization" in item.why for item in found if isinstance(item, Refusal))


def test_infers_the_rank() -> None:
    text = """g (float[2,4,5,5] x) => (float[2,4,1,1] y) <int64[2] a = {2, 3}>
        { h = Relu(x)  r = Transpose<perm=[0,1,3,2]>(h)  y = ReduceMean(r, a) }"""
    after = ["Relu(x) -> h", "Transpose(h) -> r", "GlobalAveragePool(r) -> y"]
    assert_rewrites(MeanToGlobalPool(), text, after=after)


def test_infers_the_rank_inside_a_branch() -> None:
    text = """g (float[2,4,5,5] x, bool q) => (float[2,4,1,1] y) <int64[2] a = {2, 3}> {
        h = Relu(x)
        y = If<then_branch = t () => (float[2,4,1,1] yt) { r = Relu(h)  yt = ReduceMean(r, a) },
               else_branch = e () => (float[2,4,1,1] ye) { ye = GlobalMaxPool(h) }>(q) }"""
    after = [
        "Relu(x) -> h",
        "If(q) -> y",
        "  Relu(h) -> r",
        "  GlobalAveragePool(r) -> yt",
        "  GlobalMaxPool(h) -> ye",
    ]
    model = assert_rewrites(MeanToGlobalPool(), text, after=after, q=np.array(True))
    assert model.graph[0].outputs[0].shape is None, "shapes are inferred on a copy"


def test_does_not_believe_stale_shapes() -> None:
    text = """g (float[2,4,5,5] x) => (float[2,4,1,1] y) <int64[2] a = {2, 3}, float[7,7] h>
        { h = Relu(x)  y = ReduceMean(h, a) }"""
    assert len(run_pass(MeanToGlobalPool(), parse(text))) == 1


def test_rewrites_a_mean_of_a_mean() -> None:
    text = """g (float[2,4,5,5] x) => (float[2,4,1,1] y) <int64[2] a = {2, 3}>
        { h = ReduceMean(x, a)  r = Relu(h)  y = ReduceMean(r, a) }"""
    after = ["GlobalAveragePool(x) -> h", "Relu(h) -> r", "GlobalAveragePool(r) -> y"]
    assert_rewrites(MeanToGlobalPool(), text, after=after)


LEFT = {
    "mean over all axes": (None, mean("ReduceMean(x)", y="float[1,1,1,1] y")),
    "mean over no axes": (
        None,
        mean("ReduceMean<noop_with_empty_axes=1>(x, a)", y="float[2,4,5,5] y", params="int64[0] a = {}"),
    ),
    "mean over one of two spatial axes": (
        None,
        mean("ReduceMean(x, a)", y="float[2,4,1,5] y", params="int64[1] a = {2}"),
    ),
    "mean over the channels too": (
        None,
        mean("ReduceMean(x, a)", y="float[2,1,1,1] y", params="int64[3] a = {1, 2, 3}"),
    ),
    "mean of a matrix": (
        None,
        mean("ReduceMean(x, a)", x="float[2,4] x", y="float[2,1] y", params="int64[1] a = {1}"),
    ),
    "layer normalization's mean": (
        None,
        mean("ReduceMean(x, a)", x="float[2,7,4] x", y="float[2,1,4] y", params="int64[1] a = {1}"),
    ),
    "sum": (None, mean("ReduceSum(x, a)", y="float[2,4,1,1] y", params="int64[2] a = {2, 3}")),
    "integers": (
        "kernel for int32",
        mean("ReduceMean(x, a)", x="int32[2,4,5,5] x", y="int32[2,4,1,1] y", params="int64[2] a = {2, 3}"),
    ),
    "double": (
        "kernel for double",
        mean("ReduceMean(x, a)", x="double[2,4,5,5] x", y="double[2,4,1,1] y", params="int64[2] a = {2, 3}"),
    ),
    "axes are an input": (
        "axes are not constant",
        mean("ReduceMean(x, a)", x="float[2,4,5,5] x, int64[2] a", y="float[p,q,r,s] y"),
    ),
    "rank is not known": (
        "rank or type",
        """g (float[2,4,5,5] x, int64[n] s) => (float[p,q,r,s] y) <int64[2] a = {2, 3}>
        { h = Reshape(x, s)  y = ReduceMean(h, a) }""",
    ),
}


@pytest.mark.parametrize(("why", "text"), LEFT.values(), ids=LEFT.keys())
def test_leaves(why: str | None, text: str) -> None:
    assert_refuses(MeanToGlobalPool(), text.replace("<> ", ""), why)
