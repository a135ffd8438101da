"""The report as Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from onnxopt.report.numbers import Content, number, shell
from onnxopt.report.sentences import Sentence, text, verdict
from onnxopt.report.tables import Row, before_and_after, layer_rows, percentile_rows, step_rows

LEFT_ALONE = 200
"""Refusals that are listed."""
LAYERS = 30
"""Layers that are listed, those that take the most time; all are in the other forms."""


def markdown(content: Content) -> str:
    """All of it, without plots."""
    return "\n".join(_parts(content)).rstrip() + "\n"


def _parts(content: Content) -> Iterator[str]:
    yield f"# onnxopt: {_cell(Path(content['source']).name)}\n"
    yield f"**{_cell(text(verdict(content)))}**\n"
    yield from (f"- {_cell(note)}" for note in content["notes"])
    yield "\n## Before and after\n"
    yield _table(["", "before", "after", "change"], before_and_after(content))
    yield f"\nData: {_cell(content['data'])}. {_ending(content)}\n"
    if content["latency"]:
        yield "## Latency\n"
        yield _table(["", "before", "after"], percentile_rows(content))
    yield "\n## Steps\n"
    yield _table(["pass", "outcome", "time", "bytes", "accuracy", "why", "took"], step_rows(content))
    yield "\n## Bytes saved, by cause\n"
    yield _ledger(content)
    if content["layers"]:
        yield "\n## Layers that take the most time\n"
        yield _table(["layer", "planned", "kernel", "before", "after", "sensitivity", "steps"], _longest(content))
    yield "\n## Left alone\n"
    yield "\n".join(_refusals(content)) or "nothing"
    yield "\n## How to reproduce\n"
    yield from _origin(content)


def _ending(content: Content) -> str:
    written = content["output"] or "nothing written"
    took, most = number(content, "seconds", "seconds"), number(content, "bytes", "peak_memory")
    return f"Result: {_cell(written)} ({content['ended']}), in {took}, with {most} of memory at most."


def _ledger(content: Content) -> str:
    if not content["ledger"]:
        return "none"
    rows = [(f"`{_cell(w)}`", f"{s['file']:,}", f"{s['session']:,}") for w, s in content["ledger"].items()]
    return _table(["pass", "in the file", "in memory"], rows)


def _longest(content: Content) -> list[Row]:
    rows = list(zip(content["layers"]["rows"], layer_rows(content), strict=True))
    rows.sort(key=lambda pair: -max(pair[0]["seconds_before"] or 0.0, pair[0]["seconds"] or 0.0))
    return [row for _, row in rows[:LAYERS]]


def _refusals(content: Content) -> list[str]:
    left = [(step["pass"], r["node"] or "model", r["why"]) for step in content["steps"] for r in step["refusals"]]
    return [f"- `{_cell(words)}` at `{_cell(node)}`: {_cell(why)}" for words, node, why in left[:LEFT_ALONE]]


def _origin(content: Content) -> Iterator[str]:
    origin = content["origin"]
    yield textwrap.indent(shell(origin["command"]), "    ") + "\n"
    rows = [(f["role"], f"`{_cell(f['path'])}`", f"{f['size']:,}", f"`{f['sha256'] or '-'}`") for f in origin["files"]]
    yield _table(["file", "path", "bytes", "sha256"], rows)
    versions = ", ".join(f"{name} {version}" for name, version in origin["versions"].items())
    machine = origin["machine"]
    sets = " ".join(machine["instruction_sets"]) or "not known"
    load = "" if machine["load"] is None else f", load {machine['load']}"
    yield f"\nSeed {origin['seed']}; {_cell(versions)}; {_cell(machine['processor'])}, {machine['cores']} cores{load}, "
    yield f"instruction sets {_cell(sets)}; {_cell(machine['system'])}; {origin['when']}."


def _table(headings: Sequence[str], rows: Iterable[Iterable[Sentence]]) -> str:
    lines = [headings, ["---"] * len(headings), *([_cell(text(cell)) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(words: str) -> str:
    """One line that stays in its cell, whatever a model calls its nodes."""
    return " ".join(words.replace("\\|", "|").split()).replace("|", "\\|").replace("<", "&lt;")
