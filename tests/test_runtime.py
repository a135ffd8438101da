"""Sessions, what is missing to run them, inputs and states."""

import builtins
import importlib.metadata
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from onnxopt import files, runtime
from onnxopt.data import Batch
from onnxopt.errors import ModelError, RuntimeMissing, UsageError
from onnxopt.runtime import Session, check_state, input_specs, zero_state
from onnxopt.target import Target
from onnxopt.testing import parse

CPU = Target()
SUM = "g (float[1,2] x, float[1,2] s) => (float[1,2] y, float[1,2] next) { next = Add(x, s)  y = Neg(next) }"
ONES = np.ones((1, 2), np.float32)


def test_outputs_come_by_name() -> None:
    session = Session(parse(SUM), CPU)
    assert (session.inputs, session.outputs) == (("x", "s"), ("y", "next"))
    outputs = session.run({"x": ONES, "s": ONES})
    assert {name: value.tolist() for name, value in outputs.items()} == {"y": [[-2, -2]], "next": [[2, 2]]}


def test_a_path_is_loaded(tmp_path: Path) -> None:
    path = files.save(parse(SUM), tmp_path / "m.onnx")[0]
    assert Session(path, CPU, optimize=False, spinning=False).outputs == ("y", "next")


def test_a_model_over_the_limit_goes_through_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "SINGLE_FILE_LIMIT", 100)
    model = parse("g (float[1,600] x) => (float[1,4] y) <float[600,4] w> { y = MatMul(x, w) }")
    assert Session(model, CPU).run({"x": np.zeros((1, 600), np.float32)})["y"].tolist() == [[0, 0, 0, 0]]


def test_states_are_fed_back() -> None:
    batches = [Batch({"x": ONES}, None, 1) for _ in range(3)]
    start = zero_state(input_specs(parse(SUM)), {"s": "next"})
    stream = Session(parse(SUM), CPU).stream(batches, {"s": "next"}, start)
    assert [outputs["next"].tolist() for _, outputs in stream] == [[[1, 1]], [[2, 2]], [[3, 3]]]


def test_a_profile_has_the_seconds_of_each_node_in_each_run(tmp_path: Path) -> None:
    model = parse(SUM)
    for node in model.graph:
        node.name = f"{node.op_type} of {node.outputs[0].name}"
    session = Session(model, CPU, profile_in=tmp_path)
    for _ in range(3):
        session.run({"x": ONES, "s": ONES})
    durations = session.durations()
    assert {name: len(seconds) for name, seconds in durations.items()} == {"Add of next": 3, "Neg of y": 3}
    assert all(0 <= seconds < 1 for found in durations.values() for seconds in found)
    assert [path.name.startswith("profile") for path in tmp_path.iterdir()] == [True]


def test_only_times_of_kernels_are_read_in_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = [
        {"cat": "Session", "name": "model_run", "dur": 900},
        {"cat": "Node", "name": "a_fence_before", "dur": 800},
        {"cat": "Node", "name": "a_kernel_time", "dur": 7},
        {"cat": "Node", "name": "b_kernel_time_kernel_time", "dur": 1},
        {"cat": "Node", "name": "a_kernel_time", "dur": 2_000_000},
        {"name": "a_kernel_time"},
    ]
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(events))
    session = Session(parse(SUM), CPU)
    monkeypatch.setattr(session._session, "end_profiling", lambda: str(path))
    durations = session.durations()
    assert durations.keys() == {"a", "b_kernel_time"}
    assert durations["a"] == pytest.approx([7e-6, 2.0])


def test_the_optimized_graph_is_written(tmp_path: Path) -> None:
    text = "g (float[1,4] x) => (float[1,4] y) <float[4,4] w> { a = Identity(x)  h = MatMul(a, w)  y = Relu(h) }"
    Session(parse(text), CPU, save_as=tmp_path / "built.onnx")
    assert [node.op_type for node in onnx.load(tmp_path / "built.onnx").graph.node] == ["MatMul", "Relu"]


def test_wrong_feeds_are_a_model_error() -> None:
    with pytest.raises(ModelError, match="cannot run the model on these inputs"):
        Session(parse(SUM), CPU).run({"x": np.ones((1, 3), np.float32), "s": ONES})


@pytest.mark.parametrize(
    ("domain", "said"),
    [("my.domain", "operators of my.domain, which"), ("com.microsoft.extensions", "operators of com.microsoft.ext")],
)
def test_operators_that_the_runtime_does_not_know(domain: str, said: str) -> None:
    model = parse("g (float[1] x) => (float[1] y) { y = Relu(x) }", opsets={domain: 1})
    model.graph.node(0).domain = domain
    with pytest.raises(ModelError, match=said):
        Session(model, CPU)


def test_a_message_of_the_runtime_is_one_line() -> None:
    model = parse("g (float[1] x) => (float[1] y) { y = Relu(x) }")
    model.graph.node(0).op_type = "NoSuchOperator"
    with pytest.raises(ModelError) as error:
        Session(model, CPU)
    assert "NoSuchOperator" in str(error.value)
    assert "\n" not in str(error.value)
    assert "[ONNXRuntimeError]" not in str(error.value)


# --- what is missing ---


def test_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(RuntimeMissing) as error:
        runtime.version()
    assert "pip install 'onnxopt[cpu]'" in str(error.value)
    assert "pip install 'onnxopt[gpu]'" in str(error.value)


def test_installed_but_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def broken(name: str, *rest: Any) -> Any:
        if name == "onnxruntime":
            raise ImportError("libcudart.so.12: cannot open shared object file")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", broken)
    with pytest.raises(RuntimeMissing, match=r"installed but does not load: libcudart.so.12"):
        runtime.onnxruntime()


def test_a_provider_that_is_not_built_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime.onnxruntime(), "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(RuntimeMissing, match="--provider cuda needs the wheel onnxruntime-gpu"):
        Session(parse(SUM), Target("cuda"))


def test_a_provider_that_falls_back_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    ort = runtime.onnxruntime()

    class Fallen(ort.InferenceSession):  # type: ignore[misc, name-defined]
        def __init__(self, source: bytes, options: Any, providers: list[str], enable_fallback: int) -> None:
            super().__init__(source, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr("onnxopt.runtime.session.missing_gpu", lambda target: None)
    monkeypatch.setattr(ort, "InferenceSession", Fallen)
    with pytest.raises(RuntimeMissing, match="CUDAExecutionProvider does not start"):
        Session(parse(SUM), Target("cuda"))


@pytest.mark.parametrize(
    ("installed", "warned"),
    [({"onnxruntime", "onnxruntime-gpu"}, True), ({"onnxruntime"}, False), ({"onnxruntime-gpu"}, False)],
)
def test_both_distributions_give_a_warning(installed: set[str], warned: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(importlib.metadata, "version", version)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        runtime.warn_if_both_installed()
    assert [str(warning.message).endswith("uninstall one of them") for warning in caught] == [True] * warned


# --- inputs and states ---


def test_the_inputs_of_a_model() -> None:
    model = parse(
        "g (float[n,3] x, int64[1] k, string[2] t, float16[2] w) => (float[n,3] y) <float16[2] w> { y = Relu(x) }"
    )
    assert [(spec.name, str(spec)) for spec in input_specs(model)] == [
        ("x", "float32[n,3]"),
        ("k", "int64[1]"),
        ("t", "str_[2]"),
    ]


def test_an_input_that_is_no_tensor() -> None:
    sequence = helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None)
    length = helper.make_tensor_value_info("n", TensorProto.INT64, [])
    graph = helper.make_graph([helper.make_node("SequenceLength", ["s"], ["n"])], "g", [sequence], [length])
    message = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(message)
    with pytest.raises(ModelError, match="input 's' is not a tensor"):
        input_specs(ir.serde.deserialize_model(message))


def test_a_state_starts_at_zero_with_dynamic_dimensions_of_1() -> None:
    model = parse("g (float[1] x, float16[n,3] s) => (float16[n,3] y) { y = Neg(s) }")
    start = zero_state(input_specs(model), {"s": "y"})
    assert (start["s"].shape, start["s"].dtype, start["s"].any()) == ((1, 3), np.float16, False)


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"ss": "y"}, "--state ss: the model has no input 'ss'; did you mean 's'?"),
        ({"s": "nxt"}, "--state s=nxt: the model has no output 'nxt'; did you mean 'next'?"),
    ],
)
def test_states_that_are_not_there(state: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError) as error:
        check_state(parse(SUM), state)
    assert str(error.value) == said
