"""The groups of a model in numbers."""

import pytest

from onnxopt.errors import ModelError, UsageError
from onnxopt.passes.prune import listing as module
from onnxopt.passes.prune.listing import GroupInfo, GroupListing, listing
from onnxopt.target import Target
from onnxopt.testing import parse

RESIDUAL = """g (float[N,4,8,8] x) => (float[N,3,8,8] y)
<float[8,4,1,1] w, float[8] b, float[6,8,1,1] v, float[8,6,1,1] u, float[3,8,1,1] t>
{ a = Conv(x, w, b)  h = Conv(a, v)  r = Relu(h)  i = Conv(r, u)  s = Add(a, i)  y = Conv(s, t) }"""
PLACES = 64
CONVS = {"a": PLACES * 8 * 4, "h": PLACES * 6 * 8, "i": PLACES * 8 * 6, "y": PLACES * 3 * 8}
TIMES = {"a": 1.0, "h": 2.0, "r": 0.5, "i": 3.0, "s": 0.25, "y": 4.0}


@pytest.fixture
def clock(monkeypatch) -> None:
    """Nodes take what the table says, and all the rest 1.25."""
    monkeypatch.setattr(module, "node_seconds", lambda *_: (TIMES, 1.25))


def listed(text: str, **shapes: tuple[int, ...]) -> GroupListing:
    return listing(parse(text), Target(shapes=shapes))


def only(found: GroupListing) -> GroupInfo:
    assert len(found.groups) == 1
    return found.groups[0]


def test_a_group_has_the_numbers_of_all_that_shrinks_with_it(clock) -> None:
    found = listed(RESIDUAL)
    sums, inner = found.groups
    assert (sums.group.name, inner.group.name) == ("a", "h")
    assert (sums.macs, inner.macs) == (sum(CONVS.values()), CONVS["h"] + CONVS["i"])
    assert found.macs == sum(CONVS.values())
    assert sums.size == 4 * (8 * 4 + 8 + 6 * 8 + 8 * 6 + 3 * 8)
    assert inner.size == 4 * (6 * 8 + 8 * 6)
    assert sums.seconds == pytest.approx(1.0 + 2.0 + 3.0 + 0.25 + 4.0)
    assert inner.seconds == pytest.approx(2.0 + 0.5 + 3.0)
    assert found.seconds == pytest.approx(sum(TIMES.values()) + 1.25)


def test_macs_are_those_of_the_shapes_given(clock) -> None:
    assert listed(RESIDUAL, x=(3, 4, 8, 8)).macs == 3 * sum(CONVS.values())
    with pytest.raises(UsageError, match="does not fit"):
        listed(RESIDUAL, x=(3, 5, 8, 8))


def test_of_an_axis_that_others_stand_on_its_own_part_counts(clock) -> None:
    info = only(
        listed("""g (float[1,4,8,8] x) => (float[1,3,8,8] y) <float[8,4,1,1] w, float[3,12,1,1] t>
        { a = Conv(x, w)  s = Concat<axis=1>(a, x)  y = Conv(s, t) }""")
    )
    assert info.macs == PLACES * (8 * 4 + 3 * 8)
    assert info.size == 4 * (8 * 4 + 3 * 8)


def test_layers_that_keep_their_channels_stand_by_reason(clock) -> None:
    found = listed("""g (float[2,4] x) => (float[2,3] y, float[2,3] z) <float[4,3] w, float[4,3] v, float[4,4] u>
    { h = MatMul(x, u)  s = Softmax<axis=-1>(h)  y = MatMul(s, w)  z = MatMul(s, v) }""")
    assert found.groups == ()
    assert list(found.staying.values()) == [("h",), ("y",), ("z",)]
    assert any("softmax" in why for why in found.staying)


def test_functions_count_as_inlined(clock) -> None:
    info = only(
        listed("""<ir_version: 8, opset_import: ["" : 20, "local" : 1]>
        g (float[2,4] x) => (float[2,3] y) <float[4,8] w, float[8,3] v> { h = local.dense(x, w)  y = MatMul(h, v) }
        <domain: "local", opset_import: ["" : 20]> dense (a, b) => (c) { c = MatMul(a, b) }""")
    )
    assert (len(info.group), info.macs) == (8, 2 * (4 * 8 + 8 * 3))


def test_a_normalised_axis_is_marked(clock) -> None:
    info = only(
        listed("""g (float[2,4] x) => (float[2,3] y) <float[4,8] w, float[8] s, float[8] b, float[8,3] v>
        { h = MatMul(x, w)  n = LayerNormalization(h, s, b)  y = MatMul(n, v) }""")
    )
    assert info.group.inexact
    assert info.to_dict()["inexact"] == info.group.inexact


def test_weights_that_are_inputs_too_are_taken_as_constants() -> None:
    model = parse(RESIDUAL)
    model.graph.inputs.extend(model.graph.initializers.values())
    model.ir_version = 3
    found = listing(model, Target())
    assert [info.group.name for info in found.groups] == ["a", "h"]
    assert (found.frozen, found.unmeasured) == (5, "")
    assert len(model.graph.inputs) == 6
    assert listed(RESIDUAL).frozen == 0


def test_time_is_measured_on_random_inputs() -> None:
    found = listed(RESIDUAL)
    assert found.unmeasured == ""
    assert all(0 < (info.seconds or 0) < (found.seconds or 0) for info in found.groups)


def test_where_the_model_does_not_run_the_listing_says_why(monkeypatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ModelError("no random input fits the model")

    monkeypatch.setattr(module, "random_samples", fails)
    found = listed(RESIDUAL)
    assert found.unmeasured == "no random input fits the model"
    assert found.seconds is None
    assert all(info.seconds is None for info in found.groups)


def test_a_listing_becomes_json(clock) -> None:
    found = listed(RESIDUAL).to_dict()
    assert found["groups"][1] == {
        "name": "h",
        "channels": 6,
        "each": 1,
        "fixed": 0,
        "why_fixed": "",
        "inexact": "",
        "macs": CONVS["h"] + CONVS["i"],
        "bytes": 384,
        "seconds": 5.5,
        "members": ["made by   Conv h: v axis 0", "read by   Conv i: u axis 1"],
    }
    assert found["frozen"] == 0
    assert found["staying"] == {"'y' is an output of the model": ["y"]}
