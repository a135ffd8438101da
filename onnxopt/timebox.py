"""A time box: when it is over, the main thread leaves whatever it is in."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

LONGEST = 1e8
"""Seconds (three years): more than the system's timer takes."""


class TimeUp(BaseException):
    """Not an Exception, so that no library's ``except Exception`` swallows it."""


@contextlib.contextmanager
def time_box(seconds: float | None) -> Iterator[None]:
    """Raise TimeUp in the main thread when so many seconds are over; in other threads the caller must look."""
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    if seconds <= 0:
        raise TimeUp

    def over(*_: Any) -> None:
        raise TimeUp

    previous = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, min(seconds, LONGEST))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
