"""Numbers as people read them, and tables that are whole when piped."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status

PIPED_WIDTH = 10_000
"""Columns where nobody sees them wrapped: a table that is piped is neither wrapped nor cut."""

_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def console() -> Console:
    """Where text goes: plain, and as wide as its tables, when piped."""
    from rich.console import Console

    out = Console(highlight=False)
    if not out.is_terminal:
        out.width = PIPED_WIDTH
    return out


def working(what: str) -> Status:
    """A spinner on standard error while something takes seconds; nothing where that is no terminal."""
    from rich.console import Console

    return Console(stderr=True).status(what)


@contextlib.contextmanager
def listening(what: str) -> Iterator[None]:
    """The same, and the stages that the library tells of."""
    from rich.markup import escape

    from onnxopt import progress

    with working(what) as status, progress.heard(lambda words: status.update(escape(words))):
        yield


def echo_json(content: Any) -> None:
    """Print JSON as we write it everywhere."""
    click.echo(json.dumps(content, indent=2, default=str))


def readable(number: float, unit: str = "") -> str:
    """Three digits and a prefix: ``1.23 M``, ``3.4 MB``, ``512 B``, ``0``."""
    for factor, prefix in _PREFIXES:
        if number >= 0.9995 * factor:
            return f"{number / factor:.3g} {prefix}{unit}"
    return f"{number:.0f} {unit}".rstrip()


def counted(numbers: dict[str, int]) -> str:
    """``Conv 53, Relu 49``."""
    return ", ".join(f"{name} {count}" for name, count in numbers.items())
