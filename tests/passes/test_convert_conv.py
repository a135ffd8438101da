"""ConvertLayer: convolutions and transposed convolutions, each written as other layers."""

import itertools
from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from onnxopt.core import Context, Refusal
from onnxopt.graph import array
from onnxopt.passes.convert.blocks import over_blocks, shifted, trimmed, unblocked
from onnxopt.passes.convert.convert_layer import ConvertLayer
from onnxopt.sparse import SparseTensor
from onnxopt.testing import CPU, assert_leaves, assert_refuses, assert_rewrites, assert_same_outputs, parse, run_pass

EXAMPLES = settings(derandomize=True, deadline=None, max_examples=40, database=None)
LETTERS = "pqrstuv"


def by(*names: str) -> ConvertLayer:
    return ConvertLayer(conversions=names, choose="always")


def conv(x: str, w: str, attributes: str = "", *, bias: bool = True, op: str = "Conv") -> str:
    """A graph of one convolution: ``x`` and ``w`` are shapes."""
    channels = w.split(",")[0] if op == "Conv" else str(int(w.split(",")[1]) * int(_group(attributes)))
    weights, inputs = (f", float[{channels}] b", "x, w, b") if bias else ("", "x, w")
    out, attributes = ",".join(LETTERS[: x.count(",") + 1]), f"<{attributes}>" if attributes else ""
    return f"g (float[{x}] x) => (float[{out}] y) <float[{w}] w{weights}> {{ y = {op}{attributes}({inputs}) }}"


def _group(attributes: str) -> str:
    return attributes.split("group=")[1].split(",")[0] if "group=" in attributes else "1"


MATMUL = ["MatMul(const, x) -> y/MatMul", "Add(y/MatMul, const) -> y"]
FLAT_MATMUL = [
    "Reshape(x, const) -> y/Reshape",
    "MatMul(const, y/Reshape) -> y/MatMul",
    "Add(y/MatMul, const) -> y/Add",
    "Reshape(y/Add, const) -> y",
]
COMPUTED_MATMUL = [
    *FLAT_MATMUL[:3],
    "Shape(x) -> y/Shape",
    "Concat(const, y/Shape) -> y/Concat",
    "Reshape(y/Add, y/Concat) -> y",
]


@pytest.mark.parametrize(
    ("x", "kernel", "after"),
    [
        ("2,4,5,6", "1,1", FLAT_MATMUL),
        ("n,4,5,6", "1,1", FLAT_MATMUL),
        ("n,4,h,6", "1,1", FLAT_MATMUL),
        ("n,4,5,w", "1,1", FLAT_MATMUL),
        ("n,4,h,w", "1,1", COMPUTED_MATMUL),
        ("2,4,7", "1", MATMUL),
        ("n,4,t", "1", MATMUL),
        ("2,4,2,3,4", "1,1,1", FLAT_MATMUL),
        ("n,4,d,h,4", "1,1,1", COMPUTED_MATMUL),
    ],
)
def test_single_pixels_to_matmul(x: str, kernel: str, after: list[str]) -> None:
    assert_rewrites(by("conv-to-matmul"), conv(x, f"3,4,{kernel}"), after=after)


def test_single_pixels_without_a_bias() -> None:
    after = ["Reshape(x, const) -> y/Reshape", "MatMul(const, y/Reshape) -> y/MatMul", "Reshape(y/MatMul, const) -> y"]
    for attributes in ("", "kernel_shape=[1,1]", 'auto_pad="SAME_UPPER"', 'auto_pad="VALID"', "strides=[1,1]"):
        assert_rewrites(by("conv-to-matmul"), conv("2,4,5,6", "3,4,1,1", attributes, bias=False), after=after)


def test_two_unknown_sizes_need_opset_15() -> None:
    assert_refuses(by("conv-to-matmul"), conv("n,4,h,w", "3,4,1,1"), "opset 14 cannot ask for two", opset=14)


@pytest.mark.parametrize(
    ("x", "w", "attributes"),
    [
        ("2,4,5,6", "3,4,5,6", ""),
        ("n,4,5,6", "3,4,5,6", "strides=[2,3]"),
        ("n,4,1,1", "3,4,1,1", 'auto_pad="SAME_LOWER"'),
        ("2,4,5", "3,4,5", ""),
        ("n,4,2,3,2", "3,4,2,3,2", ""),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_the_whole_input_to_gemm_and_back(x: str, w: str, attributes: str, bias: bool) -> None:
    after = [
        "Flatten(x) -> y/Flatten",
        f"Gemm(y/Flatten, const{', const' * bias}) -> y/Gemm",
        "Reshape(y/Gemm, const) -> y",
    ]
    text = conv(x, w, attributes, bias=bias)
    model = assert_rewrites(by("conv-to-gemm"), text, after=after)
    if w.count(",") == 3:
        assert run_pass(by("gemm-to-conv"), model)
        assert [node.op_type for node in model.graph] == ["Conv", "Reshape", "Reshape"]
        assert_same_outputs(parse(text), model)


GROUPED = [
    ("1,4,6,6", "8,1,3,3", "group=4", ["Gather(x, const) -> y/Gather", "Conv(y/Gather, const, const) -> y"]),
    (
        "n,3,h,7",
        "9,1,2,3",
        "group=3, strides=[2,1], pads=[1,0,0,1], dilations=[1,2]",
        ["Gather(x, const) -> y/Gather", "Conv(y/Gather, const, const) -> y"],
    ),
    ("2,4,9", "8,1,3", "group=4", ["Gather(x, const) -> y/Gather", "Conv(y/Gather, const, const) -> y"]),
]


@pytest.mark.parametrize(("x", "w", "attributes", "after"), GROUPED)
def test_several_channels_of_each_to_a_depthwise_convolution(x: str, w: str, attributes: str, after: list[str]) -> None:
    model = assert_rewrites(by("grouped-to-depthwise"), conv(x, w, attributes), after=after)
    (layer,) = [node for node in model.graph if node.op_type == "Conv"]
    assert layer.attributes.get_int("group") == int(w.split(",")[0])


@pytest.mark.parametrize(
    ("x", "w", "attributes", "groups"),
    [
        ("1,64,5,6", "64,4,3,3", "group=16", 4),
        ("n,64,h,w", "64,8,3,2", "group=8, strides=[2,2], pads=[1,0,0,1]", 4),
        ("1,16,5,5", "32,8,1,1", "group=2", 1),
        ("1,12,8", "12,6,3", "group=2, dilations=[2]", 1),
        ("1,32,4,4,4", "64,8,2,2,2", "group=4", 2),
    ],
)
def test_groups_are_merged_to_whole_blocks(x: str, w: str, attributes: str, groups: int) -> None:
    model = assert_rewrites(by("merge-groups"), conv(x, w, attributes), after=["Conv(x, const, const) -> y"])
    assert model.graph.node(0).attributes.get_int("group") == groups


@pytest.mark.parametrize(
    ("x", "w", "attributes"),
    [
        ("2,4,9", "3,4,3", ""),
        ("n,4,t", "3,4,3", "strides=[2], pads=[1,2], dilations=[2]"),
        ("n,4,9", "8,1,3", "group=4"),
        ("2,4,9", "3,4,4", 'auto_pad="SAME_LOWER", strides=[2]'),
    ],
)
@pytest.mark.parametrize("opset", [11, 12, 13, 20])
def test_signals_as_images(x: str, w: str, attributes: str, opset: int) -> None:
    after = [
        f"Unsqueeze(x{', const' * (opset > 12)}) -> y/Unsqueeze",
        "Conv(y/Unsqueeze, const, const) -> y/Conv",
        f"Squeeze(y/Conv{', const' * (opset > 12)}) -> y",
    ]
    assert_rewrites(by("conv-1d-to-2d"), conv(x, w, attributes), after=after, opset=opset)


STRIDED = ["SpaceToDepth(x) -> y/SpaceToDepth", "Conv(y/SpaceToDepth, const, const) -> y"]


@pytest.mark.parametrize(
    ("stride", "kernel", "pads"),
    [*itertools.product([2, 3, 4], ["1,1", "3,3", "7,7", "4,2"], [[0, 0, 0, 0], [3, 3, 3, 3], [1, 0, 2, 5]])],
)
def test_strided_convolutions_over_blocks_and_back(stride: int, kernel: str, pads: Sequence[int]) -> None:
    text = conv("2,3,24,12", f"4,3,{kernel}", f"strides=[{stride},{stride}], pads={pads}")
    model = assert_rewrites(by("strided-to-blocks"), text, after=STRIDED)
    assert run_pass(by("blocks-to-strided"), model)
    (layer,) = model.graph
    assert layer.attributes.get_ints("strides") == (stride, stride)
    assert_same_outputs(parse(text), model)


def test_the_stem_of_resnet_comes_back_as_it_was() -> None:
    text = conv("1,3,16,16", "4,3,7,7", "strides=[2,2], pads=[3,3,3,3]")
    model = parse(text)
    assert run_pass(by("strided-to-blocks"), model)
    assert run_pass(by("blocks-to-strided"), model)
    (layer,) = model.graph
    assert layer.attributes.get_ints("kernel_shape") == (7, 7)
    assert layer.attributes.get_ints("pads") == (3, 3, 2, 2)  # the last row and column were never read
    np.testing.assert_array_equal(array(layer.inputs[1]), array(parse(text).graph.initializers["w"]))


FEW = ["Conv(x, const, const) -> y/Conv", "DepthToSpace(y/Conv) -> y"]


@pytest.mark.parametrize(
    ("steps", "x", "w", "attributes"),
    [
        (2, "2,5,8,6", "3,5,3,3", "pads=[1,1,1,1]"),
        (2, "n,5,9,7", "1,5,4,2", "pads=[0,0,2,0]"),
        (2, "1,2,6,8", "4,2,5,1", 'auto_pad="SAME_UPPER"'),
        (4, "2,5,8,4", "1,5,3,3", "pads=[1,1,1,1]"),
        (4, "n,1,10,8", "2,1,9,5", "pads=[3,2,3,2]"),
        (4, "1,3,12,12", "3,3,9,9", 'auto_pad="VALID"'),
    ],
)
def test_few_outputs_of_several_pixels_at_once(steps: int, x: str, w: str, attributes: str) -> None:
    model = assert_rewrites(by(f"few-outputs-{steps}x{steps}"), conv(x, w, attributes), after=FEW)
    assert model.graph.node(0).attributes.get_ints("strides") == (steps, steps)


UNSTRIDED = [
    ("1,4,5,6", "4,3,3,3", ""),
    ("n,4,h,w", "4,3,3,2", "pads=[1,0,2,1]"),
    ("1,4,5,6", "4,3,1,1", ""),
    ("1,4,9,9", "4,1,3,3", "group=4, pads=[1,1,1,1]"),
    ("1,4,9,9", "4,3,3,3", "group=2, dilations=[2,3], pads=[4,6,0,1]"),
    ("2,4,7", "4,3,5", "dilations=[2]"),
    ("1,4,3,4,5", "4,3,2,2,2", "pads=[1,0,0,0,1,1]"),
]


@pytest.mark.parametrize(("x", "w", "attributes"), UNSTRIDED)
def test_transposed_convolutions_of_stride_1_are_convolutions(x: str, w: str, attributes: str) -> None:
    text = conv(x, w, attributes, op="ConvTranspose")
    assert_rewrites(by("transposed-to-conv"), text, after=["Conv(x, const, const) -> y"])


@pytest.mark.parametrize(
    ("x", "w", "attributes"),
    [
        ("2,4,5,6", "4,3,2,2", "strides=[2,2]"),
        ("n,4,h,w", "4,3,4,4", "strides=[4,4]"),
        ("n,4,3,w", "4,3,3,3", "strides=[3,3], group=2"),
        ("1,4,3,3", "4,1,2,2", 'strides=[2,2], group=4, auto_pad="VALID"'),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_a_stride_as_large_as_the_kernel_makes_blocks_and_back(x: str, w: str, attributes: str, bias: bool) -> None:
    text = conv(x, w, attributes, op="ConvTranspose", bias=bias)
    after = [f"Conv(x, const{', const' * bias}) -> y/Conv", "DepthToSpace(y/Conv) -> y"]
    model = assert_rewrites(by("transposed-to-blocks"), text, after=after)
    back = run_pass(by("blocks-to-transposed"), model)
    assert bool(back) == ("group" not in attributes)
    assert_same_outputs(parse(text), model)


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_blocks_of_either_order_to_a_transposed_convolution(mode: str) -> None:
    text = f"""g (float[2,4,5,3] x) => (float[2,3,10,6] y) <float[12,4,1,1] w>
        {{ h = Conv(x, w)  y = DepthToSpace<blocksize=2, mode="{mode}">(h) }}"""
    assert_rewrites(by("blocks-to-transposed"), text, after=["ConvTranspose(x, const) -> y"])


CHANNELS_LAST = """g (float[{x}] x) => (float[{y}] y) <float[4,3] w, float[3] b> {{ t = Transpose<perm=[{there}]>(x)
    h = MatMul(t, w) {add} y = Transpose<perm=[{back}]>({last}) }}"""


@pytest.mark.parametrize(
    ("x", "y", "there", "back"),
    [
        ("n,4,h,w", "n,3,h,w", "0,2,3,1", "0,3,1,2"),
        ("2,4,7", "2,3,7", "0,2,1", "0,2,1"),
        ("2,4,2,3,4", "2,3,2,3,4", "0,2,3,4,1", "0,4,1,2,3"),
    ],
)
@pytest.mark.parametrize(("add", "last"), [("", "h"), ("i = Add(h, b)", "i"), ("i = Add(b, h)", "i")])
def test_products_between_transpositions_are_convolutions(
    x: str, y: str, there: str, back: str, add: str, last: str
) -> None:
    text = CHANNELS_LAST.format(x=x, y=y, there=there, back=back, add=add, last=last)
    after = [f"Conv(x, const{', const' * bool(add)}) -> y"]
    assert_rewrites(by("matmul-to-conv"), text, after=after)


@pytest.mark.parametrize("shape", ["2,4,7", "n,4,t"])
@pytest.mark.parametrize(("body", "bias"), [("y = MatMul(w, x)", ""), ("h = MatMul(w, x) y = Add(h, b)", ", const")])
def test_a_matrix_times_signals_is_a_convolution_and_back(shape: str, body: str, bias: str) -> None:
    text = f"""g (float[{shape}] x) => (float[{shape.replace("4", "3")}] y) <float[3,4] w, float[3,1] b> {{ {body} }}"""
    model = assert_rewrites(by("matmul-to-conv"), text, after=[f"Conv(x, const{bias}) -> y"])
    assert run_pass(by("conv-to-matmul"), model)
    assert_same_outputs(parse(text), model)


@given(
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    pads=st.lists(st.integers(0, 3), min_size=4, max_size=4),
    size=st.tuples(st.integers(5, 9), st.integers(5, 9)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilations=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    shape=st.sampled_from([(3, 4, 1), (1, 2, 1), (4, 4, 4), (8, 4, 4), (4, 6, 2), (32, 32, 4)]),
    bias=st.booleans(),
)
@EXAMPLES
def test_any_convolution(kernel, pads, size, strides, dilations, shape, bias) -> None:
    """All conversions that apply, one after the other."""
    outputs, channels, group = shape
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    assume(all(n + p + q >= r for n, p, q, r in zip(size, pads[:2], pads[2:], reach, strict=True)))
    attributes = f"strides={[*strides]}, dilations={[*dilations]}, pads={pads}, group={group}"
    weight = f"{outputs},{channels // group},{kernel[0]},{kernel[1]}"
    _same_after_all(conv(f"2,{channels},{size[0]},{size[1]}", weight, attributes, bias=bias))


@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    pads=st.lists(st.integers(0, 2), min_size=4, max_size=4),
    dilations=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    square=st.booleans(),
    group=st.sampled_from([1, 2, 4]),
)
@EXAMPLES
def test_any_transposed_convolution(kernel, pads, dilations, square, group) -> None:
    attributes = f"pads={pads}, dilations={[*dilations]}, group={group}"
    if square:
        kernel = kernel[:1] * 2
        attributes = f"strides={[*kernel]}, group={group}"
    _same_after_all(conv("2,4,6,7", f"4,3,{kernel[0]},{kernel[1]}", attributes, op="ConvTranspose"))


def _same_after_all(text: str) -> None:
    before = parse(text)
    model = before.clone()
    run_pass(ConvertLayer(choose="always"), model)
    assert_same_outputs(before, model)
    assert run_pass(ConvertLayer(choose="always"), model) == []


REFUSED = {
    "weight is an input": (
        "conv-to-matmul",
        "g (float[1,4,5,5] x, float[3,4,1,1] w) => (float[p,q,r,s] y) { y = Conv(x, w) }",
        "its weight is not constant, or sparse",
    ),
    "weight can be overridden": (
        "conv-to-gemm",
        "g (float[1,4,5,5] x, float[3,4,5,5] w) => (float[p,q,r,s] y) <float[3,4,5,5] w> { y = Conv(x, w) }",
        "its weight is not constant, or sparse",
    ),
    "bias is an input": (
        "transposed-to-conv",
        "g (float[1,4,5,5] x, float[3] b) => (float[p,q,r,s] y) <float[4,3,1,1] w> { y = ConvTranspose(x, w, b) }",
        "its bias is not constant",
    ),
    "double": (
        "conv-1d-to-2d",
        "g (double[1,4,9] x) => (double[p,q,r] y) <double[3,4,3] w> { y = Conv(x, w) }",
        "it computes in double, not in float32",
    ),
    "half": (
        "merge-groups",
        "g (float16[1,4,9,9] x) => (float16[p,q,r,s] y) <float16[4,2,3,3] w> { y = Conv<group=2>(x, w) }",
        "it computes in float16, not in float32",
    ),
    "rank not known": (
        "conv-to-matmul",
        """g (float[1,4,5,5] x, int64[n] s) => (float[p,q,r,t] y) <float[3,4,1,1] w>
        { h = Reshape(x, s)  y = Conv(h, w) }""",
        "the rank of what it reads is not known",
    ),
    "empty": ("conv-to-matmul", conv("0,4,5,5", "3,4,1,1"), "what it reads is empty"),
    "negative pads": ("conv-to-matmul", conv("1,4,5,5", "3,4,1,1", "pads=[0,0,-1,0]"), "its pads are [0, 0, -1, 0]"),
    "single pixels in groups": ("conv-to-matmul", conv("1,4,5,5", "4,2,1,1", "group=2"), "it has groups"),
    "the whole input in groups": ("conv-to-gemm", conv("1,4,5,5", "4,2,5,5", "group=2"), "it has groups"),
    "an image that is not whole blocks": (
        "strided-to-blocks",
        conv("1,3,9,8", "4,3,3,3", "strides=[2,2]"),
        "its image of 9x8 is not known to be whole blocks of 2",
    ),
    "an image of unknown size": (
        "strided-to-blocks",
        conv("1,3,8,w", "4,3,3,3", "strides=[2,2]"),
        "its image of 8x? is not known",
    ),
    "pads that follow from an unknown size": (
        "strided-to-blocks",
        conv("1,3,8,w", "4,3,3,3", 'strides=[2,2], auto_pad="SAME_UPPER"'),
        "its pads are SAME_UPPER, of an image of unknown size",
    ),
    "an output that is not whole blocks": (
        "few-outputs-2x2",
        conv("1,3,8,9", "1,3,3,3", "pads=[1,1,1,1]"),
        "its output of 8x9 is not known to be whole blocks of 2",
    ),
    "an output of unknown size": ("few-outputs-4x4", conv("1,3,8,w", "1,3,3,3", "pads=[1,1,1,1]"), "its output of 8x?"),
    "a transposed convolution that pads more than its kernel": (
        "transposed-to-conv",
        conv("1,4,9,9", "4,3,3,3", "pads=[3,0,0,0]", op="ConvTranspose"),
        "its pads [3, 0, 0, 0] reach over its kernel",
    ),
    "a transposed convolution with a size of its own": (
        "transposed-to-conv",
        conv("1,4,9,9", "4,3,3,3", "output_shape=[10,10]", op="ConvTranspose"),
        "it says how large its output is to be",
    ),
    "a transposed convolution of automatic pads": (
        "transposed-to-conv",
        conv("1,4,9,9", "4,3,3,3", 'auto_pad="SAME_UPPER"', op="ConvTranspose"),
        "its pads are SAME_UPPER",
    ),
    "blocks that are not square": (
        "transposed-to-blocks",
        conv("1,4,9,9", "4,3,2,3", "strides=[2,3]", op="ConvTranspose"),
        "its kernel is 2x3, and DepthToSpace makes square blocks",
    ),
    "blocks of signals": (
        "transposed-to-blocks",
        conv("1,4,9", "4,3,2", "strides=[2]", op="ConvTranspose"),
        "its kernel is 2, and DepthToSpace makes square blocks",
    ),
    "a bias that differs within a block": (
        "blocks-to-transposed",
        """g (float[1,4,3,3] x) => (float[p,q,r,s] y) <float[4,4,1,1] w, float[4] b>
        { h = Conv(x, w, b)  y = DepthToSpace<blocksize=2>(h) }""",
        "its bias differs within a block",
    ),
    "groups that never make blocks": (
        "merge-groups",
        conv("1,51,5,5", "51,3,1,1", "group=17"),
        "17 groups of 3 channels do not make whole blocks of 16",
    ),
    "channels last with a weight that is no constant": (
        "matmul-to-conv",
        """g (float[1,4,5,5] x, float[4,3] w) => (float[p,q,r,s] y)
        { t = Transpose<perm=[0,2,3,1]>(x)  h = MatMul(t, w)  y = Transpose<perm=[0,3,1,2]>(h) }""",
        "its weight is no constant matrix",
    ),
}


@pytest.mark.parametrize(("name", "text", "why"), REFUSED.values(), ids=REFUSED.keys())
def test_refuses(name: str, text: str, why: str) -> None:
    assert_refuses(by(name), text, why)


NOT_MEANT = {
    "a kernel of several pixels": ("conv-to-matmul", conv("1,4,5,5", "3,4,3,3")),
    "single pixels that stride": ("conv-to-matmul", conv("1,4,5,5", "3,4,1,1", "strides=[2,2]")),
    "single pixels with pads": ("conv-to-matmul", conv("1,4,5,5", "3,4,1,1", "pads=[1,0,0,0]")),
    "a kernel smaller than the input": ("conv-to-gemm", conv("1,4,5,5", "3,4,5,4")),
    "a kernel as large as the input, with pads": ("conv-to-gemm", conv("1,4,5,5", "3,4,5,5", "pads=[1,0,0,0]")),
    "an input of unknown size": ("conv-to-gemm", conv("1,4,5,w", "3,4,5,5")),
    "a depthwise convolution": ("grouped-to-depthwise", conv("1,4,5,5", "4,1,3,3", "group=4")),
    "whole blocks": ("merge-groups", conv("1,32,5,5", "32,16,3,3", "group=2")),
    "one group": ("merge-groups", conv("1,4,5,5", "4,4,3,3")),
    "many channels that stride": ("strided-to-blocks", conv("1,8,8,8", "4,8,3,3", "strides=[2,2]")),
    "strides that differ": ("strided-to-blocks", conv("1,3,8,8", "4,3,3,3", "strides=[2,1]")),
    "strides and dilations": ("strided-to-blocks", conv("1,3,8,8", "4,3,3,3", "strides=[2,2], dilations=[2,2]")),
    "many outputs": ("few-outputs-2x2", conv("1,4,8,8", "16,4,3,3")),
    "few outputs of single pixels": ("few-outputs-2x2", conv("1,4,8,8", "1,4,1,1")),
    "few outputs that stride": ("few-outputs-2x2", conv("1,4,8,8", "1,4,3,3", "strides=[2,2]")),
    "images": ("conv-1d-to-2d", conv("1,4,8,8", "1,4,3,3")),
    "a stride smaller than the kernel": (
        "transposed-to-blocks",
        conv("1,4,5,5", "4,3,3,3", "strides=[2,2]", op="ConvTranspose"),
    ),
    "a kernel as large as its stride that dilates": (
        "transposed-to-blocks",
        conv("1,4,5,5", "4,3,2,2", "strides=[2,2], dilations=[2,2]", op="ConvTranspose"),
    ),
    "a stride": ("transposed-to-conv", conv("1,4,5,5", "4,3,3,3", "strides=[2,2]", op="ConvTranspose")),
    "blocks with another reader": (
        "blocks-to-transposed",
        """g (float[1,4,3,3] x) => (float[p,q,r,s] y, float[1,4,3,3] h) <float[4,4,1,1] w>
        { h = Conv(x, w)  y = DepthToSpace<blocksize=2>(h) }""",
    ),
    "space to depth with another reader": (
        "blocks-to-strided",
        """g (float[1,1,4,4] x) => (float[p,q,r,s] y, float[t,u,v,w] z) <float[4,4,1,1] k>
        { h = SpaceToDepth<blocksize=2>(x)  y = Conv(h, k)  z = Relu(h) }""",
    ),
    "transpositions that do something else": (
        "matmul-to-conv",
        """g (float[1,4,5,4] x) => (float[p,q,r,s] y) <float[4,3] w>
        { t = Transpose<perm=[0,2,1,3]>(x)  h = MatMul(t, w)  y = Transpose<perm=[0,3,1,2]>(h) }""",
    ),
    "a transposition with another reader": (
        "matmul-to-conv",
        """g (float[1,4,5,5] x) => (float[p,q,r,s] y, float[t,u,v,z] t) <float[4,3] w>
        { t = Transpose<perm=[0,2,3,1]>(x)  h = MatMul(t, w)  y = Transpose<perm=[0,3,1,2]>(h) }""",
    ),
    "a product behind no transposition": (
        "matmul-to-conv",
        """g (float[1,5,5,4] x) => (float[p,q,r,s] y) <float[4,3] w>
        { h = MatMul(x, w)  y = Transpose<perm=[0,3,1,2]>(h) }""",
    ),
    "a convolution inside a branch": (
        "conv-to-matmul",
        """g (float[1,4,5,5] x, bool o) => (float[1,3,5,5] y) <float[3,4,1,1] w> {
        y = If<then_branch = t () => (float[1,3,5,5] a) { a = Conv(x, w) },
               else_branch = e () => (float[1,3,5,5] b) { b = Conv(x, w) }>(o) }""",
    ),
}


@pytest.mark.parametrize(("name", "text"), NOT_MEANT.values(), ids=NOT_MEANT.keys())
def test_says_nothing_of_what_is_not_meant(name: str, text: str) -> None:
    assert_refuses(by(name), text, None)


def test_a_weight_that_others_read_stays() -> None:
    text = """g (float[1,4,5,5] x) => (float[1,3,5,5] y, float[1,3,5,5] z) <float[3,4,1,1] w>
        { y = Conv(x, w)  z = Conv<pads=[0,0,0,0], dilations=[2,2]>(x, w) }"""
    model = parse(text)
    assert len(run_pass(by("conv-to-matmul"), model)) == 1
    assert len(model.graph.initializers["w"].uses()) == 1
    assert_same_outputs(parse(text), model)


def test_weights_that_are_stored_sparse_stay_so() -> None:
    model = parse(conv("1,4,5,5", "3,4,1,1", bias=False))
    values = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [2], [1.0, 2.0])
    indices = onnx.helper.make_tensor("i", onnx.TensorProto.INT64, [2], [0, 7])
    contents = SparseTensor(onnx.helper.make_sparse_tensor(values, indices, [3, 4, 1, 1]))
    model.graph.initializers["w"].const_value = contents
    (refusal,) = by("conv-to-matmul").run(model, Context(CPU))
    assert isinstance(refusal, Refusal)
    assert refusal.why == "conv-to-matmul: its weight is not constant, or sparse"
    assert model.graph.initializers["w"].const_value is contents


def test_layers_one_behind_the_other_are_converted_at_once() -> None:
    text = """g (float[n,4,5,5] x) => (float[n,2,5,5] z) <float[3,4,1,1] w, float[2,3,1,1] u, float[3] b>
        { y = Conv(x, w, b)  z = Conv(y, u) }"""
    after = ["Reshape(x, const) -> y/Reshape", *FLAT_MATMUL[1:], "Reshape(y, const) -> z/Reshape"]
    after += ["MatMul(const, z/Reshape) -> z/MatMul", "Reshape(z/MatMul, const) -> z"]
    assert_rewrites(by("conv-to-matmul"), text, after=after)


def test_names_that_are_taken() -> None:
    def built() -> ir.Model:
        model = parse(
            """g (float[1,4,5,5] x) => (float[1,3,5,5] y, float[1,4,5,5] a, float[1,4,5,5] b)
            <float[3,4,1,1] w> { a = Relu(x)  b = Neg(x)  y = Conv(x, w) }"""
        )
        for node, name in zip(model.graph, ("y/Reshape", "y/MatMul/0"), strict=False):
            node.outputs[0].name = name
        return model

    model = built()
    assert len(run_pass(by("conv-to-matmul"), model)) == 1
    names = [value.name for node in model.graph for value in node.outputs] + [*model.graph.initializers]
    assert len({*names}) == len(names)
    assert_same_outputs(built(), model)


@given(
    kernel=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    pads=st.lists(st.integers(0, 5), min_size=4, max_size=4),
    size=st.integers(2, 4),
)
@EXAMPLES
def test_blocks_and_back_keep_the_kernel(kernel, pads, size) -> None:
    weight = np.random.default_rng(0).normal(size=(2, 3, *kernel)).astype(np.float32)
    blocks, around = over_blocks(weight, pads, size)
    assert min(around) >= 0
    pixels, whole = trimmed(unblocked(blocks, size), [size * pad for pad in around])
    at = [pad - old for pad, old in zip(whole[:2], pads[:2], strict=True)]
    rows, columns = (slice(a, a + k) for a, k in zip(at, kernel, strict=True))
    np.testing.assert_array_equal(pixels[:, :, rows, columns], weight)
    assert np.count_nonzero(pixels) == np.count_nonzero(weight)


def test_shifted_kernels_by_hand() -> None:
    found = shifted(np.array([[[[1.0, 2.0]]]]), 2)
    expected = [[[[1, 2, 0], [0, 0, 0]]], [[[0, 1, 2], [0, 0, 0]]], [[[0, 0, 0], [1, 2, 0]]], [[[0, 0, 0], [0, 1, 2]]]]
    np.testing.assert_array_equal(found, expected)


def test_other_domains_are_left_alone() -> None:
    model = parse(conv("1,4,5,5", "3,4,1,1"), opsets={"other": 1})
    model.graph.node(0).domain = "other"
    assert run_pass(ConvertLayer(choose="always"), model) == []


def test_nothing_to_convert() -> None:
    assert_leaves(ConvertLayer(), "g (float[1,4] x) => (float[1,4] y) { y = Relu(x) }")
