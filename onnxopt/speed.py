"""How fast model files run: one alone, or each of several against the first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt import files
from onnxopt.benchmark import Comparison, Environment, Timing, Verdict, compare
from onnxopt.data import open_dataset
from onnxopt.errors import ModelError, UsageError
from onnxopt.pipeline import compare_speed
from onnxopt.runtime import Session, check_state, input_specs, onnxruntime
from onnxopt.samples import Samples, random_samples, with_state
from onnxopt.target import Target
from onnxopt.validation import input_differences

VERSION = 1
"""Of the JSON form. 1: first."""

_LIMITS = ("min_seconds", "slow_seconds")
"""Both least durations of ``benchmark.compare``."""


@dataclass(frozen=True)
class Options:
    """What is timed, and where.

    Attributes:
        data: samples, of which the first is timed; None times a random input.
        preprocess: how images become inputs (see ``onnxopt.data``).
        state: state input name to the output that feeds it; it starts at zero.
        target: where the models run.
        seconds: at least so long per pair of models; None takes what ``benchmark.compare`` does.
    """

    data: str | None = None
    preprocess: str | None = None
    state: Mapping[str, str] = field(default_factory=dict)
    target: Target = field(default_factory=Target)
    seconds: float | None = None


@dataclass(frozen=True)
class Speed:
    """What was timed.

    Attributes:
        models: paths; the first is the one that others are compared with.
        data: where the input came from.
        shapes: of the timed input, by name.
        timing: of the first model.
        comparisons: of the first model with each other one, in order.
        environment: of the first measurement.
        memory: resident bytes of this process before the model was loaded, and after it ran; one model only.
        warnings: what the reader must know before quoting a number.
    """

    models: tuple[str, ...]
    data: str
    shapes: Mapping[str, tuple[int, ...]]
    timing: Timing
    comparisons: tuple[Comparison, ...]
    environment: Environment
    memory: tuple[int, int] | None
    warnings: tuple[str, ...]

    def failures(self, min_ratio: float | None, *, not_slower: bool) -> Iterator[str]:
        """A sentence for each model whose interval begins under ``min_ratio``, or that is slower."""
        for path, found in zip(self.models[1:], self.comparisons, strict=True):
            words = f"{path} against {self.models[0]}: {found.summary()}"
            if min_ratio is not None and found.low < min_ratio:
                yield f"{words}; the low end is under {min_ratio:g}"
            elif not_slower and found.verdict is Verdict.SLOWER:
                yield words

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        pairs = zip(self.models[1:], self.comparisons, strict=True)
        memory = self.memory and dict(zip(("before", "after"), self.memory, strict=True))
        return {
            "version": VERSION,
            "model": self.models[0],
            "data": self.data,
            "shapes": dict(self.shapes),
            "timing": self.timing.to_dict(),
            "comparisons": [{"model": path, **found.to_dict()} for path, found in pairs],
            "environment": dict(self.environment.__dict__),
            "memory": memory,
            "warnings": list(self.warnings),
        }


def measure(paths: Sequence[Path], options: Options | None = None) -> Speed:
    """Time one model, or each of the others against the first.

    Raises:
        ModelError: if one cannot be read or run.
        DataError: if the data do not fit the first.
        UsageError: if another model takes other inputs.
    """
    options = options or Options()
    onnxruntime()
    before = _resident()
    first, *others = [files.load(path) for path in paths]
    for path, other in zip(paths[1:], others, strict=True):
        if differences := input_differences(first, other):
            raise UsageError(f"{path} cannot be timed against {paths[0]}: {'; '.join(differences)}")
    samples = _samples(first, options)
    limits = {} if options.seconds is None else dict.fromkeys(_LIMITS, options.seconds)
    if others:
        pair = {} if options.seconds is None else {"min_seconds": options.seconds, "patience": 2 * options.seconds}
        found = tuple(
            _against(first, other, path, (samples, options.target, pair))
            for path, other in zip(paths[1:], others, strict=True)
        )
        timing, memory, compared = found[0].a, None, found
    else:
        alone = _alone(first, samples, options.target, limits)
        timing, memory, compared = Timing((*alone.a.seconds, *alone.b.seconds)), (before, _resident()), ()
        found = (alone,)
    return Speed(
        models=tuple(map(str, paths)),
        data=samples.data.about,
        shapes={name: np.shape(array) for name, array in samples.first().items()},
        timing=timing,
        comparisons=compared,
        environment=found[0].environment,
        memory=memory,
        warnings=_warnings(paths, found),
    )


def _samples(model: ir.Model, options: Options) -> Samples:
    check_state(model, options.state)
    if options.data is None:
        return random_samples(model, options.target, options.state, count=1)
    specs = input_specs(model)
    data = open_dataset(options.data, specs, preprocess=options.preprocess, optional=options.state)
    return with_state(data, model, options.state)


def _against(first: ir.Model, other: ir.Model, path: Path, how: tuple[Samples, Target, dict[str, float]]) -> Comparison:
    samples, target, limits = how
    try:
        return compare_speed(first, other, samples, target, **limits)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def _alone(model: ir.Model, samples: Samples, target: Target, limits: dict[str, Any]) -> Comparison:
    """One session in both places: the same protocol, environment and warnings as for two."""
    feeds = samples.first()
    session = Session(model, target, spinning=target.threads == 1)
    return compare(session.bound(feeds), session.bound(feeds), threads=target.threads, **limits)


def _warnings(paths: Sequence[Path], found: Sequence[Comparison]) -> tuple[str, ...]:
    """Each once; by name where there are several comparisons."""
    if len(found) == 1:
        return found[0].warnings
    named = zip(paths[1:], found, strict=True)
    return tuple(dict.fromkeys(f"{path}: {warning}" for path, each in named for warning in each.warnings))


def _resident() -> int:
    """Bytes of memory that this process holds."""
    import psutil

    return int(psutil.Process().memory_info().rss)
