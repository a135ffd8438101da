"""Rules of operators that look at several numbers of an axis."""

import numpy as np
import onnx_ir as ir
import pytest
from exactness import assert_exact, refused, sizes

from onnxopt.passes.prune import groups
from onnxopt.testing import parse

CONVS = "float[8,3,3,3] w, float[5,8,1,1] v, int64[2] space = {2, -1}, int64[1] channels = {1}, int64 three = {3}, int64[1] three1 = {3}, int64[4] size = {2, 8, 4, 4}"
OVER = "a sum, mean or extreme is taken over it"


def image(lines: str, *, opset: int = 20, more: str = "", out: str = "float[n,5,h,w]") -> ir.Model:
    """``h`` is the output of a convolution with 8 channels, ``v`` reads what the lines make of it."""
    return parse(f"g (float[n,3,6,6] x{more}) => ({out} y) <{CONVS}> {{ h = Conv(x, w) {lines} }}", opset=opset)


REDUCTIONS = ["L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"]


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reduction_of_space(name: str) -> None:
    lines = f"p = Sigmoid(h) r = Reduce{name}(p, space) y = Conv(r, v)"
    assert sizes(assert_exact(image(lines))) == {"h": 8}
    lines = f"p = Sigmoid(h) r = Reduce{name}<axes=[-2,3]>(p) y = Conv(r, v)"
    assert sizes(assert_exact(image(lines, opset=11))) == {"h": 8}


def test_reduction_without_axes_that_does_nothing() -> None:
    assert sizes(assert_exact(image("r = ReduceMax<noop_with_empty_axes=1>(h) y = Conv(r, v)"))) == {"h": 8}


def test_reduction_that_drops_axes() -> None:
    lines = "r = ReduceMean<keepdims=0>(h, space) y = MatMul(r, u)"
    model = parse(f"g (float[n,3,6,6] x) => (float[n,5] y) <{CONVS}, float[8,5] u> {{ h = Conv(x, w) {lines} }}")
    assert sizes(assert_exact(model)) == {"h": 8}


def test_squeeze_and_excitation() -> None:
    lines = (
        "m = ReduceMean(h, space) i = Conv(m, a) r = Relu(i) j = Conv(r, b) s = Sigmoid(j) t = Mul(h, s) y = Conv(t, v)"
    )
    model = parse(
        f"g (float[n,3,6,6] x) => (float[n,5,h,w] y) <{CONVS}, float[2,8,1,1] a, float[8,2,1,1] b> {{ h = Conv(x, w) {lines} }}"
    )
    assert sizes(assert_exact(model)) == {"h": 8, "i": 2}


POOLS = {
    "MaxPool": ("p = MaxPool<kernel_shape=[2,2]>(h)", 20),
    "MaxPool with pads": ("p = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1], strides=[2,2]>(h)", 20),
    "AveragePool": ("p = AveragePool<kernel_shape=[2,2]>(h)", 20),
    "LpPool": ("p = LpPool<kernel_shape=[2,2]>(h)", 20),
    "GlobalAveragePool": ("p = GlobalAveragePool(h)", 20),
    "GlobalMaxPool": ("p = GlobalMaxPool(h)", 20),
    "GlobalLpPool": ("p = GlobalLpPool(h)", 20),
    "places for MaxUnpool": (
        "q, i = MaxPool<kernel_shape=[2,2], strides=[2,2]>(h) p = MaxUnpool<kernel_shape=[2,2], strides=[2,2]>(q, i)",
        20,
    ),
    "Softmax over space": ("p = Softmax(h)", 20),
    "Softmax over space, opset 11": ("p = Softmax<axis=2>(h)", 11),
    "LogSoftmax over space": ("p = LogSoftmax<axis=2>(h)", 20),
    "CumSum over space": ("p = CumSum(h, three)", 20),
    "LpNormalization over space": ("p = LpNormalization<axis=3>(h)", 20),
    "TopK of space": ("p, i = TopK<axis=2>(h, channels)", 20),
}


@pytest.mark.parametrize(("line", "opset"), POOLS.values(), ids=POOLS)
def test_each_channel_for_itself(line: str, opset: int) -> None:
    assert sizes(assert_exact(image(f"{line} y = Conv(p, v)", opset=opset))) == {"h": 8}


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
def test_places_in_space(op: str) -> None:
    model = image(f"i = {op}<axis=3, keepdims=0>(h) j = Unsqueeze(i, three1) c = Cast<to=1>(j) y = Conv(c, v)")
    assert sizes(assert_exact(model)) == {"h": 8}


def test_regions_of_an_image() -> None:
    model = image(
        "p = RoiAlign<output_height=2, output_width=2>(h, r, i) y = Conv(p, v)",
        more=", float[2,4] r, int64[2] i",
        out="float[2,5,a,b]",
    )
    assert sizes(groups.find(model)) == {"h": 8}
    feeds = {"x": np.ones((2, 3, 6, 6)), "r": np.array([[0, 0, 3, 3], [1, 0, 2, 2]])}
    assert_exact(model, {name: x.astype(np.float32) for name, x in feeds.items()} | {"i": np.array([0, 1])})


def test_grid_sample() -> None:
    model = image("p = GridSample(h, r) y = Conv(p, v)", more=", float[n,2,2,2] r")
    assert sizes(assert_exact(model)) == {"h": 8}


KEPT = {
    "ReduceMax": ("y = ReduceMax(h, channels)", OVER, 20),
    "ReduceMean": ("y = ReduceMean<axes=[-3]>(h)", OVER, 13),
    "all": ("y = ReduceSum(h)", OVER, 20),
    "axes are given": ("y = ReduceSum(h, c)", "ReduceSum 'y': its axes are computed", 20),
    "ArgMax": ("i = ArgMax<axis=1>(h) y = Cast<to=1>(i)", "its output says places on it", 20),
    "places of MaxPool": (
        "p, i = MaxPool<kernel_shape=[2,2]>(h) y = Cast<to=1>(i)",
        "MaxPool 'p': its places are counted over all channels",
        20,
    ),
    "MaxUnpool to a size": (
        "p, i = MaxPool<kernel_shape=[2,2], strides=[2,2]>(h) y = MaxUnpool<kernel_shape=[2,2], strides=[2,2]>(p, i, size)",
        "MaxUnpool 'y': its size is said in numbers",
        20,
    ),
    "Softmax": ("s = Softmax<axis=1>(h) y = ReduceMax(s, space)", "a softmax is taken over it", 20),
    "Softmax of all from an axis on": ("s = Softmax(h) y = Neg(s)", "a softmax is taken over it", 11),
    "TopK": ("y, i = TopK<axis=1>(h, channels)", "its numbers depend on each other", 20),
    "CumSum": ("y = CumSum(h, channels)", "its numbers depend on each other", 20),
    "CumSum along what is given": ("y = CumSum(h, c)", "CumSum 'y': its axis is computed", 20),
    "LpNormalization": ("y = LpNormalization<axis=-3>(h)", "its numbers depend on each other", 20),
    "LRN": ("y = LRN<size=3>(h)", "channels beside each other are normalised together", 20),
}


@pytest.mark.parametrize(("lines", "why", "opset"), KEPT.values(), ids=KEPT)
def test_channels_that_must_stay(lines: str, why: str, opset: int) -> None:
    model = image(
        lines.replace("y = ", "z = ").replace("y, ", "z, ") + " y = Identity(z)",
        opset=opset,
        more=", int64[1] c",
        out="float[a,b,c,d]",
    )
    assert refused(model)["h"] == why.replace("'y'", "'z'")


def test_a_mean_over_channels_is_allowed_where_that_is_asked_for() -> None:
    model = image("m = ReduceMean(h, channels) s = Sub(h, m) y = Conv(s, v)")
    assert refused(model) == {"h": OVER, "y": "'y' is an output of the model"}
    (group,) = groups.find(model, normalised=True)
    assert (len(group), group.inexact) == (8, OVER)
