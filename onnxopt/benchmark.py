"""Time two contenders against each other: alternating iterations, an interval, and "not significant".

Ratios are the time of ``a`` over the time of ``b``: above 1, ``b`` is faster. Seconds everywhere.

Protocol (measured on ONNX Runtime, facts/ort_cpu_limits.md section 6): single iterations alternate A B B A,
so that clock changes and load hit neighbours alike; alternating blocks is 3 to 20 times worse, and minima are
the worst statistic. Sources: Kalibera and Jones, "Rigorous benchmarking in reasonable time" (ISMM 2013), for
an interval on the ratio and for asking at which level the doubt arises; Künsch (1989), and Politis and Romano
(1992), for resampling blocks of correlated values.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import gc
import importlib.metadata
import math
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxopt.load import ForeignLoad
from onnxopt.target import processor

Clock = Callable[[], float]
Run = Callable[[], object]

NOISE_FLOOR = 0.03
"""Two sessions of one small file differ by 0.3 to 1 % (RMS, quiet) because their memory lies differently.
More iterations narrow the interval and leave that difference, so a verdict needs the whole interval beyond the
floor: then 1 to 2 % of self-comparisons of 0.4 s under load were called (benchmarks/selfcheck.py). A model whose
weights outgrow the caches differs from itself by more: of 64 MB, a third was called. Load it anew several times."""
THREADED_FLOOR = 0.15
"""The same with more than one thread: a file against itself gave 0.88 to 1.13."""
LOAD_LIMIT = 0.10
"""Share of one CPU used by others above which a comparison carries a warning."""
WARM_SECONDS, WARM_ROUNDS = 0.1, 2
MIN_PAIRS, MIN_SECONDS, SLOW_SECONDS = 30, 3.0, 9.0
LOADS = 3
"""Times a pair of models is loaded for one comparison."""
SLOT_SECONDS = 100e-6
"""A slot of the alternation lasts at least this long, so that not the timer is what is timed."""
MAX_REPEATS = 1000
MIN_QUADS = 6
"""Of fewer values no interval of their median has a confidence of 95 % (the sign test)."""
RESAMPLES, BATCHES = 1000, 10


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
    """

    processor: str
    cores: int
    python: str
    platform: str
    onnxruntime: str | None
    threads: int
    foreign_load: float

    @property
    def load_warning(self) -> str | None:
        """What to tell the user when others used the machine."""
        if self.foreign_load <= LOAD_LIMIT:
            return None
        return (
            f"other processes used {self.foreign_load:.0%} of a CPU meanwhile; "
            "load shifts the ratio itself: repeat on a quiet machine"
        )


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
        low: lower end of the interval of the ratio; of these two contenders, as they lie in memory.
        high: upper end.
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
            "verdict": self.verdict.value,
            "warnings": list(self.warnings),
        }


def compare(
    a: Run,
    b: Run,
    *,
    min_pairs: int = MIN_PAIRS,
    min_seconds: float = MIN_SECONDS,
    slow_iteration: float = 0.050,
    slow_seconds: float = SLOW_SECONDS,
    max_seconds: float | None = None,
    confidence: float = 0.95,
    floor: float | None = None,
    seed: int = 0,
    threads: int = 1,
    stop: Callable[[], bool] | None = None,
    clock: Clock = time.perf_counter,
) -> Comparison:
    """Time ``a`` and ``b`` in turns: A B B A, A B B A, and so on.

    Args:
        a: one iteration of the first contender.
        b: one iteration of the second.
        min_pairs: at least so many pairs of A and B,
        min_seconds: and at least so long;
        slow_iteration: where an iteration takes longer than this, or there is more than one thread,
        slow_seconds: at least this long instead.
        max_seconds: at most about this long, warm-up included; then fewer pairs, and a warning.
        confidence: of the interval.
        floor: differences up to this are not claimed; by default NOISE_FLOOR, or THREADED_FLOOR with threads.
        seed: of the resampling.
        threads: that the contenders use.
        stop: asked after every A B B A; True ends the comparison as max_seconds does.
        clock: seconds; another one in tests.

    What a contender raises passes through. Contenders that take turns push each other out of the caches:
    beside a model that fills them, a small one is timed colder, and its gain shown smaller, than alone.
    """
    with _no_garbage_collection():
        start, load = clock(), ForeignLoad(clock)
        once = _warm_up(a, b, clock, WARM_SECONDS if max_seconds is None else min(WARM_SECONDS, max_seconds / 4))
        slow = max(once) > slow_iteration or threads > 1
        seconds = max(min_seconds, slow_seconds) if slow else min_seconds
        repeats = min(MAX_REPEATS, max(1, math.ceil(SLOT_SECONDS / max(min(once), 1e-9))))
        slots, begin = [(run, repeats, clock) for run in (a, b, b, a)], clock()
        rounds: list[list[float]] = []
        while True:
            rounds.append([_slot(*slot) for slot in slots])
            now = clock()
            complete = 2 * len(rounds) >= min_pairs and now - begin >= seconds
            late = max_seconds is not None and now - start >= max_seconds
            if complete or late or (stop is not None and stop()):
                break
        foreign = load.share()

    quads = np.array(rounds)
    ratio, low, high = interval(quads, confidence, seed)
    floor = floor if floor is not None else NOISE_FLOOR if threads == 1 else THREADED_FLOOR
    environment = measured_in(threads, foreign)
    wanted = None if complete else f"{min_pairs} pairs and {seconds:g} s"
    return Comparison(
        a=Timing(tuple(quads[:, [0, 3]].ravel().tolist())),
        b=Timing(tuple(quads[:, [1, 2]].ravel().tolist())),
        ratio=ratio,
        low=low,
        high=high,
        confidence=confidence,
        floor=floor,
        verdict=judge(low, high, floor) if len(quads) >= MIN_QUADS else Verdict.NOT_SIGNIFICANT,
        environment=environment,
        warnings=tuple(_warnings(quads, wanted, environment)),
    )


def compare_loads(load: Callable[[], tuple[Run, Run]], *, loads: int = LOADS, **limits: Any) -> Comparison:
    """Time two contenders that are loaded anew several times, so that the interval holds for other loads, too.

    Where weights and buffers lie in memory decides part of the speed of a session for as long as it lives; no
    number of iterations removes that doubt (Kalibera and Jones: repeat at the level where the doubt arises).
    A model with 64 MB of weights was called faster or slower than itself in 38 % of comparisons of one load.

    Args:
        load: makes a pair of contenders anew.
        loads: how often. Pairs and seconds are divided among them.
        limits: as of ``compare``.

    Returns:
        The median of the ratios, and the hull of the intervals of all loads.
    """
    least = {"min_pairs": MIN_PAIRS, "min_seconds": MIN_SECONDS, "slow_seconds": SLOW_SECONDS, "max_seconds": None}
    given = {**least, **limits}
    shares = {name: given[name] / loads for name in ("min_seconds", "slow_seconds", "max_seconds") if given[name]}
    shares["min_pairs"] = max(2 * MIN_QUADS, math.ceil(given["min_pairs"] / loads))
    seed = limits.get("seed", 0)
    parts = [compare(*load(), **{**limits, **shares, "seed": seed + i}) for i in range(loads)]
    low, high = min(part.low for part in parts), max(part.high for part in parts)
    judged = all(len(part.a.seconds) >= 2 * MIN_QUADS for part in parts)
    foreign = float(np.mean([part.environment.foreign_load for part in parts]))
    environment = dataclasses.replace(parts[0].environment, foreign_load=foreign)
    others = (w for part in parts for w in part.warnings if w != part.environment.load_warning)
    return Comparison(
        a=Timing(tuple(second for part in parts for second in part.a.seconds)),
        b=Timing(tuple(second for part in parts for second in part.b.seconds)),
        ratio=float(np.median([part.ratio for part in parts])),
        low=low,
        high=high,
        confidence=parts[0].confidence,
        floor=parts[0].floor,
        verdict=judge(low, high, parts[0].floor) if judged else Verdict.NOT_SIGNIFICANT,
        environment=environment,
        warnings=tuple(dict.fromkeys([*others, *([environment.load_warning] if environment.load_warning else [])])),
    )


def judge(low: float, high: float, floor: float = NOISE_FLOOR) -> Verdict:
    """Faster or slower if the whole interval of the ratio lies beyond the floor."""
    if low > 1 + floor:
        return Verdict.FASTER
    if high < 1 / (1 + floor):
        return Verdict.SLOWER
    return Verdict.NOT_SIGNIFICANT


def interval(quads: np.ndarray, confidence: float = 0.95, seed: int = 0) -> tuple[float, float, float]:
    """Ratio of A over B, and the ends of its interval.

    The ratio is the median of the ratios of all pairs, A B and B A alike. Under load (1.5 other CPUs, 15
    quads) it was off by 1.7 % (RMS), the mean of the medians of either order by 3.8 %, the median of quads
    by 5.9 %. Where the order matters, because the second of a pair finds the other's data in the caches, the
    pairs form two heaps of one size: the median lies between them, and the interval is wide.

    The interval is a percentile bootstrap that draws blocks of neighbouring quads from their circle (Politis
    and Romano 1992), because neighbours are correlated; the blocks grow as the cube root of n (Künsch 1989).

    Args:
        quads: float[n, 4], seconds of A, B, B and A; zeros (of a coarse clock) count as a nanosecond.
        confidence: of the interval.
        seed: of the resampling.
    """
    a1, b1, b2, a2 = np.log(np.maximum(quads, 1e-9)).T
    pairs, n = np.stack([a1 - b1, a2 - b2], axis=1), len(quads)  # [n, 2]: log ratios of A B and of B A
    length = round(n ** (1 / 3))
    generator = np.random.default_rng(seed)
    medians = []
    for _ in range(BATCHES):
        starts = generator.integers(0, n, (RESAMPLES // BATCHES, math.ceil(n / length), 1))
        chosen = ((starts + np.arange(length)) % n).reshape(len(starts), -1)[:, :n]
        drawn = np.sort(pairs[chosen].reshape(len(starts), -1), axis=1)  # faster than np.median
        medians.append((drawn[:, n - 1] + drawn[:, n]) / 2)
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(medians), [tail, 1 - tail])
    ratio = np.median(pairs)
    return float(np.exp(ratio)), float(np.exp(min(low, ratio))), float(np.exp(max(high, ratio)))


def _warm_up(a: Run, b: Run, clock: Clock, seconds: float) -> tuple[float, float]:
    """Run both until clocks and allocators are steady; return the usual seconds of one iteration of each."""
    start, rounds = clock(), list[tuple[float, float]]()
    while len(rounds) < WARM_ROUNDS or clock() - start < seconds:
        rounds.append((_slot(a, 1, clock), _slot(b, 1, clock)))
    first, second = np.median(rounds[len(rounds) // 2 :], axis=0)
    return float(first), float(second)


def _slot(run: Run, repeats: int, clock: Clock) -> float:
    start = clock()
    for _ in range(repeats):
        run()
    return (clock() - start) / repeats


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


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


def _warnings(quads: np.ndarray, wanted: str | None, environment: Environment) -> Iterator[str]:
    if wanted:
        yield f"stopped after {2 * len(quads)} pairs; {wanted} were asked for"
    if len(quads) < MIN_QUADS:
        yield f"no verdict is given on fewer than {2 * MIN_QUADS} pairs"
    if not quads.all():
        yield "some durations are zero: the clock is too coarse for these contenders"
    if environment.threads > 1:
        yield f"with more than one thread a model differs from itself by up to {THREADED_FLOOR:.0%}"
    if environment.load_warning:
        yield environment.load_warning
