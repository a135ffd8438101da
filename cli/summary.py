"""What ``onnxopt optimize`` says at the end: at most 25 lines of 80 columns; the rest is in the report and ``-v``."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from onnxopt.cli.printing import console

if TYPE_CHECKING:
    from rich.table import Table

    from onnxopt.pipeline import Step
    from onnxopt.report import Report

LINES = 25
STEPS, WORDS, WHY = 9, 30, 36
"""Steps that are shown, and characters of what they are and of why."""
OTHERS = 3
"""Lines for the passes that are only named."""
WIDTH = 80
NAME = 10
"""Columns of the names of facts."""


def print_summary(result: Report, *, verbose: bool) -> None:
    """The verdict, what was decided on, and the numbers with their intervals."""
    from rich.markup import escape

    out = console()
    head = [f"[bold]{escape(line)}[/]" for line in textwrap.wrap(_verdict(result), WIDTH)]
    ledger = [("saved", f"{saved}, by {words}") for words, saved in result.ledger.items()] if verbose else []
    facts = [escape(line) for name, words in (*_facts(result), *ledger) for line in _hung(name, words)]
    for line in [*head, ""]:
        out.print(line, soft_wrap=True)
    if verbose:
        out.print(_everything(result.steps))
    else:
        room = LINES - len(head) - len(facts) - OTHERS - 2
        shown, others = _worth_showing(result.steps, min(STEPS, max(3, room)))
        if shown:
            out.print(_steps(shown, cut=out.is_terminal))
        for line in textwrap.wrap(others, WIDTH, max_lines=OTHERS, placeholder=" ... (-v shows all)"):
            out.print(f"[dim]{escape(line)}[/]", soft_wrap=True)
    out.print()
    for line in facts:
        out.print(line, soft_wrap=True)


def _verdict(result: Report) -> str:
    from onnxopt.report.sentences import text, verdict

    return text(verdict(result.to_dict()))


def _facts(result: Report) -> Iterator[tuple[str, str]]:
    yield "accuracy", result.accuracy_line()
    yield "speed", result.speed_line()
    yield "size", f"{result.size_line()}; {result.download_line()}"
    yield "data", result.data
    yield "written", f"{result.output or 'nothing'} ({result.seconds:.0f} s)"
    yield from (("note", note) for note in result.notes)


def _hung(name: str, words: str) -> list[str]:
    """A fact on lines of 80 columns: the name, then its words, the second line under the first."""
    lines = textwrap.wrap(words, WIDTH - NAME, break_long_words=False, break_on_hyphens=False) or [""]
    return [f"{name:{NAME}}{lines[0]}", *(" " * NAME + line for line in lines[1:])]


def _worth_showing(steps: Sequence[Step], room: int) -> tuple[list[Step], str]:
    """What needed a decision, in order, the last of it where there is no room for all; and the others in words."""
    from onnxopt.core import Exactness
    from onnxopt.pipeline import Outcome

    exact = [step for step in steps if step.exactness is not Exactness.LOSSY and step.outcome is Outcome.KEPT]
    idle = [step for step in steps if step.outcome is Outcome.NOTHING]
    rest = [step for step in steps if step not in exact and step not in idle]
    kept = [step for step in rest if step.kept or step.outcome in (Outcome.UNDONE, Outcome.FAILED)]
    chosen = [*kept, *(step for step in reversed(rest) if step not in kept)][:room]
    shown = [step for step in rest if step in chosen]
    counts = {"more were refused": len(rest) - len(shown), "had nothing to do": len(idle)}
    words = [f"{count} {what}" for what, count in counts.items() if count]
    kept_names = dict.fromkeys(step.words for step in exact)
    words = [f"exact and kept: {', '.join(kept_names)}"] * bool(exact) + words
    return shown, f"{'; '.join(words)} (-v shows all)" if words else ""


def _steps(steps: Sequence[Step], *, cut: bool) -> Table:
    """One line each, cut to the width of a terminal where there is one."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(max_width=WORDS if cut else None, no_wrap=True, overflow="ellipsis")
    table.add_column(no_wrap=True)
    table.add_column(max_width=WHY if cut else None, no_wrap=True, overflow="ellipsis")
    for step in steps:
        table.add_row(Text(step.words), step.outcome.value, Text(step.why))
    return table


def _everything(steps: Sequence[Step]) -> Table:
    """All steps with all that they changed and left alone."""
    from rich.table import Table
    from rich.text import Text

    table = Table("pass", "outcome", "why", "s", box=None, pad_edge=False)
    for step in steps:
        table.add_row(Text(step.words), step.outcome.value, Text(step.why), f"{step.seconds:.1f}")
        for change in step.changes:
            count = f" (saves {change.saved})" if change.saved else ""
            table.add_row("", "changed", Text(f"{change.node}: {change.what}{count}"), "")
        for refusal in step.refusals:
            table.add_row("", "left alone", Text(f"{refusal.node or 'model'}: {refusal.why}"), "")
    return table
