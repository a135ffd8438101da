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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from onnxopt import progress
from onnxopt.load import ForeignLoad
from onnxopt.quantiles import percentile_intervals
from onnxopt.target import Target, gpu, processor

Clock = Callable[[], float]
Run = Callable[[], object]
Load = Callable[[], Run]

NOISE_FLOOR = 0.03
"""Of one load. Two sessions of one small file differ by 0.3 to 1 % (RMS, quiet) because their memory lies
differently. More iterations narrow the interval and leave that difference, so a verdict needs the whole interval
beyond the floor. A model whose weights outgrow the caches differs from itself by 3.5 %: load it anew many times."""
THREADED_FLOOR = 0.15
"""The same with more than one thread: a file against itself gave 0.88 to 1.13."""
LOAD_LIMIT = 0.10
"""Share of one CPU used by others above which a comparison carries a warning."""
WARM_SECONDS = 0.1
MIN_PAIRS, MIN_SECONDS, SLOW_SECONDS = 30, 3.0, 9.0
LOADS, MIN_LOADS = 6, 3
"""Times a pair of models is loaded for one comparison; with fewer than the second there is no verdict."""
LOADS_SECONDS, PATIENCE, PRECISION = 2.0, 10.0, 0.01
"""A comparison of loads takes at least this long, and goes on up to this for an interval as narrow as this."""
PART_SECONDS, PART_WARM_SECONDS = 0.1, 0.03
"""Of each pair of loads, and to warm them up: most of the doubt is between loads, not within."""
LOADS_FLOOR = 0.005
"""What differs from load to load is in the interval of many loads; a difference this small is no gain to anybody."""
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
        repeats = _repeats(once)
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
    return _compared(
        quads,
        interval(quads, confidence, seed),
        confidence=confidence,
        floor=floor if floor is not None else NOISE_FLOOR if threads == 1 else THREADED_FLOOR,
        environment=measured_in(threads, foreign),
        doubt=None if len(quads) >= MIN_QUADS else f"no verdict is given on fewer than {2 * MIN_QUADS} pairs",
        wanted=None if complete else f"{min_pairs} pairs and {seconds:g} s",
    )


def compare_loads(
    a: Load,
    b: Load,
    *,
    min_loads: int = LOADS,
    min_seconds: float = LOADS_SECONDS,
    patience: float = PATIENCE,
    max_seconds: float | None = None,
    settled: Callable[[Interval], bool] | None = None,
    confidence: float = 0.95,
    floor: float | None = None,
    threads: int = 1,
    stop: Callable[[], bool] | None = None,
    clock: Clock = time.perf_counter,
) -> Comparison:
    """Time two contenders that are loaded anew many times, so that the interval holds for other loads, too.

    Where weights and buffers lie in memory decides part of the speed of a session for as long as it lives; no
    number of iterations removes that doubt (Kalibera and Jones: repeat at the level where the doubt arises). So
    each pair of loads is timed for a short while, A B B A, and gives one number: the median of the ratios of its
    pairs. The interval is Student's, of the mean of the logarithms of these numbers.

    Args:
        a: loads the first contender and returns one iteration of it. Every other time, ``b`` is loaded before it.
        b: the same of the second.
        min_loads: at least so many pairs of loads,
        min_seconds: and at least so long, loading and warm-up not counted.
        patience: while the interval is not settled, it goes on for about this long, all counted.
        max_seconds: at most about this long, all counted, whatever was asked above; then with a warning.
        settled: whether an interval is good enough; by default, PRECISION on either side. Ask nothing that the
            verdict hangs on at the same confidence: who looks again and again finds what is not there.
        confidence: of the interval.
        floor: differences up to this are not claimed; by default LOADS_FLOOR, or THREADED_FLOOR with threads.
        threads: that the contenders use.
        stop: asked after each pair of loads; True ends the comparison as max_seconds does.
        clock: seconds; another one in tests.
    """
    settled = settled or _narrow
    parts: list[np.ndarray] = []
    share = min(PART_SECONDS, min_seconds / min_loads)
    foreign, start, timed = ForeignLoad(clock), clock(), 0.0
    with _no_garbage_collection():
        while True:
            begun = clock()
            quads, spent = _part(a, b, share, reverse=len(parts) % 2 == 1, clock=clock)
            parts.append(quads)
            timed, ends = timed + spent, clock() + (clock() - begun)  # if there were another one like it
            found = load_interval(parts, confidence)
            progress.detail(f"timing, {clock() - start:.0f} s of at most {max_seconds or patience:.0f} s")
            complete = len(parts) >= min_loads and timed >= min_seconds
            if complete and (settled(found) or ends - start > patience):
                break
            if (max_seconds is not None and ends - start > max_seconds) or (stop is not None and stop()):
                break
    quads = np.concatenate(parts)
    return _compared(
        quads,
        found,
        confidence=confidence,
        floor=floor if floor is not None else LOADS_FLOOR if threads == 1 else THREADED_FLOOR,
        environment=measured_in(threads, foreign.share()),
        doubt=None if len(parts) >= MIN_LOADS else f"no verdict is given on fewer than {MIN_LOADS} loads",
        wanted=None if complete else f"{min_loads} loads and {min_seconds:g} s",
        loads=len(parts),
    )


def load_interval(parts: Sequence[np.ndarray], confidence: float = 0.95) -> Interval:
    """Ratio of A over B, and the ends of its interval, from pairs of loads that each were timed for a while.

    Student's interval of the mean over loads: each load is one number, so that what differs from load to load is
    in the interval. From 0 to infinity where there is one load.

    Args:
        parts: of each pair of loads float[n, 4], seconds of A, B, B and A.
        confidence: of the interval.

    Source: Kalibera and Jones, section 6. Measured on 60 loads of four models with themselves
    (benchmarks/selfcheck.py): drawn from them, 10 s of loads gave 4 to 6 % intervals without 1, as they should.
    """
    logs = np.array([np.median(_log_ratios(part)) for part in parts])
    ratio = float(np.exp(logs.mean()))
    if len(logs) < 2:
        return Interval(ratio, 0.0, math.inf)
    from scipy import stats

    error = float(logs.std(ddof=1)) / math.sqrt(len(logs))
    half = float(stats.t.ppf((1 + confidence) / 2, len(logs) - 1)) * error
    return Interval(ratio, ratio * math.exp(-half), ratio * math.exp(half))


def _part(a: Load, b: Load, seconds: float, *, reverse: bool, clock: Clock) -> tuple[np.ndarray, float]:
    """Load both, warm them up, and time them in turns: float[n, 4], and the seconds that took without loading.

    It lasts half as long as loading at least: where that takes long, so may timing.
    """
    begun = clock()
    if reverse:
        second, first = b(), a()
    else:
        first, second = a(), b()
    loading = clock() - begun
    repeats = _repeats(_warm_up(first, second, clock, PART_WARM_SECONDS))
    slots, start = [(run, repeats, clock) for run in (first, second, second, first)], clock()
    rounds: list[list[float]] = []
    while not rounds or clock() - start < max(seconds, loading / 2):
        rounds.append([_slot(*slot) for slot in slots])
    return np.array(rounds), clock() - start


def _narrow(found: Interval) -> bool:
    return math.log(found.high / found.ratio) <= PRECISION


def judge(low: float, high: float, floor: float = NOISE_FLOOR) -> Verdict:
    """Faster or slower if the whole interval of the ratio lies beyond the floor."""
    if low > 1 + floor:
        return Verdict.FASTER
    if high < 1 / (1 + floor):
        return Verdict.SLOWER
    return Verdict.NOT_SIGNIFICANT


def interval(quads: np.ndarray, confidence: float = 0.95, seed: int = 0) -> Interval:
    """Ratio of A over B, and the ends of its interval, for two contenders as they lie in memory.

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
    pairs, n = _log_ratios(quads), len(quads)
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
    return Interval(float(np.exp(ratio)), float(np.exp(min(low, ratio))), float(np.exp(max(high, ratio))))


def _log_ratios(quads: np.ndarray) -> np.ndarray:
    """float[n, 2]: of seconds of A, B, B and A, the logarithms of the ratios of A B and of B A."""
    a1, b1, b2, a2 = np.log(np.maximum(quads, 1e-9)).T
    return np.stack([a1 - b1, a2 - b2], axis=1)


def _compared(
    quads: np.ndarray,
    found: Interval,
    *,
    confidence: float,
    floor: float,
    environment: Environment,
    doubt: str | None,
    wanted: str | None,
    loads: int = 1,
) -> Comparison:
    """The value of a comparison; with a ``doubt`` there is no verdict, and what was ``wanted`` and missed is said."""
    return Comparison(
        a=Timing(tuple(quads[:, [0, 3]].ravel().tolist())),
        b=Timing(tuple(quads[:, [1, 2]].ravel().tolist())),
        ratio=found.ratio,
        low=found.low,
        high=found.high,
        confidence=confidence,
        floor=floor,
        verdict=Verdict.NOT_SIGNIFICANT if doubt else judge(found.low, found.high, floor),
        environment=environment,
        warnings=tuple(_warnings(quads, wanted, doubt, environment)),
        loads=loads,
    )


def _warm_up(a: Run, b: Run, clock: Clock, seconds: float) -> tuple[float, float]:
    """Run both until clocks and allocators are steady; return the usual seconds of one iteration of each."""
    start, rounds = clock(), list[tuple[float, float]]()
    while not rounds or clock() - start < seconds:
        rounds.append((_slot(a, 1, clock), _slot(b, 1, clock)))
    first, second = np.median(rounds[len(rounds) // 2 :], axis=0)
    return float(first), float(second)


def _repeats(once: tuple[float, float]) -> int:
    """How often to run in one slot of the alternation, so that it lasts long enough."""
    return min(MAX_REPEATS, max(1, math.ceil(SLOT_SECONDS / max(min(once), 1e-9))))


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


def _warnings(quads: np.ndarray, wanted: str | None, doubt: str | None, environment: Environment) -> Iterator[str]:
    if wanted:
        yield f"stopped after {2 * len(quads)} pairs; {wanted} were asked for"
    if doubt:
        yield doubt
    if not quads.all():
        yield "some durations are zero: the clock is too coarse for these contenders"
    if environment.threads > 1:
        yield f"with more than one thread a model differs from itself by up to {THREADED_FLOOR:.0%}"
    if environment.load_warning:
        yield environment.load_warning
