"""Which changes explain that a model fails: mixed models are run until the smallest set is found."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from onnxopt import progress
from onnxopt.errors import ModelError
from onnxopt.runtime import Session
from onnxopt.validation.hybrid import compose
from onnxopt.validation.judge import Judge, Judged, Problem
from onnxopt.validation.layers import Layers, some
from onnxopt.validation.pair import Pair
from onnxopt.validation.search import Counted, explain
from onnxopt.validation.sizes import Trial, tried
from onnxopt.validation.units import Unit, units

MOST_RUNS = 250
"""Mixed models at most."""
FEWEST = 4
"""Samples to begin with; four times as many until the failure shows."""


@dataclass(frozen=True)
class Bisection:
    """What explains a failure.

    Attributes:
        failure: the sentences that were looked into.
        groups: sets of changes; each fails alone, and no longer does without any one of its changes.
        changes: how many there are between the models.
        matched: values at which the graphs were cut, outputs aside.
        complete: whether the new model passes with all groups taken back; None where that was not tried.
        runs: mixed models that were run.
        samples: that they were run on.
        seconds: of it all.
        note: why there is no answer, or what to know about it.
    """

    failure: tuple[str, ...]
    groups: tuple[tuple[Unit, ...], ...] = ()
    changes: int = 0
    matched: int = 0
    complete: bool | None = None
    runs: int = 0
    samples: int = 0
    seconds: float = 0.0
    note: str = ""

    @property
    def units(self) -> tuple[Unit, ...]:
        """All changes to blame."""
        return tuple(unit for group in self.groups for unit in group)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "failure": list(self.failure),
            "groups": [[unit.to_dict() for unit in group] for group in self.groups],
            "changes": self.changes,
            "matched": self.matched,
            "complete": self.complete,
            "runs": self.runs,
            "samples": self.samples,
            "seconds": round(self.seconds, 2),
            "note": self.note,
        }


@dataclass
class _Court:
    """What a mixed model is asked: the same problems as those of the new model."""

    pair: Pair
    judge: Judge
    trials: Sequence[Trial]
    problems: Sequence[Problem]
    odd: list[str] = field(default_factory=list)
    runs: int = 0

    def fails(self, changes: frozenset[Unit], *, clearly: bool = False) -> bool:
        """Whether the reference with these changes fails as the new model does.

        Args:
            changes: that are made.
            clearly: a drop of the accuracy counts only if it is no chance.
        """
        chosen = {value for unit in changes for value in unit.values}
        self.runs += 1
        progress.stage(f"bisecting, mixed model {self.runs}, {len(changes)} changes")
        try:
            return self._fails(self.judge.load(compose(self.pair, chosen)), clearly)
        except (ModelError, ValueError) as error:
            self.odd.append(str(error))
            return False

    def _fails(self, session: Session, clearly: bool) -> bool:
        keys = {problem.key for problem in self.problems}
        for trial in self.trials:
            if keys & {problem.key for problem in tried(trial, self.judge, session, self.judge.asked).problems}:
                return True
        if all(problem.kind == "size" for problem in self.problems):
            return False
        judged = self.judge.judge(session)
        same = keys & {problem.key for problem in judged.problems}
        return any(kind != "drop" or not clearly or judged.drops[0].low > 0 for kind, _ in same)


def bisect(pair: Pair, layers: Layers | None, judge: Judge, judged: Judged, trials: Sequence[Trial]) -> Bisection:
    """Find the changes that explain the problems of a model.

    Args:
        pair: reference and model.
        layers: their values inside, where they were compared: the changes with the largest errors are tried first.
        judge: of the whole, on all samples.
        judged: what it said of the model.
        trials: sizes at which the model fails.
    """
    start = time.perf_counter()
    progress.stage("bisecting")
    failure = tuple(problem.sentence for problem in judged.problems)
    found = _searched(pair, layers, _Court(pair, judge, trials, judged.problems))
    notes = [found.pop("note", "")]
    if any(problem.kind == "drop" for problem in judged.problems) and judged.drops[0].low <= 0:
        notes.append("the drop may be chance, and so may be what is blamed; give more data, or bisect by --min-sqnr")
    note = "; ".join(filter(None, notes))
    return Bisection(**found, failure=failure, seconds=time.perf_counter() - start, note=note)


def _searched(pair: Pair, layers: Layers | None, court: _Court) -> dict[str, Any]:
    if pair.hindrance:
        return {"note": f"the models cannot be mixed in one graph: {pair.hindrance}"}
    changes = _likeliest_first(units(pair), layers)
    known: dict[str, Any] = {"changes": len(changes), "matched": pair.inner}
    if not changes:
        return {**known, "note": "no node, attribute or weight differs: what fails is not in the graph"}
    if not pair.inner:
        known["note"] = "the graphs share no values inside, by name or by the order of their operators"
    judge = court.judge
    court.judge = _fewest(court, frozenset(changes))
    counted = Counted(court.fails, MOST_RUNS)
    known["samples"] = len(court.judge.samples)
    if why := _cannot_start(court, counted, changes):
        return {**known, "runs": counted.runs, "note": why}
    groups, all_found = explain(changes, counted)
    runs = counted.runs
    complete = None
    blamed = {unit for group in groups for unit in group}
    if all_found:
        court.judge, runs = judge, runs + 1
        complete = not court.fails(frozenset(changes) - blamed)
    elif "note" not in known:
        known["note"] = f"stopped after {runs} runs; there are more"
    return {**known, "groups": tuple(map(tuple, groups)), "complete": complete, "runs": runs}


def _cannot_start(court: _Court, counted: Counted[Unit], changes: Sequence[Unit]) -> str:
    """Why nothing can be found between a model that passes and one that fails; empty where it can."""
    if counted(()):
        return "the reference fails in the same way: what is asked cannot be reached"
    if not counted(changes):
        odd = f": {court.odd[0]}" if court.odd else ""
        return f"the reference with all changes does not fail as the model does{odd}"
    return ""


def _likeliest_first(changes: list[Unit], layers: Layers | None) -> list[Unit]:
    """By their own error, the largest first; those of which it is not known stay in order, behind."""
    if layers is None:
        return changes
    place = {row.value: i for i, row in enumerate(layers.worst_first)}
    return sorted(changes, key=lambda unit: min(place.get(value, len(place)) for value in unit.values))


def _fewest(court: _Court, changes: frozenset[Unit]) -> Judge:
    """A judge on the fewest samples on which the new model still fails, beyond chance."""
    everything = court.judge
    if all(problem.kind == "size" for problem in court.problems):
        return everything
    count = FEWEST
    while count < len(everything.samples):
        court.judge = everything.on(some(everything.samples, count, everything.asked.seed))
        if court.fails(changes, clearly=True):
            return court.judge
        count *= 4
    court.judge = everything
    return everything
