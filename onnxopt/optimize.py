"""The road: from a file on disk to a smaller, faster, verified file and a report. Read this first."""

from __future__ import annotations

import contextlib
import math
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx_ir as ir

from onnxopt import files, given, recipes, runtime
from onnxopt.benchmark import Comparison, Verdict
from onnxopt.core import Context
from onnxopt.errors import ModelError, PassBroke, UsageError
from onnxopt.gate import Drop, Gate
from onnxopt.given import Given
from onnxopt.options import Options
from onnxopt.pipeline import Goal, Pipeline, Step, compare_speed
from onnxopt.report import Details, Report, Summary, collect
from onnxopt.report.details import Subject
from onnxopt.report.origin import HashedFile, Origin, hashes, machine, now, versions
from onnxopt.runtime import Session, check_state, version, warn_if_both_installed
from onnxopt.samples import Samples, random_samples
from onnxopt.stages import Stage
from onnxopt.target import Target
from onnxopt.timebox import TimeUp, time_box

__all__ = ["Options", "optimize", "tidy"]

LAST_LOOK = 3.0
"""Seconds for the final timing where the time is limited."""


def optimize(
    source: Path, output: Path, options: Options | None = None, on_step: Callable[[Step], None] | None = None
) -> Report:
    """Optimize a model file, and write the best model found.

    Every step is kept only if it computes the same, or passes the accuracy gate on held-out data and pays
    on the clock. When time is up or Ctrl-C is pressed, the best model so far is written.

    Args:
        source: the model; never changed (unless it is also the output, with ``options.force``).
        output: where the result goes.
        options: what is asked.
        on_step: called after each pass, for progress.

    Raises:
        OnnxoptError: its subclass says what is wrong; nothing was written.
    """
    started = time.perf_counter()
    options = options or Options()
    original = _load(source, output, options)
    read = _read_files(original, source, options)
    samples = given.gather(original, options)
    _verify(original, samples.checks, options.target, ModelError)
    before = time.perf_counter()
    gate = samples.gate(original, options)
    reserve = time.perf_counter() - before + LAST_LOOK  # judging the result takes as long as the original did
    recipe = options.passes or recipes.default(
        original,
        options.goal,
        options.target,
        has_data=gate is not None,
        allow_contrib=options.allow_contrib,
        prune=options.prune,
        allowed=gate.allowed if gate else 0.0,
        max_slowdown=options.max_slowdown,
    )

    context = Context(options.target, samples.calibration, options.seed, options.allow_contrib, samples.metric)
    pipeline = Pipeline(original, context, samples.checks, gate, options.goal, options.max_slowdown)
    limit = None if options.time_limit is None else _left(started + options.time_limit, reserve)
    steps, ended = _run(pipeline, recipe, limit, on_step)
    result = _measure(original, pipeline.best, steps, samples, gate, options, ended)
    if options.prune and gate is None:
        result.notes.append("nothing was pruned: without data (--data) no accuracy can be measured")
    result.notes.extend(runtime.notes(result.model, options.target))
    _verify(result.model, samples.checks, options.target, PassBroke)
    with _kept(source, output, original, options) as before_file:
        written = files.save(result.model, output)
        subject = Subject(original, result.model, before_file, output, samples.checks.first(), options.target)
        details = _details(subject, steps, options, started, result.ended)
    return Report(
        source=str(source),
        output=str(output),
        settings=_settings(options, recipe),
        data=samples.about,
        before=Summary.of(original),
        after=Summary.of(result.model),
        steps=tuple(steps),
        drop=result.drop,
        speed=result.speed,
        ended=result.ended,
        notes=(*result.notes, *samples.notes(), *(result.speed.warnings if result.speed else ())),
        seconds=time.perf_counter() - started,
        peak_memory=peak_memory(),
        origin=Origin(
            command=options.command(str(source), str(output)),
            files=(*read, *hashes(("result", path) for path in written)),
            seed=options.seed,
            versions=versions(),
            machine=machine(),
            when=now(),
        ),
        details=details,
        kept_original=result.model is original,
    )


def _read_files(original: ir.Model, source: Path, options: Options) -> tuple[HashedFile, ...]:
    """What is read, hashed before anything is written over it."""
    weights = [("weights", path) for path in sorted(files.external_files(original))]
    return hashes([("model", source), *weights, ("data", options.data), ("eval data", options.eval_data)])


@contextlib.contextmanager
def _kept(source: Path, output: Path, original: ir.Model, options: Options) -> Iterator[Path]:
    """The file of the original: a copy where details are asked for and the result takes its place."""
    if not (options.details and output.exists() and output.samefile(source)):
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="onnxopt-") as folder:
        yield files.save(original, Path(folder) / source.name)[0]


def _details(subject: Subject, steps: Sequence[Step], options: Options, started: float, ended: str) -> Details:
    """What a report shows of layers and memory, if it was asked for and there is time."""
    if not options.details or ended == "interrupted":
        return Details()
    left = None if options.time_limit is None else started + options.time_limit - time.perf_counter()
    return collect(subject, steps, left)


def tidy(model: ir.Model, target: Target, seed: int = 0) -> tuple[ir.Model, list[Step]]:
    """Run the passes of the recipe without data: the model that computes the same, and what was done.

    Raises:
        ModelError: if the model does not load, or no random input fits it.
    """
    samples = random_samples(model, target, {}, seed=seed)
    pipeline = Pipeline(model, Context(target, None, seed), samples, None, Goal.LATENCY)
    steps = list(pipeline.run(recipes.default(model, Goal.LATENCY, target, has_data=False)))
    return pipeline.best, steps


def _load(source: Path, output: Path, options: Options) -> ir.Model:
    """The original; whatever would make hours of work end in nothing is found out here."""
    warn_if_both_installed()
    if options.time_limit is not None and not 0 < options.time_limit < math.inf:
        raise UsageError(f"a time limit of {options.time_limit} seconds is not possible; give a number above 0")
    if not 0 < options.max_slowdown < math.inf:
        raise UsageError(f"--max-slowdown {options.max_slowdown} is not possible; 1.05 allows 5 % more time")
    if options.prune and options.passes:
        raise UsageError("--prune is for the default recipe; in one of your own write prune-channels:macs=0.3..0.95")
    files.check_writable(output, source=source, force=options.force)
    original = files.load(source)
    files.check_apart(output, [*files.external_files(original), *filter(None, (options.data, options.eval_data))])
    check_state(original, options.state)
    return original


def _left(end: float, reserve: float) -> float:
    """Seconds for the passes: until the end less what judging the result will take, but half of it in any case."""
    left = end - time.perf_counter()
    return max(left / 2, left - reserve)


def _run(
    pipeline: Pipeline,
    recipe: Sequence[Stage],
    seconds: float | None,
    on_step: Callable[[Step], None] | None,
) -> tuple[list[Step], str]:
    """All steps, or those done when time was up or a key was pressed."""
    end = math.inf if seconds is None else time.perf_counter() + seconds
    try:
        with time_box(seconds):
            for step in pipeline.run(recipe):
                if on_step:
                    on_step(step)
                if time.perf_counter() > end:
                    raise TimeUp
    except TimeUp:
        return pipeline.steps, "time limit"
    except KeyboardInterrupt:
        return pipeline.steps, "interrupted"
    return pipeline.steps, "complete"


@dataclass
class _Result:
    """The model that is written, and what it is worth against the original."""

    model: ir.Model
    ended: str
    drop: Drop | None = None
    speed: Comparison | None = None
    notes: list[str] = field(default_factory=list)


def _measure(
    original: ir.Model,
    best: ir.Model,
    steps: Sequence[Step],
    samples: Given,
    gate: Gate | None,
    options: Options,
    ended: str,
) -> _Result:
    """The best model against the original, on the clock and on all held-out samples.

    A model that turns out slower or beyond the accuracy limit as a whole gives way to the original. Ctrl-C
    leaves out what is not measured yet; the accuracy is then that of the last lossy pass kept.
    """
    result = _Result(best, ended)
    try:
        if ended == "interrupted":
            raise KeyboardInterrupt
        if ended == "time limit":
            result.notes.append("the time limit was reached: the best model so far")
        _time(result, original, samples.checks, options)
        _judge(result, original, gate)
    except KeyboardInterrupt:
        result.ended = "interrupted"
        result.notes.append("interrupted: the best model so far; what was not measured yet is missing")
        if result.drop is None and result.model is best:
            result.drop = next((step.drop for step in reversed(steps) if step.kept and step.drop), None)
    return result


def _time(result: _Result, original: ir.Model, checks: Samples, options: Options) -> None:
    if result.model is original:
        result.notes.append("no pass was kept: the result is the original")
        return
    hurry = {"max_seconds": LAST_LOOK, "patience": LAST_LOOK, "min_seconds": LAST_LOOK / 3}
    limits: dict[str, Any] = hurry if result.ended == "time limit" else {}
    speed = compare_speed(original, result.model, checks, options.target, **limits)
    if speed.verdict is Verdict.SLOWER and options.goal is Goal.LATENCY:
        result.model = original
        result.notes.append(f"the result was slower than the original ({speed.summary()}): the original is kept")
    else:
        result.speed = speed


def _judge(result: _Result, original: ir.Model, gate: Gate | None) -> None:
    if gate is None:
        return
    result.drop = gate.unchanged() if result.model is original else gate.measure(result.model)
    if not result.drop.passed and result.model is not original:
        result.model, result.speed, result.drop = original, None, gate.unchanged()
        result.notes.append("the result missed the accuracy limit as a whole: the original is kept")


def _verify(model: ir.Model, checks: Samples, target: Target, error: type[ModelError | PassBroke]) -> None:
    """Load the model as users will, with ONNX Runtime's optimizations on, and run it."""
    try:
        for _ in checks.run(Session(model, target)):
            pass
    except ModelError as failure:
        raise error(str(failure)) from failure


def _settings(options: Options, recipe: Sequence[Stage]) -> dict[str, Any]:
    return {
        "goal": options.goal.value,
        "max_slowdown": options.max_slowdown if options.goal is Goal.SIZE else None,
        "provider": options.target.provider,
        "provider_options": dict(options.target.provider_options),
        "device_id": options.target.device_id,
        "cuda_graph": options.target.cuda_graph,
        "threads": options.target.threads,
        "max_drop": options.limits.max_drop,
        "min_score": options.limits.min_score,
        "confidence": options.limits.confidence if options.limits.strict_interval else None,
        "seed": options.seed,
        "allow_contrib": options.allow_contrib,
        "time_limit": options.time_limit,
        "passes": [str(rewrite) for rewrite in recipe],
        "onnxruntime": version(),
    }


def peak_memory() -> int:
    """The most memory this process has held, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
