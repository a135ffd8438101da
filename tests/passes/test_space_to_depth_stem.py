"""SpaceToDepthStem."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxopt.core import Context
from onnxopt.passes.fuse.space_to_depth_stem import SpaceToDepthStem
from onnxopt.testing import CPU, assert_refuses, assert_rewrites, assert_same_outputs, lines, parse, run_pass

AFTER = ["SpaceToDepth(x) -> y/SpaceToDepth", "Conv(y/SpaceToDepth, const) -> y"]
KERNELS = [2, 3, 4, 5, 7, 11]
PADS = [[0, 0, 0, 0], [1, 1, 1, 1], [3, 3, 3, 3], [0, 1, 1, 0], [1, 0, 2, 3], [2, 3, 0, 0], [3, 2, 1, 3]]


def stem(attributes: str = "", *, w: str = "float[4,3,3,3] w", x: str = "float[1,3,14,12] x") -> str:
    conv = f"Conv<strides=[2,2]{attributes}>"
    return f"g ({x}) => (float[p,q,r,s] y) <{w}> {{ y = {conv}(x, w) }}"


@pytest.mark.parametrize(("kernel", "pads", "channels"), [*itertools.product(KERNELS, PADS, [1, 2, 3])])
def test_rewrites(kernel: int, pads: list[int], channels: int) -> None:
    text = stem(f", pads={pads}", w=f"float[4,{channels},{kernel},{kernel}] w", x=f"float[2,{channels},14,12] x")
    assert_rewrites(SpaceToDepthStem(), text, after=AFTER)


@given(
    kernel=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    pads=st.lists(st.integers(0, 4), min_size=4, max_size=4),
    halves=st.tuples(st.integers(4, 6), st.integers(4, 6)),
)
@settings(derandomize=True, deadline=None, max_examples=60, database=None)
def test_rewrites_any_kernel_and_pads(kernel: tuple[int, int], pads: list[int], halves: tuple[int, int]) -> None:
    size = ",".join(str(2 * half) for half in halves)
    text = stem(f", pads={pads}", w=f"float[2,3,{kernel[0]},{kernel[1]}] w", x=f"float[1,3,{size}] x")
    assert_rewrites(SpaceToDepthStem(), text, after=AFTER)


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("kernel", [1, *KERNELS])
def test_rewrites_automatic_pads(auto_pad: str, kernel: int) -> None:
    text = stem(f', auto_pad="{auto_pad}"', w=f"float[4,3,{kernel},{kernel}] w")
    assert_rewrites(SpaceToDepthStem(), text, after=AFTER)


def test_the_stem_of_resnet() -> None:
    text = """g (float[n,3,32,32] x) => (float[n,8,16,16] y) <float[8,3,7,7] w, float[8] b>
        { y = Conv<strides=[2,2], pads=[3,3,3,3], kernel_shape=[7,7], dilations=[1,1], group=1>(x, w, b) }"""
    after = ["SpaceToDepth(x) -> y/SpaceToDepth", "Conv(y/SpaceToDepth, const, const) -> y"]
    model = assert_rewrites(SpaceToDepthStem(), text, after=after)
    conv = model.graph[1]
    assert conv.attributes.get_ints("pads") == (2, 2, 1, 1)
    assert conv.attributes.get_ints("kernel_shape") == (4, 4)
    assert model.graph.initializers["y/Conv/1"].shape == (8, 12, 4, 4)
    assert "w" not in model.graph.initializers


def test_keeps_a_weight_that_another_node_reads() -> None:
    text = """g (float[1,3,8,8] x) => (float[1,4,4,4] y, float[1,4,8,8] z) <float[4,3,3,3] w>
        { y = Conv<strides=[2,2], pads=[1,1,1,1]>(x, w)  z = Conv<pads=[1,1,1,1]>(x, w) }"""
    model = parse(text)
    assert len(run_pass(SpaceToDepthStem(), model)) == 1
    assert len(model.graph.initializers["w"].uses()) == 1
    assert_same_outputs(parse(text), model)


def test_keeps_a_bias_that_is_an_input() -> None:
    text = """g (float[1,3,8,8] x, float[4] b) => (float[1,4,3,3] y) <float[4,3,3,3] w>
        { y = Conv<strides=[2,2]>(x, w, b) }"""
    after = ["SpaceToDepth(x) -> y/SpaceToDepth", "Conv(y/SpaceToDepth, const, b) -> y"]
    assert_rewrites(SpaceToDepthStem(), text, after=after)


def test_infers_the_size() -> None:
    text = """g (float[n,9,9,3] x) => (float[n,4,4,4] y) <float[4,3,3,3] w, int64[8] p = {0, 0, 0, 0, 0, 0, 1, 1}>
        { t = Transpose<perm=[0,3,1,2]>(x)  h = Pad(t, p)  y = Conv<strides=[2,2]>(h, w) }"""
    after = ["Transpose(x) -> t", "Pad(t, const) -> h", "SpaceToDepth(h) -> y/SpaceToDepth", AFTER[1]]
    assert_rewrites(SpaceToDepthStem(), text, after=after)


def test_rewrites_inside_a_branch() -> None:
    text = """g (float[1,3,8,8] x, bool o) => (float[1,4,3,3] y) <float[4,3,3,3] w> {
        y = If<then_branch = t () => (float[1,4,3,3] yt) { yt = Conv<strides=[2,2]>(x, w) },
               else_branch = e () => (float[1,4,3,3] ye) { ye = Conv<strides=[2,2]>(x, w) }>(o) }"""
    after = ["If(o) -> y"]
    for name in ("yt", "ye"):
        after += [f"  SpaceToDepth(x) -> {name}/SpaceToDepth", f"  Conv({name}/SpaceToDepth, const) -> {name}"]
    assert_rewrites(SpaceToDepthStem(), text, after=after, o=np.array(True))


@pytest.mark.parametrize("opset", [7, 11, 13])
def test_rewrites_in_old_opsets(opset: int) -> None:
    assert_rewrites(SpaceToDepthStem(), stem(", pads=[1,1,1,1]"), opset=opset, after=AFTER)


def test_the_option_says_what_few_channels_are() -> None:
    text = stem(w="float[4,6,3,3] w", x="float[1,6,8,8] x")
    assert_refuses(SpaceToDepthStem(), text, None)
    assert_rewrites(SpaceToDepthStem(max_channels=6), text, after=AFTER)
    assert_refuses(SpaceToDepthStem(max_channels=2), stem(), None)


REFUSED = {
    "odd height": ("the height 15 is odd", stem(x="float[1,3,15,12] x")),
    "odd width": ("the width 13 is odd", stem(x="float[1,3,14,13] x")),
    "height not known": ("the height h is not known to be even", stem(x="float[n,3,h,12] x")),
    "width not known": ("the width v is not known to be even", stem(x="float[n,3,12,v] x")),
    "stride 1": ("strides are [1, 1]", stem().replace("strides=[2,2]", "strides=[1,1]")),
    "no strides": ("strides are [1, 1]", stem().replace("<strides=[2,2]>", "")),
    "stride 2 in one direction": ("strides are [2, 1]", stem().replace("strides=[2,2]", "strides=[2,1]")),
    "dilations": ("dilations are [2, 1]", stem(", dilations=[2,1]")),
    "groups": ("groups", stem(", group=3", w="float[6,1,3,3] w")),
    "negative pads": ("pads are [0, 0, -1, 0]", stem(", pads=[0,0,-1,0]")),
    "double": (
        "not known to be float",
        stem(w="double[4,3,3,3] w", x="double[1,3,14,12] x").replace("(float[p", "(double[p"),
    ),
    "weight is an input": (
        "weight is not constant",
        "g (float[1,3,8,8] x, float[4,3,3,3] w) => (float[p,q,r,s] y) { y = Conv<strides=[2,2]>(x, w) }",
    ),
    "weight can be overridden": (
        "weight is not constant",
        "g (float[1,3,8,8] x, float[4,3,3,3] w) => (float[p,q,r,s] y) <float[4,3,3,3] w> { y = Conv<strides=[2,2]>(x, w) }",
    ),
    "rank not known": (
        "not known",
        """g (float[1,3,8,8] x, int64[n] s) => (float[p,q,r,t] y) <float[4,3,3,3] w>
        { h = Reshape(x, s)  y = Conv<strides=[2,2]>(h, w) }""",
    ),
}


@pytest.mark.parametrize(("why", "text"), REFUSED.values(), ids=REFUSED.keys())
def test_refuses(why: str, text: str) -> None:
    assert_refuses(SpaceToDepthStem(), text, why)


NOT_THERE = {
    "four channels": stem(w="float[4,4,3,3] w", x="float[1,4,8,8] x"),
    "depthwise over many channels": stem(", group=8", w="float[8,1,3,3] w", x="float[1,8,8,8] x"),
    "a signal": "g (float[1,1,16] x) => (float[p,q,r] y) <float[4,1,3] w> { y = Conv<strides=[2]>(x, w) }",
    "a volume": "g (float[1,1,8,8,8] x) => (float[p,q,r,s,t] y) <float[4,1,3,3,3] w> { y = Conv<strides=[2,2,2]>(x, w) }",
}


@pytest.mark.parametrize("text", NOT_THERE.values(), ids=NOT_THERE.keys())
def test_says_nothing_where_there_is_no_stem(text: str) -> None:
    assert_refuses(SpaceToDepthStem(), text, None)


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_rewrites_an_exported_stem(exporter: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from onnxopt.export.convert import Exporter
    from onnxopt.export.export import Settings, export
    from onnxopt.export.inputs import Input

    module = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 7, 2, 3, bias=False), torch.nn.BatchNorm2d(8), torch.nn.ReLU())
    image = Input("image", (1, 3, 32, 32), dynamic={0: "batch"})
    before = export(module.eval(), tmp_path / "net.onnx", [image], Settings(exporter=Exporter(exporter))).model
    model = before.clone()
    (change,) = SpaceToDepthStem().run(model, Context(CPU))
    assert "3 channels" in change.what
    assert [line.split("(")[0] for line in lines(model)] == ["SpaceToDepth", "Conv", "Relu"]
    assert_same_outputs(before, model)
