"""How ``onnxopt bench`` prints a result: in 80 columns, without colour."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxopt.cli.printing import console

if TYPE_CHECKING:
    from rich.console import Console

    from onnxopt.speed import Speed
    from onnxopt.speed.tables import Table

WORD = 12
"""Columns of the words before lines."""


def print_result(result: Speed) -> None:
    """All tables, then what they are of."""
    from onnxopt.speed.tables import environment_line, input_line, model_lines, tables

    out = console()
    alone = len(result.measurements) == 1
    for table in tables(result):
        if alone and len(table.rows) == 1:
            for column, cell in zip(table.columns, table.rows[0].cells, strict=True):
                if cell:
                    _line(out, column, cell)
        else:
            _print_table(out, table, models=len(result.models) > 1)
    for line in model_lines(result):
        _line(out, "model", line)
    _line(out, "input", input_line(result))
    _line(out, "environment", environment_line(result.environment))
    for failure in result.failures:
        _line(out, "missed", failure.sentence)
    for warning in result.warnings:
        _line(out, "warning", warning)


def _line(out: Console, word: str, text: str) -> None:
    """A word and what it is about, which goes on under itself in the next line."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 1))
    grid.add_column(min_width=WORD + 4, no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(Text(f"{word}:" if word == "warning" else word), Text(text))
    out.print(grid)


def _print_table(out: Console, table: Table, *, models: bool) -> None:
    """One line for each row; settings are headings where there are several models, too."""
    import rich.table
    from rich.text import Text

    shown = rich.table.Table(table.title, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    shown.columns[0].overflow = "fold"
    for column in table.columns:
        words = column in ("verdict", "because the interval")
        shown.add_column(column, justify="left" if words else "right", no_wrap=not words)
    settings = len({row.setting for row in table.rows} - {""}) > 1
    heading = None
    for row in table.rows:
        if settings and models and row.setting != heading:
            heading = row.setting
            shown.add_row(Text(heading))
        label = row.setting if settings and not models else f"  {row.model}" if settings else row.model
        shown.add_row(Text(label), *map(Text, row.cells))
    out.print(shown)
    out.print()
