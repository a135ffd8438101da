"""Limits, and the sentences on those that are missed."""

from collections.abc import Callable

import pytest

from onnxopt.benchmark import Comparison
from onnxopt.speed import Gates, Speed, judged
from onnxopt.speed.gates import missed
from onnxopt.speed.result import reason

UNSHOWN = "could not be shown to be within 3.0%: "
WHY = "; other processes used 40% of a CPU meanwhile; measure longer (--max-seconds) or on a quiet machine"
CASES = {
    "within": ((1.0, 0.98, 1.02), []),
    "just within": ((1.0, 1 / 1.0299, 1.02), []),
    "faster": ((2.0, 1.9, 2.1), []),
    "is slower": ((0.9, 0.85, 0.95), ["is slower: +11.1% of the time [+5.3%, +17.6%], allowed are 0.03 of it (3.0%)"]),
    "not shown": ((1.0, 0.95, 1.05), [f"{UNSHOWN}+0.0% of the time [-4.8%, +5.3%]{WHY}"]),
    "one load": ((1.0, 0.0, float("inf")), [f"{UNSHOWN}+0.0% of the time [-100.0%, +inf%]{WHY}"]),
}


@pytest.mark.parametrize(("ratio", "sentences"), CASES.values(), ids=CASES.keys())
def test_at_most_three_percent_more(
    ratio: tuple[float, float, float], sentences: list[str], compared: Callable[..., Comparison]
) -> None:
    assert list(missed(compared(*ratio, load=0.4), Gates(max_slowdown=0.03))) == sentences


def test_other_limits(compared: Callable[..., Comparison]) -> None:
    gates = Gates(min_ratio=1.2, not_slower=True)
    assert list(missed(compared(2.0, 1.9, 2.1), gates)) == []
    assert list(missed(compared(1.3, 1.1, 1.4), gates)) == [
        "faster: 1.30x [1.10, 1.40], 20 to 15.4 ms; the low end is under 1.2"
    ]
    assert len(list(missed(compared(0.5, 0.4, 0.6), gates))) == 2


def test_every_setting_is_judged_and_named(result: Speed) -> None:
    (failure,) = judged(result, Gates(max_slowdown=0.03)).failures
    assert (failure.model, failure.setting) == ("some/b.onnx", "cpu, 1 thread, batch 8")
    assert failure.sentence.startswith("some/b.onnx against some/a.onnx (cpu, 1 thread, batch 8): is slower: +11.1%")
    assert judged(result, Gates()).failures == ()


REASONS = {
    "lies above 1.005": (2.0, 1.9, 2.1),
    "lies below 0.995": (0.5, 0.4, 0.6),
    "reaches into 0.995 .. 1.005": (1.0, 0.9, 1.1),
}


@pytest.mark.parametrize("words", REASONS)
def test_the_reason_is_the_interval_against_the_floor(words: str, compared: Callable[..., Comparison]) -> None:
    assert reason(compared(*REASONS[words])) == words
