"""What each kept step gave: the way from the original to the result in bytes, and in seconds where the clock was asked.

Only lossy passes and those made for speed are timed by themselves. What the others gave together is the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from onnxopt.benchmark import Comparison
from onnxopt.pipeline import Step

REST = "all else"
ORIGINAL = "original"

Stair = dict[str, Any]
"""``name``, and ``from``, ``to`` and ``by`` (their difference) in bytes or seconds."""


def stairs(steps: Sequence[Step], before: int, after: int, speed: Comparison | None) -> dict[str, list[Stair]]:
    """The stairs in ``bytes`` and in ``seconds``, from the original to the result.

    Args:
        steps: all of the run; those that were kept are stairs.
        before, after: bytes of the original and of the result.
        speed: the original against the result; without it there are no stairs in seconds.
    """
    found = {"bytes": _whole([(step.words, step.size) for step in steps if step.kept and step.size], before, after)}
    if speed is not None:
        start = speed.a.median
        found["seconds"] = _whole([*_seconds(steps, start)], start, speed.b.median)
    return {"seconds": [], **found}


def _whole(heights: Sequence[tuple[str, float]], before: float, after: float) -> list[Stair]:
    """Stairs to these heights; a last one where they do not end at the result."""
    found: list[Stair] = []
    at = before
    for name, height in heights:
        found.append(_stair(name, at, height))
        at = height
    return found if at == after else [*found, _stair(REST, at, after)]


def _stair(name: str, low: float, high: float) -> Stair:
    return {"name": name, "from": low, "to": high, "by": high - low}


def _seconds(steps: Sequence[Step], start: float) -> Iterator[tuple[str, float]]:
    at = start
    for place, step in enumerate(steps):
        if step.kept and step.speed is not None:
            at = start / step.speed.ratio if step.against == ORIGINAL else at / _gain(steps, place)
            yield step.words, at


def _gain(steps: Sequence[Step], place: int) -> float:
    """Time before over time after; of a step that was timed against a rival, times what that had gained."""
    step = steps[place]
    assert step.speed is not None
    rivals = [i for i in range(place) if step.against and steps[i].words == step.against and steps[i].speed]
    return step.speed.ratio * (_gain(steps, rivals[-1]) if rivals else 1.0)
