"""What a report shows beyond what a run finds out anyway: layer by layer, and memory in fresh processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt import fresh, progress
from onnxopt.errors import OnnxoptError
from onnxopt.pipeline import Step
from onnxopt.report.layerwise import Layers, layers
from onnxopt.target import Target
from onnxopt.timebox import TimeUp, time_box

REPEATS = 3
"""Fresh processes that count, for each model."""


@dataclass
class Details:
    """What was found out in the time that was left.

    Attributes:
        layers: None where it was not found out.
        before, after: memory of the original and the result; None likewise.
        notes: what is missing, and why.
    """

    layers: Layers | None = None
    before: fresh.Fresh | None = None
    after: fresh.Fresh | None = None
    notes: list[str] = field(default_factory=list)

    def memory(self) -> dict[str, Any] | None:
        """Ready for JSON; None where it was not measured of both."""
        if self.before is None or self.after is None:
            return None
        return {"processes": REPEATS, "before": self.before.to_dict(), "after": self.after.to_dict()}


@dataclass(frozen=True)
class Subject:
    """Two models, in memory and on disk, and what is run."""

    original: ir.Model
    result: ir.Model
    source: Path
    output: Path
    feeds: Mapping[str, np.ndarray]
    target: Target


def collect(subject: Subject, steps: Sequence[Step], seconds: float | None) -> Details:
    """Find out what the time allows; Ctrl-C and the end of the time leave out what is not there yet.

    Args:
        subject: the models.
        steps: of the run.
        seconds: that are left; None: as many as it takes.
    """
    found = Details()
    end = None if seconds is None else time.perf_counter() + seconds
    try:
        with time_box(seconds):
            _try(found, "the layers", end, lambda: _layers(found, subject, steps))
            _try(found, "the memory", end, lambda: _memory(found, subject))
    except TimeUp:
        found.notes.append("the time limit left no time to measure all that a report shows of layers and memory")
    except KeyboardInterrupt:
        found.notes.append("interrupted: what was not measured yet of layers and memory is missing")
    return found


def _layers(found: Details, subject: Subject, steps: Sequence[Step]) -> None:
    progress.stage("layers")
    found.layers = layers(subject.original, subject.result, steps, subject.feeds, subject.target)


def _memory(found: Details, subject: Subject) -> None:
    progress.stage("memory")
    before = fresh.measure(subject.source, subject.target, subject.feeds, repeats=REPEATS)
    same = subject.result is subject.original
    after = before if same else fresh.measure(subject.output, subject.target, subject.feeds, repeats=REPEATS)
    found.before, found.after = before, after


def _try(found: Details, what: str, end: float | None, look: Callable[[], None]) -> None:
    """What cannot be found out must not take the report down with it."""
    if end is not None and time.perf_counter() > end:
        raise TimeUp
    try:
        look()
    except OnnxoptError as error:
        found.notes.append(f"{what} could not be measured: {error}")
