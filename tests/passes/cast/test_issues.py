"""What breaks in other converters, by the issues of their trackers: here each of these models is valid and right."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from halves import cast, emulated, naive, run, samples

from onnxopt.passes.cast.cast_float16 import CastFloat16
from onnxopt.testing import assert_same_outputs, lines, parse

LAYER = "<float[3,3,1,1] w> { h = Conv(x, w)"
RTOL = 4e-3

MODELS = {
    "scales of Resize (onnxconverter-common 207, 306, ORT 8327)": (
        20,
        f"""g (float[1,3,4,4] x) => (float[1,3,8,8] y) {LAYER}
        s = Constant<value = float[4] {{1.0, 1.0, 2.0, 2.0}}>()  i = Resize(h, , s)  v = Relu(i)  y = Conv(v, w) }}""",
    ),
    "an empty roi beside sizes (208, 272)": (
        13,
        f"""g (float[1,3,4,4] x) => (float[1,3,8,8] y) {LAYER}  e = Constant<value = float[0] {{}}>()
        s = Constant<value = int64[4] {{1, 3, 8, 8}}>()  i = Resize(h, e, e, s)  y = Conv(i, w) }}""",
    ),
    "a region of Resize": (
        13,
        f"""g (float[1,3,4,4] x) => (float[1,3,4,4] y) {LAYER}
        r = Constant<value = float[8] {{0.0, 0.0, 0.2, 0.2, 1.0, 1.0, 0.8, 0.8}}>()
        s = Constant<value = float[4] {{1.0, 1.0, 1.0, 1.0}}>()
        i = Resize<coordinate_transformation_mode="tf_crop_and_resize", mode="linear">(h, r, s)  y = Conv(i, w) }}""",
    ),
    "scales that are computed": (
        20,
        f"""g (float[1,3,4,4] x) => (float[1,3,b,c] y) {LAYER}  n = Shape(h)  f = Cast<to=1>(n)
        t = Constant<value = float[4] {{1.0, 1.0, 2.0, 2.0}}>()  m = Mul(f, t)  s = Div(m, f)
        i = Resize(h, , s)  y = Conv(i, w) }}""",
    ),
    "scales of Upsample (ORT 1760)": (
        9,
        f"""g (float[1,3,4,4] x) => (float[1,3,8,8] y) {LAYER}
        s = Constant<value = float[4] {{1.0, 1.0, 2.0, 2.0}}>()  i = Upsample(h, s)  y = Conv(i, w) }}""",
    ),
    "Concat behind Resize (onnxmltools 446)": (
        11,
        f"""g (float[1,3,4,4] x) => (float[1,6,4,4] y) {LAYER}  e = Constant<value = float[0] {{}}>()
        s = Constant<value = float[4] {{1.0, 1.0, 2.0, 2.0}}>()  p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(h)
        i = Resize(p, e, s)  y = Concat<axis=1>(i, h) }}""",
    ),
    "a Cast to float32 inside (320, 328, 331, ORT 25522)": (
        20,
        f"""g (float[1,3,4,4] x, int64[1,3,4,4] k) => (float[1,3,4,4] y) {LAYER}
        a = Cast<to=1>(k)  b = Add(h, a)  c = Cast<to=1>(b)  y = Conv(c, w) }}""",
    ),
    "a Cast to float32 that is an output (320)": (
        20,
        f"""g (float[1,3,4,4] x, bool[1,3,4,4] k) => (float[1,3,4,4] y, float[1,3,4,4] a) {LAYER}
        a = Cast<to=1>(k)  b = Add(h, a)  y = Conv(b, w) }}""",
    ),
    "random numbers like another value (287, ORT 20570)": (
        20,
        f"""g (float[1,3,4,4] x) => (float[1,3,4,4] y) {LAYER}
        r = RandomNormalLike<seed=1.0>(h)  z = Sub(r, r)  i = Add(h, z)  y = Conv(i, w) }}""",
    ),
    "a weight of a layer that both worlds read (304, 329)": (
        20,
        f"""g (float[1,3,4,4] x) => (float[1,3,4,4] y, float[3,3,1,1] z) {LAYER}  a = Abs(w)  z = Asin(a)  y = Relu(h) }}""".replace(
            "z = Asin(a)", "b = Tanh(a)  z = Atan(b)"
        ),
    ),
    "numbers of a shape that is filled": (
        20,
        f"""g (float[1,3,4,4] x) => (float[1,3,4,4] y) {LAYER}  n = Shape(h)
        a = ConstantOfShape<value = float[1] {{0.5}}>(n)  b = Add(h, a)  c = ConstantOfShape(n)  d = Add(b, c)
        y = Conv(d, w) }}""",
    ),
    "a range, and a unit matrix": (
        20,
        """g (float[4,4] x) => (float[4,4] y) <float[4,4] w> { h = MatMul(x, w)
        s = Constant<value = float {0.0}>()  e = Constant<value = float {4.0}>()  d = Constant<value = float {1.0}>()
        r = Range(s, e, d)  i = Add(h, r)  u = EyeLike(h)  j = Add(i, u)  y = MatMul(j, w) }""",
    ),
    "a sequence (ORT 20189)": (
        20,
        """g (float[4,4] x) => (float[4,4] y) <float[4,4] w> { h = MatMul(x, w)
        s = SplitToSequence<axis=0>(h)  i = ConcatFromSequence<axis=0>(s)  y = MatMul(i, w) }""",
    ),
    "an outer value in both branches (onnxconverter-common 271)": (
        20,
        """g (bool q, float[4,4] x) => (float[4,4] y, float[4,4] h) <float[4,4] w> { h = MatMul(x, w)
        i = If(q) <then_branch = t () => (float[4,4] o) { o = Identity(x) },
                   else_branch = e () => (float[4,4] p) { a = MatMul(x, h)  p = Asin(a)  }>
        y = MatMul(i, w) }""".replace("p = Asin(a)", "b = Tanh(a)  p = Asin(b)"),
    ),
    "a branch that gives a constant": (
        20,
        """g (bool q, float[4,4] x) => (float[a,b] y) <float[4,4] w> {
        i = If(q) <then_branch = t () => (float[2,2] o) { o = Constant<value = float[2,2] {1.0, 2.0, 3.0, 4.0}>() },
                   else_branch = e () => (float[4,4] p) { p = MatMul(x, w) }>
        y = Relu(i) }""",
    ),
}


@pytest.mark.parametrize(("opset", "text"), MODELS.values(), ids=MODELS.keys())
def test_valid_and_right(opset: int, text: str) -> None:
    """``cast`` checks the model in full, in the order of its nodes (208), and that a second run changes nothing."""
    model = parse(text, opset=opset)
    got, changes, _ = cast(model)
    assert any("computes in float16" in change.what for change in changes)
    assert_same_outputs(model, got, rtol=RTOL)
    assert_same_outputs(model, emulated(got), rtol=RTOL)


def test_casts_of_inputs_come_first() -> None:
    """onnxconverter-common 208: Casts at the end of the file are not in topological order."""
    got, _, _ = cast(parse("g (float[2,8] x, float[8,4] z) => (float[2,4] y) { y = MatMul(x, z) }"))
    assert lines(got)[:2] == ["Cast(z) -> z/float16", "Cast(x) -> x/float16"]


def test_the_mean_of_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxconverter-common 323, 299: a sum of 512 x 512 numbers is beyond float16, its mean is not."""
    model = parse("""g (float[1,3,64,64] x) => (float[1,3,1,1] y) <float[3,3,1,1] w, int64[2] a = {2, 3}>
        { h = Conv(x, w)  m = ReduceMean(h, a)  y = Conv(m, w) }""")
    _, changes, refusals = cast(model)
    assert refusals["m"] == "it adds up 4096 numbers"
    x = np.random.default_rng(0).uniform(size=(2, 1, 3, 64, 64)).astype(np.float32) * 20
    got, changes, refusals = cast(model, given=samples(model, tmp_path, x=x))
    assert changes
    assert "adds up numbers to about" in refusals["m"]
    assert_same_outputs(model, got, rtol=RTOL)
    assert_same_outputs(model, emulated(got), rtol=RTOL)


def test_all_nodes_blocked() -> None:
    """ORT 21345: nothing is rounded where everything is blocked, not even the weights."""
    model = parse("g (float[2,8] x) => (float[2,4] y) <float[8,4] w> { h = MatMul(x, w)  y = Relu(h) }")
    _, changes, refusals = cast(model, CastFloat16(block=("*",)))
    assert changes == []
    assert refusals == {"h": "block names '*'", "y": "block names '*'"}


def test_a_norm_of_large_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ORT 21345, 11384: squares of a norm beyond float16 give infinity, and infinity by infinity NaN."""
    model = parse("""g (float[4,64] x) => (float[4,64] y) <float[64,64] w, int64[1] a = {-1}> {
        h = MatMul(x, w)  p = Mul(h, h)  s = ReduceSum(p, a)  r = Sqrt(s)  n = Div(h, r)  y = MatMul(n, w) }""")
    x = np.random.default_rng(0).normal(size=(8, 4, 64)).astype(np.float32) * 100
    spoiled, expected = run(emulated(naive(model, monkeypatch)), x=x[0])["y"], run(model, x=x[0])["y"]
    assert not np.isfinite(spoiled).all() or np.abs(spoiled - expected).max() > 0.5 * np.abs(expected).max()
    for given in (None, samples(model, tmp_path, x=x)):
        got, changes, _ = cast(model, given=given)
        assert changes
        np.testing.assert_allclose(run(emulated(got), x=x[0])["y"], expected, atol=RTOL * np.abs(expected).max())


@pytest.mark.parametrize("fill", ["-3.4028235e38", "-1e9", "-10000.0"])
def test_masks_of_any_size(fill: str, tmp_path: Path) -> None:
    """ORT 11384, 4742, 6328: beyond float16 a mask is infinite, and 0 times infinity NaN."""
    model = parse(f"""g (float[1,4,4] x, int64[1,4] k) => (float[1,4,4] y) <float[4,4] w> {{
        f = Cast<to=1>(k)  o = Constant<value = float {{1.0}}>()  v = Constant<value = float {{{fill}}}>()
        a = Sub(o, f)  b = Mul(a, v)  h = MatMul(x, w)  i = Add(h, b)  s = Softmax(i)  y = MatMul(s, h) }}""")
    x = np.random.default_rng(0).normal(size=(6, 1, 4, 4)).astype(np.float32)
    k = np.array([[[1, 1, 1, 1]], [[1, 1, 0, 0]], [[1, 0, 0, 0]]] * 2)
    for given in (None, samples(model, tmp_path, x=x, k=k)):
        got, _, refusals = cast(model, given=given)
        assert refusals == {}
        assert sum(node.op_type == "Cast" for node in got.graph) == 3, "that of the mask, and one at each edge"
        for one in range(3):
            feeds = {"x": x[one], "k": k[one]}
            np.testing.assert_allclose(run(emulated(got), **feeds)["y"], run(model, **feeds)["y"], atol=0.02)


def test_a_large_number_that_is_no_mask_stays() -> None:
    model = parse("""g (float[4,4] x) => (float[4,4] y, float[4,4] s) <float[4,4] w> { h = MatMul(x, w)
        v = Constant<value = float {1e9}>()  i = Mul(h, v)  s = Softmax(i)  y = Relu(i) }""")
    _, _, refusals = cast(model)
    assert "reaches 1e+09" in refusals["i"]


def test_weights_for_matmulnbits_take_their_scale_in_float16() -> None:
    text = """g (float[2,64] x) => (float[2,4] y) <float[4,2] s, float[64,64] w> { h = MatMul(x, w)
        v = DequantizeLinear<axis=1, block_size=32>(q, s)  t = Transpose<perm=[1,0]>(v)  y = MatMul(h, t) }"""
    model = parse(text.replace("float[64,64] w>", "float[64,64] w, int8[4,64] q>"), opset=21)
    got, _, refusals = cast(model)
    assert refusals == {}
    assert got.graph.initializers["s"].const_value.dtype is ir.DataType.FLOAT16  # type: ignore[union-attr]
    assert sum(node.op_type == "Cast" for node in got.graph) == 2
    assert_same_outputs(model, got, rtol=RTOL)
    assert_same_outputs(model, emulated(got), rtol=RTOL)


def test_contrib_operators_with_inputs_that_stay_float32() -> None:
    """A value between two operators that onnx does not know has the type that they say."""
    model = parse(
        """<ir_version: 8, opset_import: ["" : 20, "com.microsoft" : 1]>
        g (float[2,3,8] x) => (float[2,3,8] y) <float[8,8] w, float[8] c, float[8] b, float[8] d> {
        h = MatMul(x, w)  i, m, n, s = com.microsoft.SkipLayerNormalization(h, x, c, b)  j = com.microsoft.BiasGelu(i, d)
        k = MatMul(j, w)  y = Add(k, s) }"""
    )
    got, _, refusals = cast(model)
    assert refusals == {}
    assert sum(node.op_type == "Cast" for node in got.graph) == 2
    assert_same_outputs(model, got, rtol=RTOL)
    assert_same_outputs(model, emulated(got), rtol=RTOL)
