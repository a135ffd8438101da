"""What each step gave: in bytes, in seconds, and how latencies lie."""

import dataclasses

import numpy as np
import pytest

from onnxopt.benchmark import Comparison
from onnxopt.core import Exactness
from onnxopt.pipeline import Outcome, Step
from onnxopt.report.spread import histogram, percentiles, spread
from onnxopt.report.stairs import stairs


def step(words: str, speed: Comparison | None = None, *, kept: bool = True, against: str = "", size: int = 100) -> Step:
    outcome = Outcome.KEPT if kept else Outcome.REFUSED
    return Step(words, Exactness.LOSSY, outcome, "", 0.1, speed=speed, against=against, size=size if kept else None)


@pytest.fixture
def faster(speed: Comparison):
    return lambda ratio: dataclasses.replace(speed, ratio=ratio)


def ends(found: list[dict[str, object]]) -> list[tuple[object, ...]]:
    return [(s["name"], pytest.approx(s["from"]), pytest.approx(s["to"]), pytest.approx(s["by"])) for s in found]


def test_stairs_lead_from_the_original_to_the_result(faster) -> None:
    final = dataclasses.replace(faster(4.0), a=dataclasses.replace(faster(1.0).a, seconds=(8.0,)))
    final = dataclasses.replace(final, b=dataclasses.replace(final.b, seconds=(2.0,)))
    steps = [step("fold", size=90), step("int8", faster(2.0), size=30), step("refused", faster(9.0), kept=False)]
    found = stairs(steps, 100, 30, final)
    assert ends(found["bytes"]) == [("fold", 100, 90, -10), ("int8", 90, 30, -60)]
    assert ends(found["seconds"]) == [("int8", 8.0, 4.0, -4.0), ("all else", 4.0, 2.0, -2.0)]


def test_a_step_that_beat_a_rival_has_the_gains_of_both(faster, speed: Comparison) -> None:
    steps = [step("a", faster(2.0), kept=False), step("b", faster(1.5), against="a")]
    (first, *_) = stairs(steps, 100, 100, speed)["seconds"]
    assert first["from"] / first["to"] == pytest.approx(3.0)


def test_a_step_timed_against_the_original_has_all_gains_so_far(faster, speed: Comparison) -> None:
    steps = [step("a", faster(2.0)), step("b", faster(3.0), against="original")]
    found = stairs(steps, 100, 100, speed)["seconds"]
    assert found[1]["to"] == pytest.approx(speed.a.median / 3)


def test_without_a_final_timing_there_are_no_seconds() -> None:
    assert stairs([step("fold")], 200, 100, None) == {
        "seconds": [],
        "bytes": [{"name": "fold", "from": 200, "to": 100, "by": -100}],
    }


def test_a_result_that_gave_way_to_the_original_is_a_step_back() -> None:
    assert ends(stairs([step("int8", size=30)], 100, 100, None)["bytes"])[-1] == ("all else", 30, 100, 70)


def test_percentiles_lie_in_their_intervals_which_hold_the_true_ones() -> None:
    random = np.random.default_rng(1)
    held = 0
    for _ in range(40):
        found = percentiles(random.exponential(1.0, 400), 0.95)
        assert all(p["low"] <= p["value"] <= p["high"] for p in found.values())
        held += found["p50"]["low"] <= np.log(2) <= found["p50"]["high"]
    assert held >= 34


def test_of_many_iterations_the_percentile_is_of_all(speed: Comparison) -> None:
    seconds = np.random.default_rng(0).exponential(1.0, 20_001)
    found = percentiles(seconds, 0.95)
    assert found["p99"]["value"] == pytest.approx(np.percentile(seconds, 99))
    assert found["p99"]["low"] < found["p99"]["value"] < found["p99"]["high"]


def test_the_histogram_counts_every_iteration_of_both(speed: Comparison) -> None:
    found = spread(speed)["histogram"]
    assert len(found["edges"]) == len(found["before"]) + 1 == len(found["after"]) + 1
    assert sum(found["before"]) == pytest.approx(1)
    assert sum(found["after"]) == pytest.approx(1)


def test_one_hiccup_does_not_flatten_the_histogram() -> None:
    quick = np.linspace(1.0, 2.0, 1000)
    found = histogram(quick, np.append(quick, 100.0))
    assert found["edges"][-1] < 3
    assert found["after"][-1] > found["before"][-1]
