"""ResidualSum."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxopt import files
from onnxopt.core import Context, Refusal
from onnxopt.passes.fuse.residual_sum import ResidualSum
from onnxopt.target import Target
from onnxopt.testing import CPU, assert_refuses, assert_rewrites, assert_same_outputs, lines, parse, run_pass

X = "float[2,4,8] x"
PARAMS = "float[8] s, float[8] b, float[8] c, float[2,4,8] k, float[8,8] w, float two = {2}, float tiny = {0.00001}"
NORM = "y = LayerNormalization(h, s, b)"
WRITTEN_OUT = """m = ReduceMean<axes=[-1]>(h)  d = Sub(h, m)  q = Pow(d, two)  v = ReduceMean<axes=[-1]>(q)
    e = Add(v, tiny)  r = Sqrt(e)  n = Div(d, r)  u = Mul(n, s)  y = Add(u, b)"""


def graph(body: str, *, x: str = f"{X}, float[2,4,8] z", y: str = "float[2,4,8] y") -> str:
    return f"g ({x}) => ({y}) <{PARAMS}> {{ {body} }}"


def kernels(text: str, path: Path, *, opset: int = 20, rewritten: bool) -> list[str]:
    """The operators that ONNX Runtime makes of a model when it loads it."""
    ort = pytest.importorskip("onnxruntime", reason="what it fuses is seen only with it")
    model = parse(text, opset=opset)
    if rewritten:
        assert run_pass(ResidualSum(), model)
    options = ort.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(path / "optimized.onnx"), 4
    ort.InferenceSession(files.to_bytes(model), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(path / "optimized.onnx").graph.node]


FUSED = {
    "two activations": (graph(f"h = Add(x, z)  {NORM}"), ["Sum(x, z) -> h"], 20),
    "no bias in the norm": (graph("h = Add(x, z)  y = LayerNormalization(h, s)"), ["Sum(x, z) -> h"], 20),
    "a value with itself": (graph(f"h = Add(x, x)  {NORM}", x=X), ["Sum(x, x) -> h"], 20),
    "a constant of the same shape": (graph(f"h = Add(x, k)  {NORM}", x=X), ["Sum(x, const) -> h"], 20),
    "a bias before, on the left": (
        graph(f"a = Add(x, c)  h = Add(a, z)  {NORM}"),
        ["Add(x, const) -> a", "Sum(a, z) -> h"],
        20,
    ),
    "a bias before, on the right": (
        graph(f"a = Add(z, c)  h = Add(x, a)  {NORM}"),
        ["Add(z, const) -> a", "Sum(x, a) -> h"],
        17,
    ),
    "a linear layer before": (
        graph(f"p = MatMul(x, w)  a = Add(p, c)  h = Add(a, z)  {NORM}"),
        ["MatMul(x, const) -> p", "Add(p, const) -> a", "Sum(a, z) -> h"],
        20,
    ),
    "three activations": (
        graph(f"a = Add(x, z)  h = Add(a, r)  {NORM}", x=f"{X}, float[2,4,8] z, float[2,4,8] r"),
        ["Add(x, z) -> a", "Sum(a, r) -> h"],
        20,
    ),
    "symbolic sizes": (
        graph(f"h = Add(x, z)  {NORM}", x="float[n,t,8] x, float[n,t,8] z", y="float[n,t,8] y"),
        ["Sum(x, z) -> h"],
        20,
    ),
    "shapes to be inferred": (
        graph(f"p = MatMul(x, w)  r = Relu(z)  h = Add(p, r)  {NORM}"),
        ["MatMul(x, const) -> p", "Relu(z) -> r", "Sum(p, r) -> h"],
        20,
    ),
}


@pytest.mark.parametrize(("text", "after", "opset"), FUSED.values(), ids=FUSED.keys())
def test_rewrites_what_onnxruntime_fuses(text: str, after: list[str], opset: int, tmp_path: Path) -> None:
    norm = "LayerNormalization(h, const) -> y" if "(h, s)" in text else "LayerNormalization(h, const, const) -> y"
    assert_rewrites(ResidualSum(), text, opset=opset, after=[*after, norm])
    assert "SkipLayerNormalization" in kernels(text, tmp_path, opset=opset, rewritten=False)
    assert "SkipLayerNormalization" not in kernels(text, tmp_path, opset=opset, rewritten=True)


@pytest.mark.parametrize("opset", [9, 11, 13, 17])
def test_rewrites_before_a_norm_written_out(opset: int, tmp_path: Path) -> None:
    text = graph(f"h = Add(x, z)  {WRITTEN_OUT}")
    model = parse(text, opset=opset)
    assert len(run_pass(ResidualSum(), model)) == 1
    assert lines(model)[0] == "Sum(x, z) -> h"
    assert_same_outputs(parse(text, opset=opset), model, rtol=0.0)
    assert "SkipLayerNormalization" in kernels(text, tmp_path, opset=opset, rewritten=False)
    assert kernels(text, tmp_path, opset=opset, rewritten=True) == ["Sum", "LayerNormalization"]


def test_rewrites_inside_a_branch() -> None:
    text = graph(
        """y = If<then_branch = t () => (float[2,4,8] yt) { h = Add(x, z)  yt = LayerNormalization(h, s, b) },
               else_branch = e () => (float[2,4,8] ye) { ye = Relu(x) }>(o)""",
        x=f"{X}, float[2,4,8] z, bool o",
    )
    after = ["If(o) -> y", "  Sum(x, z) -> h", "  LayerNormalization(h, const, const) -> yt", "  Relu(x) -> ye"]
    assert_rewrites(ResidualSum(), text, after=after, o=np.array(True))


UNFUSED = {
    "the sum is read by the next shortcut": graph("h = Add(x, z)  l = LayerNormalization(h, s, b)  y = Add(h, l)"),
    "the sum is an output": graph(f"h = Add(x, z)  {NORM}", y="float[2,4,8] y, float[2,4,8] h"),
    "the bias of a linear layer": graph(f"p = MatMul(x, w)  h = Add(p, c)  {NORM}", x=X),
    "a shortcut that is broadcast": graph(f"h = Add(x, z)  {NORM}", x=f"{X}, float[1,4,8] z"),
    "a matrix": graph(f"h = Add(x, z)  {NORM}", x="float[4,8] x, float[4,8] z", y="float[4,8] y"),
    "rank 4": graph(f"h = Add(x, z)  {NORM}", x="float[2,3,4,8] x, float[2,3,4,8] z", y="float[2,3,4,8] y"),
    "no norm after it": graph("h = Add(x, z)  y = Relu(h)"),
    "a sum already": graph(f"h = Sum(x, z)  {NORM}"),
}


@pytest.mark.parametrize("text", UNFUSED.values(), ids=UNFUSED.keys())
def test_says_nothing_where_onnxruntime_does_not_fuse(text: str, tmp_path: Path) -> None:
    assert_refuses(ResidualSum(), text, None)
    assert "SkipLayerNormalization" not in kernels(text, tmp_path, rewritten=False)


NOT_THERE = {
    "double": "g (double[2,4,8] x) => (double[2,4,8] y) <double[8] s> { h = Add(x, x)  y = LayerNormalization(h, s) }",
    "the sum is the norm's scale": graph("h = Add(s, b)  y = LayerNormalization(x, h)", x=X),
    "a mean and a difference of other values": graph(
        "h = Add(x, z)  p = Constant<value_ints = [-1]>()  m = ReduceMean(h, p)  y = Sub(h, x)",
        y="float[2,4,8] y, float[2,4,1] m",
    ),
}


@pytest.mark.parametrize("text", NOT_THERE.values(), ids=NOT_THERE.keys())
def test_leaves(text: str) -> None:
    assert_refuses(ResidualSum(), text, None)


def test_leaves_opsets_without_broadcasting_sum() -> None:
    assert_refuses(ResidualSum(), graph(f"h = Add(x, z)  {WRITTEN_OUT}"), None, opset=7)


def test_refuses_on_a_gpu() -> None:
    (found,) = ResidualSum().run(parse(graph(f"h = Add(x, z)  {NORM}")), Context(Target("cuda")))
    assert found == Refusal("h", "on cuda the fused kernel is fast")


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_rewrites_both_shortcuts_of_an_exported_layer(exporter: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from onnxopt.export.convert import Exporter
    from onnxopt.export.export import Settings, export
    from onnxopt.models.zoo import find

    network = find("minilm_l6")
    module = network.build({"hidden": 24, "heads": 3, "ffn": 48, "layers": 1, "vocab": 30522})
    before = export(module, tmp_path / "net.onnx", network.inputs, Settings(exporter=Exporter(exporter))).model
    model = before.clone()
    changes = ResidualSum().run(model, Context(CPU))
    assert [line.split("(")[0] for line in lines(model)].count("Sum") == len(changes) >= 2
    assert_same_outputs(before, model, rtol=0.0, token_type_ids=np.array([[0, 1, 1]]))
