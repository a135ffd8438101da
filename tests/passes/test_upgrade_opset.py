"""UpgradeOpset: every operator whose meaning or form changed, converted from its opset and run."""

import numpy as np
import onnx
import pytest

from onnxopt import files
from onnxopt.graph import opset
from onnxopt.passes.simplify.upgrade_opset import UpgradeOpset
from onnxopt.testing import assert_leaves, assert_refuses, assert_same_outputs, parse, run_pass

W = "float[1,8,2] w, float[1,8,2] r"
CHANGED = {
    "Softmax": (7, "g (float[2,3,4] x) => (float[2,3,4] y) { y = Softmax(x) }"),
    "LogSoftmax": (11, "g (float[2,3,4] x) => (float[2,3,4] y) { y = LogSoftmax<axis=1>(x) }"),
    "Dropout": (7, "g (float[2,3] x) => (float[2,3] y) { y = Dropout<ratio=0.5>(x) }"),
    "BatchNormalization": (
        7,
        "g (float[2,3] x) => (float[2,3] y) <float[3] s, float[3] b, float[3] m, float[3] v> { y = BatchNormalization(x,s,b,m,v) }",
    ),
    "Upsample nearest": (
        7,
        'g (float[1,1,2,2] x) => (float[1,1,4,4] y) { y = Upsample<mode="nearest", scales=[1.0,1.0,2.0,2.0]>(x) }',
    ),
    "Upsample linear": (
        9,
        'g (float[1,1,2,2] x) => (float[1,1,4,4] y) <float[4] s = {1,1,2,2}> { y = Upsample<mode="linear">(x,s) }',
    ),
    "Resize nearest": (
        10,
        'g (float[1,1,3,3] x) => (float[1,1,5,5] y) <float[4] s = {1,1,1.7,1.7}> { y = Resize<mode="nearest">(x,s) }',
    ),
    "Resize linear": (
        10,
        'g (float[1,1,3,3] x) => (float[1,1,7,7] y) <float[4] s = {1,1,2.5,2.5}> { y = Resize<mode="linear">(x,s) }',
    ),
    "Resize cubic": (
        13,
        'g (float[1,1,3,3] x) => (float[1,1,7,7] y) <float[4] s = {1,1,2.5,2.5}> { y = Resize<mode="cubic">(x,,s) }',
    ),
    "Slice": (9, "g (float[4,4] x) => (float[2,2] y) { y = Slice<axes=[0,1],starts=[1,1],ends=[3,3]>(x) }"),
    "Pad": (10, "g (float[2,2] x) => (float[4,2] y) { y = Pad<pads=[1,0,1,0],value=3.0>(x) }"),
    "Clip": (7, "g (float[2,2] x) => (float[2,2] y) { y = Clip<min=-0.1,max=0.2>(x) }"),
    "TopK": (9, "g (float[4] x) => (float[2] y, int64[2] i) { y,i = TopK<k=2>(x) }"),
    "Squeeze": (11, "g (float[1,4] x) => (float[4] y) { y = Squeeze<axes=[0]>(x) }"),
    "Unsqueeze": (11, "g (float[4] x) => (float[1,4] y) { y = Unsqueeze<axes=[0]>(x) }"),
    "Split": (11, "g (float[4] x) => (float[1] a, float[3] b) { a,b = Split<split=[1,3],axis=0>(x) }"),
    "Split in equal parts": (11, "g (float[4] x) => (float[2] a, float[2] b) { a,b = Split<axis=0>(x) }"),
    "ReduceSum": (11, "g (float[2,3] x) => (float[2,1] y) { y = ReduceSum<axes=[1]>(x) }"),
    "ReduceMean": (13, "g (float[2,3] x) => (float[2,1] y) { y = ReduceMean<axes=[1]>(x) }"),
    "Gemm": (7, "g (float[2,3] x) => (float[2,2] y) <float[3,2] w, float[2] c> { y = Gemm(x,w,c) }"),
    "AveragePool": (
        7,
        "g (float[1,1,4,4] x) => (float[1,1,3,3] y) { y = AveragePool<kernel_shape=[2,2],strides=[2,2],pads=[1,1,1,1]>(x) }",
    ),
    "LSTM": (7, f"g (float[3,1,2] x) => (float[3,1,1,2] y) <{W}> {{ y = LSTM<hidden_size=2>(x,w,r) }}"),
    "Scatter": (9, "g (float[4] x) => (float[4] y) <int64[1] i={1}, float[1] u={5}> { y = Scatter(x,i,u) }"),
    "DepthToSpace": (7, "g (float[1,4,2,2] x) => (float[1,1,4,4] y) { y = DepthToSpace<blocksize=2>(x) }"),
    "GridSample": (
        16,
        'g (float[1,1,3,3] x, float[1,2,2,2] grid) => (float[1,1,2,2] y) { y = GridSample<mode="bilinear">(x,grid) }',
    ),
    "DFT": (17, "g (float[1,4,1] x) => (float[1,4,2] y) { y = DFT<axis=1>(x) }"),
    "QuantizeLinear": (
        13,
        "g (float[2,2] x) => (float[2,2] y) <float s={0.1}, uint8 z={3}> { h = QuantizeLinear(x,s,z) y = DequantizeLinear(h,s,z) }",
    ),
    "Squeeze in a branch": (
        11,
        """g (bool c, float[1,4] x) => (float[4] y) { y = If(c) <then_branch = t () => (float[4] o) { o = Squeeze<axes=[0]>(x) },
        else_branch = e () => (float[4] p) { q = Squeeze<axes=[0]>(x) p = Neg(q) }> }""",
    ),
    "Slice in a loop": (
        9,
        """g (float[4] x) => (float[2] y) <int64 n = {1}, bool t={1}> { h = Slice<starts=[0],ends=[2]>(x)
        y = Loop(n,t,h) <body = b (int64 i, bool c, float[2] a) => (bool d, float[2] r)
        { d = Identity(c) s = Slice<starts=[1],ends=[3]>(x) r = Add(a, s) }> }""",
    ),
}
NEWEST = onnx.defs.onnx_opset_version()
RELEASED = min(26, NEWEST)
"""The newest opset that ONNX Runtime runs without a complaint."""


@pytest.mark.parametrize("version", [13, 17, 21, RELEASED])
@pytest.mark.parametrize(("start", "text"), CHANGED.values(), ids=CHANGED.keys())
def test_converts(start: int, text: str, version: int) -> None:
    before = parse(text, opset=start)
    model = before.clone()
    assert len(run_pass(UpgradeOpset(version=version), model)) == (1 if version > start else 0)
    assert opset(model) == max(start, version)
    onnx.checker.check_model(files.to_proto(model), full_check=True)
    assert_same_outputs(before, model)
    assert run_pass(UpgradeOpset(version=version), model) == []


def test_leaves_a_model_that_is_there() -> None:
    assert_leaves(UpgradeOpset(), "g (float[4] x) => (float[4] y) { y = Relu(x) }", opset=17)


RELU = "g (float[4] x) => (float[4] y) { y = Relu(x) }"
REFUSED = {
    "onnx does not know the version": (UpgradeOpset(version=NEWEST + 1), 13, RELU, "knows opsets up to"),
    "too old": (UpgradeOpset(), 6, RELU, "too old"),
    "Hardmax": (UpgradeOpset(), 11, "g (float[2,3] x) => (float[2,3] y) { y = Hardmax(x) }", "Hardmax"),
    "Resize to a smaller size": (
        UpgradeOpset(),
        10,
        "g (float[1,1,4,4] x) => (float[1,1,2,2] y) <float[4] s = {1,1,0.5,0.5}> { y = Resize(x, s) }",
        "smaller",
    ),
    "BatchNormalization over more than channels": (
        UpgradeOpset(),
        7,
        """g (float[2,3,1] x) => (float[2,3,1] y) <float[3,1] s, float[3,1] b, float[3,1] m, float[3,1] v>
        { y = BatchNormalization<spatial=0>(x,s,b,m,v) }""",
        "cannot convert",
    ),
}


@pytest.mark.parametrize(("rewrite", "start", "text", "why"), REFUSED.values(), ids=REFUSED.keys())
def test_refuses(rewrite: UpgradeOpset, start: int, text: str, why: str) -> None:
    assert_refuses(rewrite, text, why, opset=start)


def test_refuses_local_functions_which_the_converter_loses() -> None:
    text = """<ir_version: 8, opset_import: ["" : 13, "l" : 1]> g (float[4] x) => (float[4] y) { y = l.f(x) }
    <domain: "l", opset_import: ["" : 13]> f (a) => (b) { b = Relu(a) }"""
    assert_refuses(UpgradeOpset(), text, "inline-functions first")


def test_weights_that_a_caller_may_override_stay_inputs() -> None:
    text = "g (float[1,4] x, float[4] w) => (float[4] y) <float[4] w> { h = Squeeze<axes=[0]>(x)  y = Add(h, w) }"
    model = parse(text, opset=11)
    assert run_pass(UpgradeOpset(), model)
    assert [value.is_initializer() for value in model.graph.inputs] == [False, True]
    assert_same_outputs(parse(text, opset=11), model, w=np.ones(4, np.float32))
