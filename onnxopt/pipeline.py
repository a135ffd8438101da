"""Passes in order: each on a clone, checked by its kind, kept or undone, with the reason.

An EXACT or ROUNDING pass is compared numerically with the model before it. A LOSSY pass goes
through the accuracy gate, and then must pay: faster on the clock, or smaller in bytes; one that pays elsewhere
must do no harm here, and says where. Whatever happens, the best model so far is at hand.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
from threadpoolctl import threadpool_limits

from onnxopt import benchmark, files, progress
from onnxopt.check import Checker, Difference, largest
from onnxopt.core import Change, Context, Exactness, Prediction, Refusal
from onnxopt.errors import OnnxoptError
from onnxopt.gate import Drop, Gate
from onnxopt.graph import weight_bytes
from onnxopt.runtime import Session
from onnxopt.samples import Samples
from onnxopt.stages import Candidate, OneOf, Search, Stage
from onnxopt.target import Target

HALVINGS = 4
"""Of the range in which the amount of a pass is searched: macs=0.3..0.95 is known to 0.04 then."""
MAX_SLOWDOWN = 1.05
"""Of smaller models: two sessions of one file differ by 3 %."""


class Goal(enum.Enum):
    """What a lossy pass must improve to be kept."""

    LATENCY = "latency"
    SIZE = "size"


class Outcome(enum.Enum):
    """What became of a pass."""

    KEPT = "kept"
    NOTHING = "nothing to do"
    REFUSED = "refused"
    """By the accuracy gate, or because it does not pay."""
    UNDONE = "undone"
    """It computed something else, or gave a model that does not run."""
    FAILED = "failed"
    """It raised an error."""


@dataclass(frozen=True)
class Step:
    """One pass, and what was measured about it: a line of the report."""

    words: str
    exactness: Exactness
    outcome: Outcome
    why: str
    seconds: float
    changes: tuple[Change, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    difference: Difference | None = None
    drop: Drop | None = None
    speed: benchmark.Comparison | None = None
    predicted: float | None = None
    """The ratio that the pass expected of the clock."""
    size: int | None = None
    """Bytes of the model after the pass, where it was kept."""
    against: str = ""
    """What it was timed against: ``original``, the words of a rival, or empty: the best model before it."""

    @property
    def kept(self) -> bool:
        """Whether the pass is part of the result."""
        return self.outcome is Outcome.KEPT

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "pass": self.words,
            "exactness": self.exactness.value,
            "outcome": self.outcome.value,
            "why": self.why,
            "seconds": round(self.seconds, 3),
            "changes": [change.to_dict() for change in self.changes],
            "refusals": [refusal.to_dict() for refusal in self.refusals],
            "difference": self.difference and self.difference.to_dict(),
            "drop": self.drop and self.drop.to_dict(),
            "speed": self.speed and self.speed.to_dict(),
            "against": self.against,
            "predicted": self.predicted,
            "bytes": self.size,
        }


@dataclass(frozen=True)
class Rival:
    """The winner so far, which a candidate must beat: in speed (or size), or in accuracy without being slower."""

    step: Step
    in_accuracy: bool = False
    bolder: bool = False
    """Whether the candidate is a larger amount of the same pass: one that pays elsewhere need not be faster, then."""


class Pipeline:
    """Runs passes over a model and decides on each.

    Args:
        model: the model to start from; never changed.
        context: what passes may know.
        samples: inputs on which outputs are compared.
        gate: judges lossy passes; None where there are no data, and then they are refused.
        goal: what a lossy pass must improve.
        max_slowdown: with the goal of size, how many times as long as the original's a model's run may take.
    """

    def __init__(
        self,
        model: ir.Model,
        context: Context,
        samples: Samples,
        gate: Gate | None,
        goal: Goal,
        max_slowdown: float = MAX_SLOWDOWN,
    ) -> None:
        """Run the model once: its outputs are what exact passes must keep."""
        self._original, self._max_slowdown = model, max_slowdown
        self.best = model
        self.steps: list[Step] = []
        self.context, self.gate, self.goal, self.samples = context, gate, goal, samples
        self._checker = Checker(samples, context.target)
        self._outputs, self._comparable = self._checker.reproducible(model)
        self._size = size_of(model)
        self._place = 0, 0
        self._last_lossy: tuple[Candidate, ir.Model, Step] | None = None
        """What was kept last, and the model it started from; None where that is exact."""

    def run(self, stages: Iterable[Stage]) -> Iterator[Step]:
        """Run the stages one after the other; ``best`` is the best model after each step, ``steps`` are all so far."""
        stages = tuple(stages)
        for place, stage in enumerate(stages, 1):
            self._place = place, len(stages)
            if isinstance(stage, OneOf):
                yield from self._contest(stage)
            elif isinstance(stage, Search):
                yield from self._search(stage)
            else:
                yield self._noted(self._step(stage, self.best, None))

    def _contest(self, stage: OneOf) -> Iterator[Step]:
        """Run each candidate on the same model; the better of it and the winner so far stays."""
        base = self.best
        winner: tuple[Candidate, Step] | None = None
        for candidate in stage.candidates:
            step = self._step(candidate, base, winner and Rival(winner[1]))
            if step.kept:
                if winner is not None:
                    self._overtake(winner[1], step)
                winner = candidate, step
            yield self._noted(step)
        finer = winner and winner[0].finer()
        if winner is not None and finer is not None:
            step = self._step(finer, base, Rival(winner[1], in_accuracy=True))
            if step.kept:
                self._overtake(winner[1], step)
            yield self._noted(step)

    def _search(self, stage: Search) -> Iterator[Step]:
        """Bisect for the boldest amount that the gate lets through, with the lossy passes kept right before.

        The gate refuses what is too bold. What is let through but not faster than the best so far is too careful.
        """
        behind, base, winner = self._last_lossy or (None, self.best, None)
        bold, careful = stage.bold, stage.careful
        for _ in range(HALVINGS):
            amount = float(f"{(bold + careful) / 2:.2g}")
            step = self._step(stage.at(amount, behind), base, Rival(winner, bolder=True) if winner else None)
            if step.kept:
                if winner is not None:
                    self._overtake(winner, step)
                winner = step
            yield self._noted(step)
            if step.outcome not in (Outcome.KEPT, Outcome.REFUSED):
                return
            if step.drop is not None and not step.drop.passed:
                bold = amount
            else:
                careful = amount

    def _noted(self, step: Step) -> Step:
        self.steps.append(step)
        return step

    def _overtake(self, winner: Step, step: Step) -> None:
        """Note that an earlier step has given way."""
        why = f"{winner.why}; {step.words} is better"
        self.steps[self.steps.index(winner)] = dataclasses.replace(winner, outcome=Outcome.REFUSED, why=why)

    def _step(self, candidate: Candidate, base: ir.Model, rival: Rival | None) -> Step:
        started = time.perf_counter()
        facts: dict[str, Any] = {}
        progress.stage(str(candidate), *self._place)
        try:
            model = base.clone()
            with threadpool_limits(limits=1, user_api="blas"):  # two threads on a busy machine: 90 times as long
                found = candidate.run(model, self.context)
            facts["changes"] = tuple(item for item in found if isinstance(item, Change))
            facts["refusals"] = tuple(item for item in found if isinstance(item, Refusal))
            facts["predicted"] = next((item.ratio for item in found if isinstance(item, Prediction)), None)
            outcome, why = self._decide(candidate, model, facts, rival)
        except OnnxoptError as error:
            outcome, why = Outcome.FAILED, str(error)
        except Exception as error:  # a pass must never take the run down with it
            outcome, why = Outcome.FAILED, f"{type(error).__name__}: {str(error)[:300]}"
        seconds = time.perf_counter() - started
        in_all = self.goal is Goal.SIZE and candidate.exactness is Exactness.LOSSY
        facts["against"] = "original" if in_all else rival.step.words if rival is not None else ""
        step = Step(str(candidate), candidate.exactness, outcome, why, seconds, **facts)
        if step.kept:
            lossy = candidate.exactness is Exactness.LOSSY
            self._last_lossy = (candidate, base, step) if lossy else None
        return step

    def _decide(
        self, candidate: Candidate, model: ir.Model, facts: dict[str, Any], rival: Rival | None
    ) -> tuple[Outcome, str]:
        if not facts["changes"]:
            refusals = facts["refusals"]
            return Outcome.NOTHING, refusals[0].why if refusals else "nothing to do"
        if candidate.exactness is Exactness.LOSSY:
            outcome, why = self._judge(candidate, model, facts, rival)
        else:
            outputs = self._outputs
            outcome, why = self._compare(candidate, model, facts)
            if outcome is Outcome.KEPT and (rival is not None or candidate.for_speed):
                pays, why = self._is_faster(model, facts) if candidate.for_speed else self._pays(model, facts)
                if not pays:
                    outcome, self._outputs = Outcome.REFUSED, outputs
        if outcome is Outcome.KEPT:
            facts["size"] = self._size = size_of(model)
            self.best = model  # last: whatever interrupts before leaves the model of the step before
        return outcome, why

    def _compare(self, candidate: Candidate, model: ir.Model, facts: dict[str, Any]) -> tuple[Outcome, str]:
        """Keep an exact pass only if the outputs are still the same."""
        exact = candidate.exactness is Exactness.EXACT
        try:
            outputs = self._checker.outputs(model)
        except OnnxoptError as error:
            return Outcome.UNDONE, f"the rewritten model does not run: {error}"
        difference = facts["difference"] = largest(self._outputs, outputs, self._comparable, exact=exact)
        if not difference.ok:
            return Outcome.UNDONE, self._where(candidate, model, difference)
        self._outputs = outputs
        return Outcome.KEPT, f"{len(facts['changes'])} changes"

    def _where(self, candidate: Candidate, model: ir.Model, difference: Difference) -> str:
        """Name the first value that differs."""
        try:
            found = self._checker.first_different_value(self.best, model, candidate.exactness)
        except OnnxoptError:
            found = None  # a value that cannot be returned: the output alone is named
        name, worst = found or (difference.output, difference)
        how = "has another shape or type" if worst.relative == float("inf") else f"is off by {worst.relative:.2g}"
        return f"{candidate} changed the results: value {name!r} {how} (allowed {worst.allowed:.0e}, relative)"

    def _judge(
        self, candidate: Candidate, model: ir.Model, facts: dict[str, Any], rival: Rival | None
    ) -> tuple[Outcome, str]:
        """Keep a lossy pass only if the gate lets it through and it pays; what is quick to find out comes first."""
        if self.gate is None:
            return Outcome.REFUSED, "no data: its accuracy cannot be measured"
        elsewhere = candidate.pays_elsewhere if rival is None or rival.bolder else ""
        if rival is not None:
            pays, why = self._pays(model, facts, at_least_even=rival.in_accuracy or bool(elsewhere))
            if not pays:
                return Outcome.REFUSED, f"{why}, against {rival.step.words}"
        drop = facts["drop"] = self.gate.measure(model)
        if not drop.passed:
            return Outcome.REFUSED, f"{drop.metric} drops by {drop.drop:.4f} [{drop.low:.4f}, {drop.high:.4f}]"
        if rival is None:
            pays, why = self._pays(model, facts, at_least_even=bool(elsewhere))
        elif rival.in_accuracy and rival.step.drop is not None:
            pays = drop.drop <= rival.step.drop.drop
            why = f"{drop.metric} drops by {drop.drop:.4f} instead of {rival.step.drop.drop:.4f}"
        if pays and self.goal is Goal.SIZE:
            pays, speed = self._is_fast_enough(model, facts)
            why = f"{why}; {speed}"
        if pays:
            self._outputs = self._checker.outputs(model)
        return Outcome.KEPT if pays else Outcome.REFUSED, f"{why}; {elsewhere}" if elsewhere else why

    def _pays(self, model: ir.Model, facts: dict[str, Any], *, at_least_even: bool = False) -> tuple[bool, str]:
        """Whether the model is better than the best so far as the goal asks, or at least no worse."""
        if self.goal is Goal.SIZE:
            size = size_of(model)
            return size < self._size or (at_least_even and size == self._size), f"{self._size} to {size} bytes"
        return self._is_faster(model, facts, at_least_even=at_least_even)

    def _is_faster(self, model: ir.Model, facts: dict[str, Any], *, at_least_even: bool = False) -> tuple[bool, str]:
        """Whether the clock says that the model is faster than the best so far, or at least no slower."""
        speed = facts["speed"] = compare_speed(self.best, model, self.samples, self.context.target)
        expected = f", expected {facts['predicted']:.2f}x" if facts["predicted"] else ""
        wanted = (benchmark.Verdict.FASTER, *([benchmark.Verdict.NOT_SIGNIFICANT] if at_least_even else []))
        return speed.verdict in wanted, f"{speed.summary()}{expected}"

    def _is_fast_enough(self, model: ir.Model, facts: dict[str, Any]) -> tuple[bool, str]:
        """Whether the model takes no more than the allowed time, of that of the original."""
        speed = facts["speed"] = compare_speed(self._original, model, self.samples, self.context.target)
        fits = speed.ratio >= 1 / self._max_slowdown
        allowed = f"the original, {1 / self._max_slowdown:.2f}x is allowed"
        return fits, f"{speed.summary()}, against {allowed}"


def compare_speed(a: ir.Model, b: ir.Model, samples: Samples, target: Target, **limits: Any) -> benchmark.Comparison:
    """Time two models against each other on the first sample; above 1, ``b`` is faster.

    Args:
        a: the first; both are loaded from files many times.
        b: the second.
        samples: inputs of both.
        target: where they run.
        limits: of ``benchmark.compare_loads``.
    """
    feeds = samples.first()
    progress.detail("timing")

    def load(path: Path) -> benchmark.Run:
        return Session(path, target, spinning=target.threads == 1).bound(feeds)

    with tempfile.TemporaryDirectory(prefix="onnxopt-") as folder:
        paths = [files.save(model, Path(folder) / f"{name}.onnx")[0] for name, model in (("a", a), ("b", b))]
        first, second = (functools.partial(load, path) for path in paths)
        return benchmark.compare_loads(first, second, threads=target.threads, **limits).on(target)


def size_of(model: ir.Model) -> int:
    """Bytes of the model's file, external data included."""
    weights = weight_bytes(model)
    return weights if weights > files.SINGLE_FILE_LIMIT else len(files.to_bytes(model))
