"""The changes to blame."""

import math
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from validation_nets import CHAIN, compared, edited, spoiled

from onnxopt.core import Context
from onnxopt.passes import PASSES
from onnxopt.target import Target
from onnxopt.testing import parse
from onnxopt.validation import Options
from onnxopt.validation.bisect import Bisection

BISECT = Options(bisect=True)


def blamed(found: Bisection | None) -> list[set[str]]:
    """The values of each group."""
    assert found is not None, "nothing failed"
    assert found.complete, found.note
    return sorted(({value for unit in group for value in unit.values} for group in found.groups), key=sorted)


def test_one_damaged_weight(tmp_path: Path) -> None:
    old = parse(CHAIN)
    found = compared(old, spoiled(old, "w3"), tmp_path, BISECT).bisection
    assert blamed(found) == [{"h3"}]
    assert found is not None
    (unit,) = found.units
    assert (unit.before, unit.after) == ("MatMul", "MatMul")
    assert "weights 'w3' differ by up to 3" in unit.words
    assert found.changes == 1


def test_two_damaged_layers(tmp_path: Path) -> None:
    old = parse(CHAIN)
    assert blamed(compared(old, spoiled(old, "w2", "w5"), tmp_path, BISECT).bisection) == [{"h2"}, {"y"}]


def test_two_changes_that_only_fail_together(tmp_path: Path) -> None:
    text = """g (float[4] x) => (float[4] y) <float[4] a = {0, 0, 0, 0}, float[4] b = {1, 1, 1, 1}>
        { p = Add(x, a)  n = Abs(p)  q = Mul(n, a)  r = Mul(q, b)  y = Add(r, x) }"""
    old = parse(
        text.replace("q = Mul(n, a)", "q = Mul(n, c)").replace("float[4] b", "float[4] c = {0, 0, 0, 0}, float[4] b")
    )
    new = edited(edited(old, "c", lambda c: c + 0.03), "b", lambda b: b * 30)
    assert blamed(compared(old, new, tmp_path, Options(bisect=True, rtol=0.1)).bisection) == [{"q", "r"}]


KINDS = {
    "attribute": ("a = LeakyRelu<alpha=0.1>(h)", "a = LeakyRelu<alpha=0.5>(h)", "attribute alpha: 0.1 -> 0.5"),
    "operator": ("a = LeakyRelu<alpha=0.1>(h)", "a = Relu(h)", "Relu instead of LeakyRelu"),
    "two operators for one": ("a = LeakyRelu<alpha=0.1>(h)", "m = Abs(h)  a = Sqrt(m)", "Abs, Sqrt instead of LeakyRelu"),
    "scalar": ("c = {2}", "c = {3}", "constant 'c' is 3 instead of 2"),
    "another input": ("a = LeakyRelu<alpha=0.1>(h)", "a = LeakyRelu<alpha=0.1>(g)", "reads 'g' instead of 'h'"),
}  # fmt: skip


@pytest.mark.parametrize(("before", "after", "words"), KINDS.values(), ids=KINDS.keys())
def test_kinds_of_changes(before: str, after: str, words: str, tmp_path: Path) -> None:
    text = """g (float[2,4] x) => (float[2,4] y) <float[4,4] w, float c = {2}>
        { g = MatMul(x, w)  s = Mul(g, c)  h = Tanh(s)  a = LeakyRelu<alpha=0.1>(h)  y = Add(a, x) }"""
    found = compared(text, text.replace(before, after), tmp_path, BISECT).bisection
    assert len(blamed(found)) == 1
    assert found is not None
    assert words in found.units[0].words


def test_an_attribute_of_a_convolution(tmp_path: Path) -> None:
    text = """g (float[1,2,5,5] x) => (float[1,2,5,5] y) <float[2,2,3,3] w, float[2,2,3,3] v>
        { h = Conv<pads=[1,1,1,1]>(x, w)  a = Relu(h)  y = Conv<pads=[1,1,1,1]>(a, v) }"""
    found = compared(text, text.replace("pads=[1,1,1,1]>(x", "pads=[2,2,0,0]>(x"), tmp_path, BISECT).bisection
    assert blamed(found) == [{"h"}]
    assert found is not None
    assert found.units[0].differences == ("attribute pads: [1, 1, 1, 1] -> [2, 2, 0, 0]",)


QDQ = """g (float[4,8] x) => (float[4,8] y)
<float[8,8] w, float[8,8] v, float s1 = {0.05}, float s2 = {0.05}, float s3 = {0.05}, uint8 z = {128}>
{ h = MatMul(x, w) t = Tanh(h)
  u = MatMul(t, v) a = Tanh(u)
  y = Neg(a) }"""


def quantized() -> ir.Model:
    """The same with pairs in front of both products and the negation."""
    return parse(
        QDQ.replace("MatMul(x, w)", "MatMul(xd, w)").replace("MatMul(t, v)", "MatMul(td, v)").replace("Neg(a)", "Neg(ad)")
        .replace("{ h", "{ xq = QuantizeLinear(x, s1, z) xd = DequantizeLinear(xq, s1, z) h")
        .replace("u =", "tq = QuantizeLinear(t, s2, z) td = DequantizeLinear(tq, s2, z) u =")
        .replace("y =", "aq = QuantizeLinear(a, s3, z) ad = DequantizeLinear(aq, s3, z) y =")
    )  # fmt: skip


def test_one_broken_scale_of_an_int8_graph(tmp_path: Path) -> None:
    options = Options(bisect=True, layers=True, min_sqnr=15)
    good = compared(QDQ, quantized(), tmp_path, options)
    assert not good.problems
    assert good.bisection is None
    bad = compared(QDQ, edited(quantized(), "s2", lambda s: s / 20), tmp_path, options)
    assert blamed(bad.bisection) == [{"t~quantized"}]
    assert bad.bisection is not None
    assert bad.bisection.changes == 3
    assert (
        "t (float -> QuantizeLinear, DequantizeLinear): is quantized to uint8, scale 0.0025"
        in bad.bisection.units[0].words
    )
    assert bad.layers is not None
    assert [row.value for row in bad.layers.rows if row.worst] == ["t~quantized"]


def test_a_float16_graph(tmp_path: Path) -> None:
    half = """g (float[n,8] x) => (float[n,4] y)
        <float16[8,8] w1, float16[8,8] w2, float16[8,8] w3, float16[8,8] w4, float16[8,4] w5>
        { x16 = Cast<to=10>(x)
          h1 = MatMul(x16, w1)  a1 = Relu(h1)
          h2 = MatMul(a1, w2) a2 = Relu(h2)
          h3 = MatMul(a2, w3) a3 = Add(h3, a1)
          h4 = MatMul(a3, w4) a4 = Tanh(h4)
          y16 = MatMul(a4, w5) y = Cast<to=1>(y16) }"""
    options = Options(bisect=True, rtol=0.05)
    assert not compared(CHAIN, half, tmp_path, options).problems
    found = compared(CHAIN, spoiled(parse(half), "w2"), tmp_path, options).bisection
    assert blamed(found) == [{"h2"}]
    assert found is not None
    assert found.changes >= 4


def test_names_that_are_all_others(tmp_path: Path) -> None:
    renamed = CHAIN
    for number in range(1, 6):
        renamed = renamed.replace(f"h{number}", f"p{number}").replace(f"a{number}", f"q{number}")
    found = compared(CHAIN, spoiled(parse(renamed), "w3"), tmp_path, BISECT).bisection
    assert blamed(found) == [{"h3"}]
    assert found is not None
    assert found.matched == 8


def test_nothing_in_common(tmp_path: Path) -> None:
    other = "g (float[n,8] x) => (float[n,4] y) <float[8,4] w> { y = Gemm(x, w) }"
    found = compared(CHAIN, other, tmp_path, BISECT).bisection
    assert found is not None
    assert "share no values inside" in found.note
    assert [unit.values for unit in found.units] == [("y",)]


def test_the_same_model_twice(tmp_path: Path) -> None:
    found = compared(CHAIN, CHAIN, tmp_path, Options(bisect=True, layers=True))
    assert not found.problems
    assert found.bisection is None
    assert found.layers is not None
    assert not any(row.worst for row in found.layers.rows)


def test_a_failure_that_is_not_in_the_graph(tmp_path: Path) -> None:
    found = compared(CHAIN, CHAIN, tmp_path, Options(bisect=True, min_sqnr=200)).bisection
    assert found is not None
    assert "no node, attribute or weight differs" in found.note


def test_what_the_reference_itself_does_not_reach(tmp_path: Path) -> None:
    old = parse(CHAIN)
    found = compared(old, spoiled(old, "w3"), tmp_path, Options(bisect=True, min_sqnr=200)).bisection
    assert found is not None
    assert "the reference fails in the same way" in found.note


def test_other_opsets(tmp_path: Path) -> None:
    found = compared(parse(CHAIN, opset=17), spoiled(parse(CHAIN, opset=20), "w4"), tmp_path, BISECT).bisection
    assert blamed(found) == [{"h4"}]


def test_a_body_that_is_another(tmp_path: Path) -> None:
    text = """g (float[4] x, bool c) => (float[4] y) <float[4] w>
        { h = Mul(x, w)
          b = If(c)<then_branch = t () => (float[4] o) { o = Neg(h) },
                    else_branch = e () => (float[4] p) { p = Abs(h) }>
          y = Add(b, x) }"""
    new = text.replace("Neg(h)", "Exp(h)").replace("Abs(h)", "Exp(h)")
    found = compared(text, new, tmp_path, BISECT).bisection
    assert blamed(found) == [{"b"}]
    assert found is not None
    assert "another body" in found.units[0].words


def test_a_value_that_a_body_sees(tmp_path: Path) -> None:
    text = """g (float[4] x, bool c) => (float[4] y) <float[4] w>
        { h = Mul(x, w)
          y = If(c)<then_branch = t () => (float[4] o) { o = Neg(h) },
                    else_branch = e () => (float[4] p) { p = Abs(h) }> }"""
    old = parse(text)
    assert blamed(compared(old, spoiled(old, "w"), tmp_path, BISECT).bisection) == [{"h"}]


def test_channels_scaled_and_scaled_back_are_not_blamed(tmp_path: Path) -> None:
    """As equalize-channels does: the value between is another quantity, though its name is the same."""
    old = parse(CHAIN.replace("a3 = Add(h3, a1)", "a3 = Relu(h3)"))
    scale = np.float32([1, 50, 0.02, 1, 30, 1, 1, 0.1])
    new = edited(edited(old, "w3", lambda w: w * scale), "w4", lambda w: w / scale[:, None])
    found = compared(old, spoiled(new, "w2"), tmp_path, BISECT).bisection
    assert blamed(found) == [{"h2"}]


def test_models_that_differ_by_exact_passes_pass(tmp_path: Path, conv_net: ir.Model) -> None:
    for rewrite in PASSES:
        if rewrite.name in ("fold-batch-norm", "lift-constants", "merge-duplicates", "strip-names", "mean-to-pool"):
            new = conv_net.clone()
            rewrite.configured({}).run(new, Context(Target()))
            found = compared(conv_net, new, tmp_path, Options(bisect=True, layers=True))
            assert not found.problems, rewrite.name
    broken = spoiled(new, next(name for name in new.graph.initializers))
    assert compared(conv_net, broken, tmp_path, BISECT).bisection is not None


def test_accuracy(tmp_path: Path) -> None:
    old = parse(CHAIN)
    x = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=x)
    options = Options(data=str(tmp_path / "d.npz"), metric="agreement", bisect=True)
    found = compared(old, spoiled(old, "w5"), tmp_path, options).bisection
    assert blamed(found) == [{"y"}]
    assert found is not None
    assert found.samples < 200


def test_a_size_at_which_the_model_does_not_run(tmp_path: Path) -> None:
    text = """g (float[n,4] x) => (float[n,4] y) <int64[2] s = {-1, 4}, float[4,4] w>
        { a = Abs(x)  h = MatMul(a, w)  r = Reshape(h, s)  y = Neg(r) }"""
    found = compared(text, text.replace("{-1, 4}", "{1, 4}"), tmp_path, BISECT)
    assert [problem.kind for problem in found.found] == ["size"]
    assert blamed(found.bisection) == [{"r"}]


@st.composite
def networks(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A small network of products, sums and activations, as text, and its weights."""
    depth = draw(st.integers(2, 8))
    values, lines, weights = ["x"], [], []
    for layer in range(depth):
        source = values[-1] if draw(st.booleans()) else draw(st.sampled_from(values))
        lines.append(f"h{layer} = MatMul({source}, w{layer})")
        weights.append(f"w{layer}")
        kind = draw(st.sampled_from(["Tanh", "Sigmoid", "LeakyRelu"]))
        lines.append(f"a{layer} = {kind}(h{layer})")
        values.append(f"a{layer}")
        if draw(st.booleans()) and len(values) > 2:
            lines.append(f"s{layer} = Add(a{layer}, {draw(st.sampled_from(values[1:-1]))})")
            values.append(f"s{layer}")
    lines.append(f"y = Sum({', '.join(values)})")
    declared = ", ".join(f"float[6,6] {name}" for name in weights)
    return f"g (float[3,6] x) => (float[3,6] y) <{declared}> {{ {' '.join(lines)} }}", weights


@settings(derandomize=True, deadline=None, max_examples=12, database=None, suppress_health_check=list(HealthCheck))
@given(networks(), st.data())
def test_any_damaged_layers_are_named_and_no_others(
    tmp_path: Path, network: tuple[str, list[str]], data: st.DataObject
) -> None:
    text, weights = network
    old = parse(text)
    damaged = data.draw(st.sets(st.sampled_from(weights), min_size=1, max_size=min(3, len(weights))))
    noisy = old
    for name in weights:
        noisy = edited(noisy, name, lambda w: w * (1 + 1e-6))
    assume(not compared(old, noisy, tmp_path).problems)
    assume(all(compared(old, spoiled(noisy, name), tmp_path).problems for name in damaged))
    found = compared(old, spoiled(noisy, *damaged), tmp_path, BISECT).bisection
    assert found is not None
    assert found.changes == len(weights)
    assert blamed(found) == sorted(({f"h{name[1:]}"} for name in damaged), key=sorted)


def test_runs_are_few_in_a_larger_graph(tmp_path: Path) -> None:
    size = 64
    lines = " ".join(f"h{i} = MatMul(a{i}, w{i}) t{i} = Tanh(h{i}) a{i + 1} = Add(t{i}, x)" for i in range(size))
    declared = ", ".join(f"float[4,4] w{i}" for i in range(size))
    old = parse(f"g (float[1,4] x) => (float[1,4] y) <{declared}> {{ a0 = Neg(x) {lines} y = Neg(a{size}) }}")
    noisy = old
    for i in range(size):
        noisy = edited(noisy, f"w{i}", lambda w: w * (1 + 1e-6))
    found = compared(old, spoiled(noisy, "w61", "w62"), tmp_path, BISECT).bisection
    assert blamed(found) == [{"h61"}, {"h62"}]
    assert found is not None
    assert found.changes == size
    assert found.runs <= 2 * (2 * math.log2(size) + 3) + 3
