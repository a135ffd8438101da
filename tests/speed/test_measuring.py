"""Which pairs are timed, on which inputs, and how long."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxopt import files, progress
from onnxopt.benchmark import Comparison, Interval
from onnxopt.errors import DataError, ModelError, UsageError
from onnxopt.runtime import Session
from onnxopt.speed import Options, measure, streams
from onnxopt.speed.measuring import _decides, _in_turn, _same
from onnxopt.speed.streams import bursts, runs_per_burst
from onnxopt.target import Target
from onnxopt.testing import parse

PLAIN = "g (float[N,4] x) => (float[N,4] y) { y = Neg(x) }"
NO_FRESH: dict[str, Any] = {"repeats": 0}


def test_each_model_against_the_first_in_each_setting(
    save: Callable[..., Path], no_clock: list[dict[str, Any]]
) -> None:
    paths = [save(PLAIN, name) for name in ("a.onnx", "b.onnx", "c.onnx")]
    found = measure(paths, Options(batches=(1, 8), **NO_FRESH))
    against = [each.against and (Path(each.against[0]).name, each.against[1]) for each in found.measurements]
    one, eight = "cpu, 1 thread, batch 1", "cpu, 1 thread, batch 8"
    assert against == [None, ("a.onnx", one), ("a.onnx", one), None, ("a.onnx", eight), ("a.onnx", eight)]
    assert [each.shapes["x"] for each in found.measurements] == [(1, 4)] * 3 + [(8, 4)] * 3
    assert [each.samples for each in found.measurements] == [1] * 3 + [8] * 3
    assert len(no_clock) == len(found.comparisons) == 4


def test_settings_of_one_model_against_the_first(save: Callable[..., Path], no_clock: list[dict[str, Any]]) -> None:
    found = measure([save(PLAIN)], Options(threads=(1, 2), **NO_FRESH))
    assert [each.against and each.against[1] for each in found.measurements] == [None, "cpu, 1 thread"]
    assert [words["threads"] for words in no_clock] == [2]


def test_one_model_alone_is_timed_in_one_session(
    save: Callable[..., Path],
    no_clock: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    compared: Callable[..., Comparison],
) -> None:
    made: list[Path] = []
    load = Session.__init__

    def counted(self: Session, model: Any, *rest: Any, **words: Any) -> None:
        made.append(model)
        load(self, model, *rest, **words)

    path = save(PLAIN)
    monkeypatch.setattr(Session, "__init__", counted)
    (found,) = measure([path], Options(**NO_FRESH)).measurements
    assert made[-2:] == [path, path]  # tried once, timed once
    assert len(found.timing.seconds) == 2 * len(compared().a.seconds)


def test_a_session_that_is_shared_is_made_anew_for_every_pair() -> None:
    numbers = itertools.count()

    def load() -> Callable[[], int]:
        number = next(numbers)
        return lambda: number

    a, b = _same(load)
    assert [(a()(), b()()), (b()(), a()())] == [(0, 0), (1, 1)]


def test_seconds_of_one_session_come_in_the_order_they_were_taken(compared: Callable[..., Comparison]) -> None:
    pair = compared()
    merged = _in_turn(pair).seconds
    assert merged[:4] == (pair.a.seconds[0], pair.b.seconds[0], pair.b.seconds[1], pair.a.seconds[1])


LIMITS = [
    (Interval(1.0, 0.99, 1.01), True),
    (Interval(1.0, 0.975, 1.02), False),
    (Interval(0.9, 0.85, 0.93), True),
    (Interval(0.9, 0.85, 0.95), False),
    (Interval(0.95, 0.92, 0.985), False),
    (Interval(1.0, 0.0, float("inf")), False),
]


@pytest.mark.parametrize(("interval", "decided"), LIMITS)
def test_a_limit_is_decided_where_a_wider_interval_would_decide_it(interval: Interval, decided: bool) -> None:
    assert _decides(0.03, interval) is decided


def test_a_limit_gives_more_time(save: Callable[..., Path], no_clock: list[dict[str, Any]]) -> None:
    paths = [save(PLAIN, name) for name in ("a.onnx", "b.onnx")]
    measure(paths, Options(seconds=0.5, **NO_FRESH))
    measure(paths, Options(seconds=0.5, max_slowdown=0.03, max_seconds=70, **NO_FRESH))
    measure(paths[:1], Options(max_slowdown=0.03, **NO_FRESH))
    assert no_clock[0] == {"min_seconds": 0.5, "patience": 1.0, "threads": 1}
    assert (no_clock[1]["min_seconds"], no_clock[1]["patience"]) == (0.5, 70)
    assert no_clock[1]["settled"](Interval(1.0, 0.99, 1.01))
    assert no_clock[2] == {"threads": 1}


def test_fixed_dimensions_of_another_model_hold_for_both(
    save: Callable[..., Path], no_clock: list[dict[str, Any]]
) -> None:
    paths = [save(PLAIN, "a.onnx"), save(PLAIN.replace("[N", "[" + "6"), "b.onnx")]
    assert measure(paths, Options(**NO_FRESH)).measurements[0].shapes == {"x": (6, 4)}
    unnamed = [save(PLAIN.replace("[N", "[" + "?"), "c.onnx"), paths[1]]
    assert measure(unnamed, Options(**NO_FRESH)).measurements[0].shapes == {"x": (6, 4)}


def test_a_model_that_does_not_run_in_a_setting_is_named_before_anything_is_timed(
    save: Callable[..., Path], no_clock: list[dict[str, Any]]
) -> None:
    paths = [save(PLAIN, "a.onnx"), save(PLAIN.replace("[N", "[" + "1"), "b.onnx")]
    with pytest.raises(ModelError, match=r"b\.onnx \(cpu, 1 thread, batch 2\)"):
        measure(paths, Options(shapes=({"N": (2,)},), batches=(2,), **NO_FRESH))
    assert no_clock == []


def test_a_batch_of_the_data(save: Callable[..., Path], no_clock: list[dict[str, Any]], tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.arange(20, dtype=np.float32).reshape(5, 4))
    data = str(tmp_path / "d.npz")
    assert measure([save(PLAIN)], Options(data, batches=(3,), **NO_FRESH)).measurements[0].shapes == {"x": (3, 4)}
    with pytest.raises(UsageError, match=r"--batch 9: .* gives 5 at a time"):
        measure([save(PLAIN)], Options(data, batches=(9,), **NO_FRESH))


def test_states_have_the_batch_of_the_inputs(save: Callable[..., Path], no_clock: list[dict[str, Any]]) -> None:
    text = "g (float[N,4] x, float[2,N,4] s) => (float[2,N,4] y) { y = Add(x, s) }"
    (found,) = measure([save(text)], Options(state={"s": "y"}, batches=(3,), **NO_FRESH)).measurements
    assert found.shapes == {"x": (3, 4), "s": (2, 3, 4)}
    assert found.samples == 3


def test_bad_data_are_told(save: Callable[..., Path], tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", z=np.ones((5, 4), np.float32))
    with pytest.raises(DataError, match="no input 'z'"):
        measure([save(PLAIN)], Options(str(tmp_path / "d.npz"), **NO_FRESH))


# --- streams ---


def test_streams_of_one_real_session(save: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "BURST_SECONDS", 0.002)
    text = "g (float[N,64] x) => (float[N,64] y) <float[64,64] w> { y = MatMul(x, w) }"
    options = Options(seconds=0.02, batches=(4,), streams=(2,), **NO_FRESH)
    (found,) = measure([save(text)], options).measurements
    (through,) = found.streams
    assert (through.streams, through.samples) == (2, 4)
    value, low, high = through.per_second
    assert 0 < low <= value <= high
    assert value == through.runs * 4 / through.timing.median


def test_streams_take_turns_with_those_of_the_first_model(
    save: Callable[..., Path], no_clock: list[dict[str, Any]]
) -> None:
    paths = [save(PLAIN, name) for name in ("a.onnx", "b.onnx")]
    found = measure(paths, Options(streams=(2, 3), **NO_FRESH)).measurements
    assert [[each.streams for each in one.streams] for one in found] == [[2, 3], [2, 3]]
    assert [one.streams[0].comparison is None for one in found] == [True, False]
    assert [words["threads"] for words in no_clock] == [1, 2, 3]


def test_a_burst_runs_as_often_as_it_should_in_that_many_threads(
    save: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    names: list[str] = []
    both = threading.Barrier(2, timeout=30)

    def bound(self: Session, feeds: Any) -> Callable[[], object]:
        def run() -> None:
            both.wait()
            names.append(threading.current_thread().name)

        return run

    monkeypatch.setattr(Session, "bound", bound)
    bursts(save(PLAIN), Target(), {}, streams=2, runs=10)()
    assert len(names) == 10
    assert len(set(names)) == 2


def test_what_a_run_in_a_stream_raises_is_raised(save: Callable[..., Path]) -> None:
    with pytest.raises(ModelError):
        bursts(save(PLAIN), Target(), {"x": np.ones((1, 5), np.float32)}, streams=2, runs=4)()


@pytest.mark.parametrize(("seconds", "runs"), [(0.01, 20), (0.5, 2), (1e-9, 20_000)])
def test_a_burst_lasts_a_tenth_of_a_second(seconds: float, runs: int) -> None:
    assert runs_per_burst(2, seconds) == runs


# --- what is said of the files ---


def test_the_size_has_external_data_in_it(
    save: Callable[..., Path], no_clock: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(files, "SINGLE_FILE_LIMIT", 100)
    model = parse("g (float[N,600] x) => (float[N,4] y) <float[600,4] w> { y = MatMul(x, w) }")
    path, beside = files.save(model, tmp_path / "m.onnx")
    (found,) = measure([path], Options(**NO_FRESH)).models
    assert found.size == path.stat().st_size + beside.stat().st_size > 9600
    assert list(found.external) == [beside.name]


def test_what_is_being_done_is_told(save: Callable[..., Path], no_clock: list[dict[str, Any]]) -> None:
    told: list[str] = []
    paths = [save(PLAIN, name) for name in ("a.onnx", "b.onnx")]
    with progress.heard(told.append):
        measure(paths, Options(batches=(1, 2), streams=(2,), **NO_FRESH))
    for words in (
        "cpu, 1 thread, batch 2: trying inputs",
        "[2/4] b.onnx, cpu, 1 thread, batch 1: timing against a.onnx",
        "[4/4] b.onnx, cpu, 1 thread, batch 2: timing against a.onnx",
        "[4/4] b.onnx, cpu, 1 thread, batch 2: 2 streams",
    ):
        assert words in told
