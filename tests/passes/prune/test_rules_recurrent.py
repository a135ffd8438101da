"""Rules of LSTM, GRU and RNN."""

import onnx_ir as ir
import pytest
from exactness import assert_exact, refused, sizes

from onnxopt.graph import array
from onnxopt.passes.prune import groups
from onnxopt.testing import parse

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def layer(kind: str, inputs: str = "", more: str = "", *, directions: int = 1, attributes: str = "") -> ir.Model:
    """A product, a layer of six hidden units, and another product that reads its steps."""
    gates, way = GATES[kind], "forward" if directions == 1 else "bidirectional"
    weights = f"""float[3,5] e, float[{directions},{6 * gates},5] w, float[{directions},{6 * gates},6] r,
    float[{directions},{12 * gates}] b, float[6,2] o, float[7] unread{more}"""
    return parse(f"""g (float[t,n,3] x) => (float[t,{directions},n,2] y) <{weights}> {{ h = MatMul(x, e)
    s, f = {kind}<hidden_size=6, direction="{way}"{attributes}>(h, w, r{inputs})  y = MatMul(s, o) }}""")


CASES = {
    "plain": ("", "", ""),
    "bias": (", b", "", ""),
    "linear before reset": (", b", "", ", linear_before_reset=1"),
    "clip": (", b", "", ", clip=0.5"),
}


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize(("inputs", "more", "attributes"), CASES.values(), ids=CASES)
def test_hidden_units_and_inputs_go(kind: str, inputs: str, more: str, attributes: str, directions: int) -> None:
    if "linear" in attributes and kind != "GRU":
        attributes = ""
    model = layer(kind, inputs, more, directions=directions, attributes=attributes)
    assert sizes(assert_exact(model)) == {"h": 5, "s": 6}


def test_peepholes_and_states_that_are_constants_go_with_them() -> None:
    text = """g (float[t,1,3] x) => (float[t,1,1,2] y, float[1,1,2] z) <float[1,24,3] w, float[1,24,6] r, float[1,48] b,
    float[1,18] p, float[1,1,6] h, float[1,1,6] c, float[6,2] o>
    { s, f, k = LSTM<hidden_size=6>(x, w, r, b, , h, c, p)  y = MatMul(s, o)  i = Add(f, k)  z = MatMul(i, o) }"""
    found = assert_exact(parse(text))
    assert sizes(found) == {"s": 6}
    assert {value.name for value, _ in found.groups[0].others} == {"b", "p", "h", "c"}


def test_states_that_another_layer_makes_are_tied_to_the_hidden_units() -> None:
    text = """g (float[t,1,3] x, float[1,1,4] q) => (float[t,1,1,2] y) <float[4,6] u, float[1,18,3] w, float[1,18,6] r,
    float[6,2] o> { i = MatMul(q, u)  s = GRU<hidden_size=6>(x, w, r, , , i)  y = MatMul(s, o) }"""
    found = assert_exact(parse(text))
    assert [(len(group), len(group.writers)) for group in found] == [(6, 3)]


def test_states_that_come_from_outside_keep_the_hidden_units() -> None:
    text = """g (float[t,1,3] x, float[1,1,6] i) => (float[t,1,1,2] y) <float[1,18,3] w, float[1,18,6] r, float[6,2] o>
    { s = GRU<hidden_size=6>(x, w, r, , , i)  y = MatMul(s, o) }"""
    assert refused(parse(text))["s"] == "'i' comes from outside"


def test_lengths_of_the_samples() -> None:
    text = """g (float[4,2,3] x, int32[2] l) => (float[4,1,2,2] y) <float[1,6,3] w, float[1,6,6] r, float[6,2] o>
    { s = RNN<hidden_size=6>(x, w, r, , l)  y = MatMul(s, o) }"""
    assert sizes(assert_exact(parse(text))) == {"s": 6}


@pytest.mark.parametrize("kind", GATES)
def test_the_batch_may_come_first(kind: str) -> None:
    """ONNX Runtime does not run these: only what is left is looked at."""
    model = layer(kind, attributes=", layout=1")
    found = groups.find(model)
    found.remove(found.groups[1].classes[:2])
    weights = [array(model.graph.initializers[name]).shape for name in ("w", "r", "o")]
    assert weights == [(1, 4 * GATES[kind], 5), (1, 4 * GATES[kind], 4), (4, 2)]
    assert [node.attributes.get_int("hidden_size", 0) for node in model.graph] == [0, 4, 0]


def test_each_gate_loses_the_same_units() -> None:
    model = layer("LSTM")
    before = array(model.graph.initializers["r"])
    found = groups.find(model)
    found.remove(found.groups[1].classes[[0, 4]])
    kept = [1, 2, 3, 5]
    expected = before.reshape(1, 4, 6, 6)[:, :, kept][..., kept].reshape(1, 16, 4)
    assert (array(model.graph.initializers["r"]) == expected).all()


def test_what_is_made_for_each_step_stays() -> None:
    """The channels of the convolution are the steps of the layer."""
    text = """g (float[n,3,5] x) => (float[8,1,5,2] y) <float[8,3,1] k, float[1,6,4] w, float[1,6,6] r, float[6,2] o,
    float[1,4] q> { h = Conv(x, k)  u = Transpose<perm=[1,2,0]>(h)  m = MatMul(u, q)
    s = RNN<hidden_size=6>(m, w, r)  y = MatMul(s, o) }"""
    assert "h" in refused(parse(text))
