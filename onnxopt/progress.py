"""What a long run is doing, told to whoever listens: the command line shows it, tests and libraries need not."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

Listener = Callable[[str], None]
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)
_stage: ContextVar[str] = ContextVar("stage", default="")


@contextlib.contextmanager
def heard(listener: Listener) -> Iterator[None]:
    """Tell this listener, while the context lasts, each time something begins or goes on."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def stage(name: str) -> None:
    """A stage begins; details that follow are of it."""
    _stage.set(name)
    detail("")


def detail(words: str) -> None:
    """The stage goes on."""
    listener = _listener.get()
    if listener is not None:
        listener(": ".join(filter(None, (_stage.get(), words))))
