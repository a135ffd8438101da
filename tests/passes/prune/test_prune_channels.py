"""PruneChannels: from where channels go, which, and what the result is."""

import fnmatch

import numpy as np
import onnx_ir as ir
import pytest
from pruning import CPU, NET, NORMED, changes, error, l1, pruned, refusals, samples, shapes, write

from onnxopt import files, passes
from onnxopt.core import Change, Context, Refusal
from onnxopt.graph import array
from onnxopt.passes.prune.prune_channels import PruneChannels
from onnxopt.runtime import Session
from onnxopt.stages import Together
from onnxopt.target import Target
from onnxopt.testing import parse


def test_without_data_there_is_a_reason() -> None:
    _, found = pruned(PruneChannels(), no_data=True)
    assert refusals(found) == {"": "needs calibration data (--data); importance=l1,repair=none does without"}
    assert not changes(found)
    assert changes(pruned(l1(), no_data=True)[1])


PATTERNS = {
    "only one": ({"only": ("h1",)}, {"h1"}),
    "only one, by a layer that makes it": ({"only": ("h3",)}, {"h1"}),
    "only one, by a weight": ({"only": ("w2",)}, {"h2"}),
    "all but one": ({"leave": ("h2",)}, {"h1"}),
    "all but those": ({"leave": ("h?",)}, set()),
    "one of several that is not left": ({"only": ("h*",), "leave": ("w1",)}, {"h2"}),
}


@pytest.mark.parametrize(("options", "names"), PATTERNS.values(), ids=PATTERNS.keys())
def test_groups_may_be_chosen(options: dict[str, tuple[str, ...]], names: set[str]) -> None:
    _, found = pruned(l1(ratio=0.5, **options))
    assert set(changes(found)) == names
    said = refusals(found)
    assert {name for name in ("h1", "h2") if said.get(name) == "is to be left"} == {"h1", "h2"} - names
    assert said["y"] == "'y' is an output of the model"
    assert (said.get("") == "no channels can go") is (not names)


@pytest.mark.parametrize("words", ["only=h1+nothing*", "leave=nothing*", "ratios=h1:0.5+nothing*:0.5"])
def test_a_pattern_that_fits_nothing_is_said(words: str) -> None:
    rewrite = passes.parse(f"prune-channels:importance=l1,repair=none,{words}")
    assert isinstance(rewrite, PruneChannels)
    assert [why for why in refusals(pruned(rewrite)[1]).values() if "fits" in why] == ["no group fits 'nothing*'"]


def test_what_has_no_smaller_width_is_said() -> None:
    _, found = pruned(l1(ratio=0.5, multiple=32))
    assert refusals(found)["h2"] == "its 24 channels have no smaller count that is allowed"


def test_normalised_channels_go_only_if_asked() -> None:
    _, found = pruned(l1(ratio=0.5), NORMED)
    assert not changes(found)
    after, found = pruned(l1(ratio=0.5, normalised=True), NORMED)
    assert shapes(after) == {"w": (6, 8), "s": (8,), "b": (8,), "v": (8, 3)}
    assert changes(found) == {"h": "16 channels became 8 (the mean or norm is taken over it)"}


# --- which ---

ONE = """g (float[n,6,4,4] x) => (float[n,3,4,4] y) <float[8,6,1,1] w, float[8] b, float[3,8,1,1] v>
{ h = Conv(x, w, b)  r = Relu(h)  y = Conv(r, v) }"""
WORST = 5


def with_a_worst(kind: str) -> ir.Model:
    """ONE, in which this kind of importance should let channel 5 go, and others another."""
    model = parse(ONE)
    rng = np.random.default_rng(0)
    w, b, v = rng.normal(size=(8, 6, 1, 1)), np.full(8, 0.5), rng.normal(size=(3, 8, 1, 1))
    w /= np.abs(w).sum((1, 2, 3), keepdims=True)
    if kind == "l1":
        w[WORST] *= 0.5
    elif kind == "l2":
        w[WORST] = np.sign(w[WORST]) / 6  # of all with this sum, that with the smallest norm
    elif kind == "similarity":
        w[WORST] = w.mean(0)
    elif kind == "activation":
        w[WORST], b[WORST] = 3 * w[WORST], -2.0
    elif kind == "zeros":
        w[WORST], b[WORST] = 8 * w[WORST], -4.0
    elif kind == "variance":
        w[WORST], b[WORST] = 0.1 * w[WORST], 9.0
    elif kind == "weight-activation":
        v[:, WORST] *= 0.05
    for name, numbers in (("w", w), ("b", b), ("v", v)):
        write(model, name, numbers)
    return model


@pytest.mark.parametrize("kind", ["l1", "l2", "similarity", "activation", "zeros", "variance", "weight-activation"])
def test_the_least_important_channel_goes(kind: str) -> None:
    before = with_a_worst(kind)
    after, _ = pruned(PruneChannels(ratio=0.125, multiple=1, importance=kind, repair="none"), before)
    rows, left = (array(model.graph.initializers["w"]) for model in (before, after))
    assert rows is not None
    np.testing.assert_array_equal(left, np.delete(rows, WORST, axis=0))


def test_a_channel_that_another_can_stand_in_for_goes_without_a_loss() -> None:
    before = parse(ONE)
    w, b = (array(before.graph.initializers[name]) for name in ("w", "b"))
    assert w is not None
    assert b is not None
    for name, numbers in (("w", w.copy()), ("b", b.copy())):
        numbers[WORST] = 3 * numbers[2]
        write(before, name, numbers)
    data = samples(before)
    errors = {
        importance: error(
            before, pruned(PruneChannels(ratio=0.125, multiple=1, importance=importance), before, data=data)[0], data
        )
        for importance in ("reconstruction", "l1")
    }
    assert errors["reconstruction"] < 1e-5
    assert errors["l1"] > 1e-4


# --- the result ---


def test_repair_makes_good_for_what_went() -> None:
    before = parse(NET)
    data = samples(before)
    errors = {
        repair: error(before, pruned(PruneChannels(ratio=0.25, repair=repair), before, data=data)[0], data)
        for repair in ("none", "bias", "least-squares")
    }
    assert errors["least-squares"] < 0.5 * errors["bias"] < 0.5 * errors["none"]


def test_two_runs_give_the_same_bytes() -> None:
    first, second = (pruned(PruneChannels(macs=0.5, rounds=2))[0] for _ in range(2))
    assert files.to_bytes(first) == files.to_bytes(second)


def test_the_original_is_pruned_before_it_is_quantized() -> None:
    words = "prune-channels:macs=0.5 + quantize-int8:placement=everywhere"
    stage = passes.parse_stage(words)
    assert isinstance(stage, Together)
    model = parse(NET)
    found = stage.run(model, Context(CPU, samples(model)))
    assert any(isinstance(item, Change) and "channels became" in item.what for item in found)
    kinds = {value.const_value.dtype.name for value in model.graph.initializers.values() if value.const_value}
    assert "INT8" in kinds
    assert max(shape[0] for name, shape in shapes(model).items() if fnmatch.fnmatch(name, "w1*") and shape) < 32
    Session(model, CPU).run(samples(model).first())


BLOCK = """g (float[n,t,16] x) => (float[n,t,16] y)
<float[16,16] q, float[16,16] k, float[16,16] v, float[16] bv, float[16,16] o, float[16] bo,
 float[16,64] u, float[64] bu, float[64,16] d, float[16] bd,
 int64[4] heads = {0, 0, 4, 4}, int64[3] joined = {0, 0, 16}>
{ q0 = MatMul(x, q)  q1 = Reshape(q0, heads)  q2 = Transpose<perm=[0,2,1,3]>(q1)
  k0 = MatMul(x, k)  k1 = Reshape(k0, heads)  k2 = Transpose<perm=[0,2,3,1]>(k1)
  v0 = MatMul(x, v)  v3 = Add(v0, bv)  v1 = Reshape(v3, heads)  v2 = Transpose<perm=[0,2,1,3]>(v1)
  s = MatMul(q2, k2)  a = Softmax(s)  m = MatMul(a, v2)  m1 = Transpose<perm=[0,2,1,3]>(m)
  m2 = Reshape(m1, joined)  o0 = MatMul(m2, o)  o1 = Add(o0, bo)  r = Add(x, o1)
  u0 = MatMul(r, u)  u1 = Add(u0, bu)  g0 = Relu(u1)  d0 = MatMul(g0, d)  d1 = Add(d0, bd)  y = Add(r, d1) }"""


def test_heads_and_neurons_of_a_transformer_go() -> None:
    before = parse(BLOCK)
    data = samples(before, count=64)
    after, found = pruned(PruneChannels(ratio=0.5), before, data=data)
    assert changes(found) == {"q0": "4 channels became 2", "u0": "64 channels became 32"}
    left = shapes(after)
    assert (left["q"], left["k"], left["v"], left["o"]) == ((16, 8), (16, 8), (16, 8), (8, 16))
    assert (left["u"], left["d"]) == ((16, 32), (32, 16))
    plain, _ = pruned(PruneChannels(ratio=0.5, repair="none"), before, data=data)
    assert error(before, after, data) < 0.7 * error(before, plain, data)


RECURRENT = """g (float[1,n,8] x, float[1,n,16] h) => (float[1,n,3] y, float[1,n,16] hn)
<float[8,32] w, float[32] b, float[32,24] v, float[1,48,24] wr, float[1,48,16] r, float[16,3] o>
{ a = MatMul(x, w)  c = Add(a, b)  d = Relu(c)  e = MatMul(d, v)
  all, hn = GRU<hidden_size=16>(e, wr, r, , , h)  axes = Constant<value = int64[1] {1}>()
  last = Squeeze(all, axes)  y = MatMul(last, o) }"""


def test_a_model_with_states_keeps_them() -> None:
    before = parse(RECURRENT)
    data = samples(before, count=30, state={"h": "hn"})
    after, found = pruned(PruneChannels(ratio=0.5), before, data=data)
    assert changes(found)["a"] == "32 channels became 16"
    assert shapes(after)["r"] == (1, 48, 16)
    assert "comes from outside" in " ".join(refusals(found).values())
    assert np.isfinite(error(before, after, data))


def test_hidden_units_of_a_recurrent_layer_go() -> None:
    text = """g (float[t,1,8] x) => (float[t,1,3] y) <float[1,64,8] w, float[1,64,16] r, float[16,3] o>
    { all, hn, cn = LSTM<hidden_size=16>(x, w, r)  axes = Constant<value = int64[1] {1}>()
      last = Squeeze(all, axes)  y = MatMul(last, o) }"""
    before = parse(text)
    after, _ = pruned(l1(macs=0.5), before)
    left = shapes(after)
    units = left["o"][0]
    assert (left["w"], left["r"]) == ((1, 4 * units, 8), (1, 4 * units, units))
    cost = [4 * size * (8 + size) + 3 * size for size in (units, 16)]
    assert 0.4 < cost[0] / cost[1] <= 0.5


WIDE = """g (float[1,3,8,8] x) => (float[1,5] y) <float[20,3,3,3] w, float[36,20,3,3] v, float[36,30] a, float[30,5] b>
{ h = Conv(x, w)  i = Relu(h)  j = Conv(i, v)  k = Relu(j)  p = GlobalAveragePool(k)  f = Flatten(p)
  q = MatMul(f, a)  r = Relu(q)  y = MatMul(r, b) }"""


@pytest.mark.parametrize(("multiple", "widths"), [(1, {16, 24}), (8, {16, 24}), (12, {24})])
def test_on_a_gpu_all_widths_are_multiples_of_8(made: list[object], multiple: int, widths: set[int]) -> None:
    """Those of matrix products, too, which are free on the CPU; and others that are asked for on top."""
    model = parse(WIDE, opset=20)
    here, there = (
        l1(ratio=0.3, multiple=multiple).run(copy, Context(target))
        for copy, target in ((model.clone(), CPU), (model, Target("cuda")))
    )
    assert "30 channels became 21" in changes(list(here))["q"]
    assert changes(list(there))
    left = {int(what.split()[-1]) for what in changes(list(there)).values()}
    assert left <= widths
    assert all(width % 8 == 0 for width in left)
    assert made


def test_on_a_gpu_time_is_no_amount() -> None:
    found = l1(latency=0.5).run(parse(WIDE, opset=20), Context(Target("cuda")))
    assert found == [Refusal("", "latency: node by node only kernels of the CPU can be timed; give macs instead")]
