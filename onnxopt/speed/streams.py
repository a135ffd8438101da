"""Throughput: N threads of this process call one session at the same time.

What is shared: the session, so its weights, its memory arena and its pool of threads for operators. What is not: each
thread has its own inputs and outputs bound. An operator of one stream may wait for the pool while it computes for
another one.

What is timed is a *burst*: so many runs lie on a heap, and each thread takes one after the other until none is left.
Bursts of two models take turns, as single runs do.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxopt.benchmark import Comparison, Run, Timing
from onnxopt.runtime import Session
from onnxopt.target import Target

BURST_SECONDS = 0.1
"""Of a burst of the faster model: threads that start and end cost little of it."""
MOST_RUNS = 10_000
"""Of each stream in a burst."""


@dataclass(frozen=True)
class Throughput:
    """Samples per second with some streams.

    Attributes:
        streams: threads.
        runs: in a burst, of all threads together.
        samples: in a run.
        timing: seconds of bursts.
        comparison: of bursts with those of the first model; above 1, this one gives more samples per second.
        warnings: what the reader must know before quoting a number.
    """

    streams: int
    runs: int
    samples: int
    timing: Timing
    comparison: Comparison | None
    warnings: tuple[str, ...] = ()

    @property
    def per_second(self) -> tuple[float, float, float]:
        """Samples per second, and the ends of the interval of 95 %; from 0 where it is not known."""
        ((low, high),) = self.timing.intervals(50)
        samples = self.runs * self.samples
        return samples / self.timing.median, samples / high, samples / low

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "streams": self.streams,
            "runs_per_burst": self.runs,
            "samples_per_second": dict(zip(("value", "low", "high"), self.per_second, strict=True)),
            "bursts": self.timing.to_dict(),
            "comparison": self.comparison and self.comparison.to_dict(),
        }


def runs_per_burst(streams: int, seconds: float) -> int:
    """How many runs a burst has, of a model that takes so long for one."""
    return streams * min(MOST_RUNS, max(1, math.ceil(BURST_SECONDS / max(seconds, 1e-6))))


def bursts(path: Path, target: Target, feeds: Mapping[str, np.ndarray], streams: int, runs: int) -> Run:
    """Load a model; each call of what is returned is one burst.

    Raises:
        ModelError: if the model does not load; a burst raises what a run raises.
    """
    session = Session(path, target, spinning=target.threads == 1)
    own = [session.bound(feeds) for _ in range(streams)]
    return functools.partial(_burst, ThreadPoolExecutor(streams, "onnxopt-stream"), own, runs)


def _burst(pool: ThreadPoolExecutor, own: list[Run], runs: int) -> None:
    heap = iter(range(runs))
    for done in [pool.submit(_take, run, heap) for run in own]:
        done.result()


def _take(run: Run, heap: Iterator[int]) -> None:
    for _ in heap:
        run()
