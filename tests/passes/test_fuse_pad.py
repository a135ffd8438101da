"""FusePad."""

import numpy as np
import pytest

from onnxopt.passes.fuse.fuse_pad import FusePad
from onnxopt.testing import assert_refuses, assert_rewrites

W = "float[4,2,3,3] w"


def padded(pad: str, conv: str = "Conv(h, w)", params: str = "") -> str:
    weights = ", ".join(filter(None, [W, params]))
    return f"g (float[1,2,5,5] x) => (float[a,b,d,e] y) <{weights}> {{ h = {pad}  y = {conv} }}"


PADS = "int64[8] p = {0, 0, 1, 2, 0, 0, 0, 1}"
FUSED = {
    "pads as an input": padded("Pad(x, p)", params=PADS),
    "mode said aloud": padded("Pad<mode='constant'>(x, p)".replace("'", '"'), params=PADS),
    "zero given": padded("Pad(x, p, zero)", params=f"{PADS}, float zero = {{0}}"),
    "zero of shape 1": padded("Pad(x, p, zero)", params=f"{PADS}, float[1] zero = {{0}}"),
    "axes given": padded("Pad(x, p, , a)", params="int64[4] p = {1, 2, 0, 1}, int64[2] a = {2, 3}"),
    "negative axes in another order": padded(
        "Pad(x, p, , a)", params="int64[4] p = {1, 2, 0, 1}, int64[2] a = {-1, -2}"
    ),
    "one axis": padded("Pad(x, p, , a)", params="int64[2] p = {1, 2}, int64[1] a = {3}"),
    "more pads than the kernel is wide": padded("Pad(x, p)", params="int64[8] p = {0, 0, 5, 6, 0, 0, 7, 4}"),
    "conv with its own pads": padded("Pad(x, p)", "Conv<pads=[1,0,2,1]>(h, w)", params=PADS),
    "conv with strides and dilations": padded("Pad(x, p)", "Conv<strides=[2,1], dilations=[1,2]>(h, w)", params=PADS),
    "conv with auto_pad VALID": padded("Pad(x, p)", 'Conv<auto_pad="VALID">(h, w)', params=PADS),
}


@pytest.mark.parametrize("text", FUSED.values(), ids=FUSED.keys())
def test_fuses(text: str) -> None:
    assert_rewrites(FusePad(), text, after=["Conv(x, const) -> y"])


@pytest.mark.parametrize("opset", [2, 8, 10])
def test_fuses_pads_as_an_attribute(opset: int) -> None:
    text = padded("Pad<pads=[0,0,1,2,0,0,0,1], value=0.0>(x)")
    model = assert_rewrites(FusePad(), text, opset=opset, after=["Conv(x, const) -> y"])
    assert model.graph[0].attributes.get_ints("pads") == (1, 2, 0, 1)


@pytest.mark.parametrize("dims", [1, 3])
def test_fuses_other_dimensions(dims: int) -> None:
    text = f"""g (float[1,2{",4" * dims}] x) => (float[{",".join("abcde"[: dims + 2])}] y)
        <float[4,2{",3" * dims}] w, int64[{2 * dims + 4}] p = {{0, 0{", 1" * dims}, 0, 0{", 2" * dims}}}>
        {{ h = Pad(x, p)  y = Conv(h, w) }}"""
    assert_rewrites(FusePad(), text, after=["Conv(x, const) -> y"])


def test_fuses_a_chain_in_one_run() -> None:
    text = padded("Pad(x, p)", "Conv(h2, w)", params=PADS).replace("y =", "h2 = Pad(h, p)  y =")
    model = assert_rewrites(FusePad(), text, after=["Conv(x, const) -> y"])
    assert model.graph[0].attributes.get_ints("pads") == (2, 4, 0, 2)


def test_fuses_before_a_weight_that_is_an_input() -> None:
    text = f"g (float[1,2,5,5] x, float[4,2,3,3] w) => (float[a,b,d,e] y) <{PADS}> {{ h = Pad(x, p)  y = Conv(h, w) }}"
    assert_rewrites(FusePad(), text, after=["Conv(x, w) -> y"])


REFUSED = {
    "reflecting": ("mode is reflect", padded('Pad<mode="reflect">(x, p)', params=PADS)),
    "padding with one": ("constant zero", padded("Pad(x, p, one)", params=f"{PADS}, float one = {{1}}")),
    "padding the channels": (
        "batch or channel",
        padded("Pad(x, p)", "Conv(h, w3)", params="int64[8] p = {0, 1, 1, 1, 0, 0, 1, 1}, float[4,3,3,3] w3"),
    ),
    "padding the batch": (
        "batch or channel",
        padded("Pad(x, p)", params="int64[8] p = {1, 0, 0, 0, 0, 0, 0, 0}"),
    ),
    "cropping": ("crops", padded("Pad(x, p)", params="int64[8] p = {0, 0, 1, -1, 0, 0, 1, 1}")),
    "auto_pad SAME_UPPER": (
        "SAME_UPPER",
        padded("Pad(x, p)", 'Conv<auto_pad="SAME_UPPER">(h, w)', params=PADS),
    ),
    "pads are an input": (
        "pads are not constant",
        f"g (float[1,2,5,5] x, int64[8] p) => (float[a,b,d,e] y) <{W}> {{ h = Pad(x, p)  y = Conv(h, w) }}",
    ),
    "value is an input": (
        "constant zero",
        f"g (float[1,2,5,5] x, float v) => (float[a,b,d,e] y) <{W}, {PADS}> {{ h = Pad(x, p, v)  y = Conv(h, w) }}",
    ),
    "axes are an input": (
        "are not known",
        f"""g (float[1,2,5,5] x, int64[2] a) => (float[i,j,k,l] y) <{W}, int64[4] p = {{1, 1, 1, 1}}>
        {{ h = Pad(x, p, , a)  y = Conv(h, w) }}""",
    ),
    "padded value is an output": (
        "read elsewhere",
        f"g (float[1,2,5,5] x) => (float[a,b,d,e] y, float[i,j,k,l] h) <{W}, {PADS}> {{ h = Pad(x, p)  y = Conv(h, w) }}",
    ),
    "padded value has another reader": (
        "read elsewhere",
        f"""g (float[1,2,5,5] x) => (float[a,b,d,e] y, float[i,j,k,l] z) <{W}, {PADS}>
        {{ h = Pad(x, p)  y = Conv(h, w)  z = Relu(h) }}""",
    ),
    "conv inside a branch and pad outside": (
        "another graph",
        f"""g (float[1,2,5,5] x, bool q) => (float[a,b,d,e] y) <{W}, {PADS}> {{
        h = Pad(x, p)
        y = If<then_branch = t () => (float[i,j,k,l] yt) {{ yt = Conv(h, w) }},
               else_branch = e () => (float[m,n,o,r] ye) {{ ye = Relu(x) }}>(q) }}""",
    ),
}


@pytest.mark.parametrize(("why", "text"), REFUSED.values(), ids=REFUSED.keys())
def test_refuses(why: str, text: str) -> None:
    assert_refuses(FusePad(), text, why)


NOT_THERE = {
    "max pooling, which pads with -inf": padded("Pad(x, p)", "MaxPool<kernel_shape=[2,2]>(h)", params=PADS),
    "average pooling": padded("Pad(x, p)", "AveragePool<kernel_shape=[2,2]>(h)", params=PADS),
    "pad of the weight": (
        f"g (float[1,2,5,5] x, float[4,2,3,3] w) => (float[a,b,d,e] y) <{PADS}> {{ h = Pad(w, p)  y = Conv(x, h) }}"
    ),
}


@pytest.mark.parametrize("text", NOT_THERE.values(), ids=NOT_THERE.keys())
def test_says_nothing_where_there_is_no_pair(text: str) -> None:
    assert_refuses(FusePad(), text, None)


def test_fuses_inside_a_branch() -> None:
    text = f"""g (float[1,2,5,5] x, bool q) => (float[a,b,d,e] y) <{W}, {PADS}> {{
        y = If<then_branch = t () => (float[i,j,k,l] yt) {{ h = Pad(x, p)  yt = Conv(h, w) }},
               else_branch = e () => (float[m,n,o,r] ye) {{ ye = Relu(x) }}>(q) }}"""
    after = ["If(q) -> y", "  Conv(x, const) -> yt", "  Relu(x) -> ye"]
    assert_rewrites(FusePad(), text, after=after, q=np.array(True))
