"""SmoothActivations."""

import numpy as np
import onnx_ir as ir
import pytest

from onnxopt import files
from onnxopt.calibrate import channel_statistics
from onnxopt.core import Change, Context, Refusal
from onnxopt.passes.quantize.quantize_int8 import QuantizeInt8
from onnxopt.passes.quantize.scaling.rules import trace
from onnxopt.passes.quantize.smooth_activations import SmoothActivations
from onnxopt.runtime import Session
from onnxopt.samples import Samples, random_samples
from onnxopt.testing import CPU, assert_same_outputs, lines, parse

WEIGHTS = """float[8] s, float[8] b, float[8,8] w, float[8,8] u, float[8,8] v, float[8,8] o, float[8] vb,
    int64[4] heads = {0,0,2,4}, int64[3] joined = {0,0,8}, float[8,8,1] kernel"""
TOKENS = "float[n,5,8] y"


def net(body: str, y: str = TOKENS, *, x: str = "float[n,5,8] x") -> str:
    return f"g ({x}) => ({y}) <{WEIGHTS}> {{ {body} }}"


def samples_of(model: ir.Model, count: int = 8) -> Samples:
    return random_samples(model, CPU, {}, count=count)


def smoothed(model: ir.Model, rewrite: SmoothActivations | None = None) -> list[Change | Refusal]:
    return (rewrite or SmoothActivations()).run(model, Context(CPU, samples_of(model)))


def changed(found: list[Change | Refusal]) -> list[str]:
    return [item.node for item in found if isinstance(item, Change)]


ATTENTION = """v0 = MatMul(x, v)  v1 = Add(vb, v0)  v2 = Reshape(v1, heads)  v3 = Transpose<perm=[0,2,1,3]>(v2)
    q2 = Reshape(x, heads)  q = Transpose<perm=[0,2,1,3]>(q2)  k = Transpose<perm=[0,2,3,1]>(q2)
    a = MatMul(q, k)  p = Softmax(a)  h = MatMul(p, v3)  t = Transpose<perm=[0,2,1,3]>(h)  r = Reshape(t, joined)
    y = MatMul(r, o)"""
SMOOTHED = {
    "normalization": ("h = LayerNormalization(x, s, b)  y = MatMul(h, w)", TOKENS, "h y"),
    "normalization without a bias": ("h = LayerNormalization(x, s)  y = MatMul(h, w)", TOKENS, "h y"),
    "normalization read by three products": (
        "h = LayerNormalization(x, s, b)  y = MatMul(h, w)  z = MatMul(h, u)  t = MatMul(h, v)",
        f"{TOKENS}, float[n,5,8] z, float[n,5,8] t",
        "h y z t",
    ),
    "normalization written out": ("h = Neg(x)  i = Mul(h, s)  j = Add(i, b)  y = MatMul(j, w)", TOKENS, "i j y"),
    "values of an attention": (ATTENTION, TOKENS, "v0 v1 y"),
    "gated layer": ("h = MatMul(x, w)  g = MatMul(x, u)  z = Sigmoid(g)  i = Mul(z, h)  y = MatMul(i, v)", TOKENS, "h y"),
}  # fmt: skip


@pytest.mark.parametrize(("body", "y", "nodes"), SMOOTHED.values(), ids=SMOOTHED.keys())
def test_smooths(body: str, y: str, nodes: str) -> None:
    before = parse(net(body, y))
    scaling = trace(before)
    factors = np.exp2(np.random.default_rng(0).integers(-6, 7, scaling.count)).astype(np.float32)
    factors[0] = 1
    scaling.apply(factors)
    model = before.clone()
    assert changed(smoothed(model)) == nodes.split()
    assert lines(model) == lines(before)
    assert_same_outputs(before, model, rtol=0.0)
    again = files.to_bytes(model)
    assert changed(smoothed(model)) == []
    assert files.to_bytes(model) == again


LEFT = {
    "normalization also in the residual sum": "h = LayerNormalization(x, s, b)  m = MatMul(h, w)  y = Add(h, m)",
    "normalization over two axes": "h = LayerNormalization<axis=1>(x, s2)  y = MatMul(h, w)",
    "after Gelu": "h = MatMul(x, w)  i = Gelu(h)  y = MatMul(i, u)",
    "read by a convolution": """h = LayerNormalization(x, s, b)  t = Transpose<perm=[0,2,1]>(h)  k = Conv(t, kernel)
        y = Transpose<perm=[0,2,1]>(k)""",
    "values of both products": """h = LayerNormalization(x, s, b)  t = Transpose<perm=[0,2,1]>(h)  m = MatMul(h, t)
        y = MatMul(m, h)""",
}


@pytest.mark.parametrize("body", LEFT.values(), ids=LEFT.keys())
def test_leaves(body: str) -> None:
    model = parse(net(body).replace("float[8] s,", "float[8] s, float[5,8] s2,"))
    before = files.to_bytes(model)
    assert smoothed(model) == []
    assert files.to_bytes(model) == before


def test_refuses_weights_that_are_shared_or_can_be_overridden() -> None:
    shared = parse(net("h = LayerNormalization(x, s, b)  k = MatMul(h, w)  i = Relu(k)  y = MatMul(i, w)"))
    why = "its weight 'w' is also read elsewhere"
    assert smoothed(shared) == [Refusal("k", why), Refusal("y", why)]
    own = parse(net("h = LayerNormalization(x, s, b)  y = MatMul(h, w)", x="float[n,5,8] x, float[8,8] w"))
    assert smoothed(own) == [Refusal("y", "its weights are not constant")]


def test_needs_data() -> None:
    model = parse(net(ATTENTION))
    assert SmoothActivations().run(model, Context(CPU)) == [Refusal("", "needs calibration data (--data)")]


@pytest.fixture
def outlier() -> ir.Model:
    """Two products of a normalization that is read elsewhere, too, whose channel 3 is 300 times as large, and read with small weights."""
    body = "h = LayerNormalization(x, s, b)  m = MatMul(h, w)  k = MatMul(h, u)  y = Mul(m, k)  r = Neg(h)"
    model = parse(net(body, f"{TOKENS}, float[n,5,8] r"))
    scale = np.ones(8, np.float32)
    scale[3] = 300
    for name, factor in (("s", scale), ("b", scale), ("w", 1 / scale[:, None]), ("u", 1 / scale[:, None])):
        value = model.graph.initializers[name]
        assert value.const_value is not None
        value.const_value = ir.Tensor((value.const_value.numpy() * factor).astype(np.float32), name=name)
    return model


def test_inserts_one_mul_for_all_products_where_it_pays(outlier: ir.Model) -> None:
    model = outlier.clone()
    assert smoothed(model) == []
    rewrite = SmoothActivations(insert=True)
    assert [item.node for item in smoothed(model, rewrite)] == ["h/smoothed"]
    assert lines(model) == [
        "LayerNormalization(x, const, const) -> h",
        "Mul(h, const) -> h/smoothed",
        "MatMul(h/smoothed, const) -> m",
        "MatMul(h/smoothed, const) -> k",
        "Mul(m, k) -> y",
        "Neg(h) -> r",
    ]
    assert_same_outputs(outlier, model, rtol=0.0)
    again = files.to_bytes(model)
    assert smoothed(model, rewrite) == []
    assert files.to_bytes(model) == again


def test_does_not_insert_where_channels_are_alike() -> None:
    model = parse(net("h = LayerNormalization(x, s, b)  m = MatMul(h, w)  y = Add(h, m)"))
    assert smoothed(model, SmoothActivations(insert=True)) == []


def test_int8_is_more_exact_after_it(outlier: ir.Model) -> None:
    samples = samples_of(outlier, 24)

    def noise(insert: bool) -> float:
        model = outlier.clone()
        SmoothActivations(insert=insert).run(model, Context(CPU, samples))
        QuantizeInt8(placement="everywhere").run(model, Context(CPU, samples))
        pairs = zip(samples.run(Session(outlier, CPU)), samples.run(Session(model, CPU)), strict=True)
        both = [(one["y"], other["y"]) for (_, one), (_, other) in pairs]
        return float(np.mean([np.mean((a - b) ** 2) / np.mean(a**2) for a, b in both]))

    assert noise(insert=False) > 10 * noise(insert=True)


@pytest.mark.parametrize("opset", [17, 20])
def test_channel_statistics_are_those_of_the_values(opset: int) -> None:
    model = parse(
        "g (float[n,3,4,4] x) => (float[n,4,4,3] y) { h = Neg(x) y = Transpose<perm=[0,2,3,1]>(h) }", opset=opset
    )
    samples = samples_of(model, 70)
    images = np.concatenate([batch.feeds["x"] for batch, _ in samples.run(Session(model, CPU))])
    found = channel_statistics(model, samples, {"h": 1, "y": -1}, CPU)
    for name in ("h", "y"):
        np.testing.assert_array_equal(found[name].low, -images.max(axis=(0, 2, 3)))
        np.testing.assert_array_equal(found[name].high, -images.min(axis=(0, 2, 3)))
        np.testing.assert_allclose(
            found[name].square, np.mean(np.square(images, dtype=np.float64), (0, 2, 3)), rtol=1e-5
        )
