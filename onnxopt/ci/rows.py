"""A run as rows of words: what the terminal and the Markdown summary both show."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from onnxopt.ci.results import Accuracy, Outcome, Result, Speed

HEADINGS = ("model", "accuracy", "time", "change of time", "size", "verdict")


@dataclass(frozen=True)
class Row:
    """A model in one place.

    Attributes:
        model: its name; empty where the row above has it.
        accuracy: ``top1 -0.0020``; minus where the model is worse.
        time: median of the model.
        change: of the time, against the baseline, with its interval; plus where the model is slower.
        size: of the model's file.
        verdict: of the model.
    """

    model: str
    accuracy: str
    time: str
    change: str
    size: str
    verdict: str

    def cells(self) -> tuple[str, ...]:
        """In the order of ``HEADINGS``."""
        return self.model, self.accuracy, self.time, self.change, self.size, self.verdict


def rows(result: Result) -> Iterator[Row]:
    """One per model and place."""
    for outcome in result.outcomes:
        speeds: list[Speed | None] = [*outcome.speed] or [None]
        first, *others = speeds
        named = len(outcome.speed) > 1
        yield Row(outcome.name, _accuracy(outcome.accuracy), *_speed(first, named), _size(outcome), outcome.verdict)
        for found in others:
            yield Row("", "", *_speed(found, named), "", "")


def seconds(value: float) -> str:
    """Three digits: ``1.23 ms``, ``45.6 us``, ``2.5 s``."""
    for factor, unit in ((1, "s"), (1e-3, "ms")):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value * 1e6:.3g} us"


def bytes_(value: float) -> str:
    """Three digits: ``1.23 MB``."""
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value:.0f} B"


def warnings(result: Result) -> Iterator[tuple[str, str]]:
    """Name of the model and what must be known of its numbers, each once."""
    for outcome in result.outcomes:
        told = [*outcome.notes, *(outcome.accuracy.notes if outcome.accuracy else ())]
        for found in outcome.speed:
            told += [f"{found.where}: {words}" for words in found.warnings]
        yield from ((outcome.name, words) for words in dict.fromkeys(told))


def _accuracy(found: Accuracy | None) -> str:
    if found is None:
        return "-"
    if not found.comparable:
        return "other signature"
    if found.score is None:
        return "differs" if found.problems else "same outputs"
    fallen, name = found.score.get("drop"), found.score["metric"]
    return f"{name} {found.score['after']:.4f}" if fallen is None else f"{name} {0.0 - fallen:+.4f}"


def _speed(found: Speed | None, named: bool) -> tuple[str, str]:
    if found is None:
        return "-", "-"
    where = f"{found.where}: " if named else ""
    after = seconds(found.after.median)
    if found.before is None:
        return f"{where}{after}", "timed alone"
    likely, least, most = (100 * share for share in found.slowdown)
    return f"{where}{after}", f"{likely:+.1f} % [{least:+.1f}, {most:+.1f}]"


def _size(outcome: Outcome) -> str:
    return bytes_(outcome.bytes[1]) if outcome.bytes else "-"
