"""Passes in order: each on a clone, checked by its kind, kept or undone, with the reason.

An EXACT or ROUNDING pass is compared numerically with the model before it. A LOSSY pass goes
through the accuracy gate, and then must pay: faster on the clock, or smaller in bytes. Whatever
happens, the best model so far is at hand.
"""

from __future__ import annotations

import enum
import functools
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from onnxopt import benchmark, files
from onnxopt.check import Checker, Difference, largest
from onnxopt.core import Change, Context, Exactness, Pass, Refusal
from onnxopt.errors import OnnxoptError
from onnxopt.gate import Drop, Gate
from onnxopt.graph import weight_bytes
from onnxopt.runtime import Session
from onnxopt.samples import Samples
from onnxopt.target import Target


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
    size: int | None = None
    """Bytes of the model after the pass, where it was kept."""

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
            "changes": [change.__dict__ for change in self.changes],
            "refusals": [refusal.__dict__ for refusal in self.refusals],
            "difference": self.difference and self.difference.to_dict(),
            "drop": self.drop and self.drop.to_dict(),
            "speed": self.speed and self.speed.to_dict(),
            "bytes": self.size,
        }


class Pipeline:
    """Runs passes over a model and decides on each.

    Args:
        model: the model to start from; never changed.
        context: what passes may know.
        samples: inputs on which outputs are compared.
        gate: judges lossy passes; None where there are no data, and then they are refused.
        goal: what a lossy pass must improve.
    """

    def __init__(self, model: ir.Model, context: Context, samples: Samples, gate: Gate | None, goal: Goal) -> None:
        """Run the model once: its outputs are what exact passes must keep."""
        self.best = model
        self.context, self.gate, self.goal, self.samples = context, gate, goal, samples
        self._checker = Checker(samples, context.target)
        self._outputs, self._comparable = self._checker.reproducible(model)
        self._size = size_of(model)

    def run(self, passes: Iterable[Pass]) -> Iterator[Step]:
        """Run the passes one after the other; ``best`` is the best model after each step."""
        for rewrite in passes:
            yield self._step(rewrite)

    def _step(self, rewrite: Pass) -> Step:
        started = time.perf_counter()
        facts: dict[str, Any] = {}
        try:
            model = self.best.clone()
            found = rewrite.run(model, self.context)
            facts["changes"] = tuple(item for item in found if isinstance(item, Change))
            facts["refusals"] = tuple(item for item in found if isinstance(item, Refusal))
            outcome, why = self._decide(rewrite, model, facts)
        except OnnxoptError as error:
            outcome, why = Outcome.FAILED, str(error)
        except Exception as error:  # a pass must never take the run down with it
            outcome, why = Outcome.FAILED, f"{type(error).__name__}: {str(error)[:300]}"
        seconds = time.perf_counter() - started
        return Step(str(rewrite), rewrite.exactness, outcome, why, seconds, **facts)

    def _decide(self, rewrite: Pass, model: ir.Model, facts: dict[str, Any]) -> tuple[Outcome, str]:
        if not facts["changes"]:
            refusals = facts["refusals"]
            return Outcome.NOTHING, refusals[0].why if refusals else "nothing to do"
        if rewrite.exactness is Exactness.LOSSY:
            outcome, why = self._judge(model, facts)
        else:
            outcome, why = self._compare(rewrite, model, facts)
        if outcome is Outcome.KEPT:
            facts["size"] = self._size = size_of(model)
            self.best = model  # last: whatever interrupts before leaves the model of the step before
        return outcome, why

    def _compare(self, rewrite: Pass, model: ir.Model, facts: dict[str, Any]) -> tuple[Outcome, str]:
        """Keep an exact pass only if the outputs are still the same."""
        exact = rewrite.exactness is Exactness.EXACT
        try:
            outputs = self._checker.outputs(model)
        except OnnxoptError as error:
            return Outcome.UNDONE, f"the rewritten model does not run: {error}"
        difference = facts["difference"] = largest(self._outputs, outputs, self._comparable, exact=exact)
        if not difference.ok:
            return Outcome.UNDONE, self._where(rewrite, model, difference)
        self._outputs = outputs
        return Outcome.KEPT, f"{len(facts['changes'])} changes"

    def _where(self, rewrite: Pass, model: ir.Model, difference: Difference) -> str:
        """Name the first value that differs."""
        try:
            found = self._checker.first_different_value(self.best, model, rewrite.exactness)
        except OnnxoptError:
            found = None  # a value that cannot be returned: the output alone is named
        name, worst = found or (difference.output, difference)
        how = "has another shape or type" if worst.relative == float("inf") else f"is off by {worst.relative:.2g}"
        return f"{rewrite.name} changed the results: value {name!r} {how} (allowed {worst.allowed:.0e}, relative)"

    def _judge(self, model: ir.Model, facts: dict[str, Any]) -> tuple[Outcome, str]:
        """Keep a lossy pass only if the gate lets it through and it pays."""
        if self.gate is None:
            return Outcome.REFUSED, "no data: its accuracy cannot be measured"
        drop = facts["drop"] = self.gate.measure(model)
        if not drop.passed:
            return Outcome.REFUSED, f"{drop.metric} drops by {drop.drop:.4f} [{drop.low:.4f}, {drop.high:.4f}]"
        size = size_of(model)
        if self.goal is Goal.SIZE:
            smaller = size < self._size
            outcome = Outcome.KEPT if smaller else Outcome.REFUSED
            return self._settled(outcome, model, f"{self._size} to {size} bytes")
        speed = facts["speed"] = compare_speed(self.best, model, self.samples, self.context.target)
        outcome = Outcome.KEPT if speed.verdict is benchmark.Verdict.FASTER else Outcome.REFUSED
        return self._settled(outcome, model, speed.summary())

    def _settled(self, outcome: Outcome, model: ir.Model, why: str) -> tuple[Outcome, str]:
        if outcome is Outcome.KEPT:
            self._outputs = self._checker.outputs(model)
        return outcome, why


def compare_speed(a: ir.Model, b: ir.Model, samples: Samples, target: Target, **limits: Any) -> benchmark.Comparison:
    """Time two models against each other on the first sample; above 1, ``b`` is faster."""
    feeds = samples.first()

    def load() -> tuple[benchmark.Run, benchmark.Run]:
        sessions = [Session(model, target, spinning=target.threads == 1) for model in (a, b)]
        first, second = (functools.partial(session.run, feeds) for session in sessions)
        return first, second

    return benchmark.compare_loads(load, threads=target.threads, **limits)


def size_of(model: ir.Model) -> int:
    """Bytes of the model's file, external data included."""
    weights = weight_bytes(model)
    return weights if weights > files.SINGLE_FILE_LIMIT else len(files.to_bytes(model))
