"""A run for the terminal: at most 25 lines of 80 columns, without colour."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from onnxopt.ci.results import Result
from onnxopt.ci.rows import HEADINGS, rows, warnings

COLUMNS, LINES = 80, 25
WIDEST = 20
"""Columns of a model's name; a longer one is cut."""


def text(result: Result, written: Mapping[str, Path]) -> str:
    """The table, what failed, what must be known, and where more is; what does not fit is counted."""
    end = [f"{kind} in {path}" for kind, path in written.items()]
    foot = _wrapped([f"exit code {result.exit_code}: {result.headline()}", *(["; ".join(end)] if end else [])], "")
    room = LINES - len(foot) - 1
    head = _cut(_table(result), room - 2 * bool(result.exit_code))
    failed = [f"{o.name}: {f.sentence}" for o in result.outcomes for f in o.findings]
    known = [f"note: {name}: {words}" for name, words in warnings(result)]
    body = _cut(_wrapped([*failed, *known], "  "), room - len(head) - 1)
    return "\n".join([*head, *([""] if body else []), *body, "", *foot])


def _table(result: Result) -> list[str]:
    cells = [HEADINGS, *(row.cells() for row in rows(result))]
    cells = [(_short(first), *rest) for first, *rest in cells]
    widths = [max(len(row[i]) for row in cells) for i in range(len(HEADINGS))]
    if sum(widths) + 2 * (len(widths) - 1) <= COLUMNS:
        return [_line(row, widths) for row in cells]
    return _in_two(cells)


def _in_two(cells: Sequence[Sequence[str]]) -> list[str]:
    """Two lines a row, where one is too long: name and verdict, then the numbers."""
    lines = []
    for name, accuracy, time, change, size, verdict in cells[1:]:
        lines += [f"{name:{WIDEST}}  {verdict}"] if name else []
        numbers = ", ".join(word for word in (accuracy, time, change, size) if word not in ("", "-"))
        lines += _wrapped([f"  {numbers}"], "  ") if numbers else []
    return lines


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


def _short(name: str) -> str:
    return name if len(name) <= WIDEST else f"{name[: WIDEST - 1]}~"


def _wrapped(sentences: Sequence[str], indent: str) -> list[str]:
    printable = ("".join(char if char.isprintable() else " " for char in sentence) for sentence in sentences)
    options = {"width": COLUMNS, "subsequent_indent": indent, "break_on_hyphens": False}
    return [line for sentence in printable for line in textwrap.wrap(sentence, **options) or [""]]  # type: ignore[arg-type]


def _cut(lines: list[str], room: int) -> list[str]:
    """At most so many lines; the last then says how many are missing."""
    room = max(room, 1)
    return lines if len(lines) <= room else [*lines[: room - 1], f"... and {len(lines) - room + 1} more lines"]
