"""StripNames."""

from collections.abc import Iterator

import onnx_ir as ir
import pytest

from onnxopt import files
from onnxopt.core import Context
from onnxopt.graph import walk
from onnxopt.passes.simplify.strip_names import StripNames
from onnxopt.runtime import Session
from onnxopt.target import Target
from onnxopt.testing import assert_rewrites, parse, run_pass

NET = """g (float[n,3,8,8] image) => (float[n,4] scores)
<float[4,3,3,3] conv_weight, float[4] conv_bias, float[4,6,6] table> {
  features_conv = Conv(image, conv_weight, conv_bias)  added = Add(features_conv, table)
  pooled = GlobalAveragePool(added)  scores = Flatten(pooled) }"""
BRANCHES = """g (float[2,3] x, bool q) => (float[2,3] y) <float[3] outer>
{ before = Add(x, outer)  y = If(q) <
    then_branch = t () => (float[2,3] result) <float[3] outer2 = {1.0,2.0,3.0}>
      { inner = Mul(before, outer2)  result = Relu(inner) },
    else_branch = e () => (float[2,3] result) { inner = Sub(before, outer)  result = Neg(inner) }> }"""


def names(model: ir.Model) -> Iterator[str]:
    for graph in model.graphs():
        yield from graph.initializers
        yield from (value.name or "" for node in graph for value in node.outputs)


def test_names_become_short_and_those_of_inputs_and_outputs_stay() -> None:
    model = assert_rewrites(
        StripNames(),
        NET,
        after=[
            "Conv(image, const, const) -> d",
            "Add(d, const) -> e",
            "GlobalAveragePool(e) -> f",
            "Flatten(f) -> scores",
        ],
    )
    assert list(model.graph.initializers) == ["a", "b", "c"]
    assert [value.name for value in (*model.graph.inputs, *model.graph.outputs)] == ["image", "scores"]


def test_shapes_and_names_of_nodes_go() -> None:
    model = parse(NET)
    for node in model.graph:
        node.name = f"/net/{node.op_type}"
    middle = model.graph[0].outputs[0]
    middle.type, middle.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(["n", 4, 6, 6])
    said = [change.what for change in run_pass(StripNames(), model)]
    assert said[:2] == ["4 names of nodes removed", "1 types and shapes removed that follow from the inputs"]
    assert not any(node.name for node in model.graph)
    proto = files.to_proto(model)
    assert not proto.graph.value_info
    assert not any(node.name for node in proto.graph.node)


def test_a_shape_that_cannot_be_inferred_stays() -> None:
    model = parse("g (float[2,3] x) => (float[2,3] y) { h = Relu(x)  y = Neg(h) }")
    node = model.graph[0]
    node.op_type, node.domain = "Magic", "com.example"
    model.opset_imports["com.example"] = 1
    out = node.outputs[0]
    out.type, out.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([2, 3])
    run_pass(StripNames(), model)
    assert (out.dtype, out.shape) == (ir.DataType.FLOAT, ir.Shape([2, 3]))


def test_branches_get_names_of_their_own() -> None:
    before = parse(BRANCHES)
    model = before.clone()
    assert run_pass(StripNames(), model)
    made = list(names(model))
    assert len(made) == len(set(made))
    assert all(len(name) == 1 for name in made)
    Session(model, Target(), optimize=False)
    assert run_pass(StripNames(), model) == []


def test_a_name_of_an_input_is_not_given_to_another() -> None:
    model = parse(
        "g (float[2,3] a, float[2,3] b) => (float[2,3] c) { long = Add(a, b)  name = Neg(long)  c = Relu(name) }"
    )
    run_pass(StripNames(), model)
    assert list(names(model)) == ["d", "e", "c"]


def test_an_output_that_is_left_out_stays_so() -> None:
    model = parse("g (float[2,3] x) => (float[2,3] y) { y, _ = Dropout(x) }")
    model.graph[0].outputs[1].name = ""
    assert run_pass(StripNames(), model) == []


@pytest.mark.parametrize("count", [60, 52 + 52 * 62 + 10])
def test_names_are_identifiers_and_do_not_run_out(count: int) -> None:
    model = parse("g (float[2] x) => (float[2] y) { y = Neg(x) }")
    graph, value = model.graph, model.graph.inputs[0]
    last = graph[0]
    for number in range(count):
        node = ir.node("Neg", [value], name=f"node{number}")
        node.outputs[0].name = f"value_{number}"
        graph.insert_before(last, node)
        value = node.outputs[0]
    last.replace_input_with(0, value)
    run_pass(StripNames(), model)
    made = list(names(model))
    assert len(set(made)) == len(made) == count + 1
    assert all(name.isidentifier() for name in made)
    assert all(not node.name for node in walk(model))


def test_a_context_is_not_needed() -> None:
    assert StripNames().run(parse(NET), Context(Target()))
