"""Stored times: what a file of an earlier run says against what is measured now.

Unpaired: the machine may have been another one in all but its name, and nothing alternated. So the interval of the
ratio takes the ends of both, which makes it wider than either, and a model file as a baseline is always better.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxopt.benchmark import NOISE_FLOOR, Verdict, judge
from onnxopt.errors import UsageError
from onnxopt.speed.result import VERSION, Measurement, Speed
from onnxopt.target import processor

LARGEST = 64 * 2**20
"""Bytes of a file of times."""


@dataclass(frozen=True)
class Stored:
    """What a file says.

    Attributes:
        path: of the file.
        processor, gpu, onnxruntime: where it was measured.
        medians: model and setting to the median seconds of a run, and the ends of its interval.
    """

    path: str
    processor: str
    gpu: str | None
    onnxruntime: str | None
    medians: Mapping[tuple[str, str], tuple[float, float, float]]


@dataclass(frozen=True)
class Against:
    """A model now, against its stored time; ``ratio`` is stored over now: above 1, it became faster."""

    model: str
    setting: str
    before: float
    after: float
    ratio: float
    low: float
    high: float

    @property
    def verdict(self) -> Verdict:
        """Faster or slower, where the whole interval is beyond what two loads of a model can differ by."""
        return judge(self.low, self.high, NOISE_FLOOR)

    def summary(self) -> str:
        """One line for people."""
        interval = f"{self.ratio:.2f}x [{self.low:.2f}, {self.high:.2f}]"
        return f"{self.verdict.value}: {interval}, {1e3 * self.before:.3g} to {1e3 * self.after:.3g} ms"

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        high = None if math.isinf(self.high) else self.high
        return {**dataclasses.asdict(self), "high": high, "verdict": self.verdict.value}


@dataclass(frozen=True)
class Baseline:
    """Stored times, and the ratios against them."""

    path: str
    ratios: tuple[Against, ...]

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"path": self.path, "ratios": [ratio.to_dict() for ratio in self.ratios]}


def stored(path: Path, *, force: bool = False) -> Stored:
    """Read a file that ``--save`` or ``--json`` wrote.

    Args:
        path: of the file.
        force: whether another processor is allowed.

    Raises:
        UsageError: if it is not one, or was measured on another processor or GPU.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise UsageError(f"--baseline {path}: {path.stat().st_size} bytes are more than a file of times has")
        words = json.loads(path.read_text())
        version = words["version"]
        if version != VERSION:
            raise UsageError(f"--baseline {path}: its version is {version}, not {VERSION}; measure and save it again")
        where = words["environment"]
        found = Stored(str(path), where["processor"], where["gpu"], where["onnxruntime"], _medians(words))
    except OSError as error:
        raise UsageError(f"--baseline {path} cannot be read: {error.strerror}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"--baseline {path} is no file that onnxopt bench --save x.json has written") from error
    here = processor()
    if found.processor != here and not force:
        raise UsageError(
            f"--baseline {path} was measured on {found.processor}, this is {here}: times of different processors "
            "say nothing of a model. Measure the old model here, beside the new one; or add --force"
        )
    return found


def against(result: Speed, found: Stored, *, force: bool = False) -> Speed:
    """The same, with the ratios against stored times, and a warning.

    Raises:
        UsageError: if nothing that was measured is stored, or it was on another GPU.
    """
    if found.gpu != result.environment.gpu and not force:
        raise UsageError(
            f"--baseline {found.path} was measured on {found.gpu or 'no GPU'}, this on "
            f"{result.environment.gpu or 'no GPU'}; add --force to compare all the same"
        )
    pairs = [(each, _stored_median(found, each)) for each in result.measurements]
    ratios = tuple(_ratio(each, before) for each, before in pairs if before is not None)
    if not ratios:
        there = "; ".join(f"{Path(model).name} ({setting})" for model, setting in found.medians)
        raise UsageError(f"--baseline {found.path} holds none of these models in these settings; it has: {there}")
    unpaired = f"times of {found.path} were stored earlier and did not alternate with these; their doubt is larger"
    notes = [f"{unpaired} than the interval says: a model file as the first model is the better baseline"]
    if found.processor != result.environment.processor:
        notes.append(f"{found.path} was measured on another processor ({found.processor}): do not quote these ratios")
    if found.onnxruntime != result.environment.onnxruntime:
        versions = f"{found.onnxruntime}, now {result.environment.onnxruntime}"
        notes.append(f"{found.path} was measured with ONNX Runtime {versions}")
    return dataclasses.replace(result, baseline=Baseline(found.path, ratios), notes=(*result.notes, *notes))


def _medians(words: Mapping[str, Any]) -> dict[tuple[str, str], tuple[float, float, float]]:
    found = {}
    for each in words["measurements"]:
        median = each["latency"]["p50"]
        numbers = (median["value"], median["low"], math.inf if median["high"] is None else median["high"])
        value, low, high = map(float, numbers)
        if not 0 < low <= value <= high:
            raise ValueError(f"{numbers} is no interval")
        found[str(each["model"]), str(each["setting"])] = (value, low, high)
    return found


def _stored_median(found: Stored, now: Measurement) -> tuple[float, float, float] | None:
    """Of the model of the same path, or of the same file name, or of the only one, in the same setting."""
    there = {model: median for (model, setting), median in found.medians.items() if setting == now.setting.label}
    named = [median for model, median in there.items() if Path(model).name == Path(now.model).name]
    if now.model in there:
        return there[now.model]
    if len(named) == 1:
        return named[0]
    return next(iter(there.values())) if len(there) == 1 else None


def _ratio(now: Measurement, before: tuple[float, float, float]) -> Against:
    value, low, high = before
    after, least, most = now.percentiles[50]
    ends = (0.0 if math.isinf(most) else low / most, high / least)
    return Against(now.model, now.setting.label, value, after, value / after, *ends)
