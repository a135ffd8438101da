"""Bounds of values: nothing that ONNX Runtime computes lies outside of them."""

import itertools

import numpy as np
import onnx_ir as ir
import pytest

from onnxopt.graph import inferred
from onnxopt.passes.prune.dead import RULES, Interval, intervals
from onnxopt.runtime import Session
from onnxopt.target import Target
from onnxopt.testing import parse

LOW, HIGH = [-3.0, -1.0, 0.0, -2.0], [2.0, -0.5, 0.0, 5.0]
"""Of four channels; one is fixed."""
NODES = {
    "Conv": "y = Conv(x, w, b)",
    "Conv, padded": "y = Conv<pads=[1,1,1,1]>(x, w, b)",
    "Conv, grouped": "y = Conv<group=2>(x, g, b)",
    "Conv, depthwise": "y = Conv<group=4, strides=[2,2]>(x, d)",
    "ConvTranspose": "y = ConvTranspose<strides=[2,2]>(x, w, b)",
    "ConvTranspose, grouped": "y = ConvTranspose<group=2>(x, t, b)",
    "Gemm": "f = Flatten(x) y = Gemm<alpha=0.5, beta=-2.0>(f, m, b)",
    "Gemm, transposed": "f = Flatten(x) y = Gemm<transB=1>(f, mt, b)",
    "MatMul": "t = Transpose<perm=[0,2,3,1]>(x) y = MatMul(t, s)",
    "BatchNormalization": "y = BatchNormalization(x, b, c, c, e)",
    "InstanceNormalization": "y = InstanceNormalization(x, z, b)",
    "Identity": "y = Identity(x)",
    "Cast": "h = Cast<to=11>(x) y = Cast<to=1>(h)",
    "Cast, half": "h = Cast<to=10>(x) y = Cast<to=1>(h)",
    "Dropout": "y = Dropout(x)",
    "Relu": "y = Relu(x)",
    "Clip": "y = Clip(x, k, l)",
    "Clip, open": "y = Clip(x, , l)",
    "Max": "y = Max(x, i, k)",
    "Min": "y = Min(x, i)",
    "Abs": "y = Abs(x)",
    "LeakyRelu": "y = LeakyRelu<alpha=0.1>(x)",
    "LeakyRelu, falling": "y = LeakyRelu<alpha=-0.5>(x)",
    "PRelu": "y = PRelu(x, i)",
    "HardSigmoid": "y = HardSigmoid(x)",
    "HardSwish": "y = HardSwish(x)",
    "Sigmoid": "y = Sigmoid(x)",
    "Tanh": "y = Tanh(x)",
    "Erf": "y = Erf(x)",
    "Exp": "y = Exp(x)",
    "Softplus": "y = Softplus(x)",
    "Elu": "y = Elu<alpha=0.5>(x)",
    "Selu": "y = Selu(x)",
    "Celu": "y = Celu<alpha=2.0>(x)",
    "Gelu": "y = Gelu(x)",
    "Gelu, tanh": 'y = Gelu<approximate="tanh">(x)',
    "Softmax": "y = Softmax<axis=1>(x)",
    "Neg": "y = Neg(x)",
    "Add": "r = Relu(x) y = Add(r, x)",
    "Sum": "y = Sum(x, i, x)",
    "Sub": "y = Sub(i, x)",
    "Mul": "r = Tanh(x) y = Mul(r, x)",
    "Mul, square": "y = Mul(x, x)",
    "Div": "y = Div(x, e1)",
    "Where": "q = Greater(x, i) y = Where(q, x, i)",
    "Reshape": "y = Reshape(x, to)",
    "Reshape, to rows": "y = Reshape(x, rows)",
    "Flatten": "y = Flatten<axis=2>(x)",
    "Squeeze": "p = GlobalMaxPool(x) y = Squeeze(p, hw)",
    "Unsqueeze": "y = Unsqueeze(x, zero)",
    "Transpose": "y = Transpose<perm=[1,0,3,2]>(x)",
    "Expand": "y = Expand(i, shape)",
    "Concat": "r = Neg(x) y = Concat<axis=1>(x, r)",
    "Concat, along the width": "r = Relu(x) y = Concat<axis=3>(x, r)",
    "Split": "a, y = Split<axis=1>(x, parts)",
    "Slice": "y = Slice(x, last, first, one, back)",
    "Gather": "y = Gather<axis=1>(x, some)",
    "Gather, any": "a = ArgMax<axis=1, keepdims=0>(x) y = Gather<axis=1>(x, a)",
    "Pad": "y = Pad(x, pads, k)",
    "Pad, cropping": "y = Pad(x, crop, k)",
    "Pad, edge": 'y = Pad<mode="edge">(x, pads)',
    "MaxPool": "y = MaxPool<kernel_shape=[2,2], pads=[1,1,0,0]>(x)",
    "AveragePool": "y = AveragePool<kernel_shape=[2,2], pads=[1,1,0,0], count_include_pad=1>(x)",
    "GlobalAveragePool": "y = GlobalAveragePool(x)",
    "GlobalMaxPool": "y = GlobalMaxPool(x)",
    "ReduceMean": "y = ReduceMean<keepdims=0>(x, hw)",
    "ReduceMean, all": "y = ReduceMean(x)",
    "ReduceMax": "y = ReduceMax(x, one)",
    "ReduceMin": "y = ReduceMin<keepdims=0>(x, one)",
    "Resize": 'y = Resize<mode="linear">(x, , scales)',
    "If": """y = If<then_branch = a () => (float[n,4,6,6] p) { p = Relu(x) },
                    else_branch = b () => (float[n,4,6,6] q) { q = Neg(x) }>(yes)""",
}
UNBOUNDED = ("Cast, half", "If", "InstanceNormalization")
LOOSE = ("Conv", "Gemm", "Global", "LeakyRelu, falling", "MatMul", "Mul", "Reduce", "Squeeze", "Where")
"""What random inputs do not bring near to its bounds."""
CONSTANTS = """float[4,4,3,3] w, float[4,2,3,3] g, float[4,1,3,3] d, float[4,2,3,3] t, float[144,4] m, float[4,144] mt,
    float[4,5] s, float[4] b = {0.5, -1, 0, 2}, float[4] c = {0.1, -3, 0, 1}, float[4] e, float[4] z = {1, 0, -1, 0},
    float[1,4,1,1] i = {0.5, -1, 2, 0}, float[1,4,1,1] e1 = {0.5, -1, 2, -0.1}, float k = {-0.7}, float l = {1.5},
    int64[3] to = {0, 4, 36}, int64[2] rows = {-1, 12}, int64[2] hw = {2, 3}, int64[1] zero = {0}, int64[1] one = {1},
    int64[4] shape = {3, 4, 6, 2}, int64[2] parts = {1, 3}, int64[1] last = {-1}, int64[1] first = {0},
    int64[1] back = {-1}, int64[3] some = {3, 0, -1}, int64[8] pads = {0, 1, 0, 1, 0, 0, 2, 1},
    int64[8] crop = {0, -1, -1, 0, 0, 2, 0, 0}, float[4] scales = {1, 1, 2, 1.5}"""


def bounded(body: str, low: bool, high: bool) -> ir.Model:
    """``y`` made of ``x``, which is kept above and below bounds."""
    numbers = [f"float[1,4,1,1] {name} = {{{', '.join(map(str, of))}}}" for name, of in (("lo", LOW), ("hi", HIGH))]
    steps = ["v = Min(u, hi)" if high else "v = Identity(u)", "x = Max(v, lo)" if low else "x = Identity(v)"]
    head = "g (float[n,4,6,6] u, bool yes) => (float y)"
    return parse(f"{head} <{CONSTANTS}, {', '.join(numbers)}> {{ {' '.join(steps)} {body} }}")


def bounds_of(model: ir.Model) -> Interval:
    return intervals(model, inferred(model)).of(model.graph.outputs[0])


def test_every_rule_is_tried() -> None:
    assert {name.partition(",")[0] for name in NODES} >= set(RULES) - {"Upsample"}


@pytest.mark.parametrize("name", NODES)
def test_nothing_lies_outside(name: str) -> None:
    rng = np.random.default_rng(0)
    u = np.concatenate([scale * rng.normal(size=(2, 4, 6, 6)) for scale in (0.1, 3, 1000)]).astype(np.float32)
    for low, high in ((True, True), (True, False)):
        model = bounded(NODES[name], low, high)
        bounds = bounds_of(model)
        output = np.asarray(Session(model, Target(), optimize=False).run({"u": u, "yes": np.array(True)})["y"])
        assert len(bounds.shape) == output.ndim
        assert np.all(output >= bounds.low.astype(np.float32)), (output.min(), bounds.low)
        assert np.all(output <= bounds.high.astype(np.float32)), (output.max(), bounds.high)
        if low and high and name not in UNBOUNDED and output.size > 1:
            assert np.all(np.isfinite(bounds.low) & np.isfinite(bounds.high))
            most = (10 if name.startswith(LOOSE) else 1.01) * (output.max() - output.min()) + 1e-3
            assert np.all(bounds.high - bounds.low <= most)


@pytest.mark.parametrize("body", ["y = Conv(x, w)", "f = Flatten(x) y = Gemm(f, m, b)"])
def test_bounds_of_products_are_reached(body: str) -> None:
    """By inputs that are each at one of their bounds, all corners of them."""
    text = f"""g (float[16,4,1,1] u) => (float y) <float[3,4,1,1] w, float[4,3] m, float[3] b,
        float[4,1,1] lo = {{{", ".join(map(str, LOW))}}}, float[4,1,1] hi = {{{", ".join(map(str, HIGH))}}}>
        {{ v = Min(u, hi) x = Max(v, lo) {body} }}"""
    model = parse(text)
    corners = np.array(list(itertools.product((-9, 9), repeat=4)), np.float32).reshape(16, 4, 1, 1)
    output = np.asarray(Session(model, Target(), optimize=False).run({"u": corners})["y"]).reshape(16, 3)
    bounds = bounds_of(model)
    np.testing.assert_allclose(bounds.low.ravel(), output.min(0), atol=1e-4)
    np.testing.assert_allclose(bounds.high.ravel(), output.max(0), atol=1e-4)


def test_infinite_inputs_bound_one_side() -> None:
    text = """g (float[n,2,4,4] u) => (float y) <float[4,2,1,1] w = {1, 2, -1, -2, 1, -1, 0, 0}, float[4] b = {1, -1, 0, 3}>
        { x = Relu(u) y = Conv(x, w, b) }"""
    bounds = bounds_of(parse(text))
    np.testing.assert_allclose(bounds.low.ravel(), [1, -np.inf, -np.inf, 3], rtol=1e-4)
    np.testing.assert_allclose(bounds.high.ravel(), [np.inf, -1, np.inf, 3], rtol=1e-4)
    assert list(bounds.fixed.ravel()) == [False, False, False, True]


@pytest.mark.parametrize("constants", ["float[2,2,1,1] w = {nan, 0, 1, 1}", "float[2,2,1,1] w = {inf, 0, 1, 1}"])
def test_weights_that_are_no_numbers_say_nothing(constants: str) -> None:
    bounds = bounds_of(parse(f"g (float[n,2,4,4] u) => (float y) <{constants}> {{ x = Sigmoid(u) y = Conv(x, w) }}"))
    assert bounds.says_nothing
