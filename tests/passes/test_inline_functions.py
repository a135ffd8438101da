"""InlineFunctions."""

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest

from onnxopt import files
from onnxopt.core import Context, Refusal
from onnxopt.graph import walk
from onnxopt.passes.simplify.inline_functions import InlineFunctions
from onnxopt.target import Target
from onnxopt.testing import assert_rewrites, parse

MODEL = '<ir_version: 8, opset_import: ["" : 17, "l" : 1]>'
F = '<domain: "l", opset_import: ["" : 17]> f'


def test_inlines_every_call() -> None:
    text = f"""{MODEL} g (float[4] x) => (float[4] y) {{ h = l.f(x)  y = l.f(h) }}
    {F} (a) => (c) {{ b = Relu(a)  c = Sqrt(b) }}"""
    after = ["Relu(x) -> b", "Sqrt(b) -> h", "Relu(h) -> b_2", "Sqrt(b_2) -> y"]
    model = assert_rewrites(InlineFunctions(), text, after=after)
    assert not model.functions


def test_inlines_functions_in_functions_and_branches() -> None:
    text = f"""{MODEL} g (bool c, float[4] x) => (float[4] y) {{
      y = If(c) <then_branch = t () => (float[4] o) {{ o = l.h(x) }}, else_branch = e () => (float[4] p) {{ p = Neg(x) }}>
    }}
    {F} (a) => (c) {{ c = Relu(a) }}
    <domain: "l", opset_import: ["" : 17, "l" : 1]> h (a) => (c) {{ b = l.f(a)  c = Sqrt(b) }}"""
    assert_rewrites(
        InlineFunctions(),
        text,
        after=["If(c) -> y", "  Relu(x) -> b", "  Sqrt(b) -> o", "  Neg(x) -> p"],
        c=np.array(True),
    )


def test_names_of_a_body_that_a_branch_has_too_become_unique() -> None:
    text = f"""{MODEL} g (bool c, float[4] x) => (float[4] z) {{
      y = l.f(x)
      z = If(c) <then_branch = t () => (float[4] o) {{ t = Neg(x)  o = Add(t, y) }},
                 else_branch = e () => (float[4] p) {{ p = Relu(y) }}>
    }}
    {F} (a) => (b) {{ t = Abs(a)  b = Sqrt(t) }}"""
    model = parse(text)
    InlineFunctions().run(model, Context(Target()))
    names = [out.name for node in walk(model) for out in node.outputs]
    assert len(set(names)) == len(names)
    assert_rewrites(
        InlineFunctions(),
        text,
        after=["Abs(x) -> t", "Sqrt(t) -> y", "If(c) -> z", "  Neg(x) -> t_1", "  Add(t_1, y) -> o", "  Relu(y) -> p"],
        c=np.array(True),
    )


def test_inlines_another_opset_where_the_operators_are_the_same() -> None:
    text = f"""{MODEL} g (float[4] x) => (float[4] y) {{ y = l.f(x) }}
    <domain: "l", opset_import: ["" : 15]> f (a) => (b) {{ b = Relu(a) }}"""
    assert_rewrites(InlineFunctions(), text, after=["Relu(x) -> y"])


def test_optional_input_left_out() -> None:
    text = f"""{MODEL} g (float[4] x) => (float[4] y) <float m = {{1}}> {{ y = l.f(x, , m) }}
    {F} (a, low, high) => (b) {{ b = Clip(a, low, high) }}"""
    assert_rewrites(InlineFunctions(), text, after=["Clip(x, , const) -> y"])


REFUSED = {
    "an operator means something else in the model's opset": f"""{MODEL} g (float[4,4] x) => (float[4,4] y)
        {{ y = l.f(x) }}
        <domain: "l", opset_import: ["" : 12]> f (a) => (b) {{ b = Softmax(a) }}""",
    "a function returns its own input": f"""{MODEL} g (float[4] x) => (float[4] y, float[4] z) {{ y, z = l.f(x) }}
        {F} (a) => (a, b) {{ b = Relu(a) }}""",
    "a caller takes fewer outputs": f"""{MODEL} g (float[4] x) => (float[4] y) {{ y = l.f(x) }}
        {F} (a) => (b, c) {{ b = Relu(a)  c = Sqrt(b) }}""",
}


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED.keys())
def test_refuses(text: str) -> None:
    model = ir.serde.deserialize_model(onnx.parser.parse_model(text))
    before = files.to_bytes(model)
    found = InlineFunctions().run(model, Context(Target()))
    assert found
    assert all(isinstance(item, Refusal) and item.why for item in found)
    assert files.to_bytes(model) == before


def test_leaves_a_model_without_functions() -> None:
    model = parse("g (float[4] x) => (float[4] y) { y = Relu(x) }")
    assert InlineFunctions().run(model, Context(Target())) == []
