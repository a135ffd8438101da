"""What the limits of an entry say of what was measured. No clock and no file here: numbers in, findings out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from onnxopt.ci.config import Entry
from onnxopt.ci.results import ACCURACY, SLOWER, Accuracy, Finding, Speed

MOST_LAYERS = 5
"""That are findings of their own."""


def accuracy(found: Accuracy) -> Iterator[Finding]:
    """One finding per problem."""
    for problem in found.problems:
        yield Finding("accuracy", ACCURACY, f"against {found.reference}: {problem}")


def layers(blamed: Sequence[str]) -> Iterator[Finding]:
    """One finding per layer to blame; of many the first."""
    for words in blamed[:MOST_LAYERS]:
        yield Finding("accuracy", ACCURACY, f"explained by {words}")
    if len(blamed) > MOST_LAYERS:
        yield Finding("accuracy", ACCURACY, f"and by {len(blamed) - MOST_LAYERS} more layers, in the JSON")


def speed(found: Speed, entry: Entry) -> Iterator[Finding]:
    """Slower than allowed, or not as much faster as asked."""
    if found.baseline is None:
        return
    limit, (_, least, most) = entry.fail_if_slower, found.slowdown
    if limit is not None and most > limit:
        check, words = ("speed", "slower") if least > limit else ("noise", "not shown to be fast enough")
        yield Finding(check, SLOWER, f"{found.where}: {words}: {more_time(found)}; {percent(limit)} is allowed")
    if entry.min_ratio is not None and found.low < entry.min_ratio:
        words = f"{found.where}: {found.line()} against {found.baseline}; the low end is under {entry.min_ratio:g}"
        yield Finding("speed", SLOWER, words)


def strictest(entry: Entry) -> float | None:
    """The share of time more that all limits allow; under 0 where the model must be faster."""
    limits = [entry.fail_if_slower, 1 / entry.min_ratio - 1 if entry.min_ratio is not None else None]
    return min((limit for limit in limits if limit is not None), default=None)


def size(after: int, entry: Entry) -> Iterator[Finding]:
    """Larger than allowed."""
    if entry.max_size is not None and after > entry.max_size:
        yield Finding("size", SLOWER, f"the model has {after:,} bytes, more than max_size = {entry.max_size:,}")


def more_time(found: Speed) -> str:
    """The slowdown with its interval, in words."""
    likely, least, most = map(percent, found.slowdown)
    return f"a run takes {likely} more time than that of {found.baseline} [{least}, {most}]"


def percent(share: float) -> str:
    """``10.3%``, ``-1%``."""
    return f"{100 * share:.3g}%" if abs(share) >= 0.1 else f"{100 * share:.2g}%"
