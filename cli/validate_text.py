"""What ``onnxopt validate`` prints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from onnxopt.cli.printing import console
from onnxopt.validation import forms

if TYPE_CHECKING:
    from rich.console import Console

    from onnxopt.validation import Validation

LEFT = 2
"""Columns of a table that are words; the others are numbers."""


def show(result: Validation) -> None:
    """Print the result: readable at 80 columns, without colour."""
    out = console()
    same = "not the same" if result.signature else "the same"
    for name, line in (("reference", result.reference), ("model", result.model), ("signature", same)):
        _line(out, name, line)
    if not result.signature:
        _line(out, "data", result.data)
    for drop in result.drops:
        _line(out, "accuracy" if drop is result.drop else "also", forms.accuracy_line(drop))
    if result.drop is not None:
        limits = result.asked.limits
        where = "the interval's end" if limits.strict_interval else "the drop"
        _line(out, "allowed", f"{limits.max_drop:g} for {where}: {'ok' if result.drop.passed else 'too much'}")
    for tried in result.sizes:
        _line(out, "size", forms.size_line(tried))
    if result.outputs:
        _table(out, forms.OUTPUT_HEADINGS, forms.output_cells(result))
        out.print(_legend(result), markup=False)
    if result.layers is not None:
        _table(out, forms.LAYER_HEADINGS, map(forms.layer_cells, forms.shown(result.layers)))
        out.print(forms.layers_line(result.layers), markup=False)
        out.print("dB: signal to error; own: made of the reference's values; grows: dB lost since then")
        if result.layers.note:
            out.print(f"note: {result.layers.note}", markup=False)
    if result.bisection is not None:
        out.print()
        first, *more = forms.bisection_lines(result.bisection)
        _line(out, "bisection", first)
        for line in more:
            _line(out, "", line)
    for note in result.notes:
        out.print(f"note: {note}", markup=False)


def _legend(result: Validation) -> str:
    asked = result.asked
    limits = [f"relative at most {asked.rtol:g}"] if asked.rtol is not None else []
    limits += [f"at least {asked.min_sqnr:g} dB"] if asked.min_sqnr is not None else []
    words = f"asked: {', '.join([*limits, 'no new NaN or inf'])}"
    return f"relative to the output's largest magnitude; dB: SQNR; NaN/inf: reference/model\n{words}"


def _line(out: Console, name: str, line: str) -> None:
    out.print(f"{name:10} {line}", markup=False)


def _table(out: Console, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for place, heading in enumerate(headings):
        words = place < LEFT or place == len(headings) - 1
        table.add_column(heading, justify="left" if words else "right", overflow="fold", no_wrap=not words)
    for row in rows:
        table.add_row(*map(Text, row))
    out.print()
    out.print(table)
