"""RemoveDeadCode."""

import pytest

from onnxopt.core import Context
from onnxopt.passes.simplify.remove_dead_code import RemoveDeadCode
from onnxopt.target import Target
from onnxopt.testing import assert_leaves, assert_rewrites, parse, run_pass

DEAD = {
    "a chain that nobody reads": "g (float[4] x) => (float[4] y) { a = Neg(x)  b = Abs(a)  y = Relu(x) }",
    "a weight that nobody reads": "g (float[4] x) => (float[4] y) <float[4] w> { y = Relu(x) }",
    "a weight that only a dead branch reads": """g (float[4] x, bool c) => (float[4] y) <float[4] w> {
        z = If(c) <then_branch = t () => (float[4] o) { o = Add(x, w) }, else_branch = e () => (float[4] p) { p = Neg(x) }>
        y = Relu(x) }""",
    "an opset that nobody uses": """<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 2]>
        g (float[4] x) => (float[4] y) { y = Relu(x) }""",
    "a function that nobody calls": """<ir_version: 8, opset_import: ["" : 17, "l" : 1]>
        g (float[4] x) => (float[4] y) { y = Relu(x) }
        <domain: "l", opset_import: ["" : 17]> f (a) => (b) { b = Neg(a) }""",
}


@pytest.mark.parametrize("text", DEAD.values(), ids=DEAD.keys())
def test_removes(text: str) -> None:
    model = assert_rewrites(RemoveDeadCode(), text, after=["Relu(x) -> y"])
    assert not model.graph.initializers
    assert not model.functions
    assert set(model.opset_imports) == {""}


def test_removes_inside_branches() -> None:
    text = """g (bool c, float[4] x) => (float[4] y) { y = If(c) <
      then_branch = t () => (float[4] o) <float[4] w = {1,2,3,4}> { d = Add(x, w)  o = Neg(x) },
      else_branch = e () => (float[4] p) { p = Relu(x) }> }"""
    model = assert_rewrites(RemoveDeadCode(), text, after=["If(c) -> y", "  Neg(x) -> o", "  Relu(x) -> p"])
    assert not any(graph.initializers for graph in model.graphs())


def test_says_what_went() -> None:
    model = parse("g (float[4] x) => (float[4] y) <float[4] w> { a = Neg(x)  y = Relu(x) }")
    found = RemoveDeadCode().run(model, Context(Target()))
    assert [(change.node, change.what) for change in found] == [("a", "Neg removed"), ("w", "unread weight removed")]


LEFT_ALONE = {
    "an input that nobody reads": "g (float[4] x, float[2] u) => (float[4] y) { y = Relu(x) }",
    "an input with a default that nobody reads": "g (float[4] x, float[2] u) => (float[4] y) <float[2] u> { y = Relu(x) }",
    "a weight that the graph returns": "g (float[4] x) => (float[4] y, float[2] w) <float[2] w> { y = Relu(x) }",
    "an input that the graph returns": "g (float[4] x, float[2] u) => (float[4] y, float[2] u) { y = Relu(x) }",
    "a weight that a branch reads": """g (bool c, float[4] x) => (float[4] y) <float[4] w> { y = If(c) <
        then_branch = t () => (float[4] o) { o = Add(x, w) }, else_branch = e () => (float[4] p) { p = Relu(x) }> }""",
    "an optional output that nobody reads": "g (float[1,1,4,4] x) => (float[1,1,2,2] y) { y, i = MaxPool<kernel_shape=[2,2],strides=[2,2]>(x) }",
    "optional inputs left out": "g (float[4] x) => (float[4] y) <float m> { y = Clip(x, , m) }",
}


@pytest.mark.parametrize("text", LEFT_ALONE.values(), ids=LEFT_ALONE.keys())
def test_leaves(text: str) -> None:
    assert_leaves(RemoveDeadCode(), text)


def test_batch_normalization_in_training_keeps_its_meaning() -> None:
    text = """g (float[2,3] x) => (float[2,3] y) <float[3] s, float[3] b, float[3] m, float[3] v>
    { y, m2, v2 = BatchNormalization<training_mode=1>(x, s, b, m, v)  d = Neg(x) }"""
    model = parse(text)
    assert len(run_pass(RemoveDeadCode(), model)) == 1
    assert model.graph[0].attributes.get_int("training_mode") == 1
