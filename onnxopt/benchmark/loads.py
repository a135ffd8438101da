"""Many loads of two contenders, each timed for a short while."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

import numpy as np

from onnxopt import progress
from onnxopt.benchmark.intervals import LOADS_FLOOR, load_interval
from onnxopt.benchmark.turns import (
    THREADED_FLOOR,
    Clock,
    Run,
    compared,
    no_garbage_collection,
    repeats,
    slot,
    warm_up,
)
from onnxopt.benchmark.value import Comparison, Interval, measured_in
from onnxopt.load import ForeignLoad

Load = Callable[[], Run]

LOADS, MIN_LOADS = 6, 3
"""Times a pair of models is loaded for one comparison; with fewer than the second there is no verdict."""
LOADS_SECONDS, PATIENCE, PRECISION = 2.0, 9.5, 0.01
"""A comparison of loads takes at least this long, and goes on up to this for an interval as narrow as this."""
PART_SECONDS, PART_WARM_SECONDS = 0.1, 0.03
"""Of each pair of loads, and to warm them up: most of the doubt is between loads, not within."""


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
        a: loads the first contender and returns one iteration of it. Half of the times, ``b`` is loaded before it.
        b: the same of the second.
        min_loads: at least so many pairs of loads,
        min_seconds: and at least so long, loading and warm-up not counted,
        patience: but not much longer than this, all counted, as soon as there are MIN_LOADS; until then it goes on
            while the interval is not settled.
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
    orders = _orders()
    share = min(PART_SECONDS, min_seconds / min_loads)
    foreign, start, timed = ForeignLoad(clock), clock(), 0.0
    with no_garbage_collection():
        while True:
            begun = clock()
            quads, spent = _part(a, b, share, reverse=next(orders), clock=clock)
            parts.append(quads)
            timed, ends = timed + spent, clock() + (clock() - begun)  # if there were another one like it
            found = load_interval(parts, confidence)
            progress.detail(f"timing, {clock() - start:.0f} s of at most {max_seconds or patience:.0f} s")
            impatient = ends - start > patience and len(parts) >= MIN_LOADS
            complete = impatient or (len(parts) >= min_loads and timed >= min_seconds)
            if complete and (impatient or settled(found)):
                break
            if (max_seconds is not None and ends - start > max_seconds) or (stop is not None and stop()):
                break
    quads = np.concatenate(parts)
    return compared(
        quads,
        found,
        confidence=confidence,
        floor=floor if floor is not None else LOADS_FLOOR if threads == 1 else THREADED_FLOOR,
        environment=measured_in(threads, foreign.share()),
        doubt=None if len(parts) >= MIN_LOADS else f"no verdict is given on fewer than {MIN_LOADS} loads",
        wanted=None if complete else f"{min_loads} loads and {min_seconds:g} s",
        loads=len(parts),
    )


def _part(a: Load, b: Load, seconds: float, *, reverse: bool, clock: Clock) -> tuple[np.ndarray, float]:
    """Load both, warm them up, and time them in turns: float[n, 4], and the seconds that took without loading.

    It lasts half as long as loading at least: where that takes long, so may timing. In ``reverse``, ``b`` comes first
    in everything.
    """
    begun = clock()
    first, second = (load() for load in ((b, a) if reverse else (a, b)))
    loading = clock() - begun
    times = repeats(warm_up(first, second, clock, PART_WARM_SECONDS))
    first()  # as in every other turn, it follows itself
    slots, start = [(run, times, clock) for run in (first, second, second, first)], clock()
    rounds: list[list[float]] = []
    while not rounds or clock() - start < max(seconds, loading / 2):
        rounds.append([slot(*each) for each in slots])
    quads = np.array(rounds)
    return quads[:, [1, 0, 3, 2]] if reverse else quads, clock() - start


def _orders() -> Iterator[bool]:
    """Whether to go in reverse: of two loads one, in an order drawn anew.

    What is freed is what the next load is given. In strict alternation the same contender gets the same memory every
    other time: of 64 MB of weights, every second ratio was 6 % above and the others 2 % below (lag 2: 0.41), and the
    mean of 40 varied twice as much as its interval said. In a random order neighbours are independent.
    """
    random = np.random.default_rng(0)
    while True:
        first = bool(random.integers(2))
        yield from (first, not first)


def _narrow(found: Interval) -> bool:
    return math.log(found.high / found.ratio) <= PRECISION
