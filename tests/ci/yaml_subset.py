"""The YAML that our own files use, read strictly: nested maps, lists, blocks of text, comments; nothing else.

PyYAML is no dependency of ours, and a reader this strict refuses what people misread (tabs, odd indentation, keys
given twice). Where PyYAML is installed, a test compares the two.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

KEY = re.compile(r"""(?P<key>[A-Za-z_][\w.-]*):(?:\s+(?P<value>\S.*))?$""")


class NotYaml(ValueError):
    """With the number of the line."""


@dataclass
class _Lines:
    """Lines that are left, as (number, indentation, text)."""

    rows: list[tuple[int, int, str]]
    at: int = 0

    def peek(self) -> tuple[int, int, str] | None:
        """The next line that is neither empty nor a comment."""
        while self.at < len(self.rows) and (not self.rows[self.at][2] or self.rows[self.at][2].startswith("#")):
            self.at += 1
        return self.rows[self.at] if self.at < len(self.rows) else None


def load(text: str) -> Any:
    """The value of a document.

    Raises:
        NotYaml: for anything beside the subset.
    """
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if "\t" in line:
            raise NotYaml(f"line {number}: a tab")
        rows.append((number, len(line) - len(line.lstrip(" ")), line.strip()))
    lines = _Lines(rows)
    found = _node(lines, 0)
    if rest := lines.peek():
        raise NotYaml(f"line {rest[0]}: odd indentation")
    return found


def _node(lines: _Lines, indent: int) -> Any:
    first = lines.peek()
    if first is None or first[1] < indent:
        return None
    return _list(lines, first[1]) if first[2].startswith("- ") else _map(lines, first[1])


def _map(lines: _Lines, indent: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    while (row := lines.peek()) and row[1] == indent:
        match = KEY.match(row[2])
        if not match or match["key"] in found:
            raise NotYaml(f"line {row[0]}: {row[2]!r} is no key, or one given twice")
        lines.at += 1
        value = match["value"]
        if value is None:
            found[match["key"]] = _node(lines, indent + 1)
        elif value in ("|", "|-"):
            found[match["key"]] = _block(lines, indent, keep=value == "|")
        else:
            found[match["key"]] = _scalar(value, row[0])
    return found


def _list(lines: _Lines, indent: int) -> list[Any]:
    found = []
    while (row := lines.peek()) and row[1] == indent and row[2].startswith("- "):
        rest = row[2][2:]
        if KEY.match(rest):  # a map that begins behind the dash
            lines.rows[lines.at] = (row[0], indent + 2, rest)
            found.append(_map(lines, indent + 2))
        else:
            lines.at += 1
            found.append(_scalar(rest, row[0]))
    return found


def _block(lines: _Lines, indent: int, *, keep: bool) -> str:
    taken, least = [], None
    while lines.at < len(lines.rows):
        _, width, text = lines.rows[lines.at]
        if text and width <= indent:
            break
        least = width if least is None and text else least
        taken.append(" " * (width - (least or 0)) + text if text else "")
        lines.at += 1
    return "\n".join(taken).rstrip("\n") + ("\n" if keep else "")


def _scalar(value: str, number: int) -> Any:
    if value[0] not in "\"'[":
        value = re.sub(r"\s+#.*$", "", value)
        if value[0] in "{&*!%@`>|" or ": " in value:
            raise NotYaml(f"line {number}: write {value!r} in quotes")
    if value in ("true", "false"):
        return value == "true"
    if re.fullmatch(r"-?\d+", value):
        return int(value)
    if value[0] in '"[':
        try:
            return json.loads(value)
        except ValueError as error:
            raise NotYaml(f"line {number}: {error}") from None
    return value[1:-1].replace("''", "'") if value[0] == value[-1] == "'" and len(value) > 1 else value
