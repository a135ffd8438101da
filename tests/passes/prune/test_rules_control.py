"""Rules of If, Loop and Scan, and what their bodies read from outside."""

import exactness
import numpy as np
import onnx_ir as ir
import pytest
from exactness import Groups, refused, sizes

from onnxopt.testing import parse


def assert_exact(model: ir.Model) -> Groups:
    """Through both branches, and three times through a loop."""
    feeds = exactness.random_feeds(model)
    fixed = {name: np.array(3) for name in feeds if name == "n"}
    for truth in (False, True):
        found = exactness.assert_exact(model, {**feeds, **fixed, "q": np.array(truth)})
    return found


def choice(then: str, other: str, weights: str = "") -> str:
    """A product, an If that gives ``i``, and a product that reads it."""
    return f"""g (float[2,3] x, bool q) => (float[2,2] y) <float[3,8] w, float[8,2] v{weights}> {{ h = MatMul(x, w)
    i = If (q) <then_branch = t () => (float[2,8] a) {{ {then} }}, else_branch = e () => (float[2,8] b) {{ {other} }}>
    y = MatMul(i, v) }}"""


def test_both_branches_read_the_channels_of_the_graph_around() -> None:
    assert sizes(assert_exact(parse(choice("a = Relu(h)", "b = Tanh(h)")))) == {"h": 8}


def test_layers_in_a_branch_make_the_channels_of_its_output() -> None:
    found = assert_exact(parse(choice("a = MatMul(h, s)", "b = Relu(h)", ", float[8,8] s")))
    assert [(group.name, len(group), len(group.writers)) for group in found] == [("h", 8, 2)]


def test_layers_within_a_branch_have_groups_of_their_own() -> None:
    text = choice("c = MatMul(h, s)  d = Relu(c)  a = MatMul(d, u)", "b = Relu(h)", ", float[8,6] s, float[6,8] u")
    assert sizes(assert_exact(parse(text))) == {"h": 8, "c": 6}


def test_constants_in_a_branch_lose_channels() -> None:
    text = choice("k = Constant<value_floats=[1.0,2.0,3.0,4.0,5.0,6.0,7.0,8.0]>()  a = Add(h, k)", "b = Relu(h)")
    assert sizes(assert_exact(parse(text))) == {"h": 8}


def test_branches_of_different_sizes_keep_their_channels() -> None:
    text = """g (float[2,3] x, bool q) => (float[2,m] y) <float[3,8] w, float[3,6] v> {
    i = If (q) <then_branch = t () => (float[2,8] a) { a = MatMul(x, w) },
    else_branch = e () => (float[2,6] b) { b = MatMul(x, v) }>  y = Relu(i) }"""
    assert refused(parse(text)) == dict.fromkeys(("a", "b"), "branches or steps give it different sizes")


@pytest.mark.parametrize("op", ["Det", "NonZero"])
def test_an_unknown_operator_in_a_body_bars_what_it_reads(op: str) -> None:
    text = choice(f"a = {op}(h)", "b = Relu(h)")
    assert "h" in refused(parse(text))


LOOP = """g (float[2,3] x, int64 n, bool q) => (float[2,2] y, float[t,2,2] z)
<float[3,8] w, float[8,8] u, float[8,2] v, float[8,6] r, float[6,8] s, float[8] d> {{ h = MatMul(x, w)
i, j = Loop (n, q, h) <body = b (int64 k, bool p, float[2,8] c) => (bool p2, float[2,8] c2, float[2,8] o) {{
p2 = Identity(p)  {body} }}>  y = MatMul(i, v)  z = MatMul(j, v) }}"""


def test_what_a_loop_carries_and_stacks() -> None:
    body = "a = MatMul(c, r)  e = Relu(a)  f = MatMul(e, s)  c2 = Add(c, f)  o = Add(c2, d)"
    assert sizes(assert_exact(parse(LOOP.format(body=body)))) == {"h": 8, "a": 6}


def test_what_a_loop_reads_from_around() -> None:
    body = "a = MatMul(c, u)  c2 = Add(a, h)  o = Relu(h)"
    assert sizes(assert_exact(parse(LOOP.format(body=body)))) == {"h": 8}


def test_what_a_loop_makes_longer_stays() -> None:
    text = """g (float[2,3] x, int64 n, bool q) => (float[2,m] y) <float[3,8] w> { h = MatMul(x, w)
    y = Loop (n, q, h) <body = b (int64 k, bool p, float[2,c0] c) => (bool p2, float[2,c1] c2) {
    p2 = Identity(p)  c2 = Concat<axis=1>(c, h) }> }"""
    assert "h" in refused(parse(text))


def test_what_a_scan_carries_takes_apart_and_stacks() -> None:
    text = """g (float[2,5,3] x, float[2,8] a, bool q) => (float[2,2] y, float[2,5,2] z)
    <float[3,8] w, float[8,2] v, float[8,8] u> { h = MatMul(x, w)  k = MatMul(a, u)
    i, j = Scan <num_scan_inputs=1, scan_input_axes=[1], scan_output_axes=[1], body = b (float[2,8] c, float[2,8] e)
    => (float[2,8] c2, float[2,8] o) { c2 = Add(c, e)  o = Relu(c2) }> (k, h)
    y = MatMul(i, v)  z = MatMul(j, v) }"""
    found = assert_exact(parse(text))
    assert [(group.name, len(group), len(group.writers)) for group in found] == [("h", 8, 2)]


def test_the_axis_that_a_scan_takes_apart_stays() -> None:
    text = """g (float[2,3] x, float[2] q) => (float[2] y, float[2,8] z) <float[3,8] w> { h = MatMul(x, w)
    y, z = Scan <num_scan_inputs=1, scan_input_axes=[-1], scan_output_axes=[-1], body = b (float[2] c, float[2] e)
    => (float[2] c2, float[2] o) { c2 = Add(c, e)  o = Relu(c2) }> (q, h) }"""
    assert refused(parse(text))["h"] == "it is taken apart"


def test_sequences_keep_their_channels() -> None:
    text = """g (float[2,3] x) => (float[2,2] y) <float[3,8] w, float[8,2] v, int64 i = {0}> { h = MatMul(x, w)
    s = SequenceConstruct(h, h)  k = SequenceAt(s, i)  y = MatMul(k, v) }"""
    assert "SequenceConstruct has no rule" in refused(parse(text))["h"]
