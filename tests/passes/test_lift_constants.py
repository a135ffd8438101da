"""LiftConstants."""

import numpy as np
import onnx_ir as ir
import pytest

from onnxopt import files
from onnxopt.core import Context
from onnxopt.passes.simplify.lift_constants import LiftConstants
from onnxopt.target import Target
from onnxopt.testing import assert_leaves, assert_rewrites, parse

ATTRIBUTES = {
    "a tensor": ("value = float[3] {1, 2, 3}", [1, 2, 3]),
    "a number": ("value_float = 2.5", 2.5),
    "a list of numbers": ("value_floats = [1.0, 2.0, 3.0]", [1, 2, 3]),
}


@pytest.mark.parametrize(("attribute", "numbers"), ATTRIBUTES.values(), ids=ATTRIBUTES.keys())
def test_lifts(attribute: str, numbers: object) -> None:
    text = f"g (float[3] x) => (float[3] y) {{ c = Constant<{attribute}>()  y = Add(x, c) }}"
    model = assert_rewrites(LiftConstants(), text, after=["Add(x, const) -> y"])
    np.testing.assert_array_equal(model.graph.initializers["c"].const_value.numpy(), np.float32(numbers))
    assert len(model.graph) == 1


def test_lifts_integers_and_constants_in_branches() -> None:
    text = """g (bool b, float[2,3] x) => (float[a] y) { y = If(b) <
      then_branch = t () => (float[a] o) { s = Constant<value_ints = [6]>()  o = Reshape(x, s) },
      else_branch = e () => (float[a] p) { s = Constant<value_ints = [-1]>()  p = Reshape(x, s) }> }"""
    model = assert_rewrites(
        LiftConstants(),
        text,
        after=["If(b) -> y", "  Reshape(x, const) -> o", "  Reshape(x, const) -> p"],
        b=np.array(True),
    )
    assert [len(graph.initializers) for graph in model.graphs()] == [0, 1, 1]


def test_old_ir_versions_are_raised_since_they_want_every_initializer_as_input() -> None:
    text = """<ir_version: 3, opset_import: ["" : 8]> g (float[3] x) => (float[3] y)
    { c = Constant<value = float[3] {1, 2, 3}>()  y = Add(x, c) }"""
    model = assert_rewrites(LiftConstants(), text, after=["Add(x, const) -> y"])
    assert files.to_proto(model).ir_version == 4


def test_inner_names_may_repeat_outer_ones_of_other_branches() -> None:
    text = """g (bool b, float[3] x) => (float[3] y, float[3] z) { c = Constant<value_float = 1.0>()
      y = If(b) <then_branch = t () => (float[3] o) { d = Constant<value_float = 2.0>()  o = Add(x, d) },
                 else_branch = e () => (float[3] p) { d = Constant<value_float = 3.0>()  p = Add(x, d) }>
      z = Add(x, c) }"""
    after = ["If(b) -> y", "  Add(x, const) -> o", "  Add(x, const) -> p", "Add(x, const) -> z"]
    assert_rewrites(LiftConstants(), text, after=after, b=np.array(False))


LEFT_ALONE = {
    "the graph returns the constant": "g (float[3] x) => (float[3] y, float c) { c = Constant<value_float = 1.0>()  y = Add(x, c) }",
    "a branch returns the constant": """g (bool b) => (float y) { y = If(b) <
        then_branch = t () => (float o) { o = Constant<value_float = 1.0>() },
        else_branch = e () => (float p) { p = Constant<value_float = 2.0>() }> }""",
    "strings": 'g (string[1] x) => (bool[1] y) { c = Constant<value_strings = ["abc"]>()  y = Equal(x, c) }',
    "nothing to lift": "g (float[3] x) => (float[3] y) { y = Relu(x) }",
}


@pytest.mark.parametrize("text", LEFT_ALONE.values(), ids=LEFT_ALONE.keys())
def test_leaves(text: str) -> None:
    assert_leaves(LiftConstants(), text)


def test_leaves_strings_that_are_not_ascii() -> None:
    model = parse('g (string[1] x) => (bool[1] y) { c = Constant<value_strings = ["abc"]>()  y = Equal(x, c) }')
    model.graph[0].attributes["value_strings"] = ir.AttrStrings("value_strings", ["äöü"])
    assert LiftConstants().run(model, Context(Target())) == []
