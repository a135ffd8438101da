"""The road of ``onnxopt ci``: each model optimized, compared, timed and judged. Read this first."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from onnxopt import __version__, progress
from onnxopt.ci import adapter, judge, stored
from onnxopt.ci.config import Config, Entry
from onnxopt.ci.results import INTERRUPTED, Outcome, Result
from onnxopt.errors import InputError, OnnxoptError, UsageError

Told = Callable[[Result], None]


@dataclass(frozen=True)
class Choices:
    """What the command line says beside the file.

    Attributes:
        only: names of models; none means all.
        fail_if_slower: in place of that of every model; None leaves them.
        force_baseline: use stored times of another processor.
        stop_at_first_failure: leave out what comes after the first model that fails.
    """

    only: Sequence[str] = ()
    fail_if_slower: float | None = None
    force_baseline: bool = False
    stop_at_first_failure: bool = False


def run(config: Config, choices: Choices | None = None, told: Told | None = None) -> Result:
    """Go through all models; what fails one does not stop the others.

    Args:
        config: what is asked.
        choices: what is asked otherwise.
        told: called with the result so far, before the first model, after each, and when all ends: whoever writes
            it then has what was found even if the process is killed.

    Raises:
        UsageError: for a name in ``choices`` that no model has.
    """
    choices = choices or Choices()
    started, begin = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
    entries = _chosen(config, choices)
    outcomes = [Outcome(entry.name, str(entry.path), entry.line) for entry in entries]
    machine, ended = adapter.machine(), "unfinished"

    def so_far() -> Result:
        seconds = time.perf_counter() - begin
        return Result(str(config.path), tuple(outcomes), ended, seconds, started, __version__, machine)

    stop = config.stop_at_first_failure or choices.stop_at_first_failure
    for entry, outcome in zip(entries, outcomes, strict=True):
        if told:
            told(so_far())
        with progress.within(_place(entry.name, outcomes)):
            _check_safely(entry, outcome)
        if any(finding.code == INTERRUPTED for finding in outcome.findings):
            ended = "interrupted"
            break
        if stop and outcome.findings:
            ended = "stopped"
            break
    else:
        ended = "complete"
    if told:
        told(so_far())
    return so_far()


def _chosen(config: Config, choices: Choices) -> list[Entry]:
    """The entries asked for, with what the command line says of them."""
    from onnxopt.core import suggestion

    names = [entry.name for entry in config.models]
    for name in choices.only:
        if name not in names:
            raise UsageError(f"{config.path} has no model {name!r}{suggestion(name, names)}")
    entries = [entry for entry in config.models if not choices.only or entry.name in choices.only]
    if choices.fail_if_slower is not None:
        entries = [replace(entry, fail_if_slower=choices.fail_if_slower) for entry in entries]
    return [replace(entry, force_baseline=True) for entry in entries] if choices.force_baseline else entries


def _place(name: str, outcomes: Sequence[Outcome]) -> str:
    """``[2/3] digits (about 40 s left)``: as if the others took as long as those before."""
    took = [outcome.seconds for outcome in outcomes if outcome.seconds]
    left = sum(took) / len(took) * (len(outcomes) - len(took)) if took else 0.0
    words = f" (about {progress.left_words(left)} left)" if left >= 1 else ""
    return f"[{len(took) + 1}/{len(outcomes)}] {name}{words}"


def _check_safely(entry: Entry, outcome: Outcome) -> None:
    """What is raised is a finding of this model."""
    begin = time.perf_counter()
    try:
        _check(entry, outcome)
        outcome.ended = True
    except OnnxoptError as error:
        outcome.failed("error", error.exit_code, str(error))
    except KeyboardInterrupt:
        outcome.failed("interrupted", INTERRUPTED, "interrupted before all was measured")
    except MemoryError:
        outcome.failed("error", InputError.exit_code, "not enough memory for this model and data")
    except Exception as error:
        outcome.trace = traceback.format_exc()
        head = (str(error).splitlines() or [""])[0][:200]
        outcome.failed("error", 1, f"this is a bug in onnxopt ({type(error).__name__}: {head}); report it")
    outcome.seconds = time.perf_counter() - begin


def _check(entry: Entry, outcome: Outcome) -> None:
    """One model: optimized, its size, its accuracy, its speed."""
    progress.stage("reading")
    earlier, baseline = _baseline(entry, outcome)
    model = _optimized(entry, outcome)
    before = baseline or (entry.path if entry.optimize else None)
    outcome.candidate = str(model)
    outcome.bytes = (adapter.size(before) if before else None, adapter.size(model))
    outcome.findings += judge.size(outcome.bytes[1], entry)

    if reference := entry.reference or before:
        _compare(entry, outcome, reference, model)
    elif entry.baseline:
        _score(entry, outcome, earlier, model)
    if outcome.accuracy and not outcome.accuracy.comparable:
        outcome.notes.append("nothing was timed: inputs and outputs are not the same")
    elif before or entry.baseline:
        _time(entry, outcome, before, earlier, model)


def _baseline(entry: Entry, outcome: Outcome) -> tuple[stored.Stored | None, Path | None]:
    """What an earlier run stored, or the model to compare with; neither where there is none."""
    if entry.baseline is None:
        return None, None
    if not entry.baseline.exists():
        if not entry.baseline_optional:
            advice = "give the model of the base branch, or say baseline_optional = true for a model that is new"
            raise InputError(f"there is no baseline {entry.baseline}; {advice}")
        outcome.notes.append(f"there is no baseline {entry.baseline} yet")
        return None, None
    if entry.stored:
        return stored.read(entry.stored, entry.name), None
    return None, entry.baseline


def _optimized(entry: Entry, outcome: Outcome) -> Path:
    """The model that is judged."""
    if not entry.optimize:
        return entry.path
    found = adapter.optimized(entry)
    outcome.optimized = found.line
    outcome.notes += found.notes
    return entry.output


def _compare(entry: Entry, outcome: Outcome, reference: Path, model: Path) -> None:
    """The accuracy; where it fails, the layers that explain it."""
    progress.stage("comparing")
    found = adapter.compared(entry, reference, model)
    outcome.accuracy = found
    outcome.findings += judge.accuracy(found)
    if entry.optimize and entry.data and not entry.eval_data:
        outcome.notes.append("some samples that accuracy was compared on were calibrated on; give eval_data, too")
    if found.problems and found.comparable:
        _explain(entry, outcome, reference, model)


def _explain(entry: Entry, outcome: Outcome, reference: Path, model: Path) -> None:
    """The layers to blame; where they cannot be found, the verdict stays what it is."""
    progress.stage("looking for the layers that explain it")
    assert outcome.accuracy is not None
    try:
        explained = adapter.explained(entry, reference, model)
    except OnnxoptError as error:
        explained = adapter.Explained(note=str(error))
    if explained.note:
        outcome.notes.append(f"which layers explain it: {explained.note}")
    outcome.accuracy = replace(outcome.accuracy, layers=explained.layers)
    outcome.findings += judge.layers(explained.layers)


def _score(entry: Entry, outcome: Outcome, earlier: stored.Stored | None, model: Path) -> None:
    """The accuracy of the model alone, against what was stored."""
    alone = adapter.scored(entry, model)
    if alone is None:
        outcome.notes.append("the accuracy was not compared: give reference, or a baseline that is a model")
        return
    outcome.accuracy = stored.accuracy(earlier, alone, entry.max_drop) if earlier else alone
    outcome.findings += judge.accuracy(outcome.accuracy)


def _time(entry: Entry, outcome: Outcome, baseline: Path | None, earlier: stored.Stored | None, model: Path) -> None:
    """In every place."""
    for place in entry.places():
        progress.stage(f"timing on {adapter.where(*place)}")
        found = adapter.timed(entry, None if earlier else baseline, model, place)
        if earlier:
            found = stored.against(earlier, found, force=entry.force_baseline)
        outcome.speed.append(found)
        outcome.findings += judge.speed(found, entry)
