"""What a long run is doing, told to whoever listens: the command line shows it, tests and libraries need not."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass

Listener = Callable[[str], None]
SOON = 2.0
"""Seconds after which the time that is left is told: before, it is a guess."""


@dataclass(frozen=True)
class _Count:
    """Since when something is counted, and from where."""

    unit: str
    total: int
    first: int
    began: float


_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)
_stage: ContextVar[str] = ContextVar("stage", default="")
_count: ContextVar[_Count | None] = ContextVar("count", default=None)


@contextlib.contextmanager
def heard(listener: Listener) -> Iterator[None]:
    """Tell this listener, while the context lasts, each time something begins or goes on."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def stage(name: str, place: int = 0, of: int = 0) -> None:
    """A stage begins, the ``place``-th ``of`` so many; details that follow are of it."""
    _stage.set(f"[{place}/{of}] {name}" if of else name)
    _count.set(None)
    detail("")


def detail(words: str) -> None:
    """The stage goes on."""
    listener = _listener.get()
    if listener is not None:
        listener(": ".join(filter(None, (_stage.get(), words))))


def count(unit: str, done: int, total: int) -> None:
    """The stage has come so far: ``layer 3 of 40``, and after a while how much time is left if it goes on so.

    Args:
        unit: what is counted, in words.
        done: how many are done.
        total: how many there are.
    """
    now, known = time.monotonic(), _count.get()
    if known is None or (known.unit, known.total) != (unit, total) or done <= known.first:
        known = _Count(unit, total, done, now)
        _count.set(known)
    elapsed = now - known.began
    left = elapsed / (done - known.first) * (total - done) if elapsed > SOON else 0.0
    detail(f"{unit} {done} of {total}{f', about {left_words(left)} left' if left >= 1 else ''}")


def left_words(seconds: float) -> str:
    """``12 s``, ``3 min``, ``1 h 20 min``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
