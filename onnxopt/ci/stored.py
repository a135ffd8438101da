"""A baseline that an earlier run stored: times of another day, and perhaps of another machine.

Times are only compared on the same kind of processor, unless that is forced, and even there they come from another
run: what differs between two runs (clock, neighbours, where memory lies) is in the ratio. A baseline *model*, timed
in turns with the new one, has none of that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onnxopt.ci.results import FORM, VERSION, Accuracy, Median, Speed
from onnxopt.errors import InputError, UsageError

LARGEST = 64 * 2**20
"""Bytes of a file that is read; a run over hundreds of models has a few."""


@dataclass(frozen=True)
class Stored:
    """What an earlier run measured of one model.

    Attributes:
        path: of the file.
        times: place to its median, of the model that was judged then.
        environments: place to where it was measured.
        score: metric, score (``after``) and samples; None where there was none.
    """

    path: Path
    times: Mapping[str, Median]
    environments: Mapping[str, Mapping[str, Any]]
    score: Mapping[str, Any] | None


def read(path: Path, name: str) -> Stored:
    """The measurements of the model of this name.

    Raises:
        InputError: if the file cannot be read, is of another kind or version, or does not have the model.
    """
    content = _content(path)
    try:
        models = {model["name"]: model for model in content["models"]}
        if name not in models:
            raise InputError(f"baseline {path} has no model {name!r}; it has {', '.join(models) or 'none'}")
        speeds = {speed["where"]: speed for speed in models[name]["speed"]}
        times = {where: Median(**{k: float(v) for k, v in speed["after"].items()}) for where, speed in speeds.items()}
        environments = {where: dict(speed["environment"]) for where, speed in speeds.items()}
        score = (models[name]["accuracy"] or {}).get("score")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"baseline {path} is damaged ({type(error).__name__}: {error}); store it again") from error
    if any(not 0 < time.low <= time.median <= time.high for time in times.values()):
        raise InputError(f"baseline {path} is damaged (times that are not above 0); store it again")
    return Stored(path, times, environments, score)


def against(stored: Stored, found: Speed, *, force: bool) -> Speed:
    """A model that was timed alone, against its stored time.

    The interval is the widest that both medians allow; it knows nothing of what differs between two runs.

    Raises:
        UsageError: if the time is of another processor, and ``force`` is not set.
        InputError: if nothing was stored for this place.
    """
    before = stored.times.get(found.where)
    if before is None:
        raise InputError(f"baseline {stored.path} has no time for {found.where}; store it again")
    old, new = stored.environments[found.where], found.environment
    keys = [key for key in ("processor", "cores") if old.get(key) != new.get(key)]
    other = [f"{key} {old.get(key)!r} instead of {new.get(key)!r}" for key in keys]
    if other and not force:
        raise UsageError(
            f"baseline {stored.path} was measured on another machine ({'; '.join(other)}): its times say nothing "
            "here. Give a baseline model, store it again on this machine, or add --force-baseline"
        )
    warnings = ["the time of the baseline is from an earlier run, not taken in turns: a few per cent say nothing"]
    warnings += [f"forced: the baseline is of another machine: {'; '.join(other)}"] if other else []
    if old.get("onnxruntime") != new.get("onnxruntime"):
        warnings.append(f"the baseline is of ONNX Runtime {old.get('onnxruntime')}, this is {new.get('onnxruntime')}")
    return replace(
        found,
        baseline=str(stored.path),
        before=before,
        ratio=before.median / found.after.median,
        low=before.low / found.after.high,
        high=before.high / found.after.low,
        stored=True,
        warnings=(*found.warnings, *warnings),
    )


def accuracy(stored: Stored, alone: Accuracy, max_drop: float) -> Accuracy:
    """The score of a model against the stored one: points without an interval, for the samples of then are not here."""
    old, new = stored.score, alone.score
    assert new is not None
    if old is None or any(old.get(key) != new[key] for key in ("metric", "samples")):
        return replace(alone, notes=(f"the score was not compared: {stored.path} has none of this metric and data",))
    fallen = float(old["after"]) - new["after"]
    fallen = fallen if new["higher_is_better"] else -fallen
    line = f"{new['metric']} {old['after']:.4f} -> {new['after']:.4f}, drop {fallen:+.4f} on {new['samples']} samples"
    problems = [f"{new['metric']} drops by {fallen:.4f}, more than {max_drop:g}"] if fallen > max_drop + 1e-12 else []
    score = {**new, "before": old["after"], "drop": fallen}
    return replace(alone, reference=str(stored.path), line=line, problems=tuple(problems), score=score)


def _content(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > LARGEST:
            raise InputError(f"baseline {path} is larger than {LARGEST:,} bytes; it is not what onnxopt ci wrote")
        content = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"baseline {path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"baseline {path} is not JSON: {error}") from error
    if not isinstance(content, dict) or content.get("form") != FORM:
        raise InputError(f"baseline {path} is not what onnxopt ci writes with json; give such a file, or a model")
    if content.get("version") != VERSION:
        raise InputError(f"baseline {path} has version {content.get('version')}; this onnxopt reads {VERSION}")
    return content
