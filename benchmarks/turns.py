"""Time several models iteration by iteration in turn, and score them on held-out samples.

    python benchmarks/turns.py < job.json       # a Job as JSON; prints what was found as JSON

A process of its own, so that a model that takes ONNX Runtime down takes one row of a table with it.
"""

from __future__ import annotations

import functools
import gc
import json
import math
import os
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from onnxopt import files
from onnxopt.benchmark import (
    LOADS,
    MAX_REPEATS,
    SLOT_SECONDS,
    WARM_SECONDS,
    Clock,
    Run,
    load_interval,
    measured_in,
)
from onnxopt.data import open_dataset
from onnxopt.errors import OnnxoptError
from onnxopt.gate import Gate, Limits
from onnxopt.load import ForeignLoad
from onnxopt.metrics import find_metric
from onnxopt.runtime import Session, input_specs
from onnxopt.samples import Samples, with_state
from onnxopt.target import Target

SLOW_ITERATION = 0.050
"""Seconds; where an iteration of any contender takes longer, ``slow_seconds`` are measured."""

WARM_RUNS = 2

HOPELESS = 0.5
"""Ratio to the first model under which another is not scored: ConvInteger takes ten times as long as fp32, and the
held-out samples minutes."""


@dataclass(frozen=True)
class Job:
    """What is measured.

    Attributes:
        models: label to path; the first is what the others are compared with, on the clock and in their outputs.
        against: label of the model that each of the others is compared with, too.
        data: samples, of which the first is timed.
        eval_data: held-out samples that are scored.
        metric: None takes top-1 where there are labels, else agreement.
        state: state input name to the output that feeds it.
        min_rounds, min_seconds, slow_seconds: at least so many rounds, and so long, over all loads.
    """

    models: Mapping[str, str]
    against: str
    data: str
    eval_data: str
    metric: str | None = None
    state: Mapping[str, str] = field(default_factory=dict)
    min_rounds: int = 30
    min_seconds: float = 3.0
    slow_seconds: float = 9.0


def measured(job: Job) -> dict[str, Any]:
    """Times first, in a fresh process; then the scores of all that are not hopelessly slow."""
    found = times(job)
    slow = [label for label, (gain, *_) in found["gain"].items() if gain < HOPELESS and label != job.against]
    return {**found, "scores": scores(job, slow)}


def times(job: Job) -> dict[str, Any]:
    """Median seconds, and ratios with their intervals, all models loaded anew several times.

    Returns:
        ``seconds``: label to median. ``gain``: label to [ratio, low, high], the time of the first model over that
        of this one. ``against``: label to the same of its time over that of ``job.against``.
    """
    feeds = _samples(job, job.data).first()
    foreign = ForeignLoad()
    limits = (job.min_rounds / LOADS, job.min_seconds / LOADS, job.slow_seconds / LOADS)
    gc.disable()
    loads = [take_turns(_load(job, feeds), limits, np.random.default_rng(seed)) for seed in range(LOADS)]
    gc.enable()
    environment = measured_in(1, foreign.share())
    medians = np.median(np.concatenate([load.reshape(-1, len(job.models)) for load in loads]), axis=0)
    first, *others = job.models
    place = {label: i for i, label in enumerate(job.models)}
    return {
        "seconds": dict(zip(job.models, medians.tolist(), strict=True)),
        "gain": {label: ratio(loads, place[first], place[label]) for label in others},
        "against": {
            label: ratio(loads, place[label], place[job.against])
            for label in job.models
            if label != job.against and job.against in place
        },
        "rounds": sum(2 * len(load) for load in loads),
        "environment": asdict(environment),
    }


def take_turns(
    runs: Sequence[Run],
    limits: tuple[float, float, float],
    random: np.random.Generator,
    clock: Clock = time.perf_counter,
) -> np.ndarray:
    """One iteration of each contender in turn, in an order drawn anew and then in its reverse, and so on.

    Args:
        runs: one iteration of each.
        limits: least rounds, least seconds, and least seconds where an iteration is slow.
        random: draws the orders.
        clock: seconds; another one in tests.

    Returns:
        float[n, 2, contenders]: seconds of one iteration, in the order that was drawn and in its reverse.
    """
    slots = [_slot_of(run, clock) for run in runs]
    rounds, seconds, slow_seconds = limits
    begin, once = clock(), [slot(WARM_RUNS) for slot in slots]
    while clock() - begin < WARM_SECONDS:
        once = [slot(WARM_RUNS) for slot in slots]
    repeats = [min(MAX_REPEATS, max(1, math.ceil(SLOT_SECONDS / max(one, 1e-9)))) for one in once]
    least = max(1, math.ceil(rounds / 2))
    wanted = max(seconds, slow_seconds) if max(once) > SLOW_ITERATION else seconds
    begin, taken = clock(), list[np.ndarray]()
    while len(taken) < least or clock() - begin < wanted:
        order, both = random.permutation(len(slots)), np.empty((2, len(slots)))
        for way, places in enumerate((order, order[::-1])):
            for place in places:
                both[way, place] = slots[place](repeats[place])
        taken.append(both)
    return np.array(taken)


def ratio(loads: Sequence[np.ndarray], a: int, b: int) -> list[float]:
    """Time of contender ``a`` over that of ``b``, and its interval over the loads."""
    quads = [np.stack([load[:, 0, a], load[:, 0, b], load[:, 1, b], load[:, 1, a]], axis=1) for load in loads]
    return list(load_interval(quads))


def scores(job: Job, left_out: Collection[str] = ()) -> dict[str, dict[str, Any]]:
    """Label to its drop against the first model on the held-out samples, or to why there is none."""
    target = Target(threads=os.cpu_count() or 1)
    held_out = _samples(job, job.eval_data)
    metric = find_metric(job.metric, held_out.data.has_labels, class_labels=held_out.data.has_class_labels)
    first, *others = job.models
    gate = Gate(_file(job, first), metric, held_out.grouped(metric.group), Limits(), target)
    found: dict[str, dict[str, Any]] = {}
    for label in others:
        if label in left_out:
            found[label] = {"error": "too slow to be scored"}
            continue
        try:
            found[label] = gate.measure(_file(job, label)).to_dict()
        except OnnxoptError as error:
            found[label] = {"error": str(error)}
    return found


def _load(job: Job, feeds: Mapping[str, np.ndarray]) -> list[Run]:
    sessions = [Session(Path(path), Target()) for path in job.models.values()]
    return [functools.partial(session.run, feeds) for session in sessions]


def _slot_of(run: Run, clock: Clock) -> Callable[[int], float]:
    """Seconds of one iteration, as the mean of so many."""

    def slot(repeats: int) -> float:
        start = clock()
        for _ in range(repeats):
            run()
        return (clock() - start) / repeats

    return slot


def _samples(job: Job, path: str) -> Samples:
    model = _file(job, next(iter(job.models)))
    return with_state(open_dataset(path, input_specs(model), optional=job.state), model, job.state)


def _file(job: Job, label: str) -> Any:
    return files.load(Path(job.models[label]))


if __name__ == "__main__":
    print(json.dumps(measured(Job(**json.load(sys.stdin)))))
