"""Run the samples once and keep of every value what the estimators need: a fixed size, however many samples."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import onnx_ir as ir

from onnxopt.calibrate.histogram import Histogram
from onnxopt.calibrate.tap import Ends, Extremes, Values
from onnxopt.errors import DataError
from onnxopt.runtime import Outputs, Session
from onnxopt.samples import BATCH, Samples
from onnxopt.target import Target

FETCHED = 64 * 2**20
"""Bytes of values in one run, at most, where more than one sample is run at once."""
SMOOTHING = 0.01
"""Weight of the newest sample in a moving average, as in PyTorch's MovingAverageMinMaxObserver."""


@dataclass
class Seen:
    """What was seen of one value.

    Attributes:
        low: the smallest number.
        high: the largest.
        average: moving average of the smallest and of the largest number of a run.
        runs: how many had numbers.
        histogram: of all numbers; empty where only extremes were asked for.
    """

    low: float = math.inf
    high: float = -math.inf
    average: tuple[float, float] = (0.0, 0.0)
    runs: int = 0
    histogram: Histogram = field(default_factory=Histogram)

    def add(self, low: float, high: float) -> None:
        """Take the extremes of one run.

        The average of PyTorch's observer begins with the first sample, which after 100 others still has 37 % of the
        weight. Here the first hundred count alike: ``average += (new - average) * max(1 / runs, SMOOTHING)``.
        """
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.runs += 1
        share = max(1 / self.runs, SMOOTHING)
        bottom, top = self.average
        self.average = bottom + (low - bottom) * share, top + (high - top) * share


def extremes(
    model: ir.Model, samples: Samples, names: Collection[str], target: Target, *, alone: bool = False
) -> dict[str, Seen]:
    """The smallest and largest numbers of the named values, found inside the graph: no value leaves the session.

    Args:
        model: not changed.
        samples: run once, in order, read as they are needed.
        names: of float values of the main graph.
        target: where to run.
        alone: one sample at a time, where averages are over samples.

    Raises:
        DataError: if a value is NaN or infinite; names it and the sample.
        ModelError: if there is no such float value.
    """
    tap = Extremes.of(model, names, samples.state.values())
    session = Session(tap.model, target)
    seen: dict[str, Seen] = {}
    for _, ends in watched(samples, session, tap, 1 if alone else None):
        for name, (low, high) in ends.items():
            seen.setdefault(name, Seen()).add(low, high)
    return seen


def histograms(model: ir.Model, samples: Samples, names: Collection[str], target: Target) -> dict[str, Seen]:
    """The same with a histogram of each value, which is fetched run by run; for the rest see ``extremes``."""
    tap = Values.of(model, names, samples.state.values())
    session = Session(tap.model, target)
    size = _at_once(session, samples)
    seen: dict[str, Seen] = {}
    for outputs, ends in watched(samples, session, tap, size):
        for name, (low, high) in ends.items():
            one = seen.setdefault(name, Seen())
            one.add(low, high)
            one.histogram.add(outputs[tap.outputs[name]])
    return seen


class Tap(Protocol):
    """What knows the outputs of a tapped model."""

    def read(self, outputs: Outputs) -> Ends:
        """Smallest and largest number of each value in one run."""


def watched(samples: Samples, session: Session, tap: Tap, size: int | None = None) -> Iterator[tuple[Outputs, Ends]]:
    """The outputs of each batch, let go before the next, with the extremes of each value, all of them finite.

    Args:
        samples: run once, in order.
        session: of the tapped model.
        tap: reads its outputs.
        size: samples at once; None leaves it to ``Samples.run``.

    Raises:
        DataError: if a value is NaN or infinite; names it and the sample.
    """
    start = 0
    for batch, outputs in samples.run(session, size=size):
        ends = tap.read(outputs)
        if _fault(ends):
            raise _explained(samples, start, batch.size, session, tap, ends)
        yield outputs, ends
        outputs.clear()
        start += batch.size


def _fault(ends: Ends) -> str | None:
    """The first value, in the order they are computed, that has an infinite number or NaN; and which."""
    for name, pair in ends.items():
        for number in pair:
            if not math.isfinite(number):
                return f"value {name!r} becomes {'NaN' if math.isnan(number) else number}"
    return None


def _explained(samples: Samples, start: int, size: int, session: Session, tap: Tap, ends: Ends) -> DataError:
    """The error that names value and sample; each sample of the batch is run alone to find it."""
    fault, rows = _fault(ends), samples.data.index[start : start + size]
    if not samples.state and size > 1:
        done = 0
        for batch in dataclasses.replace(samples.data, index=rows).batches(1):
            found = _fault(tap.read(session.run(batch.feeds)))
            if found:
                fault, rows = found, rows[done : done + batch.size]
                break
            done += batch.size
    which = f"sample {rows[0]}" if len(rows) == 1 else f"one of the samples {', '.join(map(str, rows))}"
    return DataError(f"{fault} on {which} of {samples.data.source.origin}; check the model and its inputs")


def _at_once(session: Session, samples: Samples) -> int:
    """How many samples to run at once, so that their values fit into FETCHED bytes: asked of the first."""
    if samples.state:
        return 1
    one = next(iter(samples.data.batches(1)))
    size: int = sum(array.nbytes for array in session.run(one.feeds).values()) // max(1, one.size)
    return max(1, min(BATCH, FETCHED // max(1, size)))
