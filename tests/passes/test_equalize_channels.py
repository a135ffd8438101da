"""EqualizeChannels, and what it moves factors through."""

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxopt import files
from onnxopt.calibrate import channel_statistics
from onnxopt.core import Change, Context, Refusal
from onnxopt.graph import array
from onnxopt.passes.quantize.equalize_channels import EqualizeChannels
from onnxopt.passes.quantize.quantize_int8 import QuantizeInt8
from onnxopt.passes.quantize.scaling.rules import trace
from onnxopt.runtime import Session
from onnxopt.samples import random_samples
from onnxopt.testing import CPU, assert_same_outputs, lines, parse

WEIGHTS = """float[8,3,3,3] a, float[8] ab, float[8,8,3,3] b, float[8,1,3,3] d, float[8] db, float[4,8,1,1] c,
    float[4,16,1,1] wide, float[8,4,1,1] back, float[8,5] g, float[128,5] flat, float[5] gb, float[3] three, float zero"""
IMAGE, LOGITS = "float[n,4,4,4] y", "float[n,5] y"


def net(body: str, y: str = IMAGE, *, x: str = "float[n,3,4,4] x", more: str = "") -> str:
    return f"g ({x}) => ({y}) <{WEIGHTS}{more}> {{ {body} }}"


def equalized(model: ir.Model, alpha: float = 0.5) -> list[Change | Refusal]:
    samples = random_samples(model, CPU, {}, count=6)
    return EqualizeChannels(alpha).run(model, Context(CPU, samples))


def changed(found: list[Change | Refusal]) -> list[str]:
    return [item.node for item in found if isinstance(item, Change)]


PAD = "<pads=[1,1,1,1]>"
BODIES = {
    "convolutions": (f"h = Conv{PAD}(x, a, ab) r = Relu(h) y = Conv(r, c)", IMAGE, "h y"),
    "no bias": (f"h = Conv{PAD}(x, a) y = Conv(h, c)", IMAGE, "h y"),
    "leaky": (f"h = Conv{PAD}(x, a) r = LeakyRelu(h) i = Identity(r) y = Conv(i, c)", IMAGE, "h y"),
    "depthwise between": (
        f"h = Conv{PAD}(x, a, ab) r = Relu(h) k = Conv<pads=[1,1,1,1], group=8>(r, d, db) s = Relu(k) y = Conv(s, c)",
        IMAGE,
        "h k y",
    ),
    "pooling and a product": (
        f"h = Conv{PAD}(x, a, ab) m = MaxPool<kernel_shape=[2,2]>(h) p = GlobalAveragePool(m) f = Flatten(p) y = Gemm(f, g, gb)",
        LOGITS,
        "h y",
    ),
    "all positions flattened": (f"h = Conv{PAD}(x, a, ab) r = Relu(h) f = Flatten(r) y = MatMul(f, flat)", LOGITS, "h y"),
    "channels last": (
        f"h = Conv{PAD}(x, a, ab) t = Transpose<perm=[0,2,3,1]>(h) q = Transpose<perm=[0,3,1,2]>(t) y = Conv(q, c)",
        IMAGE,
        "h y",
    ),
    "residual": (
        f"h = Conv{PAD}(x, a, ab) r = Relu(h) k = Conv{PAD}(r, b) s = Add(r, k) u = Relu(s) l = Conv{PAD}(u, b2) t = Add(u, l) y = Conv(t, c)",
        IMAGE,
        "h k l y",
    ),
    "concatenation": (
        f"h = Conv{PAD}(x, a, ab) k = Conv{PAD}(x, a2) m = Concat<axis=1>(h, k) y = Conv(m, wide)",
        IMAGE,
        "h k y",
    ),
    "halves": (
        f"h = Conv{PAD}(x, a, ab) o, p = Split<axis=1, num_outputs=2>(h) q = Relu(o) m = Concat<axis=1>(p, q) y = Conv(m, c)",
        IMAGE,
        "h y",
    ),
    "more channels on the shortcut": (
        f"h = Conv{PAD}(x, a, ab) m = Pad(h, pads) y = Conv(m, wide)",
        IMAGE,
        "h y",
    ),
    "bias apart": (f"h = Conv{PAD}(x, a) k = Add(h, apart) y = Conv(k, c)", IMAGE, "h k y"),
    "transposed convolution": (f"h = ConvTranspose{PAD}(x, tr, ab) r = Relu(h) y = Conv(r, c)", IMAGE, "h y"),
    "gated": (f"h = Conv{PAD}(x, a) p = GlobalAveragePool(x) q = Conv(p, one) z = Sigmoid(q) k = Mul(h, z) y = Conv(k, c)", IMAGE, "h y"),
}  # fmt: skip
MORE = ", float[8,8,3,3] b2, float[8,3,3,3] a2, float[8,1,1] apart, float[3,8,3,3] tr, float[8,3,1,1] one"


def unequal(model: ir.Model) -> ir.Model:
    """The same function with channels of other sizes."""
    scaling = trace(model)
    factors = np.exp2(np.random.default_rng(0).integers(-6, 7, scaling.count)).astype(np.float32)
    factors[0] = 1
    scaling.apply(factors)
    return model


def case(body: str, y: str) -> ir.Model:
    return parse(net(body, y, more=f"{MORE}, int64[8] pads = {{0,4,0,0,0,4,0,0}}"))


@pytest.mark.parametrize(("body", "y", "nodes"), BODIES.values(), ids=BODIES.keys())
def test_moves_factors_through(body: str, y: str, nodes: str) -> None:
    before = unequal(case(body, y))
    model = before.clone()
    assert changed(equalized(model)) == nodes.split()
    assert lines(model) == lines(before)
    assert_same_outputs(before, model, rtol=0.0)
    again = files.to_bytes(model)
    assert changed(equalized(model)) == []
    assert files.to_bytes(model) == again


@pytest.mark.parametrize(("alpha", "which"), [(1.0, "activations"), (0.0, "weights")])
def test_alpha_says_who_becomes_alike(alpha: float, which: str) -> None:
    model = unequal(parse(net(BODIES["convolutions"][0])))
    samples = random_samples(model, CPU, {}, count=6)
    EqualizeChannels(alpha).run(model, Context(CPU, samples))
    channels = channel_statistics(model, samples, {"r": 1}, CPU)["r"]
    weight = array(model.graph.initializers["c"])
    assert weight is not None
    relative = np.abs(weight).max(axis=(2, 3)) / np.sqrt((weight[..., 0, 0] ** 2 * channels.square).sum(1))[:, None]
    alike = channels.high if which == "activations" else relative.max(axis=0)
    assert alike.max() / alike.min() < 2**1.5


def test_a_channel_that_is_always_zero_keeps_its_weights() -> None:
    before = unequal(parse(net(BODIES["convolutions"][0])))
    for name in ("a", "ab"):
        numbers = np.array(array(before.graph.initializers[name]))
        numbers[2] = 0
        before.graph.initializers[name].const_value = ir.Tensor(numbers, name=name)
    model = before.clone()
    assert changed(equalized(model)) == ["h", "y"]
    old, new = (array(m.graph.initializers["c"]) for m in (before, model))
    assert old is not None
    assert new is not None
    np.testing.assert_array_equal(old[:, 2], new[:, 2])
    assert_same_outputs(before, model, rtol=0.0)


def test_a_shared_bias_is_not_changed_for_others() -> None:
    body = f"h = Conv{PAD}(x, a, ab) r = Relu(h) z = Conv(r, c) k = Conv{PAD}(x, a2, ab) s = Sigmoid(k) o = Conv(s, c2)"
    before = unequal(parse(net(f"{body} y = Add(z, o)", more=f"{MORE}, float[4,8,1,1] c2")))
    model = before.clone()
    assert changed(equalized(model)) == ["h", "z"]
    assert_same_outputs(before, model, rtol=0.0)


REFUSED = {
    "weight read twice": (
        f"h = Conv{PAD}(x, a) k = Conv{PAD}(x, a) s = Sigmoid(k) t = Add(h, s) y = Conv(t, c)",
        ["h", "k"],
    ),
    "weight can be overridden": (f"h = Conv{PAD}(x, a, ab) y = Conv(h, own)", ["y"]),
}


@pytest.mark.parametrize(("body", "refused"), REFUSED.values(), ids=REFUSED.keys())
def test_refuses(body: str, refused: list[str]) -> None:
    model = parse(net(body, x="float[n,3,4,4] x, float[4,8,1,1] own", more=", float[4,8,1,1] own"))
    before = files.to_bytes(model)
    found = equalized(model)
    assert [item.node for item in found if isinstance(item, Refusal)] == refused
    assert changed(found) == []
    assert files.to_bytes(model) == before


LEFT = {
    "clipped": f"h = Conv{PAD}(x, a) r = Clip(h, zero) y = Conv(r, c)",
    "not homogeneous": f"h = Conv{PAD}(x, a) r = Sigmoid(h) y = Conv(r, c)",
    "read by something else": f"h = Conv{PAD}(x, a) r = Sigmoid(h) k = Add(h, r) y = Conv(k, c)",
    "sum with an input": f"h = Conv{PAD}(x, back3) k = Add(x, h) y = Conv(k, four)",
    "another padding": f"h = Conv{PAD}(x, a) k = Pad(h, border, one) y = Conv<kernel_shape=[3,3]>(k, c3)",
    "flattened across channels": f"h = Conv{PAD}(x, a) t = Reshape(h, [0, 4, 8, 4]) y = Conv<strides=[2,1]>(t, four4)",
}
LEFT_MORE = """, float[3,3,3,3] back3, float[4,3,1,1] four, float[4,4,1,1] four4, float[4,8,3,3] c3,
    int64[8] border = {0,0,1,1,0,0,1,1}, float one = {1.0}"""


@pytest.mark.parametrize("body", LEFT.values(), ids=LEFT.keys())
def test_leaves(body: str) -> None:
    body = body.replace("[0, 4, 8, 4]", "shape")
    model = parse(net(body, more=f"{LEFT_MORE}, int64[4] shape = {{0,4,8,4}}"))
    before = files.to_bytes(model)
    assert equalized(model) == []
    assert files.to_bytes(model) == before


def test_leaves_what_the_graph_gives_and_what_a_branch_reads() -> None:
    given_too = parse(net(f"h = Conv{PAD}(x, a) y = Conv(h, c)", f"{IMAGE}, float[n,8,4,4] h"))
    assert equalized(given_too) == []
    branch = parse(
        f"""g (float[2,3,4,4] x, bool o) => (float[2,4,4,4] y, float[2,8,4,4] z) <{WEIGHTS}>
        {{ h = Conv{PAD}(x, a) y = Conv(h, c)
           z = If<then_branch = t () => (float[2,8,4,4] t1) {{ t1 = Relu(h) }},
                  else_branch = e () => (float[2,8,4,4] e1) {{ e1 = Neg(h) }}>(o) }}"""
    )
    assert equalized(branch) == []


def test_needs_data() -> None:
    model = parse(net(BODIES["convolutions"][0]))
    assert EqualizeChannels().run(model, Context(CPU)) == [Refusal("", "needs calibration data (--data)")]


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.booleans())
def test_any_groups(groups: int, inputs: int, outputs: int, bias: bool) -> None:
    middle, last = groups * inputs, groups * outputs
    text = f"""g (float[n,2,5] x) => (float[n,3,5] y)
        <float[{middle},2,1] a, float[{last},{inputs},1] b, float[{last}] bb, float[{last},1] slope,
        float[3,{last},1] c>
        {{ h = Conv(x, a) r = Relu(h) k = Conv<group={groups}>(r, b{", bb" if bias else ""}) l = PRelu(k, slope) y = Conv(l, c) }}"""
    before = unequal(parse(text))
    model = before.clone()
    assert changed(equalized(model)) or middle * last < 4
    assert_same_outputs(before, model, rtol=0.0)
    assert changed(equalized(model)) == []


def test_restores_what_unequal_channels_cost_in_int8() -> None:
    """What the pass is for: the same function, with channels of other sizes, is as exact in int8 afterwards."""
    fair = case(*BODIES["residual"][:2])
    samples = random_samples(fair, CPU, {}, count=24)
    other = unequal(fair.clone())

    def noise(model: ir.Model, *, equalize: bool) -> float:
        model, wanted = model.clone(), Session(fair, CPU)
        for rewrite in ([EqualizeChannels()] if equalize else []) + [QuantizeInt8(placement="everywhere")]:
            rewrite.run(model, Context(CPU, samples))
        got = Session(model, CPU)
        pairs = [
            (one["y"], other["y"]) for (_, one), (_, other) in zip(samples.run(wanted), samples.run(got), strict=True)
        ]
        return float(np.mean([np.mean((a - b) ** 2) / np.mean(a**2) for a, b in pairs]))

    kept, lost, restored = noise(fair, equalize=True), noise(other, equalize=False), noise(other, equalize=True)
    assert lost > 10 * restored
    assert restored < 2 * kept
