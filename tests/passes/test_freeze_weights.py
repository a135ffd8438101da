"""FreezeWeights."""

from onnxopt import files
from onnxopt.core import Change, Context, Refusal
from onnxopt.passes.simplify.freeze_weights import FreezeWeights
from onnxopt.target import Target
from onnxopt.testing import assert_leaves, assert_rewrites, parse

GRAPH = "g (float[2,3] x, float[3,4] w, float[4] b) => (float[2,4] y) <float[3,4] w, float[4] b> { h = MatMul(x, w)  y = Add(h, b) }"
OLD = f'<ir_version: 3, opset_import: ["" : 8]> {GRAPH}'
NEW = f'<ir_version: 4, opset_import: ["" : 8]> {GRAPH}'
AFTER = ["MatMul(x, const) -> h", "Add(h, const) -> y"]


def test_freezes_where_every_initializer_had_to_be_an_input() -> None:
    model = assert_rewrites(FreezeWeights(), OLD, after=AFTER)
    assert [value.name for value in model.graph.inputs] == ["x"]
    assert files.to_proto(model).ir_version == 4


def test_freezes_any_file_when_asked() -> None:
    model = assert_rewrites(FreezeWeights(everywhere=True), NEW, after=AFTER)
    assert [value.name for value in model.graph.inputs] == ["x"]


def test_says_once_why_it_leaves_weights_that_a_caller_may_override() -> None:
    model = parse(NEW)
    before = files.to_bytes(model)
    (refusal,) = FreezeWeights().run(model, Context(Target()))
    assert isinstance(refusal, Refusal)
    assert "2 weights" in refusal.why
    assert "everywhere" in refusal.why
    assert files.to_bytes(model) == before


def test_one_change_for_each_weight() -> None:
    assert [item.node for item in FreezeWeights().run(parse(OLD), Context(Target())) if isinstance(item, Change)] == [
        "w",
        "b",
    ]


def test_a_weight_that_the_graph_returns_stays_an_output() -> None:
    text = """<ir_version: 3, opset_import: ["" : 8]> g (float[4] x, float[4] w) => (float[4] y, float[4] w)
    <float[4] w> { y = Add(x, w) }"""
    model = assert_rewrites(FreezeWeights(), text, after=["Add(x, const) -> y"])
    assert [value.name for value in model.graph.outputs] == ["y", "w"]


def test_leaves_a_file_without_such_weights() -> None:
    assert_leaves(FreezeWeights(everywhere=True), "g (float[4] x) => (float[4] y) <float[4] w> { y = Add(x, w) }")
