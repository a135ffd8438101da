"""A run as Markdown, for a pull request. Names and sentences are data: nothing in them is read as markup."""

from __future__ import annotations

import re
from collections.abc import Iterator

from onnxopt.ci.results import Outcome, Result
from onnxopt.ci.rows import HEADINGS, rows, warnings


def markdown(result: Result) -> str:
    """The verdict, the table, what failed, and what must be known."""
    blocks = [
        f"## onnxopt: {'passed' if result.passed else 'failed'}",
        f"{escaped(result.headline())} (exit code {result.exit_code}).",
        "\n".join(_table(result)),
        *(_failed(outcome) for outcome in result.outcomes if outcome.findings),
        _details("Accuracy", [f"**{o.name}**: {escaped(o.accuracy.line)}" for o in result.outcomes if o.accuracy]),
        _details("Optimized", [f"**{o.name}**: {escaped(o.optimized)}" for o in result.outcomes if o.optimized]),
        _details("Notes", [f"**{name}**: {escaped(words)}" for name, words in warnings(result)]),
        "<sub>" + escaped(_machine(result)) + "</sub>",
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def escaped(words: str) -> str:
    """Words as text: no markup, no HTML, no mention of a person, no second line."""
    plain = " ".join(words.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|#~!])", r"\\\1", plain).replace("@", "&#64;")


def _table(result: Result) -> Iterator[str]:
    yield f"| {' | '.join(HEADINGS)} |"
    yield "|---|---|--:|--:|--:|---|"
    for row in rows(result):
        cells = [escaped(cell) for cell in row.cells()]
        mark = f"**{cells[-1]}**" if row.verdict not in ("passed", "not run", "") else cells[-1]
        yield f"| {' | '.join([*cells[:-1], mark])} |"


def _failed(outcome: Outcome) -> str:
    lines = [f"### {escaped(outcome.name)}: {outcome.verdict}", ""]
    lines += [f"- {finding.check}: {escaped(finding.sentence)}" for finding in outcome.findings]
    return "\n".join(lines)


def _details(title: str, items: list[str]) -> str:
    """Folded away until somebody wants it."""
    listed = "\n".join(f"- {item}" for item in items)
    return f"<details><summary>{title}</summary>\n\n{listed}\n\n</details>" if items else ""


def _machine(result: Result) -> str:
    found = result.machine
    return (
        f"{found.get('processor')}, {found.get('cores')} cores, ONNX Runtime {found.get('onnxruntime')}, "
        f"Python {found.get('python')}, onnxopt {result.version}; {result.seconds:.0f} s; {result.config}"
    )
