"""Runs with inputs and outputs in fixed memory: on the CPU for real, on the GPU with what ONNX Runtime is asked."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from onnxopt import files, runtime
from onnxopt.errors import ModelError
from onnxopt.runtime import Session, binding
from onnxopt.runtime.binding import bound
from onnxopt.target import Target
from onnxopt.testing import parse

TEXT = """g (float[n,4] x, int64[1] k) => (float[n,3] y, int64[2] s) <float[4,3] w>
{ y = MatMul(x, w)  t = Shape(y)  s = Add(t, k) }"""
FEEDS = {"x": np.arange(8, dtype=np.float32).reshape(2, 4), "k": np.array([5])}


class Watched:
    """An IO binding that notes what is asked of it."""

    def __init__(self, real: Any, log: list[Any]) -> None:
        self.real, self.log = real, log

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any) -> Any:
            self.log.append((name, *args))
            return getattr(self.real, name)(*args)

        return call


@pytest.fixture
def loaded() -> Callable[[ir.Model], Any]:
    """An InferenceSession on the CPU."""

    def load(model: ir.Model) -> Any:
        return runtime.onnxruntime().InferenceSession(files.to_bytes(model), providers=["CPUExecutionProvider"])

    return load


def watch(session: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    log: list[Any] = []
    make, start = session.io_binding, session.run_with_iobinding
    monkeypatch.setattr(session, "io_binding", lambda: Watched(make(), log))

    def run(watched: Watched, options: Any = None) -> None:
        log.append(("run", options and options.get_run_config_entry(binding.GRAPH_ID)))
        start(watched.real, options)

    monkeypatch.setattr(session, "run_with_iobinding", run)
    return log


def test_the_outputs_are_those_of_a_plain_run_in_memory_that_stays(
    loaded: Callable[[ir.Model], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = loaded(parse(TEXT))
    log = watch(session, monkeypatch)
    run = bound(session, FEEDS, "cpu", warm_up=0)
    given = {entry[1]: entry[2] for entry in log if entry[0] == "bind_ortvalue_output"}
    for scale in (1, 3):
        FEEDS["x"][...] = scale * np.arange(8, dtype=np.float32).reshape(2, 4)
        run()
        expected = session.run(None, FEEDS)
        for name, value in zip(("y", "s"), expected, strict=True):
            np.testing.assert_array_equal(given[name].numpy(), value)


def test_inputs_on_the_cpu_are_not_copied(loaded: Callable[[ir.Model], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    session = loaded(parse(TEXT))
    log = watch(session, monkeypatch)
    bound(session, FEEDS, "cpu", warm_up=0)
    pointers = {entry[1]: entry[2].data_ptr() for entry in log if entry[0] == "bind_ortvalue_input"}
    assert pointers == {name: array.ctypes.data for name, array in FEEDS.items()}


def test_each_run_waits_for_the_device_after_a_warm_up(
    loaded: Callable[[ir.Model], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = loaded(parse(TEXT))
    log = watch(session, monkeypatch)
    run = bound(session, FEEDS, "cpu")
    steps = [entry for entry in log if entry[0] in ("run", "synchronize_inputs", "synchronize_outputs")]
    wait = ("synchronize_outputs",)
    assert steps[:3] == [("synchronize_inputs",), ("run", "-1"), wait]
    assert steps[3:] == [("run", None), wait] * binding.WARM_UP
    run()
    assert log[-2:] == [("run", None), wait]
    bindings = [index for index, entry in enumerate(log) if entry[0].startswith("bind")]
    assert max(bindings) < log.index(("run", None))


def test_what_is_no_tensor_stays_on_the_cpu(loaded: Callable[[ir.Model], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    session = loaded(parse("g (float[2] x) => (seq(float[2]) y) { y = SequenceConstruct(x, x) }", opset=17))
    log = watch(session, monkeypatch)
    bound(session, {"x": np.ones(2, np.float32)}, "cpu")()
    assert "bind_ortvalue_output" not in [entry[0] for entry in log]


def test_strings_are_not_bound() -> None:
    session = Session(parse("g (string[2] x) => (string[2] y) { y = Identity(x) }"), Target())
    session._target = Target("cuda")
    outputs = session.bound({"x": np.array(["a", "b"], dtype=object)})()
    assert isinstance(outputs, Mapping)
    assert outputs["y"].tolist() == ["a", "b"]


class FakeValue:
    """Memory of a device."""

    @classmethod
    def ortvalue_from_numpy(cls, array: np.ndarray, device: str, number: int) -> tuple[str, int, int]:
        return device, number, array.size


class FakeBinding:
    """What is bound where."""

    def __init__(self, log: list[Any]) -> None:
        self.log = log

    def __getattr__(self, name: str) -> Any:
        return lambda *args: self.log.append((name, *args))

    def get_outputs(self) -> list[str]:
        return ["memory of y", "memory of z"]


class FakeSession:
    """An InferenceSession on a GPU that is not there."""

    def __init__(self, log: list[Any]) -> None:
        self.log = log

    def io_binding(self) -> FakeBinding:
        return FakeBinding(self.log)

    def run_with_iobinding(self, bound: FakeBinding, options: Any = None) -> None:
        self.log.append("run" if options is None else "run without a graph")

    def get_inputs(self) -> list[Any]:
        return [Argument("x", "tensor(float)"), Argument("k", "tensor(int64)")]

    def get_outputs(self) -> list[Any]:
        return [Argument("y", "tensor(float16)"), Argument("z", "seq(tensor(float))")]


class Argument:
    """An input or output."""

    def __init__(self, name: str, kind: str) -> None:
        self.name, self.type = name, kind


def test_on_a_gpu_numbers_lie_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime.onnxruntime(), "OrtValue", FakeValue)
    log: list[Any] = []
    bound(FakeSession(log), {"x": np.ones((2, 3), np.float32), "k": np.ones(1, np.int64)}, "cuda", 1, warm_up=1)
    assert log == [
        ("bind_ortvalue_input", "x", ("cuda", 1, 6)),
        ("bind_ortvalue_input", "k", ("cuda", 1, 1)),
        ("bind_output", "y", "cuda", 1),
        ("bind_output", "z", "cpu", 0),
        ("synchronize_inputs",),
        "run without a graph",
        ("synchronize_outputs",),
        ("bind_ortvalue_output", "y", "memory of y"),
        "run",
        ("synchronize_outputs",),
    ]


def test_a_session_on_the_cpu_is_timed_by_plain_runs() -> None:
    run = Session(parse(TEXT), Target()).bound(FEEDS)
    outputs = run()
    assert isinstance(outputs, Mapping)
    assert outputs.keys() == {"y", "s"}


def test_a_session_on_the_gpu_is_bound_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    session = Session(parse(TEXT), Target())
    session._target = Target("cuda", device_id=2)
    monkeypatch.setattr("onnxopt.runtime.session.bound", lambda *args: asked.append(args[2:]) or print)
    assert session.bound(FEEDS) is print
    assert asked == [("cuda", 2)]


def test_wrong_inputs_are_a_model_error() -> None:
    session = Session(parse(TEXT), Target())
    session._target = Target("cuda")
    with pytest.raises(ModelError, match="cannot run the model on these inputs"):
        session.bound({"x": np.ones((2, 3), np.float32), "k": np.array([5])})
