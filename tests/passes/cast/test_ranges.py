"""CastFloat16 with samples: what overflows, vanishes or cancels stays in float32, with the range as the reason."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from halves import CPU, cast, emulated, model_with, naive, run, samples

from onnxopt.core import Context, Refusal
from onnxopt.passes.cast.cast_float16 import CastFloat16
from onnxopt.testing import parse

RNG = np.random.default_rng(0)
NORM = """g (float[4,8] x) => (float[4,8] y) <float[8,8] w, float[8,8] v> {{
    a = Constant<value = int64[1] {{-1}}>()  t = Constant<value = float {{2.0}}>()  e = Constant<value = float {{{eps}}}>()
    h = MatMul(x, w)  m = ReduceMean(h, a)  d = Sub(h, m)  p = Pow(d, t)  s = ReduceMean(p, a)  u = Add(s, e)
    r = Sqrt(u)  n = Div(d, r)  y = MatMul(n, v) }}"""


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


@pytest.mark.parametrize(
    ("size", "eps", "reason"),
    [(1e3, "0.00001", "and float16 ends at 65504"), (1e-4, "0.000000000001", "too small for float16")],
    ids=["squares that overflow", "squares that vanish"],
)
def test_a_norm_in_parts(size: float, eps: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LayerNormalization before opset 17: the square of 300 is beyond float16, that of 0.0001 below it."""
    model = parse(NORM.format(eps=eps))
    x = (RNG.normal(size=(20, 4, 8)) * size).astype(np.float32)
    given = samples(model, tmp_path, x=x)
    feeds = {"x": x[0]}
    expected = run(model, **feeds)["y"]
    spoiled = run(emulated(naive(model, monkeypatch)), **feeds)["y"]
    assert not np.isfinite(spoiled).all() or np.abs(spoiled - expected).max() > 0.5 * np.abs(expected).max()
    got, changes, refusals = cast(model, given=given)
    assert cosine(run(emulated(got), **feeds)["y"], expected) > 0.99999
    assert any(reason in why for why in refusals.values()), refusals
    assert {"h", "y"} & {change.node for change in changes if "MatMul" in change.what}


def test_a_norm_of_ordinary_numbers_needs_no_float32(tmp_path: Path) -> None:
    model = parse(NORM.format(eps="0.00001"))
    x = RNG.normal(size=(20, 4, 8)).astype(np.float32)
    got, _, refusals = cast(model, given=samples(model, tmp_path, x=x))
    assert refusals == {}
    assert sum(node.op_type == "Cast" for node in got.graph) == 2
    _, _, careful = cast(model)
    assert careful["p"] == "the square of 256 is beyond 65504", "without samples nobody knows"


@pytest.mark.parametrize(("headroom", "stays"), [(4.0, True), (1.0, False)], ids=["four times", "once"])
def test_what_was_seen_must_fit_several_times(headroom: float, stays: bool, tmp_path: Path) -> None:
    model = parse("g (float[4,8] x) => (float[4,8] y) <float[8,8] w> { a = MatMul(x, w)  y = Relu(a) }")
    x = np.full((2, 4, 8), 20000, np.float32)
    _, changes, refusals = cast(model, CastFloat16(headroom=headroom), samples(model, tmp_path, x=x * 0.2))
    assert bool(refusals) is stays
    assert not stays or "reaches" in refusals["a"]
    assert stays or changes


SPOILS = {
    "a sum of many numbers": ("i = ReduceMean<keepdims=1>(h)", 60.0, "i", "adds up numbers to about"),
    "a sum of squares": ("i = ReduceL2<keepdims=1>(h)", 60.0, "i", "adds up numbers to about"),
    "a difference of like numbers": (
        "c = Constant<value = float {100.0}>()  a = Add(h, c)  b = Sum(a, c)  d = Sub(b, c)  i = Sub(d, c)",
        0.01,
        "d",
        "only",
    ),
    "a Softmax of large numbers": ("i = Softmax(h)", 1000.0, "i", "is off by"),
    "an exponent": ("i = Exp(h)", 5.0, "i", "and float16 ends at 65504"),
    "a small divisor": (
        "m = Mul(h, h)  d = ReduceMean<keepdims=1>(m)  i = Div(h, d)",
        0.0015,
        "i",
        "goes down to",
    ),
}


@pytest.mark.parametrize(("middle", "size", "node", "why"), SPOILS.values(), ids=SPOILS.keys())
def test_says_what_was_seen(middle: str, size: float, node: str, why: str, tmp_path: Path) -> None:
    text = f"""g (float[64,64] x) => (float[a,b] y, float[64,64] k) <float[64,64] w, float[64,64] v>
        {{ h = MatMul(x, w)  {middle}  y = Relu(i)  k = MatMul(x, v) }}"""
    model = model_with(text, w=np.eye(64, dtype=np.float32), v=np.eye(64, dtype=np.float32))
    x = (RNG.normal(size=(4, 64, 64)) * size).astype(np.float32)
    got, _, refusals = cast(model, given=samples(model, tmp_path, x=x))
    assert why in refusals[node], refusals
    expected, found = run(model, x=x[0]), run(emulated(got), x=x[0])
    for name, numbers in expected.items():
        assert np.abs(found[name] - numbers).max() <= 0.02 * np.abs(numbers).max(), name


def test_in_a_branch_the_careful_rules_hold(tmp_path: Path) -> None:
    model = parse("""g (bool q, float[4,4] x) => (float[4,4] y) <float[4,4] w> { h = MatMul(x, w)
        i = If(q) <then_branch = t () => (float[4,4] o) { o = Exp(h) }, else_branch = e () => (float[4,4] p) { p = Neg(h) }>
        y = MatMul(i, w) }""")
    x = RNG.normal(size=(3, 4, 4)).astype(np.float32)
    _, changes, refusals = cast(model, given=samples(model, tmp_path, x=x, q=np.array([True, False, True])))
    assert changes
    assert "65504" in refusals["o"]


def test_bfloat16_minds_precision_not_size(tmp_path: Path) -> None:
    """No run of the result here: ONNX Runtime has no layers in bfloat16 on the CPU."""
    text = """g (float[64,64] x) => (float[64,64] y) <float[64,64] w>
        { h = MatMul(x, w)  c = Constant<value = float {100.0}>()  a = Add(h, c)  b = Sub(a, c)  y = Mul(b, b) }"""
    model = model_with(text, w=np.eye(64, dtype=np.float32))
    context = Context(CPU, samples(model, tmp_path, x=RNG.normal(size=(4, 64, 64)).astype(np.float32) * 100))

    def reasons(rewrite: CastFloat16) -> dict[str, str]:
        said = rewrite.run(model.clone(), context)
        return {item.node: item.why for item in said if isinstance(item, Refusal)}

    coarse, fine = reasons(CastFloat16("bfloat16")), reasons(CastFloat16("float16"))
    assert "of 140 only 100 is left" in coarse.get("b", "") or "b" not in coarse
    assert not any("ends at" in why for why in coarse.values())
    assert "ends at 65504" in fine["y"]


def test_with_samples_inputs_must_stay_float32(tmp_path: Path) -> None:
    model = parse("g (float[2,8] x) => (float[2,4] y) <float[8,4] w> { y = MatMul(x, w) }")
    given = samples(model, tmp_path, x=np.ones((2, 2, 8), np.float32))
    _, changes, refusals = cast(model, CastFloat16(keep_io_types=False), given)
    assert not changes
    assert "the samples are float32" in refusals[""]


def test_numbers_that_are_infinite_on_samples_are_no_reason(tmp_path: Path) -> None:
    model = parse("""g (float[2,4] x, bool[2,4] m) => (float[2,4] y) <float[4,4] w> { h = MatMul(x, w)
        c = Constant<value = float {1.0}>()  z = Constant<value = float {0.0}>()  f = Div(c, z)  n = Neg(f)
        i = Where(m, h, n)  s = Softmax(i)  y = MatMul(s, w) }""")
    x = RNG.normal(size=(3, 2, 4)).astype(np.float32)
    m = np.ones((3, 2, 4), bool)
    m[:, :, 1] = False
    got, _, _ = cast(model, given=samples(model, tmp_path, x=x, m=m))
    np.testing.assert_allclose(run(emulated(got), x=x[0], m=m[0])["y"], run(model, x=x[0], m=m[0])["y"], atol=0.02)
    assert isinstance(got, ir.Model)
