"""Nodes on the CPU although the GPU was asked for: which, why, and when that is an error."""

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import pytest

from onnxopt import files, runtime
from onnxopt.errors import UsageError
from onnxopt.runtime import Fallback, Session, fallback, fallbacks, notes, told
from onnxopt.runtime.fallback import explained, require_gpu, shape_computation
from onnxopt.runtime.placement import RECORD, Placed, placed
from onnxopt.target import Target
from onnxopt.testing import lines, parse

CPU, GPU = "CPUExecutionProvider", "CUDAExecutionProvider"
CUDA = Target("cuda")
NET = """g (float[n,4] x, int64[1] k) => (float[n,4] y, int64[n] m) <int64[2] p, float[200] big>
{ [s] s = Shape(x)  [u] u = Add(s, k)  [v] v = Mul(u, p)  [h] h = Celu(x)  [r] r = Reshape(h, v)
  [y] y = Relu(r)  [m] m = ArgMax<axis=1, keepdims=0>(y)  }"""


def named(text: str) -> ir.Model:
    """A model of which every node has the name of its output."""
    model = parse(text, opset=20)
    for node in model.graph:
        node.name = node.outputs[0].name
    return model


def on_cpu(model: ir.Model, *names: str) -> list[Placed]:
    return [Placed(CPU, node.op_type, node.name or "") for node in model.graph if node.name in names]


class Kernels:
    """A GPU that has these operators, by the type of what they read first; it notes what it was asked."""

    def __init__(self, *known: tuple[str, str]) -> None:
        self.known, self.asked = known, list[str]()

    def __call__(self, model: ir.Model) -> bool:
        (node,) = model.graph
        (first, *_) = node.inputs
        assert first is not None
        assert first.dtype is not None
        self.asked.append(f"{node.op_type} {first.dtype.name}")
        files.to_bytes(model)  # what is asked is a model
        return (node.op_type, first.dtype.name) in self.known


def why(found: Sequence[Fallback]) -> dict[str, str]:
    return {one.node: one.why for one in found}


def test_what_computes_shapes_is_told_apart() -> None:
    model = named(NET)
    assert {node.name for node in shape_computation(model)} == {"s", "u", "v"}
    found = explained(model, on_cpu(model, "u", "v", "h"), Kernels())
    assert [(one.node, one.deliberate) for one in found] == [("h", False), ("u", True), ("v", True)]
    assert why(found)["u"] == "it computes shapes"


NOT_SHAPES = {
    "numbers of an input alone": "g (int64[2] k) => (int64[2] y) { y = Neg(k) }",
    "beside a large constant": "g (float[200] x) => (int64[200] y) <int64[200] c> { s = Shape(x)  y = Add(s, c) }",
    "beside what the GPU computes": "g (float[1] x, int64[1] k) => (int64[1] y) { j = Neg(k)  s = Shape(x)  y = Add(s, j) }",
    "half floats": "g (float[2] x) => (float16[1] y) { s = Shape(x)  h = Cast<to=10>(s)  y = Neg(h) }",
}


@pytest.mark.parametrize("text", NOT_SHAPES.values(), ids=NOT_SHAPES.keys())
def test_what_does_not_compute_shapes(text: str) -> None:
    model = named(text)
    model.graph.sort()
    for node in model.graph:
        if node.op_type == "Cast":
            node.outputs[0].dtype = ir.DataType.FLOAT16
    assert "y" not in {node.name for node in shape_computation(model)}


def test_an_operator_without_a_kernel() -> None:
    model = named(NET)
    kernels = Kernels()
    assert why(explained(model, on_cpu(model, "h"), kernels)) == {"h": "CUDA has no kernel for Celu"}
    assert kernels.asked == ["Celu FLOAT", "Celu FLOAT16"]


def test_a_type_without_a_kernel() -> None:
    model = named("g (int64[3,3] a, double[2] b) => (int64[3,3] y, double[2] z) { y = MatMul(a, a)  z = Elu(b) }")
    kernels = Kernels(("MatMul", "FLOAT"), ("Elu", "FLOAT"))
    found = explained(model, on_cpu(model, "y", "z"), kernels)
    assert why(found) == {
        "y": "CUDA has a kernel for MatMul of float, not of int64",
        "z": "CUDA has a kernel for Elu of float, not of double",
    }


def test_a_node_that_follows_another() -> None:
    model = named("g (float[2] x) => (float[2] y) { [h] h = Celu(x)  [y] y = Neg(h) }")
    found = explained(model, on_cpu(model, "h", "y"), Kernels(("Neg", "FLOAT")))
    assert why(found) == {"h": "CUDA has no kernel for Celu", "y": "it reads what 'h' gives there"}


def test_a_node_for_which_no_reason_is_found() -> None:
    model = named("g (float[2] x) => (float[2] y) { y = Neg(x) }")
    assert why(explained(model, on_cpu(model, "y"), lambda _: None)) == {"y": "ONNX Runtime does not say why"}
    found = explained(model, on_cpu(model, "y"), Kernels(("Neg", "FLOAT")))
    assert why(found) == {"y": "ONNX Runtime expects it to be faster there"}


def test_other_kinds_of_nodes() -> None:
    model = named("g (float[2] x) => (float[2] y) { y = my.Thing(x) }".replace("my.Thing", "Neg"))
    model.graph.node(0).domain = "my.domain"
    there = [Placed(CPU, "my.domain:Neg", "y"), Placed(CPU, "Cast", "InsertedCast_1")]
    assert why(explained(model, there, Kernels())) == {
        "y": "operators of my.domain have no CUDA kernel",
        "InsertedCast_1": "ONNX Runtime made it itself",
    }


def test_nodes_that_onnx_runtime_made_may_compute_shapes_too() -> None:
    model = named("g (float[2] x) => (float[2] y) { y = Neg(x) }")
    built = named("g (float[2] x) => (int64[1] size, float[2] z) { s = Shape(x)  size = Neg(s)  z = Neg(x) }")
    there = [Placed(CPU, "Neg", "size"), Placed(CPU, "Neg", "z")]
    found = explained(model, there, Kernels(), built)
    assert [(one.node, one.deliberate) for one in found] == [("z", False), ("size", True)]
    assert why(found)["z"] == "ONNX Runtime made it itself"


def test_equal_nodes_are_asked_for_once() -> None:
    model = named("g (float[2] x) => (float[2] y) { h = Celu(x)  i = Celu(h)  y = Celu(i) }")
    kernels = Kernels()
    assert len(explained(model, on_cpu(model, "h", "i", "y"), kernels)) == 3
    assert len(kernels.asked) == 2


def test_a_constant_stays_one_where_a_node_is_asked_for_alone() -> None:
    model = named("g (float[2,3] x) => (float[3,2] y) <int64[2] s, float[20,3] w> { y = Unsqueeze(x, s) }")
    asked: list[str] = []
    explained(model, on_cpu(model, "y"), lambda one: asked.extend(lines(one)))
    assert asked == ["Unsqueeze(x0, const) -> y0"]


REAL = [Fallback(f"n{number}", "Celu", "CUDA has no kernel for Celu") for number in range(5)]
MEANT = [Fallback("s", "Shape", "it computes shapes", True), Fallback("t", "Gather", "it computes shapes", True)]


def test_sentences() -> None:
    assert told([]) == ()
    (sentence,) = told(REAL[:1])
    assert sentence.startswith(
        "1 node runs on the CPU (Celu 'n0': CUDA has no kernel for Celu); what they read and give"
    )
    assert sentence.endswith(" is copied (--require-gpu refuses that)")
    (real, meant) = told([*REAL, *MEANT])
    assert real.startswith("5 nodes run on the CPU (Celu 'n0': ")
    assert "; and 2 more)" in real
    (single,) = told(MEANT[:1])
    assert single == "1 node that computes shapes (Shape 1) runs on the CPU, where ONNX Runtime wants it"
    assert meant == "2 nodes that compute shapes (Shape 1, Gather 1) run on the CPU, where ONNX Runtime wants them"


def test_they_are_ready_for_json() -> None:
    why = "CUDA has no kernel for Celu"
    assert REAL[0].to_dict() == {"node": "n0", "operator": "Celu", "why": why, "deliberate": False}


def test_on_the_cpu_there_are_none() -> None:
    assert fallbacks(named(NET), Target()) == ()
    assert notes(named(NET), Target()) == ()


def test_a_model_that_must_be_on_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    model = named(NET)
    there = (Placed(GPU, "Relu", "y"), Placed(CPU, "Celu", "h"))
    target = Target("cuda", require_gpu=True)
    monkeypatch.setattr(fallback, "fallbacks", lambda *_: (*REAL, *MEANT))
    with pytest.raises(UsageError) as error:
        require_gpu(model, target, there)
    assert str(error.value).startswith(
        "--require-gpu: 5 nodes run on the CPU (Celu 'n0': CUDA has no kernel for Celu; "
    )
    assert error.value.exit_code == 2
    with pytest.raises(UsageError, match=r"cannot say where its nodes are; 1\.24 and newer can"):
        require_gpu(model, target, None)
    monkeypatch.setattr(fallback, "fallbacks", lambda *_: tuple(MEANT))
    require_gpu(model, target, there)
    monkeypatch.setattr(fallback, "fallbacks", None)
    require_gpu(model, target, there[:1])


def test_what_onnx_runtime_really_tells() -> None:
    """Of the CPU: the same data as of a GPU."""
    ort = runtime.onnxruntime()
    options = ort.SessionOptions()
    options.add_session_config_entry(RECORD, "1")
    found = placed(ort.InferenceSession(files.to_bytes(named(NET)), options, providers=[CPU]))
    assert found is not None
    assert Placed(CPU, "Celu", "h") in found
    assert {one.node for one in found} >= {"s", "u", "v", "h", "r", "y", "m"}
    assert all(one.on_cpu for one in found)


def test_an_older_onnx_runtime_cannot_tell() -> None:
    assert placed(object()) is None


def test_a_session_gets_the_options_of_its_target(made: list[Any]) -> None:
    options = {"use_tf32": "0"}
    model = parse("g (float[2] x) => (float[2] y) { y = Relu(x) }")
    Session(model, Target("cuda", provider_options=options, device_id=1))
    Session(model, Target("cuda", cuda_graph=True))
    Session(model, Target("cuda", cuda_graph=True), optimize=False)
    assert [providers for providers, *_ in made] == [
        [(GPU, {"use_tf32": "0", "device_id": "1"}), CPU],
        [(GPU, {"enable_cuda_graph": "1"}), CPU],
        [(GPU, {}), CPU],
    ]
    assert {tuple(rest) for _, *rest in made} == {(0, "1")}


def test_every_node_of_a_model_on_the_cpu_is_explained(made: list[Any]) -> None:
    """The whole way: ONNX Runtime's own word on a model that is really on the CPU."""
    found = fallbacks(parse(NET.replace("[s] ", ""), opset=20), CUDA)
    assert {one.node: one.deliberate for one in found} == {
        "s": True, "u": True, "v": True, "h": False, "r": False, "y": False, "m": False,
    }  # fmt: skip
    assert why(found)["h"] == "CUDA has no kernel for Celu"


def test_a_session_that_must_be_on_the_gpu(made: list[Any]) -> None:
    target = Target("cuda", require_gpu=True)
    with pytest.raises(UsageError, match="--require-gpu: 4 nodes run on the CPU"):
        Session(named(NET), target)
    Session(named(NET), target, optimize=False)  # a graph that nobody runs like this


def test_a_cuda_graph_wants_fixed_shapes(made: list[Any]) -> None:
    with pytest.raises(UsageError, match="input 'x' has the dimension 'n': add --shape n="):
        Session(named(NET), Target("cuda", cuda_graph=True))
    Session(named(NET), Target("cuda", cuda_graph=True, shapes={"n": (2,)}))
    Session(named(NET), Target("cuda", cuda_graph=True, shapes={"x": (2, 4)}))


def test_a_cuda_graph_that_cannot_be_captured_says_why(made: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    ort = runtime.onnxruntime()
    silent = ort.InferenceSession

    def refuse(source: bytes, options: Any, providers: list[Any], enable_fallback: int) -> Any:
        if "enable_cuda_graph" in providers[0][1]:
            raise RuntimeError("This session cannot use the graph capture feature as requested by the user")
        return silent(source, options, providers, enable_fallback)

    monkeypatch.setattr(ort, "InferenceSession", refuse)
    with pytest.raises(UsageError, match="--cuda-graph needs all nodes on the GPU, and 4 nodes run on the CPU"):
        Session(named(NET), Target("cuda", cuda_graph=True))
    monkeypatch.setattr(fallback, "fallbacks", lambda *_: ())
    with pytest.raises(UsageError, match="--cuda-graph: ONNX Runtime cannot capture this model: This session cannot"):
        Session(named(NET), Target("cuda", cuda_graph=True))
