"""What was measured: a value, and its form as JSON."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from onnxopt import files
from onnxopt.benchmark import Comparison, Environment, Timing, Verdict
from onnxopt.files import sha256
from onnxopt.fresh import Fresh
from onnxopt.runtime import Fallback
from onnxopt.speed.options import Setting
from onnxopt.speed.streams import Throughput

if TYPE_CHECKING:
    from onnxopt.speed.baseline import Baseline
    from onnxopt.speed.gates import Failure

VERSION = 2
"""Of the JSON form. 1: first. 2: models with hashes and sizes; a list of measurements, one for each model in each
setting, with percentiles, streams and what loading costs in a fresh process, in place of timing, comparisons and
memory; failures; baseline; the environment has provider and gpu."""

PERCENTS = (50, 90, 99)


@dataclass(frozen=True)
class ModelFile:
    """A model on disk.

    Attributes:
        path: as given.
        size: bytes of the model file and of its external data.
        sha256: of the model file.
        external: name to sha256 of each file of external data.
    """

    path: str
    size: int
    sha256: str
    external: Mapping[str, str]

    @classmethod
    def of(cls, path: Path, model: ir.Model) -> ModelFile:
        """Count and hash."""
        beside = sorted(files.external_files(model))
        size = sum(each.stat().st_size for each in (path, *beside))
        return cls(str(path), size, sha256(path), {each.name: sha256(each) for each in beside})

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"path": self.path, "bytes": self.size, "sha256": self.sha256, "external": dict(self.external)}


@dataclass(frozen=True)
class Measurement:
    """One model in one setting.

    Attributes:
        model: its path.
        setting: where it ran.
        shapes: of the inputs, by name.
        samples: in one run.
        timing: seconds of runs; of a model that runs in under 100 us, means of several.
        against: path and label of what it was timed in turns with; None for the first.
        comparison: with that; above 1, this one is faster.
        streams: throughput with several threads.
        fresh: what loading costs.
        environment: where and under what load it was timed.
        warnings: what the reader must know before quoting a number.
        fallbacks: the nodes that ran on the CPU although the GPU was asked for.
    """

    model: str
    setting: Setting
    shapes: Mapping[str, tuple[int, ...]]
    samples: int
    timing: Timing
    against: tuple[str, str] | None
    comparison: Comparison | None
    streams: tuple[Throughput, ...]
    fresh: Fresh | None
    environment: Environment
    warnings: tuple[str, ...]
    fallbacks: tuple[Fallback, ...] = ()

    @functools.cached_property
    def percentiles(self) -> dict[int, tuple[float, float, float]]:
        """Of the latency: percent to seconds, and the ends of its interval of 95 %; inf where there is no upper end."""
        ends = self.timing.intervals(*PERCENTS)
        pairs = zip(PERCENTS, ends, strict=True)
        return {percent: (self.timing.percentile(percent), low, high) for percent, (low, high) in pairs}

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON: seconds and bytes; null where an interval has no upper end."""
        target, percentiles = self.setting.target, self.percentiles.items()
        return {
            "model": self.model,
            "setting": self.setting.label,
            "provider": target.provider,
            "threads": target.threads,
            "batch": self.setting.batch,
            "sequence": self.setting.sequence,
            "shapes": dict(self.shapes),
            "samples": self.samples,
            "timing": self.timing.to_dict(),
            "latency": {f"p{percent}": interval_dict(*found) for percent, found in percentiles},
            "against": self.against and dict(zip(("model", "setting"), self.against, strict=True)),
            "comparison": self.comparison and _with_reason(self.comparison),
            "streams": [throughput.to_dict() for throughput in self.streams],
            "fresh": self.fresh and self.fresh.to_dict(),
            "environment": dict(self.environment.__dict__),
            "warnings": list(self.warnings),
            "fallbacks": [one.to_dict() for one in self.fallbacks],
        }


@dataclass(frozen=True)
class Speed:
    """All measurements: setting by setting, and in each the models in their order.

    Attributes:
        models: the first is the one that others are compared with.
        data: where the inputs came from.
        measurements: see above.
        failures: limits that were missed.
        baseline: stored times, and ratios against them.
        notes: what the reader must know beside the warnings of the measurements.
    """

    models: tuple[ModelFile, ...]
    data: str
    measurements: tuple[Measurement, ...]
    failures: tuple[Failure, ...] = ()
    baseline: Baseline | None = None
    notes: tuple[str, ...] = ()

    @property
    def settings(self) -> tuple[Setting, ...]:
        """Each once, in order."""
        return tuple({found.setting.label: found.setting for found in self.measurements}.values())

    @property
    def timing(self) -> Timing:
        """Of the first model in the first setting."""
        return self.measurements[0].timing

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        """All, in order."""
        return tuple(found.comparison for found in self.measurements if found.comparison is not None)

    @property
    def environment(self) -> Environment:
        """Of the first measurement."""
        return self.measurements[0].environment

    @property
    def warnings(self) -> tuple[str, ...]:
        """Each once; with the model and the setting where there are several."""
        several = len(self.measurements) > 2
        found = [
            f"{each.model} ({each.setting.label}): {warning}" if several else warning
            for each in self.measurements
            for warning in each.warnings
        ]
        return tuple(dict.fromkeys([*self.notes, *found]))

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "version": VERSION,
            "models": [model.to_dict() for model in self.models],
            "data": self.data,
            "measurements": [found.to_dict() for found in self.measurements],
            "environment": dict(self.environment.__dict__),
            "baseline": self.baseline and self.baseline.to_dict(),
            "failures": [failure.to_dict() for failure in self.failures],
            "warnings": list(self.warnings),
        }


def _with_reason(found: Comparison) -> dict[str, Any]:
    return {**found.to_dict(), "reason": f"the interval {reason(found)}"}


def reason(found: Comparison) -> str:
    """Why the verdict is what it is: where the interval lies, against the floor."""
    below, above = 1 / (1 + found.floor), 1 + found.floor
    if found.verdict is Verdict.FASTER:
        return f"lies above {above:.3f}"
    if found.verdict is Verdict.SLOWER:
        return f"lies below {below:.3f}"
    if found.low > above or found.high < below:
        return "is of too few loads"
    return f"reaches into {below:.3f} .. {above:.3f}"


def interval_dict(value: float, low: float, high: float) -> dict[str, float | None]:
    """A number and the ends of its interval, for JSON."""
    return {"value": value, "low": low, "high": None if math.isinf(high) else high}
