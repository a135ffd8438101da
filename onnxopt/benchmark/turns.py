"""One load of two contenders, timed in turns: A B B A, A B B A, and so on."""

from __future__ import annotations

import contextlib
import gc
import math
import time
from collections.abc import Callable, Iterator

import numpy as np

from onnxopt.benchmark.intervals import interval, judge
from onnxopt.benchmark.value import Comparison, Environment, Interval, Timing, Verdict, measured_in
from onnxopt.load import ForeignLoad

Clock = Callable[[], float]
Run = Callable[[], object]

NOISE_FLOOR = 0.03
"""Of one load. Two sessions of one small file differ by 0.3 to 1 % (RMS, quiet) because their memory lies
differently. More iterations narrow the interval and leave that difference, so a verdict needs the whole interval
beyond the floor. A model whose weights outgrow the caches differs from itself by 3.5 %: load it anew many times."""
THREADED_FLOOR = 0.15
"""The same with more than one thread: a file against itself gave 0.88 to 1.13."""
WARM_SECONDS = 0.1
MIN_PAIRS, MIN_SECONDS, SLOW_SECONDS = 30, 3.0, 9.0
SLOT_SECONDS = 100e-6
"""A slot of the alternation lasts at least this long, so that not the timer is what is timed."""
MAX_REPEATS = 1000
MIN_QUADS = 6
"""Of fewer values no interval of their median has a confidence of 95 % (the sign test)."""


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
    with no_garbage_collection():
        start, load = clock(), ForeignLoad(clock)
        once = warm_up(a, b, clock, WARM_SECONDS if max_seconds is None else min(WARM_SECONDS, max_seconds / 4))
        slow = max(once) > slow_iteration or threads > 1
        seconds = max(min_seconds, slow_seconds) if slow else min_seconds
        times = repeats(once)
        slots, begin = [(run, times, clock) for run in (a, b, b, a)], clock()
        rounds: list[list[float]] = []
        while True:
            rounds.append([slot(*each) for each in slots])
            now = clock()
            complete = 2 * len(rounds) >= min_pairs and now - begin >= seconds
            late = max_seconds is not None and now - start >= max_seconds
            if complete or late or (stop is not None and stop()):
                break
        foreign = load.share()

    quads = np.array(rounds)
    return compared(
        quads,
        interval(quads, confidence, seed),
        confidence=confidence,
        floor=floor if floor is not None else NOISE_FLOOR if threads == 1 else THREADED_FLOOR,
        environment=measured_in(threads, foreign),
        doubt=None if len(quads) >= MIN_QUADS else f"no verdict is given on fewer than {2 * MIN_QUADS} pairs",
        wanted=None if complete else f"{min_pairs} pairs and {seconds:g} s",
    )


def compared(
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


def warm_up(a: Run, b: Run, clock: Clock, seconds: float) -> tuple[float, float]:
    """Run both until clocks and allocators are steady; return the usual seconds of one iteration of each."""
    start, rounds = clock(), list[tuple[float, float]]()
    while not rounds or clock() - start < seconds:
        rounds.append((slot(a, 1, clock), slot(b, 1, clock)))
    first, second = np.median(rounds[len(rounds) // 2 :], axis=0)
    return float(first), float(second)


def repeats(once: tuple[float, float]) -> int:
    """How often to run in one slot of the alternation, so that it lasts long enough."""
    return min(MAX_REPEATS, max(1, math.ceil(SLOT_SECONDS / max(min(once), 1e-9))))


def slot(run: Run, times: int, clock: Clock) -> float:
    """Seconds of one iteration, as the mean of so many."""
    start = clock()
    for _ in range(times):
        run()
    return (clock() - start) / times


@contextlib.contextmanager
def no_garbage_collection() -> Iterator[None]:
    """The collector rests while something is timed."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


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
