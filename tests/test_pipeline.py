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
from onnxopt.stages import OneOf, Search, Stage, Together
from onnxopt.target import Target
from onnxopt.testing import parse
from onnxopt.timebox import TimeUp

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


@dataclass(frozen=True)
class Stops(Become):
    """Is interrupted."""

    name: ClassVar[str] = "stops"
    exactness: ClassVar[Exactness] = Exactness.LOSSY
    how: type[BaseException] = KeyboardInterrupt

    def run(self, model: ir.Model, context: Context) -> list[Change | Refusal]:
        raise self.how


@dataclass(frozen=True)
class Elsewhere(Lossy):
    """Pays in another place."""

    name: ClassVar[str] = "elsewhere"
    pays_elsewhere: ClassVar[str] = "good on the moon"


class FakeGate:
    """Passes or refuses all but models with one operator; counts."""

    def __init__(self, passed: bool, refused: str = "") -> None:
        self.passed, self.refused, self.count = passed, refused, 0

    def measure(self, model: ir.Model) -> Drop:
        self.count += 1
        passed = self.passed and self.refused not in [node.op_type for node in model.graph]
        return Drop("top1", 10, 1.0, 0.5, 0.5, 0.4, 0.6, 0.95, passed)


def run(*passes: Stage, gate=None, goal: Goal = Goal.LATENCY, text: str = TEXT):
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


def test_with_goal_size_a_lossy_pass_must_be_smaller(monkeypatch, timed) -> None:
    monkeypatch.setattr(pipeline, "compare_speed", lambda *_: timed(1.0, 1.0))
    _, (shorter, longer), _ = run(Lossy(new="Abs"), Lossy("Abs", "Softplus"), gate=FakeGate(True), goal=Goal.SIZE)
    assert shorter.kept
    assert not longer.kept
    assert "bytes" in longer.why


@pytest.mark.parametrize(
    ("slowdown", "seconds", "kept"),
    [(1.05, 1.04, True), (1.05, 1.07, False), (2.0, 1.9, True), (0.5, 0.6, False), (0.5, 0.4, True)],
)
def test_with_goal_size_no_more_time_than_allowed_is_taken(
    monkeypatch, timed, slowdown: float, seconds: float, kept: bool
) -> None:
    """Of the time of the original, not of the best so far."""
    monkeypatch.setattr(pipeline, "compare_speed", lambda a, *_: timed(1.0, seconds) if a is model else timed(9.0, 1.0))
    model = parse(TEXT)
    line = Pipeline(model, Context(CPU), random_samples(model, CPU, {}), FakeGate(True), Goal.SIZE, slowdown)
    list(line.run([Become("Neg", "Sin")]))
    (step,) = list(line.run([Lossy(new="Abs")]))[-1:]
    assert step.kept is kept
    assert step.speed is not None
    assert f"against the original, {1 / slowdown:.2f}x is allowed" in step.why


@dataclass(frozen=True)
class ForSpeed(Become):
    """Computes the same, and is only worth it if faster."""

    name: ClassVar[str] = "for-speed"
    for_speed: ClassVar[bool] = True


@pytest.mark.parametrize("goal", Goal)
@pytest.mark.parametrize(("seconds", "kept"), [((1.0, 0.5), True), ((1.0, 1.0), False), ((0.5, 1.0), False)])
def test_a_pass_for_speed_must_be_faster(
    monkeypatch, timed, goal: Goal, seconds: tuple[float, float], kept: bool
) -> None:
    monkeypatch.setattr(pipeline, "compare_speed", lambda *_: timed(*seconds))
    text = "g (float[2,4] x) => (float[2,4] y) { a = Abs(x)  b = Relu(a)  y = Neg(b) }"
    _, (step,), _ = run(ForSpeed("Relu", "Identity"), text=text, goal=goal)
    assert step.kept is kept
    assert step.speed is not None
    _, (both,), _ = run(Together((Become("Neg", "Neg"), ForSpeed("Relu", "Identity"))), text=text, goal=goal)
    assert both.kept is kept


@dataclass(frozen=True)
class Reordered(Pass):
    """Add the terms of a sum the other way round."""

    name: ClassVar[str] = "reordered"
    exactness: ClassVar[Exactness] = Exactness.ROUNDING
    for_speed: ClassVar[bool] = True

    def run(self, model: ir.Model, context: Context) -> list[Change]:
        (node,) = [node for node in model.graph if node.op_type == "Sum"]
        for index, value in enumerate(reversed(list(node.inputs))):
            node.replace_input_with(index, value)
        return [Change("y", "reordered")]


@dataclass(frozen=True)
class Exact(Become):
    """The same, declared exact."""

    name: ClassVar[str] = "exact"
    exactness: ClassVar[Exactness] = Exactness.EXACT


def test_what_was_refused_for_speed_leaves_the_outputs_of_before(monkeypatch, timed) -> None:
    """The next exact pass is compared with the model that stays, not with the one that was refused."""
    monkeypatch.setattr(pipeline, "compare_speed", lambda *_: timed(1.0, 1.0))
    text = "g (float[8,64] x) => (float[8,64] y) { a = Exp(x)  b = Sin(x)  c = Sqrt(a)  s = Sum(a, b, c)  y = Neg(s) }"
    _, steps, _ = run(Reordered(), Exact("Neg", "Neg"), text=text)
    assert [step.outcome for step in steps] == [Outcome.REFUSED, Outcome.KEPT]
    assert steps[0].difference is not None
    assert steps[0].difference.relative > 0


@pytest.mark.parametrize(("seconds", "kept"), [((1.0, 0.5), True), ((1.0, 1.0), True), ((0.5, 1.0), False)])
def test_what_pays_elsewhere_must_not_be_slower(monkeypatch, timed, seconds: tuple[float, float], kept: bool) -> None:
    monkeypatch.setattr(pipeline, "compare_speed", lambda *_: timed(*seconds))
    _, (step,), _ = run(Elsewhere(), gate=FakeGate(True))
    assert step.kept is kept
    assert step.speed is not None
    assert step.why == f"{step.speed.summary()}; good on the moon"


@pytest.mark.parametrize(("new", "kept"), [("Abs", True), ("Sqrt", True), ("Softplus", False)])
def test_with_goal_size_what_pays_elsewhere_must_not_be_larger(monkeypatch, timed, new: str, kept: bool) -> None:
    monkeypatch.setattr(pipeline, "compare_speed", lambda *_: timed(1.0, 1.0))
    _, (step,), _ = run(Elsewhere(new=new), gate=FakeGate(True), goal=Goal.SIZE)
    assert step.kept is kept
    assert "bytes; " in step.why
    assert step.why.endswith("; good on the moon")


def test_what_pays_elsewhere_goes_through_the_gate() -> None:
    line, (step,), model = run(Elsewhere(), gate=FakeGate(False))
    assert step.why == "top1 drops by 0.5000 [0.4000, 0.6000]"
    assert line.best is model


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


# --- several together, and the best of several ---

SECONDS = {"Relu": 1.0, "Abs": 0.5, "Sin": 0.25, "Cos": 2.0, "Identity": 4.0}
"""Of a model with this operator."""


def ops(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


@pytest.fixture
def clock(monkeypatch, timed) -> list[tuple[str, str]]:
    """Times are those of the table; the operators that were compared."""
    compared = []

    def compare_speed(a: ir.Model, b: ir.Model, *_: object):
        pair = [next(op for op in ops(model) if op in SECONDS) for model in (a, b)]
        compared.append(tuple(pair))
        return timed(*(SECONDS[op] for op in pair))

    monkeypatch.setattr(pipeline, "compare_speed", compare_speed)
    return compared


def test_the_faster_of_two_is_kept_and_the_other_has_given_way(clock) -> None:
    gate = FakeGate(True)
    line, (first, second), model = run(OneOf((Lossy(new="Abs"), Lossy(new="Sin"))), gate=gate)
    assert ops(line.best) == ["Mul", "Sin", "Neg"]
    assert ops(model) == ["Mul", "Relu", "Neg"]
    assert clock == [("Relu", "Abs"), ("Abs", "Sin")]
    assert first.kept
    assert [step.outcome for step in line.steps] == [Outcome.REFUSED, Outcome.KEPT]
    assert line.steps[0].why == f"{first.why}; {second.words} is better"
    assert line.steps[1] == second
    assert gate.count == 2


def test_what_does_not_beat_the_best_so_far_never_reaches_the_gate(clock) -> None:
    gate = FakeGate(True)
    line, (first, second), _ = run(OneOf((Lossy(new="Sin"), Lossy(new="Abs"))), gate=gate)
    assert ops(line.best) == ["Mul", "Sin", "Neg"]
    assert clock == [("Relu", "Sin"), ("Sin", "Abs")]
    assert line.steps == [first, second]
    assert (first.outcome, second.outcome) == (Outcome.KEPT, Outcome.REFUSED)
    assert second.why.startswith("slower: ")
    assert second.why.endswith(f", against {first.words}")
    assert (second.drop, gate.count) == (None, 1)


OTHERS = {
    "is refused by the gate": (Lossy(new="Sin"), Outcome.REFUSED),
    "has nothing to do": (Lossy("Sqrt", "Abs"), Outcome.NOTHING),
    "fails": (Raises(), Outcome.FAILED),
    "is slower": (Lossy(new="Cos"), Outcome.REFUSED),
}


@pytest.mark.parametrize(("other", "outcome"), OTHERS.values(), ids=OTHERS.keys())
@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
def test_one_is_kept_where_the_other(clock, other: Pass, outcome: Outcome, first: bool) -> None:
    good = Lossy(new="Abs")
    line, steps, _ = run(OneOf((good, other) if first else (other, good)), gate=FakeGate(True, "Sin"))
    assert ops(line.best) == ["Mul", "Abs", "Neg"]
    assert {step.words: step.outcome for step in steps} == {str(good): Outcome.KEPT, str(other): outcome}
    assert line.steps == steps


def test_every_candidate_starts_from_the_model_before_and_the_next_stage_from_the_best(clock) -> None:
    stage = OneOf((Lossy(new="Abs"), Lossy(new="Sin"), Lossy("Sin", "Cos")))
    line, steps, _ = run(stage, Become("Sin", "Abs"), gate=FakeGate(True))
    assert [step.outcome for step in steps[2:]] == [Outcome.NOTHING, Outcome.UNDONE]
    assert ops(line.best) == ["Mul", "Sin", "Neg"]


def test_with_goal_size_the_smallest_is_kept(monkeypatch, timed) -> None:
    monkeypatch.setattr(pipeline, "compare_speed", lambda *_: timed(1.0, 1.0))
    names = ["Abs", "Softplus", "Sin"]
    line, steps, _ = run(OneOf(tuple(Lossy(new=name) for name in names)), gate=FakeGate(True), goal=Goal.SIZE)
    assert [step.outcome for step in steps] == [Outcome.KEPT, Outcome.REFUSED, Outcome.REFUSED]
    assert steps[2].why.endswith("bytes, against lossy")
    assert ops(line.best) == ["Mul", "Abs", "Neg"]


def test_what_pays_elsewhere_must_beat_a_rival_all_the_same(monkeypatch, timed) -> None:
    monkeypatch.setattr(pipeline, "compare_speed", lambda *_: timed(1.0, 1.0))
    stage = OneOf((Lossy(new="Abs"), Elsewhere(new="Sin")))
    line, (_, step), _ = run(stage, gate=FakeGate(True), goal=Goal.SIZE)
    assert step.outcome is Outcome.REFUSED
    assert step.why.endswith("bytes, against lossy")
    assert ops(line.best) == ["Mul", "Abs", "Neg"]


def test_exact_candidates_are_timed_against_each_other(clock) -> None:
    text = "g (float[2,4] x) => (float[2,4] y) { a = Softplus(x)  b = Relu(a)  y = Neg(b) }"
    line, steps, _ = run(OneOf((Become("Relu", "Abs"), Become("Relu", "Identity"))), text=text)
    assert [step.outcome for step in steps] == [Outcome.KEPT, Outcome.REFUSED]
    assert clock == [("Abs", "Identity")]
    assert ops(line.best) == ["Softplus", "Abs", "Neg"]


@pytest.mark.parametrize("how", [KeyboardInterrupt, TimeUp])
def test_an_interruption_leaves_the_best_so_far(clock, how: type[BaseException]) -> None:
    model = parse(TEXT)
    line = Pipeline(model, Context(CPU), random_samples(model, CPU, {}), FakeGate(True), Goal.LATENCY)
    with pytest.raises(how):
        list(line.run([OneOf((Lossy(new="Abs"), Stops(how=how), Lossy(new="Sin"))), Become("Neg", "Identity")]))
    assert ops(line.best) == ["Mul", "Abs", "Neg"]
    assert [(step.words, step.outcome) for step in line.steps] == [("lossy", Outcome.KEPT)]


@dataclass(frozen=True)
class Rough(Lossy):
    """Has a finer form."""

    name: ClassVar[str] = "rough"
    better: str = "Exp"

    def finer(self) -> Lossy:
        return Lossy(self.old, self.better)


class Scores(FakeGate):
    """The drop of a model with an operator."""

    def __init__(self, **drops: float) -> None:
        super().__init__(True)
        self.drops = drops

    def measure(self, model: ir.Model) -> Drop:
        drop = next(self.drops[op] for op in ops(model) if op in self.drops)
        return Drop("top1", 10, 1.0, 1.0 - drop, drop, drop, drop, 0.95, drop < 0.5)


FINER = {
    "is more exact": (0.1, 0.25, Outcome.KEPT),
    "is as exact": (0.2, 0.25, Outcome.KEPT),
    "is less exact": (0.3, 0.25, Outcome.REFUSED),
    "is refused by the gate": (0.6, 0.25, Outcome.REFUSED),
    "is slower": (0.1, 0.5, Outcome.REFUSED),
}


@pytest.mark.parametrize(("drop", "seconds", "outcome"), FINER.values(), ids=FINER.keys())
@pytest.mark.parametrize("together", [False, True])
def test_the_winner_gives_way_to_its_finer_form_where_that(
    clock, monkeypatch, drop: float, seconds: float, outcome: Outcome, together: bool
) -> None:
    monkeypatch.setitem(SECONDS, "Exp", seconds)
    rough: Pass | Together = Together((Become("Neg", "Identity"), Rough(new="Sin"))) if together else Rough(new="Sin")
    monkeypatch.delitem(SECONDS, "Identity")
    line, steps, _ = run(OneOf((Lossy(new="Abs"), rough)), gate=Scores(Abs=0.2, Sin=0.2, Exp=drop))
    assert [step.outcome for step in line.steps] == [
        Outcome.REFUSED,
        Outcome.REFUSED if outcome is Outcome.KEPT else Outcome.KEPT,
        outcome,
    ]
    assert ops(line.best)[1] == ("Exp" if outcome is Outcome.KEPT else "Sin")
    assert clock == [("Relu", "Abs"), ("Abs", "Sin"), ("Sin", "Exp")]
    assert steps[2].words == ("become:old=Neg,new=Identity + lossy:new=Exp" if together else "lossy:new=Exp")


def test_passes_together_are_kept_as_one(clock) -> None:
    line, (step,), _ = run(Together((Become("Neg", "Identity"), Lossy(new="Abs"))), gate=FakeGate(True))
    assert (step.words, step.exactness, step.outcome) == (
        "become:old=Neg,new=Identity + lossy",
        Exactness.LOSSY,
        Outcome.KEPT,
    )
    assert [change.what for change in step.changes] == ["became Identity", "became Abs"]
    assert ops(line.best) == ["Mul", "Abs", "Identity"]


UNDONE_TOGETHER = {
    "the gate refuses": ((Become("Neg", "Identity"), Lossy(new="Sin")), Outcome.REFUSED, "top1 drops"),
    "they do not pay": ((Become("Neg", "Identity"), Lossy(new="Cos")), Outcome.REFUSED, "slower"),
    "the second has nothing to do": (
        (Become("Neg", "Identity"), Lossy("Sqrt", "Abs")),
        Outcome.NOTHING,
        "lossy has nothing to do",
    ),
    "the first has nothing to do": (
        (Become("Sqrt", "Abs"), Lossy(new="Abs")),
        Outcome.NOTHING,
        "become has nothing to do",
    ),
    "the second fails": ((Lossy(new="Abs"), Raises()), Outcome.FAILED, "RuntimeError"),
    "another result": ((Become("Neg", "Identity"), Become("Relu", "Abs")), Outcome.UNDONE, "changed the results"),
}


@pytest.mark.parametrize(("passes", "outcome", "why"), UNDONE_TOGETHER.values(), ids=UNDONE_TOGETHER.keys())
def test_passes_together_are_undone_as_one_where(clock, passes: tuple[Pass, ...], outcome: Outcome, why: str) -> None:
    line, (step,), model = run(Together(passes), gate=FakeGate(True, "Sin"))
    assert (step.outcome, line.best) == (outcome, model)
    assert why in step.why
    assert ops(model) == ["Mul", "Relu", "Neg"]


# --- how much of a pass ---


@dataclass(frozen=True)
class Shrink(Become):
    """Writes the amount it was given into the model."""

    name: ClassVar[str] = "shrink"
    exactness: ClassVar[Exactness] = Exactness.LOSSY
    old: str = "Mul"
    new: str = "Mul"
    share: float = 0.0

    def run(self, model: ir.Model, context: Context) -> list[Change | Refusal]:
        model.metadata_props["share"] = str(self.share)
        return super().run(model, context)


class Shares(FakeGate):
    """Lets a share through from one on."""

    def __init__(self, least: float) -> None:
        super().__init__(True)
        self.least = least

    def measure(self, model: ir.Model) -> Drop:
        return Drop("top1", 10, 1.0, 0.5, 0.5, 0.4, 0.6, 0.95, share(model) >= self.least)


def share(model: ir.Model) -> float:
    return float(model.metadata_props.get("share", 1.0))


@pytest.fixture
def slow_from(monkeypatch, timed) -> list[float]:
    """Times are those of the table, times the share where that is below this."""
    limit = [1.0]

    def seconds(model: ir.Model) -> float:
        own = next(SECONDS[op] for op in ops(model) if op in SECONDS)
        return own * (share(model) if share(model) < limit[0] else 1.0)

    monkeypatch.setattr(pipeline, "compare_speed", lambda a, b, *_: timed(seconds(a), seconds(b)))
    return limit


SEARCH = Search(Shrink(), "share", 0.3, 0.95)
TRIED = {
    "all are let through": (0.0, 1.0, [0.62, 0.46, 0.38, 0.34], 0.34),
    "half of them are": (0.5, 1.0, [0.62, 0.46, 0.54, 0.5], 0.5),
    "none is": (0.99, 1.0, [0.62, 0.78, 0.86, 0.91], None),
    "a little does not make it faster": (0.4, 0.6, [0.62, 0.46, 0.38, 0.42], 0.42),
    "all that is faster is refused": (0.5, 0.4, [0.62, 0.46, 0.54, 0.5], None),
}


@pytest.mark.parametrize(("least", "slow", "tried", "kept"), TRIED.values(), ids=TRIED.keys())
def test_the_boldest_amount_is_found_where(
    slow_from, least: float, slow: float, tried: list[float], kept: float | None
) -> None:
    slow_from[0] = slow
    line, steps, model = run(SEARCH, gate=Shares(least))
    assert [step.words for step in steps] == [f"shrink:share={amount}" for amount in tried]
    assert [step.words for step in line.steps if step.kept] == [f"shrink:share={kept}"] * (kept is not None)
    assert share(line.best) == (kept or 1.0)
    assert share(model) == 1.0


def test_amounts_are_tried_in_front_of_the_lossy_pass_that_was_kept_before(slow_from) -> None:
    behind = Together((Become("Neg", "Floor"), Lossy(new="Sin")))
    contest = OneOf((Lossy(new="Abs"), behind))
    line, steps, _ = run(contest, Lossy("Sqrt", "Exp"), SEARCH, gate=Shares(0.4))
    assert [step.words for step in steps[3:]] == [f"shrink:share={one} + {behind}" for one in (0.62, 0.46, 0.38, 0.42)]
    assert [step.words for step in line.steps if step.kept] == [f"shrink:share=0.42 + {behind}"]
    assert line.steps[1].why.endswith(f"; shrink:share=0.62 + {behind} is better")
    assert (share(line.best), ops(line.best)) == (0.42, ["Mul", "Sin", "Floor"])


@dataclass(frozen=True)
class ShrinkElsewhere(Shrink):
    pays_elsewhere: ClassVar[str] = "good on the moon"


def test_the_boldest_amount_of_what_pays_elsewhere_is_found_though_it_is_not_faster(slow_from) -> None:
    slow_from[0] = 0.0
    line, steps, _ = run(Search(ShrinkElsewhere(), "share", 0.3, 0.95), gate=Shares(0.4))
    assert [step.kept for step in steps] == [True, True, False, True]
    assert steps[3].why.endswith("; good on the moon")
    assert share(line.best) == 0.42


def test_what_is_slower_than_the_lossy_pass_kept_before_does_not_take_its_place(slow_from) -> None:
    slow_from[0] = 0.0
    line, steps, _ = run(Lossy(new="Sin"), SEARCH, gate=Shares(0.4))
    assert [step.words for step in line.steps if step.kept] == ["lossy:new=Sin"]
    assert all(step.why.endswith(", against lossy:new=Sin") for step in steps[1:])


def test_amounts_are_tried_alone_where_an_exact_pass_was_kept_last(slow_from) -> None:
    line, steps, _ = run(Lossy(new="Sin"), Become("Mul", "Mul"), SEARCH, gate=Shares(0.4))
    assert [step.words for step in steps[2:]] == [f"shrink:share={one}" for one in (0.62, 0.46, 0.38, 0.42)]
    assert (share(line.best), ops(line.best)) == (0.42, ["Mul", "Sin", "Neg"])
    assert [step.words for step in line.steps if step.kept] == [steps[0].words, steps[1].words, steps[-1].words]


@pytest.mark.parametrize(
    ("rewrite", "outcome"),
    [(Shrink("Sqrt"), Outcome.NOTHING), (Shrink(new="NoSuchOperator"), Outcome.FAILED)],
    ids=["nothing to do", "a model that does not run"],
)
def test_a_search_ends_with(slow_from, rewrite: Shrink, outcome: Outcome) -> None:
    line, steps, model = run(Search(rewrite, "share", 0.3, 0.95), gate=Shares(0.4))
    assert [step.outcome for step in steps] == [outcome]
    assert line.best is model
