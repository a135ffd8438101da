"""Time models: each against the first of them, in every setting."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxopt import benchmark, files, fresh, progress
from onnxopt.benchmark import Comparison, Interval, Load, Run, Timing
from onnxopt.errors import ModelError, UsageError
from onnxopt.fresh import Fresh
from onnxopt.runtime import Session, fallbacks, input_specs, onnxruntime, told
from onnxopt.speed.feeds import Fed, fed
from onnxopt.speed.options import Options, Setting, settings
from onnxopt.speed.result import Measurement, ModelFile, Speed
from onnxopt.speed.streams import Throughput, bursts, runs_per_burst
from onnxopt.validation import input_differences

SURE = 1.5
"""Times as wide an interval must decide a limit before the end: who looks again and again finds what is not there."""


@dataclass(frozen=True)
class _Case:
    """One model in one setting, ready to be loaded."""

    path: Path
    setting: Setting
    inputs: Fed
    place: tuple[int, int]
    """The how manieth case of how many."""

    def begin(self, what: str) -> None:
        """Tell what is being measured."""
        progress.stage(f"{self.path.name}, {self.setting.label}", *self.place)
        progress.detail(what)

    def load(self) -> Run:
        """One iteration of a new session."""
        target = self.setting.target
        return Session(self.path, target, spinning=target.threads == 1).bound(self.inputs.feeds)


def measure(paths: Sequence[Path], options: Options | None = None) -> Speed:
    """Time one model, or each of the others against the first, in every setting.

    With one model and several settings, each setting is timed against the first: the time of one run there over that
    of one run here.

    Raises:
        ModelError: if one cannot be read or run.
        DataError: if the data do not fit the first.
        UsageError: if another model takes other inputs, or a setting is not possible.
    """
    options = options or Options()
    onnxruntime()
    models = [files.load(path) for path in paths]
    for path, other in zip(paths[1:], models[1:], strict=True):
        if differences := input_differences(models[0], other):
            raise UsageError(f"{path} cannot be timed against {paths[0]}: {'; '.join(differences)}")
    places = settings(options, input_specs(models[0]))
    inputs = fed(paths, models, options, places)
    total = len(paths) * len(places)
    groups = [
        [_Case(path, place, given, (number * len(paths) + at, total)) for at, path in enumerate(paths, 1)]
        for number, (place, given) in enumerate(zip(places, inputs, strict=True))
    ]
    if len(paths) == 1:  # the settings are compared with each other
        groups = [[case for group in groups for case in group]]
    described = tuple(ModelFile.of(path, model) for path, model in zip(paths, models, strict=True))
    measured = tuple(found for group in groups for found in _group(group, options))
    return Speed(described, inputs[0].about, measured, notes=tuple(_notes(measured)))


def _group(cases: Sequence[_Case], options: Options) -> list[Measurement]:
    """The first case, and each of the others against it."""
    first, *others = cases
    if others:
        pairs = [_timed(first, other, options) for other in others]
        latencies = [(pairs[0].a, None), *((pair.b, pair) for pair in pairs)]
        sources = [pairs[0], *pairs]
    else:
        sources = [_timed(first, None, options)]
        latencies = [(_in_turn(sources[0]), None)]
    streams = _streams(cases, options, [timing.median for timing, _ in latencies])
    off_gpu = [fallbacks(case.path, case.setting.target) for case in cases]
    return [
        Measurement(
            model=str(case.path),
            setting=case.setting,
            shapes=case.inputs.shapes,
            samples=case.inputs.samples,
            timing=timing,
            against=None if case is first else (str(first.path), first.setting.label),
            comparison=pair,
            streams=through,
            fresh=_fresh(case, options),
            environment=source.environment,
            warnings=(
                *(() if case is first and others else (*source.warnings, *_warnings(through))),
                *(f"{case.path}: {said}" if len(cases) == 2 else said for said in told(there)),  # more are named later
            ),
            fallbacks=there,
        )
        for case, (timing, pair), source, through, there in zip(
            cases, latencies, sources, streams, off_gpu, strict=True
        )
    ]


def _timed(first: _Case, other: _Case | None, options: Options) -> Comparison:
    """One case against another; against itself, in one session, where there is no other."""
    case = other or first
    case.begin("timing" if other is None else f"timing against {_difference(first, other)}")
    loads = _same(first.load) if other is None else (first.load, other.load)
    limit = options.max_slowdown if other is not None else None
    return _compare(loads, (first, case), options, limit)


def _compare(
    loads: tuple[Load, Load], cases: tuple[_Case, _Case], options: Options, limit: float | None, streams: int = 1
) -> Comparison:
    words: dict[str, Any] = {}
    if options.seconds is not None:
        words = {"min_seconds": options.seconds, "patience": 2 * options.seconds}
    if limit is not None:
        words |= {"patience": options.max_seconds, "settled": functools.partial(_decides, limit)}
    targets = [case.setting.target for case in cases]
    threads = streams * max(target.threads for target in targets)
    try:
        return benchmark.compare_loads(*loads, threads=threads, **words).on(targets[1])
    except ModelError as error:
        names = " and ".join(dict.fromkeys(str(case.path) for case in cases))
        raise ModelError(f"{names} ({cases[1].setting.label}): {error}") from error


def _decides(limit: float, found: Interval) -> bool:
    """Whether an interval leaves no doubt on which side of the limit the slowdown lies, even if it were wider."""
    if not (found.low > 0 and math.isfinite(found.high)):
        return False
    least = found.ratio * (found.low / found.ratio) ** SURE
    most = found.ratio * (found.high / found.ratio) ** SURE
    edge = 1 / (1 + limit)
    return bool(least >= edge or most < edge)


def _same(load: Load) -> tuple[Load, Load]:
    """A contender twice: a session that is made for the one is there for the other, too."""
    waiting: list[Run] = []

    def shared() -> Run:
        if waiting:
            return waiting.pop()
        waiting.append(load())
        return waiting[0]

    return shared, shared


def _in_turn(found: Comparison) -> Timing:
    """The seconds of both contenders in the order they were taken: A B B A."""
    a, b = found.a.seconds, found.b.seconds
    quads = zip(a[0::2], b[0::2], b[1::2], a[1::2], strict=True)
    return Timing(tuple(second for quad in quads for second in quad))


def _streams(cases: Sequence[_Case], options: Options, medians: Sequence[float]) -> list[tuple[Throughput, ...]]:
    """Of each case its throughput with each number of streams."""
    found: list[list[Throughput]] = [[] for _ in cases]
    for streams in options.streams:
        runs = runs_per_burst(streams, min(medians))
        for place, throughput in enumerate(_throughputs(cases, options, streams, runs)):
            found[place].append(throughput)
    return [tuple(each) for each in found]


def _warnings(through: Sequence[Throughput]) -> Iterator[str]:
    for found in through:
        yield from (f"{found.streams} streams: {warning}" for warning in found.warnings)


def _throughputs(cases: Sequence[_Case], options: Options, streams: int, runs: int) -> list[Throughput]:
    first, *others = cases
    loads: list[Callable[[], Run]] = [
        functools.partial(bursts, case.path, case.setting.target, case.inputs.feeds, streams, runs) for case in cases
    ]
    cases[-1].begin(f"{streams} streams")
    if not others:
        alone = _compare(_same(loads[0]), (first, first), options, None, streams)
        return [Throughput(streams, runs, first.inputs.samples, _in_turn(alone), None, alone.warnings)]
    pairs = [
        _compare((loads[0], load), (first, other), options, None, streams)
        for other, load in zip(others, loads[1:], strict=True)
    ]
    timings = [(pairs[0].a, None), *((pair.b, pair) for pair in pairs)]
    return [
        Throughput(streams, runs, case.inputs.samples, timing, pair, pair.warnings if pair else ())
        for case, (timing, pair) in zip(cases, timings, strict=True)
    ]


def _fresh(case: _Case, options: Options) -> Fresh | None:
    if options.repeats == 0:
        return None
    case.begin("loading")
    return fresh.measure(case.path, case.setting.target, case.inputs.feeds, repeats=options.repeats)


def _difference(first: _Case, other: _Case) -> str:
    return first.path.name if first.path != other.path else first.setting.label


def _notes(measured: Sequence[Measurement]) -> Iterator[str]:
    """What is to be known of the percentiles."""
    if any(found.timing.median < benchmark.SLOT_SECONDS for found in measured):
        least = f"{1e6 * benchmark.SLOT_SECONDS:.0f} us"
        yield f"runs of under {least} are timed several at a time: percentiles are of the means of so many"
    if any(math.isinf(high) for found in measured for _, _, high in found.percentiles.values()):
        yield "?: too few runs to know the upper end; --seconds makes more"
