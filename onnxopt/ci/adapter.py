"""Every call from the gate to the rest of onnxopt, with what is asked and what comes back in the gate's own words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onnxopt import files, passes, recipes, speed, validation
from onnxopt.benchmark import measured_in
from onnxopt.ci import judge
from onnxopt.ci.config import Entry
from onnxopt.ci.results import Accuracy, Median, Speed
from onnxopt.ci.written import make_folder
from onnxopt.gate import Limits
from onnxopt.metrics import find_metric
from onnxopt.optimize import Options, optimize
from onnxopt.pipeline import Goal
from onnxopt.stages import Stage
from onnxopt.target import Target
from onnxopt.validation import forms


@dataclass(frozen=True)
class Optimized:
    """What an optimization gave: in a sentence, and what should be known."""

    line: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Explained:
    """The layers that explain a failure, each in a sentence; and why there are none, or what to know of them."""

    layers: tuple[str, ...] = ()
    note: str = ""


def optimized(entry: Entry) -> Optimized:
    """Optimize the model of an entry into its output.

    Raises:
        OnnxoptError: as ``optimize`` does.
        KeyboardInterrupt: where it was interrupted; what it wrote is the best model so far.
    """
    make_folder(entry.output.absolute().parent)
    files.check_apart(entry.output, filter(None, (entry.path, entry.baseline, entry.reference)))
    report = optimize(entry.path, entry.output, _optimize_options(entry))
    if report.ended == "interrupted":
        raise KeyboardInterrupt
    line = f"speed {report.speed_line()}; size {report.size_line()}; accuracy {report.accuracy_line()}"
    return Optimized(line, (*(f"{step.words}: {step.why} (undone)" for step in report.broken), *report.notes))


def compared(entry: Entry, reference: Path, model: Path) -> Accuracy:
    """Validate a model against a reference.

    Raises:
        OnnxoptError: as ``validate`` does.
    """
    found = validation.validate(reference, model, _validate_options(entry))
    return Accuracy(
        reference=str(reference),
        line=_accuracy_line(found),
        problems=found.problems,
        notes=found.notes,
        comparable=not found.signature,
        score=found.drop.to_dict() if found.drop else None,
        details=found.to_dict(),
    )


def scored(entry: Entry, model: Path) -> Accuracy | None:
    """The score of a model alone; None where there are no labels to score it on, but only a reference could be.

    Raises:
        OnnxoptError: as ``validate`` does.
    """
    if entry.judged_on is None:
        return None
    drop = validation.validate(model, model, _validate_options(entry)).drop
    assert drop is not None
    metric = find_metric(drop.metric, has_labels=True)
    if not metric.needs_labels:
        return None
    score = {
        "metric": drop.metric,
        "after": drop.after,
        "samples": drop.samples,
        "higher_is_better": metric.higher_is_better,
    }
    return Accuracy("", f"{drop.metric} {drop.after:.4f} on {drop.samples} samples", score=score)


def explained(entry: Entry, reference: Path, model: Path) -> Explained:
    """The changes that explain why a model fails against its reference.

    Raises:
        OnnxoptError: as ``validate`` does.
    """
    options = replace(_validate_options(entry), bisect=True)
    found = validation.validate(reference, model, options).bisection
    if found is None:
        return Explained(note="compared once more, the model did not fail")
    return Explained(tuple(unit.words for unit in found.units), found.note)


def timed(entry: Entry, baseline: Path | None, model: Path, place: tuple[str, int, int | None]) -> Speed:
    """Time a model against its baseline, in turns, or alone where there is none.

    What the first seconds do not decide of the limits is measured longer.

    Args:
        entry: what is asked.
        baseline: None times the model alone.
        model: the model.
        place: provider, threads, batch.

    Raises:
        OnnxoptError: as ``speed.measure`` does.
    """
    found = speed.measure([model] if baseline is None else [baseline, model], _speed_options(entry, place))
    first, last = found.measurements[0], found.measurements[-1]
    common: dict[str, Any] = {
        "where": last.setting.label,
        "after": _median(last),
        "environment": dict(last.environment.__dict__),
        "warnings": found.warnings,
        "details": found.to_dict(),
    }
    pair = last.comparison
    if pair is None:
        return Speed(baseline=None, before=None, **common)
    return Speed(
        baseline=str(baseline), before=_median(first), ratio=pair.ratio, low=pair.low, high=pair.high, **common
    )


def size(path: Path) -> int:
    """Bytes of a model's file and of its external data."""
    model = files.load(path)
    return path.stat().st_size + sum(each.stat().st_size for each in files.external_files(model))


def machine() -> dict[str, Any]:
    """Where this runs."""
    found = measured_in(threads=1, foreign_load=0.0)
    return {key: getattr(found, key) for key in ("processor", "cores", "python", "platform", "onnxruntime")}


def where(provider: str, threads: int, batch: int | None) -> str:
    """``cpu, 1 thread, batch 8``: also how a stored time is found again."""
    words = [provider, f"{threads} thread{'' if threads == 1 else 's'}"]
    return ", ".join([*words, *([f"batch {batch}"] if batch else [])])


def _median(found: speed.Measurement) -> Median:
    """With its interval; of too few runs the slowest is the upper end."""
    median, low, high = found.percentiles[50]
    return Median(median, low, high if math.isfinite(high) else max(found.timing.seconds))


def _optimize_options(entry: Entry) -> Options:
    return Options(
        data=entry.data,
        eval_data=entry.eval_data,
        preprocess=entry.preprocess,
        metric=entry.metric,
        limits=Limits(entry.max_drop),
        goal=Goal(entry.goal),
        target=_target(entry),
        state=entry.state,
        passes=_stages(entry),
        time_limit=entry.time_limit,
        seed=entry.seed,
        allow_contrib=entry.allow_contrib,
        prune=entry.prune,
    )


def _validate_options(entry: Entry) -> validation.Options:
    return validation.Options(
        data=entry.judged_on,
        preprocess=entry.preprocess,
        metric=entry.metric,
        limits=Limits(entry.max_drop),
        rtol=entry.rtol,
        state=entry.state,
        target=_target(entry),
        seed=entry.seed,
        min_sqnr=entry.min_sqnr,
    )


def _speed_options(entry: Entry, place: tuple[str, int, int | None]) -> speed.Options:
    provider, threads, batch = place
    return speed.Options(
        data=entry.judged_on,
        preprocess=entry.preprocess,
        state=entry.state,
        target=Target(provider, threads, entry.shapes),
        seconds=entry.seconds,
        batches=(batch,) if batch else (),
        repeats=0,
        max_slowdown=judge.strictest(entry),
        max_seconds=entry.max_seconds,
    )


def _target(entry: Entry) -> Target:
    return Target(entry.provider[0], entry.threads[0], entry.shapes)


def _stages(entry: Entry) -> Sequence[Stage] | None:
    if entry.recipe:
        return recipes.load(entry.recipe)
    return tuple(passes.parse_stage(words) for words in entry.passes) or None


def _accuracy_line(found: validation.Validation) -> str:
    if found.signature:
        return "not the same inputs and outputs"
    if found.drop:
        return forms.accuracy_line(found.drop)
    worst = max(found.outputs, key=lambda each: each.relative, default=None)
    return "no output to compare" if worst is None else f"output {worst.name!r} off by {worst.relative:.2g}"
