"""Pipeline: kept, undone, refused, failed, and the best model at hand after each step."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import pytest

from onnxopt import files, pipeline
from onnxopt.core import Change, Context, Exactness, Pass, Refusal
from onnxopt.gate import Drop
from onnxopt.pipeline import Goal, Outcome, Pipeline
from onnxopt.samples import random_samples
from onnxopt.target import Target
from onnxopt.testing import parse

TEXT = "g (float[2,4] x) => (float[2,4] y) <float[4] w = {1,2,3,4}> { a = Mul(x, w)  b = Relu(a)  y = Neg(b) }"
CPU = Target()


@dataclass(frozen=True)
class Become(Pass):
    """Turns one operator into another."""

    name: ClassVar[str] = "become"
    old: str = "Relu"
    new: str = "Abs"

    def run(self, model: ir.Model, context: Context) -> list[Change | Refusal]:
        found = [node for node in model.graph if node.op_type == self.old]
        for node in found:
            node.op_type = self.new
        return [Change(node.outputs[0].name or "", f"became {self.new}") for node in found]


@dataclass(frozen=True)
class Lossy(Become):
    """The same, declared lossy."""

    name: ClassVar[str] = "lossy"
    exactness: ClassVar[Exactness] = Exactness.LOSSY


@dataclass(frozen=True)
class Raises(Pass):
    """Breaks half-way."""

    name: ClassVar[str] = "raises"

    def run(self, model: ir.Model, context: Context) -> list[Change | Refusal]:
        model.graph.remove(list(model.graph)[-1])
        raise RuntimeError("something in a library")


class FakeGate:
    """Passes or refuses without looking."""

    def __init__(self, passed: bool) -> None:
        self.passed = passed

    def measure(self, model: ir.Model) -> Drop:
        return Drop("top1", 10, 1.0, 0.5, 0.5, 0.4, 0.6, 0.95, self.passed)


def run(*passes: Pass, gate=None, goal: Goal = Goal.LATENCY, text: str = TEXT):
    model = parse(text)
    line = Pipeline(model, Context(CPU), random_samples(model, CPU, {}), gate, goal)
    return line, list(line.run(passes)), model


def test_a_pass_that_changes_the_results_is_undone_and_named() -> None:
    line, (step,), model = run(Become())
    assert step.outcome is Outcome.UNDONE
    assert "become changed the results: value 'b'" in step.why
    assert line.best is model


def test_a_pass_whose_model_does_not_run_is_undone() -> None:
    _, (step,), _ = run(Become(new="NoSuchOperator"))
    assert step.outcome is Outcome.UNDONE
    assert "does not run" in step.why


def test_a_pass_that_raises_is_undone_and_the_run_goes_on() -> None:
    line, steps, model = run(Raises(), Become("Neg", "Identity"), Become("Neg", "Sin"))
    assert [step.outcome for step in steps] == [Outcome.FAILED, Outcome.UNDONE, Outcome.UNDONE]
    assert steps[0].why == "RuntimeError: something in a library"
    assert files.to_bytes(line.best) == files.to_bytes(model)


def test_a_harmless_pass_is_kept_and_the_original_stays() -> None:
    text = "g (float[2,4] x) => (float[2,4] y) { a = Abs(x)  b = Relu(a)  y = Neg(b) }"
    line, (step,), model = run(Become("Relu", "Identity"), text=text)
    assert step.outcome is Outcome.KEPT
    assert step.difference is not None
    assert step.difference.relative == 0.0
    assert [node.op_type for node in line.best.graph] == ["Abs", "Identity", "Neg"]
    assert [node.op_type for node in model.graph] == ["Abs", "Relu", "Neg"]


def test_nothing_to_do() -> None:
    _, (step,), _ = run(Become("Sin"))
    assert step.outcome is Outcome.NOTHING


def test_a_lossy_pass_without_data_is_refused() -> None:
    _, (step,), _ = run(Lossy())
    assert step.outcome is Outcome.REFUSED
    assert step.why == "no data: its accuracy cannot be measured"


def test_the_gate_refuses() -> None:
    line, (step,), model = run(Lossy(), gate=FakeGate(False))
    assert step.outcome is Outcome.REFUSED
    assert step.why == "top1 drops by 0.5000 [0.4000, 0.6000]"
    assert line.best is model


@pytest.mark.parametrize(("seconds", "kept"), [((1.0, 0.5), True), ((1.0, 1.0), False), ((0.5, 1.0), False)])
def test_a_lossy_pass_must_be_faster(monkeypatch, timed, seconds: tuple[float, float], kept: bool) -> None:
    monkeypatch.setattr(pipeline, "compare_speed", lambda *_: timed(*seconds))
    _, (step,), _ = run(Lossy(), gate=FakeGate(True))
    assert step.kept is kept
    assert step.speed is not None


def test_with_goal_size_a_lossy_pass_must_be_smaller() -> None:
    _, (shorter, longer), _ = run(Lossy(new="Abs"), Lossy("Abs", "Softplus"), gate=FakeGate(True), goal=Goal.SIZE)
    assert shorter.kept
    assert not longer.kept
    assert "bytes" in longer.why


def test_outputs_of_random_operators_do_not_undo_a_pass() -> None:
    text = """g (float[2,4] x) => (float[2,4] y, float[2,4] r)
    { a = Abs(x)  b = Relu(a)  y = Neg(b)  r = RandomNormalLike(x) }"""
    _, (step,), _ = run(Become("Relu", "Identity"), text=text)
    assert step.kept


def test_steps_become_json() -> None:
    _, (step,), _ = run(Become())
    content = step.to_dict()
    assert content["outcome"] == "undone"
    assert content["changes"] == [{"node": "b", "what": "became Abs"}]
    assert not content["difference"]["ok"]
    assert np.isfinite(content["seconds"])
