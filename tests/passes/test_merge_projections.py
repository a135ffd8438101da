"""MergeProjections."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxopt import files
from onnxopt.core import Context, Refusal
from onnxopt.passes.fuse.merge_projections import MergeProjections
from onnxopt.testing import CPU, assert_refuses, assert_rewrites, assert_same_outputs, lines, parse, run_pass

WEIGHTS = "float[8,4] w, float[8,4] u, float[8,6] v, float[4] b, float[4] c, float[6] d"
OUT = "float[2,5,4] q, float[2,5,4] k, float[2,5,6] v3"


def graph(body: str, *, x: str = "float[2,5,8] x", y: str = OUT, more: str = "") -> str:
    return f"g ({x}) => ({y}) <{WEIGHTS}{more}> {{ {body} }}"


MERGED = {
    "without biases": (
        "q = MatMul(x, w)  k = MatMul(x, u)  v3 = MatMul(x, v)",
        ["MatMul(x, const) -> q/MatMul", "Split(q/MatMul, const) -> q, k, v3"],
    ),
    "with biases on either side": (
        "q0 = MatMul(x, w)  q = Add(q0, b)  k0 = MatMul(x, u)  k = Add(c, k0)  v0 = MatMul(x, v)  v3 = Add(v0, d)",
        ["MatMul(x, const) -> q/MatMul", "Add(q/MatMul, const) -> q/Add", "Split(q/Add, const) -> q, k, v3"],
    ),
    "one of them without a bias": (
        "q0 = MatMul(x, w)  q = Add(q0, b)  k = MatMul(x, u)  v0 = MatMul(x, v)  v3 = Add(v0, d)",
        ["MatMul(x, const) -> q/MatMul", "Add(q/MatMul, const) -> q/Add", "Split(q/Add, const) -> q, k, v3"],
    ),
    "biases added by Sum": (
        "q = MatMul(x, w)  k0 = MatMul(x, u)  k = Sum(k0, c)  v0 = MatMul(x, v)  v3 = Sum(v0, d)",
        ["MatMul(x, const) -> q/MatMul", "Sum(q/MatMul, const) -> q/Sum", "Split(q/Sum, const) -> q, k, v3"],
    ),
    "all after their readers' other operands": (
        "q = MatMul(x, w)  r = Relu(q)  k0 = MatMul(x, u)  k = Add(k0, r)  v0 = MatMul(x, v)  v3 = Add(v0, d)",
        [
            "MatMul(x, const) -> q/MatMul",
            "Add(q/MatMul, const) -> q/Add",
            "Split(q/Add, const) -> q, k0, v3",
            "Relu(q) -> r",
            "Add(k0, r) -> k",
        ],
    ),
}


@pytest.mark.parametrize(("body", "after"), MERGED.values(), ids=MERGED.keys())
@pytest.mark.parametrize("opset", [13, 17, 20])
def test_merges(body: str, after: list[str], opset: int) -> None:
    model = assert_rewrites(MergeProjections(), graph(body), opset=opset, after=after)
    weights = [value.shape for value in model.graph.initializers.values() if len(value.shape) == 2]
    assert weights == [(8, 14)]


@pytest.mark.parametrize("rows", ["", "3,", "2,3,2,", "n,t,"])
def test_merges_any_rank(rows: str) -> None:
    text = graph(
        "q = MatMul(x, w)  k0 = MatMul(x, u)  k = Add(k0, c)",
        x=f"float[{rows}8] x",
        y=f"float[{rows}4] q, float[{rows}4] k",
    )
    after = ["MatMul(x, const) -> q/MatMul", "Add(q/MatMul, const) -> q/Add", "Split(q/Add, const) -> q, k"]
    assert_rewrites(MergeProjections(), text, after=after)


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("biases", [("", ""), (", b", ""), ("", ", c"), (", b", ", one"), (", row", ", c")])
@pytest.mark.parametrize("factors", ["", "alpha=0.5, beta=2.0, "])
def test_merges_gemm(transposed: int, biases: tuple[str, str], factors: str) -> None:
    weights = "float[4,8] w, float[4,8] u" if transposed else "float[8,4] w, float[8,4] u"
    text = f"""g (float[3,8] x) => (float[3,4] q, float[3,4] k) <{weights}, float[4] b, float[4] c, float one, float[1,4] row>
        {{ q = Gemm<{factors}transB={transposed}>(x, w{biases[0]})  k = Gemm<{factors}transB={transposed}>(x, u{biases[1]}) }}"""
    inside = ", const" if any(biases) else ""
    after = [f"Gemm(x, const{inside}) -> q/Gemm", "Split(q/Gemm, const) -> q, k"]
    assert_rewrites(MergeProjections(), text, after=after)


def test_merges_gemms_of_a_transposed_value() -> None:
    text = """g (float[8,3] x) => (float[3,4] q, float[3,4] k) <float[8,4] w, float[8,4] u>
        { q = Gemm<transA=1>(x, w)  k = Gemm<transA=1>(x, u) }"""
    assert_rewrites(MergeProjections(), text, after=["Gemm(x, const) -> q/Gemm", "Split(q/Gemm, const) -> q, k"])


@pytest.mark.parametrize(("dtype", "rtol"), [("float16", 4e-3), ("double", 1e-14)])
def test_keeps_the_type(dtype: str, rtol: float) -> None:
    text = f"""g ({dtype}[2,8] x) => ({dtype}[2,4] q, {dtype}[2,4] k) <{dtype}[8,4] w, {dtype}[8,4] u, {dtype}[4] b>
        {{ q = MatMul(x, w)  h = MatMul(x, u)  k = Add(h, b) }}"""
    after = ["MatMul(x, const) -> q/MatMul", "Add(q/MatMul, const) -> q/Add", "Split(q/Add, const) -> q, k"]
    assert_rewrites(MergeProjections(), text, after=after, rtol=rtol)


def test_leaves_a_bias_that_can_be_overridden_where_it_is() -> None:
    text = graph(
        "h = MatMul(x, w)  q = Add(h, b)  k = MatMul(x, u)",
        x="float[2,5,8] x, float[4] b",
        y="float[2,5,4] q, float[2,5,4] k",
    )
    after = ["MatMul(x, const) -> h/MatMul", "Split(h/MatMul, const) -> h, k", "Add(h, b) -> q"]
    assert_rewrites(MergeProjections(), text, after=after)


def test_leaves_a_bias_whose_operand_is_read_twice_where_it_is() -> None:
    text = graph(
        "h = MatMul(x, w)  q = Add(h, b)  k = MatMul(x, u)", y="float[2,5,4] q, float[2,5,4] k, float[2,5,4] h"
    )
    after = ["MatMul(x, const) -> h/MatMul", "Split(h/MatMul, const) -> h, k", "Add(h, const) -> q"]
    assert_rewrites(MergeProjections(), text, after=after)


def test_merges_each_value_by_itself() -> None:
    text = graph(
        "z = Neg(x)  q0 = MatMul(x, w)  k0 = MatMul(z, u)  q1 = MatMul(x, w2)  k1 = MatMul(z, u2)  q = Add(q0, q1)  k = Add(k0, k1)",
        y="float[2,5,4] q, float[2,5,4] k",
        more=", float[8,4] w2, float[8,4] u2",
    )
    after = [
        "Neg(x) -> z",
        "MatMul(x, const) -> q0/MatMul",
        "Split(q0/MatMul, const) -> q0, q1",
        "MatMul(z, const) -> k0/MatMul",
        "Split(k0/MatMul, const) -> k0, k1",
        "Add(q0, q1) -> q",
        "Add(k0, k1) -> k",
    ]
    assert_rewrites(MergeProjections(), text, after=after)


def test_merges_inside_a_branch_and_apart_from_it() -> None:
    text = f"""g (float[3,8] x, bool o) => (float[3,4] y) <{WEIGHTS}> {{
        h = MatMul(x, w)
        y = If<then_branch = t () => (float[3,4] yt) {{ q = MatMul(x, u)  k = MatMul(x, u2)  yt = Add(q, k) }},
               else_branch = e () => (float[3,4] ye) {{ ye = Relu(h) }}>(o) }}""".replace(
        "<float[8,4] w", "<float[8,4] u2, float[8,4] w"
    )
    after = [
        "MatMul(x, const) -> h",
        "If(o) -> y",
        "  MatMul(x, const) -> q/MatMul",
        "  Split(q/MatMul, const) -> q, k",
        "  Add(q, k) -> yt",
        "  Relu(h) -> ye",
    ]
    assert_rewrites(MergeProjections(), text, after=after, o=np.array(True))


def test_merges_the_rest_where_one_is_refused() -> None:
    text = graph(
        "q = MatMul(x, w)  k = MatMul(x, u)  r = Transpose<perm=[1,0]>(v)  v0 = MatMul(x, v)  v3 = MatMul(v0, r)",
        y="float[2,5,4] q, float[2,5,4] k, float[2,5,8] v3",
    )
    model = parse(text)
    found = MergeProjections().run(model, Context(CPU))
    assert found[0] == Refusal("v0", "its weight 'v' is also read elsewhere")
    assert len(found) == 2
    assert lines(model)[1] == "Split(q/MatMul, const) -> q, k"
    assert_same_outputs(parse(text), model)


TWO = {"y": "float[2,5,4] q, float[2,5,4] k"}
REFUSED = {
    "weight read elsewhere": (
        "'u' is also read elsewhere",
        graph("q = MatMul(x, w)  k = MatMul(x, u)  r = Neg(u)", y=f"{TWO['y']}, float[8,4] r"),
    ),
    "weight can be overridden": (
        "'u' can be overridden",
        graph("q = MatMul(x, w)  k = MatMul(x, u)", x="float[2,5,8] x, float[8,4] u", **TWO),
    ),
    "weight is an output": (
        "'u' is also read elsewhere",
        f"g (float[2,5,8] x) => ({TWO['y']}, float[8,4] u) <{WEIGHTS}> {{ q = MatMul(x, w)  k = MatMul(x, u) }}",
    ),
    "gemm with a bias per row": (
        "'rows' is not one constant per output",
        """g (float[3,8] x) => (float[3,4] q, float[3,4] k) <float[8,4] w, float[8,4] u, float[3,1] rows>
        { q = Gemm(x, w, rows)  k = Gemm(x, u) }""",
    ),
    "gemm with as many rows as outputs and a bias per row": (
        "'rows' is not one constant per output",
        """g (float[4,8] x) => (float[4,4] q, float[4,4] k) <float[8,4] w, float[8,4] u, float[4,1] rows>
        { q = Gemm(x, w, rows)  k = Gemm(x, u) }""",
    ),
    "gemm whose bias is an input": (
        "'b' is not one constant per output",
        """g (float[3,8] x, float[4] b) => (float[3,4] q, float[3,4] k) <float[8,4] w, float[8,4] u>
        { q = Gemm(x, w, b)  k = Gemm(x, u) }""",
    ),
}


@pytest.mark.parametrize(("why", "text"), REFUSED.values(), ids=REFUSED.keys())
def test_refuses(why: str, text: str) -> None:
    assert_refuses(MergeProjections(), text, why)


def test_refuses_sparse_weights(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[2,8] x) => (float[2,4] q, float[2,4] k)
        <float[8,4] u = {1}> { q = MatMul(x, w)  k = MatMul(x, u) }""".replace(
            "= {1}", "= {" + ", ".join("1" * 32) + "}"
        )
    )
    values, places = np.float32([1, 2]), np.int64([3, 17])
    held = [onnx.numpy_helper.from_array(*pair) for pair in ((values, "w"), (places, "w_indices"))]
    proto.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(*held, [8, 4]))
    (tmp_path / "sparse.onnx").write_bytes(proto.SerializeToString())
    found = MergeProjections().run(files.load(tmp_path / "sparse.onnx"), Context(CPU))
    assert found == [Refusal("q", "its weight 'w' is sparse")]


NOT_THERE = {
    "one projection": graph("q = MatMul(x, w)", y="float[2,5,4] q"),
    "projections of different values": graph(
        "q = MatMul(x, w)  z = Neg(x)  k = MatMul(z, u)",
        **TWO,
    ),
    "products of activations": "g (float[3,3] x, float[3,3] z) => (float[3,3] q, float[3,3] k) { q = MatMul(x, z)  k = MatMul(x, x) }",
    "a batch of matrices": "g (float[2,3,8] x) => (float[2,3,4] q, float[2,3,4] k) <float[2,8,4] w, float[2,8,4] u> { q = MatMul(x, w)  k = MatMul(x, u) }",
    "gemms of other factors": """g (float[3,8] x) => (float[3,4] q, float[3,4] k) <float[8,4] w, float[8,4] u>
        { q = Gemm<alpha=0.5>(x, w)  k = Gemm(x, u) }""",
    "gemm and matmul": """g (float[3,8] x) => (float[3,4] q, float[3,4] k) <float[8,4] w, float[8,4] u>
        { q = Gemm(x, w)  k = MatMul(x, u) }""",
    "quantized weights": """g (float[3,8] x) => (float[3,4] q, float[3,4] k) <int8[8,4] w, int8[8,4] u, float s = {0.1}>
        { w2 = DequantizeLinear(w, s)  u2 = DequantizeLinear(u, s)  q = MatMul(x, w2)  k = MatMul(x, u2) }""",
}


@pytest.mark.parametrize("text", NOT_THERE.values(), ids=NOT_THERE.keys())
def test_says_nothing_where_there_is_nothing_to_merge(text: str) -> None:
    assert_refuses(MergeProjections(), text, None)


def test_leaves_old_opsets() -> None:
    assert_refuses(MergeProjections(), graph("q = MatMul(x, w)  k = MatMul(x, u)", **TWO), None, opset=12)


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_merges_query_key_and_value_of_an_exported_layer(exporter: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from onnxopt.export.convert import Exporter
    from onnxopt.export.export import Settings, export
    from onnxopt.models.zoo import find

    network = find("minilm_l6")
    module = network.build({"hidden": 24, "heads": 3, "ffn": 48, "layers": 2})
    before = export(module, tmp_path / "net.onnx", network.inputs, Settings(exporter=Exporter(exporter))).model
    model = before.clone()
    changes = run_pass(MergeProjections(), model)
    assert [change.what.split()[0] for change in changes] == ["3", "3"]
    operators = [line.strip().split("(")[0] for line in lines(model)]
    assert operators.count("Split") == 2
    assert_same_outputs(before, model, token_type_ids=np.array([[0, 1, 1]]))
