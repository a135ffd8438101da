"""Numbers as people read them, and tables that are whole when piped."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from onnxopt.cli.common import QUIET

if TYPE_CHECKING:
    from rich.console import Console

PIPED_WIDTH = 10_000
"""Columns where nobody sees them wrapped: a table that is piped is neither wrapped nor cut."""

_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def quiet() -> bool:
    """Whether ``--quiet`` was given."""
    context = click.get_current_context(silent=True)
    return bool(context and context.find_root().meta.get(QUIET))


def console() -> Console:
    """Where text goes: plain, and as wide as its tables, when piped; nowhere with ``--quiet``."""
    from rich.console import Console

    out = Console(highlight=False, quiet=quiet())
    if not out.is_terminal:
        out.width = PIPED_WIDTH
    return out


@contextlib.contextmanager
def working(what: str, *, silent: bool = False) -> Iterator[Console]:
    """What is being done, and how long it will take, on one line of standard error, where that is a terminal.

    Args:
        what: in words, until something is told (``onnxopt.progress``).
        silent: show nothing.

    Yields:
        For lines that stay: what it prints goes nowhere where nothing is shown.
    """
    from rich.console import Console
    from rich.markup import escape

    from onnxopt import progress

    out = Console(stderr=True, highlight=False)
    out.quiet = silent or quiet() or not out.is_terminal
    if out.quiet:
        yield out
        return
    with out.status(escape(what)) as status, progress.heard(lambda words: status.update(escape(words or what))):
        yield out


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
