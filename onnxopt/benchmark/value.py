"""What a comparison of two contenders is as a value, and where it was made."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import importlib.metadata
import math
import os
import platform
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from onnxopt.quantiles import percentile_intervals
from onnxopt.target import Target, gpu, processor

LOAD_LIMIT = 0.10
"""Share of one CPU used by others above which a comparison carries a warning."""


class Verdict(enum.Enum):
    """What a comparison says of ``b``."""

    FASTER = "faster"
    SLOWER = "slower"
    NOT_SIGNIFICANT = "not significant"


@dataclass(frozen=True)
class Environment:
    """Where and under what load was timed.

    Attributes:
        onnxruntime: its version; None where it is not installed.
        threads: that the contenders were said to use.
        foreign_load: share of one CPU that other processes used meanwhile (above 1: more than one CPU).
        provider: ``cpu`` or ``cuda``.
        gpu: its name, where the provider is a GPU's and the driver tells it.
    """

    processor: str
    cores: int
    python: str
    platform: str
    onnxruntime: str | None
    threads: int
    foreign_load: float
    provider: str = "cpu"
    gpu: str | None = None

    @property
    def load_warning(self) -> str | None:
        """What to tell the user when others used the machine."""
        if self.foreign_load <= LOAD_LIMIT:
            return None
        return (
            f"other processes used {self.foreign_load:.0%} of a CPU meanwhile; "
            "load shifts the ratio itself: repeat on a quiet machine"
        )


class Interval(NamedTuple):
    """A ratio, and the ends of its interval."""

    ratio: float
    low: float
    high: float


@dataclass(frozen=True)
class Timing:
    """Seconds per iteration of one contender, in the order they were taken."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median seconds."""
        return self.percentile(50)

    def percentile(self, percent: float) -> float:
        """Seconds that ``percent`` of the iterations stay below."""
        return float(np.percentile(self.seconds, percent))

    def intervals(self, *percents: float, confidence: float = 0.95) -> list[tuple[float, float]]:
        """The ends of an interval for each percentile, in seconds (see ``percentile_intervals``)."""
        return percentile_intervals(self.seconds, percents, confidence)

    def to_dict(self, *, raw: bool = False) -> dict[str, Any]:
        """For JSON; ``raw`` adds every iteration."""
        summary = {f"p{percent}": self.percentile(percent) for percent in (5, 95)}
        seconds = {"seconds": list(self.seconds)} if raw else {}
        return {"iterations": len(self.seconds), "median": self.median, **summary, **seconds}


@dataclass(frozen=True)
class Comparison:
    """Two contenders, timed against each other.

    Attributes:
        ratio: time of ``a`` over time of ``b``: above 1, ``b`` is faster.
        low: lower end of the interval of the ratio.
        high: upper end.
        loads: how often both were loaded. The interval of one load is of these two contenders, as they lie in memory.
        floor: a verdict needs the whole interval to be above ``1 + floor`` or below ``1 / (1 + floor)``.
    """

    a: Timing
    b: Timing
    ratio: float
    low: float
    high: float
    confidence: float
    floor: float
    verdict: Verdict
    environment: Environment
    warnings: tuple[str, ...] = ()
    loads: int = 1

    def on(self, target: Target) -> Comparison:
        """The same, with the provider that it was measured on."""
        name = None if target.provider == "cpu" else gpu()
        return dataclasses.replace(
            self, environment=dataclasses.replace(self.environment, provider=target.provider, gpu=name)
        )

    def summary(self) -> str:
        """One line for people."""
        interval = f"{self.ratio:.2f}x [{self.low:.2f}, {self.high:.2f}]"
        return f"{self.verdict.value}: {interval}, {1e3 * self.a.median:.3g} to {1e3 * self.b.median:.3g} ms"

    def to_dict(self, *, raw: bool = False) -> dict[str, Any]:
        """For JSON; ``raw`` adds every iteration."""
        return {
            **dataclasses.asdict(dataclasses.replace(self, a=Timing(()), b=Timing(()))),
            "a": self.a.to_dict(raw=raw),
            "b": self.b.to_dict(raw=raw),
            "high": self.high if math.isfinite(self.high) else None,
            "verdict": self.verdict.value,
            "warnings": list(self.warnings),
        }


def measured_in(threads: int, foreign_load: float) -> Environment:
    """This machine, with what its load was."""
    return Environment(
        processor=processor(),
        cores=os.cpu_count() or 1,
        python=platform.python_version(),
        platform=platform.platform(),
        onnxruntime=_onnxruntime_version(),
        threads=threads,
        foreign_load=foreign_load,
    )


def _onnxruntime_version() -> str | None:
    for name in ("onnxruntime", "onnxruntime-gpu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return None
