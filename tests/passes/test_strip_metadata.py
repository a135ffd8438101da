"""StripMetadata."""

import onnx_ir as ir
import pytest

from onnxopt import files
from onnxopt.core import Context
from onnxopt.passes.simplify.strip_metadata import StripMetadata
from onnxopt.target import Target
from onnxopt.testing import assert_leaves, parse, run_pass

TEXT = """g (float[n,4] x) => (float[n,4] y) { a = Neg(x)
  y = If(c) <then_branch = t () => (float[n,4] o) { o = Abs(a) }, else_branch = e () => (float[n,4] p) { p = Relu(a) }> }"""
TRACE = "/home/somebody/secret/model.py:12"


@pytest.fixture
def traced() -> ir.Model:
    model = parse(TEXT.replace("g (", "g (bool c, "))
    model.doc_string, model.metadata_props["labels"] = "from the author", "cat,dog"
    model.graph.inputs[1].doc_string = "an image"
    for graph in model.graphs():
        graph.doc_string, graph.metadata_props["pkg"] = TRACE, TRACE
        for node in graph:
            node.doc_string, node.metadata_props["pkg.torch.onnx.stack_trace"] = TRACE, TRACE
            node.outputs[0].metadata_props["pkg"] = TRACE
    model.graph[0].outputs[0].doc_string = TRACE
    return model


def test_strips_everything_but_what_is_the_users(traced: ir.Model) -> None:
    assert len(run_pass(StripMetadata(), traced)) == 3
    assert b"somebody" not in files.to_bytes(traced)
    assert traced.doc_string == "from the author"
    assert traced.metadata_props == {"labels": "cat,dog"}
    assert traced.graph.inputs[1].doc_string == "an image"
    before = files.to_bytes(traced)
    assert run_pass(StripMetadata(), traced) == []
    assert files.to_bytes(traced) == before


def test_strips_the_users_too_when_asked(traced: ir.Model) -> None:
    found = StripMetadata(model_properties=True).run(traced, Context(Target()))
    assert "doc strings and metadata of the model removed" in [change.what for change in found]
    assert not traced.doc_string
    assert not traced.metadata_props


STALE = {
    "a number for a dynamic dimension": [1, 4],
    "another number": ["n", 5],
    "another rank": [4],
}


@pytest.mark.parametrize("stated", STALE.values(), ids=STALE.keys())
def test_puts_stale_shapes_right(stated: list[int | str]) -> None:
    model = parse("g (float[n,4] x) => (float[n,4] y) { a = Neg(x)  y = Abs(a) }")
    value = model.graph[0].outputs[0]
    value.shape = ir.Shape(stated)
    assert [change.node for change in run_pass(StripMetadata(), model)] == ["a"]
    assert value.shape == ir.Shape(["n", 4])
    assert run_pass(StripMetadata(), model) == []


KEPT = {
    "a name for the same dimension": ["batch", 4],
    "a name where inference knows a number": ["n", "width"],
}


@pytest.mark.parametrize("stated", KEPT.values(), ids=KEPT.keys())
def test_keeps_shapes_that_may_be_so(stated: list[int | str]) -> None:
    model = parse("g (float[n,4] x) => (float[n,4] y) { a = Neg(x)  y = Abs(a) }")
    model.graph[0].outputs[0].shape = ir.Shape(stated)
    assert run_pass(StripMetadata(), model) == []


def test_keeps_what_inference_cannot_know() -> None:
    model = parse("g (float[n] x) => (int64[1,m] y) { a = NonZero(x)  y = Abs(a) }")
    model.graph[0].outputs[0].shape = ir.Shape([1, 7])
    assert run_pass(StripMetadata(), model) == []


def test_leaves_a_model_without_any() -> None:
    assert_leaves(StripMetadata(), "g (float[4] x) => (float[4] y) { a = Neg(x)  y = Abs(a) }")
