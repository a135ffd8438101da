"""What becomes of values when they are rounded to 16 bits: how large they are, and how much is lost, on samples.

All is summed up inside the graph, so that no value leaves the session.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from onnxopt.calibrate.tap import FLOAT, add, found
from onnxopt.runtime import Outputs, Session
from onnxopt.samples import Samples
from onnxopt.target import Target

KEEP = ("keepdims", 0)


@dataclass(frozen=True)
class Magnitude:
    """How large a value is.

    Attributes:
        low: the smallest number.
        high: the largest.
        count: of numbers in one run, at most.
        square: mean of the squares; infinite or NaN where numbers are, or beyond 1e19.
        lost: mean of the squared differences to the numbers in 16 bits; infinite or NaN likewise.
    """

    low: float
    high: float
    count: int
    square: float
    lost: float

    @property
    def peak(self) -> float:
        """The largest magnitude that is not infinite; NaN where there is none."""
        ends = [abs(end) for end in (self.low, self.high) if math.isfinite(end)]
        return max(ends, default=math.nan)

    @property
    def root(self) -> float:
        """The root of the mean square."""
        return math.sqrt(self.square) if self.square >= 0 else math.nan

    @property
    def least(self) -> float:
        """The smallest magnitude where all numbers have one sign, else 0."""
        return max(self.low, -self.high, 0.0)

    @property
    def error(self) -> float:
        """Of rounding, relative; NaN where it is not known."""
        return math.sqrt(self.lost / self.square) if self.lost >= 0 and 0 < self.square < math.inf else math.nan


def magnitudes(
    model: ir.Model, samples: Samples, names: Collection[str], target: Target, half: ir.DataType
) -> dict[str, Magnitude]:
    """The magnitude of each named float32 value of the main graph; those that are always empty get none.

    Args:
        model: not changed.
        samples: run once, in order, read as they are needed; states are fed back.
        names: of values.
        target: where to run.
        half: the type with 16 bits.

    Raises:
        ModelError: if there is no value of a name, or it is not float.
    """
    if not names:
        return {}
    copy, values = found(model, names, samples.state.values())
    for name, value in reversed(values.items()):  # see Extremes: each right after its value is made
        _tap(copy, value, name, half)
    session = Session(copy, target)
    seen: dict[str, _Sum] = {}
    for _, outputs in samples.run(session):
        for name in values:
            seen.setdefault(name, _Sum()).add(outputs, name)
    return {name: one.mean() for name, one in seen.items() if one.total}


@dataclass
class _Sum:
    """Of all runs."""

    low: float = math.inf
    high: float = -math.inf
    count: int = 0
    total: int = 0
    square: float = 0.0
    lost: float = 0.0

    def add(self, outputs: Outputs, name: str) -> None:
        """Take one run."""
        low, high, count, square, lost = (outputs[f"onnxopt/{part}/{name}"].item() for part in _PARTS)
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.count, self.total = max(self.count, count), self.total + count
        self.square, self.lost = self.square + square, self.lost + lost

    def mean(self) -> Magnitude:
        """As a value."""
        return Magnitude(self.low, self.high, self.count, self.square / self.total, self.lost / self.total)


_PARTS = ("low", "high", "count", "square", "lost")


def _tap(model: ir.Model, value: ir.Value, name: str, half: ir.DataType) -> None:
    """Return the five numbers of a value."""
    graph, keep, kind = model.graph, [ir.AttrInt64(*KEEP)], FLOAT
    narrow = add(graph, "Cast", [value], [ir.AttrInt64("to", half)], f"onnxopt/narrow/{name}", half)
    back = add(graph, "Cast", [narrow], [ir.AttrInt64("to", kind)], f"onnxopt/back/{name}")
    gap = add(graph, "Sub", [value, back], [], f"onnxopt/gap/{name}")
    outputs = [
        add(graph, "ReduceMin", [value], keep, f"onnxopt/low/{name}"),
        add(graph, "ReduceMax", [value], keep, f"onnxopt/high/{name}"),
        add(graph, "Size", [value], [], f"onnxopt/count/{name}", ir.DataType.INT64),
        add(graph, "ReduceSumSquare", [value], keep, f"onnxopt/square/{name}"),
        add(graph, "ReduceSumSquare", [gap], keep, f"onnxopt/lost/{name}"),
    ]
    graph.outputs.extend(outputs)


def known(found: Mapping[str, Magnitude], value: ir.Value | None) -> Magnitude | None:
    """The magnitude of a value, if it was looked at."""
    return None if value is None else found.get(value.name or "")
