"""Layers with constant weights: what is one, and what writing new weights into it does to the model."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxopt import files
from onnxopt.layers import Layer, layers, tables
from onnxopt.testing import assert_same_outputs, lines, parse

IMAGE = "g (float[n,6,7,5] x) => (float[n,4,a,b] y)"
SEQUENCE = "g (float[n,6,9] x) => (float[n,4,a] y)"
MATRIX = "g (float[n,6] x) => (float[n,4] y)"
TOKENS = "g (float[n,3,6] x) => (float[n,3,4] y)"

# the graph before, and one that has a bias c of its own in the place where a new bias must come
CASES = {
    "Conv": (f"{IMAGE} <float[4,6,3,2] w, float[4] c> {{ y = Conv(x, w, c) }}", None),
    "Conv without bias": (
        f"{IMAGE} <float[4,6,3,2] w> {{ y = Conv(x, w) }}",
        f"{IMAGE} <float[4,6,3,2] w, float[4] c> {{ y = Conv(x, w, c) }}",
    ),
    "Conv in groups": (f"{IMAGE} <float[4,3,3,2] w, float[4] c> {{ y = Conv<group=2>(x, w, c) }}", None),
    "Conv in one dimension": (f"{SEQUENCE} <float[4,6,3] w, float[4] c> {{ y = Conv(x, w, c) }}", None),
    "depthwise Conv": (
        "g (float[n,4,7,5] x) => (float[n,4,a,b] y) <float[4,1,3,2] w, float[4] c> { y = Conv<group=4>(x, w, c) }",
        None,
    ),
    "Gemm": (f"{MATRIX} <float[6,4] w, float[1,4] c> {{ y = Gemm(x, w, c) }}", None),
    "Gemm without bias": (
        f"{MATRIX} <float[6,4] w> {{ y = Gemm(x, w) }}",
        f"{MATRIX} <float[6,4] w, float[4] c> {{ y = Gemm(x, w, c) }}",
    ),
    "Gemm with transB": (f"{MATRIX} <float[4,6] w, float[4] c> {{ y = Gemm<transB=1>(x, w, c) }}", None),
    "MatMul and Add": (f"{TOKENS} <float[6,4] w, float[4] c> {{ h = MatMul(x, w) y = Add(c, h) }}", None),
    "MatMul": (
        f"{TOKENS} <float[6,4] w> {{ y = MatMul(x, w) }}",
        f"{TOKENS} <float[6,4] w, float[4] c> {{ h = MatMul(x, w) y = Add(h, c) }}",
    ),
    "MatMul with readers": (
        f"{TOKENS} <float[6,4] w> {{ h = MatMul(x, w) i = Exp(h) y = Sub(i, h) }}",
        f"{TOKENS} <float[6,4] w, float[4] c> {{ p = MatMul(x, w) h = Add(p, c) i = Exp(h) y = Sub(i, h) }}",
    ),
    "MatMul and a scalar": (
        f"{TOKENS} <float[6,4] w, float[1] s> {{ h = MatMul(x, w) y = Add(h, s) }}",
        f"{TOKENS} <float[6,4] w, float[1] s, float[4] c> {{ p = MatMul(x, w) h = Add(p, c) y = Add(h, s) }}",
    ),
    "tied MatMul": (
        f"{TOKENS} <float[4,6] w> {{ t = Transpose(w) y = MatMul(x, t) }}",
        f"{TOKENS} <float[4,6] w, float[4] c> {{ t = Transpose(w) h = MatMul(x, t) y = Add(h, c) }}",
    ),
}


def only(model: ir.Model) -> Layer:
    (found,), refusals = layers(model)
    assert refusals == []
    return found


def wanted(text: str) -> ir.Model:
    """The model with other weights, and with another bias."""
    model, rng = parse(text), np.random.default_rng(7)
    for name in ("w", "c"):
        value = model.graph.initializers[name]
        value.const_value = ir.tensor(rng.normal(size=value.shape.numpy()).astype(np.float32))
    return model


@pytest.mark.parametrize(("before", "after"), CASES.values(), ids=CASES.keys())
def test_writes_weights_and_bias(before: str, after: str | None) -> None:
    model, target = parse(before), wanted(after or before)
    other = only(target)
    bias = target.graph.initializers["c"].const_value.numpy().reshape(-1)
    only(model).write(other.rows(), bias)
    onnx.checker.check_model(files.to_proto(model), full_check=True)
    assert_same_outputs(model, target)
    found = only(model)
    np.testing.assert_array_equal(found.rows(), other.rows())
    np.testing.assert_array_equal((found.added or found.bias).const_value.numpy(), bias)
    assert (found.added is None) == (found.node.op_type != "MatMul")
    assert [line.split(" -> ")[0].split("(")[0] for line in lines(model) if "Transpose" not in line] == [
        line.split(" -> ")[0].split("(")[0] for line in lines(target) if "Transpose" not in line
    ]
    only(model).write(other.rows(), bias)
    assert_same_outputs(model, target)
    assert len(model.graph.initializers) == len(target.graph.initializers)


@pytest.mark.parametrize("before", [before for before, after in CASES.values() if after is None])
def test_the_bias_stays_where_none_is_given(before: str) -> None:
    model, target = parse(before), wanted(before)
    rows = only(target).rows()
    target.graph.initializers["c"].const_value = model.graph.initializers["c"].const_value
    only(model).write(rows)
    assert_same_outputs(model, target)
    assert sorted(model.graph.initializers) == ["c", "w"]


def test_rows_are_the_weights_in_the_order_of_their_names() -> None:
    model = parse(CASES["Conv"][0])
    weight, found = model.graph.initializers["w"].const_value.numpy(), only(model)
    np.testing.assert_array_equal(found.rows(), weight.transpose(0, 2, 3, 1).reshape(4, -1))
    np.testing.assert_array_equal(found.shaped(found.rows()), weight)


KEPT = {
    "another layer": f"{MATRIX} <float[6,6] w, float[6,4] v> {{ h = MatMul(x, w) i = MatMul(h, w) y = MatMul(i, v) }}",
    "the graph itself": """g (float[n,6] x) => (float[n,4] y, float[6,4] w) <float[6,4] w> { y = MatMul(x, w) }""",
    "a branch": """g (float[n,6] x, bool c) => (float[n,4] y) <float[6,4] w> {
        h = MatMul(x, w)
        e = If (c) <then_branch = t () => (float[6,4] i) { i = Identity(w) },
                    else_branch = f () => (float[6,4] j) { j = Neg(w) }>
        s = ReduceSum(e)
        y = Add(h, s) }""",
    "an embedding": """g (float[n,6] x, int64[n] k) => (float[n,4] y, float[n,6] z) <float[4,6] w> {
        z = Gather(w, k) t = Transpose(w) y = MatMul(x, t) }""",
}


@pytest.mark.parametrize("text", KEPT.values(), ids=KEPT.keys())
def test_what_others_read_stays_and_the_layer_gets_a_copy(text: str) -> None:
    model = parse(text)
    before = model.graph.initializers["w"].const_value.numpy().copy()
    found = layers(model)[0][0]
    found.write(np.zeros_like(found.rows()))
    onnx.checker.check_model(files.to_proto(model), full_check=True)
    np.testing.assert_array_equal(model.graph.initializers["w"].const_value.numpy(), before)
    now = layers(model)[0][0]
    assert now.weight.name != "w"
    assert not now.rows().any()


@pytest.mark.parametrize("reader", ["", "z = Identity(w)"], ids=["alone", "shared"])
def test_a_weight_in_a_constant_node(reader: str) -> None:
    outputs = "float[n,1] y, float[2,1] z" if reader else "float[n,1] y"
    model = parse(
        f"g (float[n,2] x) => ({outputs}) {{ w = Constant<value = float[2,1] {{1,2}}>() {reader} y = Gemm(x, w) }}"
    )
    found = layers(model)[0][0]
    found.write(np.array([[3, 4]], np.float32))
    onnx.checker.check_model(files.to_proto(model), full_check=True)
    assert layers(model)[0][0].rows().tolist() == [[3, 4]]
    assert ("Constant" in {node.op_type for node in model.graph}) == bool(reader)


def test_only_layers_of_the_wanted_types_in_graph_order() -> None:
    model = parse(
        """g (float[n,6] x, float[6,6] z) => (float[n,5] y) <float[6,6] a, float[6,6] b, float[6,5] v>
        { h = MatMul(x, a) i = MatMul(h, z) j = Gemm<alpha=2.0>(i, b) y = Gemm(j, v) }"""
    )
    found, refusals = layers(model)
    assert [one.weight.name for one in found] == ["a", "v"]
    assert [(one.node, one.why) for one in refusals] == [
        ("i", "its weight is not constant"),
        ("j", "it scales or transposes"),
    ]
    found, refusals = layers(model, ["MatMul"])
    assert ([one.weight.name for one in found], [one.node for one in refusals]) == (["a"], ["i"])


@pytest.mark.parametrize(
    ("call", "weight", "group", "depthwise"),
    [
        ("Conv(x, w)", "4,4,1,1", 1, False),
        ("Conv<group=2>(x, w)", "4,2,1,1", 2, False),
        ("Conv<group=4>(x, w)", "4,1,1,1", 4, True),
        ("Conv<group=4>(x, w)", "8,1,1,1", 4, False),
    ],
)
def test_group_and_depthwise(call: str, weight: str, group: int, depthwise: bool) -> None:
    channels = weight.split(",")[0]
    found = only(parse(f"g (float[n,4,2,2] x) => (float[n,{channels},2,2] y) <float[{weight}] w> {{ y = {call} }}"))
    assert (found.group, found.depthwise) == (group, depthwise)


TABLES = {
    "": "y = Gather(t, i)",
    "its table is also read by MatMul 'm'": "y = Gather(t, i)  m = MatMul(x, t)",
    "does not look up along axis 0": "y = Gather<axis=1>(t, i)",
    "looks up in FLOAT[2, 3, 4], not in rows of float32": "y = Gather(u, i)",
}


@pytest.mark.parametrize(("why", "body"), TABLES.items(), ids=lambda text: text[:30])
def test_a_table_is_a_constant_that_rows_are_looked_up_in(why: str, body: str) -> None:
    model = parse(f"""g (int64[n] i, float[2,5] x) => (float[a,b] y) <float[5,4] t, float[2,3,4] u> {{ {body} }}""")
    found, refusals = tables(model)
    assert [table.name for table in found] == ([] if why else ["y"])
    assert [refusal.why for refusal in refusals] == ([why] if why else [])
