"""The report of one optimization: a value, and its forms as JSON and Markdown."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from onnxopt import files
from onnxopt.benchmark import Comparison
from onnxopt.core import Saved
from onnxopt.download import download_bytes
from onnxopt.errors import UsageError
from onnxopt.gate import Drop
from onnxopt.graph import walk, weight_bytes
from onnxopt.pipeline import Outcome, Step, size_of

VERSION = 2
"""Of the JSON form. 1: first. 2: changes have the bytes they saved, there is a ledger of them, and download_bytes."""

FORMS = (".json", ".md")


@dataclass(frozen=True)
class Summary:
    """A model in a few numbers: bytes of the file, bytes of all constants, nodes by operator, bytes compressed."""

    size: int
    weights: int
    operators: Mapping[str, int]
    download: int

    @classmethod
    def of(cls, model: ir.Model) -> Summary:
        """Count."""
        operators = Counter(node.op_type for node in walk(model))
        return cls(size_of(model), weight_bytes(model), dict(sorted(operators.items())), download_bytes(model))

    @property
    def nodes(self) -> int:
        """Number of nodes, subgraphs included."""
        return sum(self.operators.values())

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "bytes": self.size,
            "download_bytes": self.download,
            "weight_bytes": self.weights,
            "nodes": self.nodes,
            "operators": self.operators,
        }


@dataclass(frozen=True)
class Report:
    """What was tried, kept and refused, and what the result is worth.

    Attributes:
        source, output: paths; ``output`` is None where nothing was written.
        settings: what was asked, in words.
        data: where the samples came from.
        before, after: the models in numbers.
        steps: every pass in order.
        drop: accuracy on held-out samples; None where there were no data.
        speed: the original against the result; None where the run was interrupted.
        ended: ``complete``, ``time limit`` or ``interrupted``.
        notes: what the reader must know before quoting a number.
        seconds: of the whole run.
        peak_memory: bytes, of this process.
    """

    source: str
    output: str | None
    settings: Mapping[str, Any]
    data: str
    before: Summary
    after: Summary
    steps: tuple[Step, ...]
    drop: Drop | None
    speed: Comparison | None
    ended: str
    notes: tuple[str, ...]
    seconds: float
    peak_memory: int

    @property
    def refused_by_gate(self) -> bool:
        """Whether the accuracy gate refused a pass and no other lossy pass was kept."""
        judged = [step for step in self.steps if step.drop is not None]
        return any(not step.drop.passed for step in judged if step.drop) and not any(s.kept for s in judged)

    @property
    def broken(self) -> tuple[Step, ...]:
        """The passes that computed something else, gave a model that does not run, or raised."""
        return tuple(step for step in self.steps if step.outcome in (Outcome.UNDONE, Outcome.FAILED))

    @property
    def ledger(self) -> dict[str, Saved]:
        """The bytes that passes saved, by their words: of those that were kept, and that count them."""
        found: dict[str, Saved] = {}
        for step in self.steps:
            for saved in [change.saved for change in step.changes if step.kept and change.saved]:
                found[step.words] = found.get(step.words, Saved(0, 0)) + saved
        return found

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "version": VERSION,
            "source": self.source,
            "output": self.output,
            "settings": dict(self.settings),
            "data": self.data,
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            "steps": [step.to_dict() for step in self.steps],
            "ledger": {words: asdict(saved) for words, saved in self.ledger.items()},
            "accuracy": self.drop and self.drop.to_dict(),
            "speed": self.speed and self.speed.to_dict(),
            "ended": self.ended,
            "notes": list(self.notes),
            "seconds": round(self.seconds, 2),
            "peak_memory": self.peak_memory,
        }

    def accuracy_line(self) -> str:
        """The accuracy in one sentence."""
        if self.drop is None:
            interrupted = self.ended == "interrupted"
            return "not measured" if interrupted else "no accuracy was measured: there were no data"
        d = self.drop
        return (
            f"{d.metric} {d.before:.4f} -> {d.after:.4f}, drop {d.drop:+.4f} "
            f"[{d.low:+.4f}, {d.high:+.4f}] on {d.samples} held-out samples"
        )

    def speed_line(self) -> str:
        """The latency in one sentence."""
        return "not measured" if self.speed is None else self.speed.summary()

    def size_line(self) -> str:
        """The size in one sentence."""
        return _smaller(self.before.size, self.after.size)

    def download_line(self) -> str:
        """The size of the compressed file in one sentence."""
        return f"{_smaller(self.before.download, self.after.download)} after zstd"

    def to_markdown(self) -> str:
        """As Markdown."""
        rows = "\n".join(
            f"| `{step.words}` | {step.outcome.value} | {_cell(step.why)} | {step.seconds:.1f} |" for step in self.steps
        )
        left = [(step.words, refusal) for step in self.steps for refusal in step.refusals]
        refusals = "\n".join(f"- `{words}` at `{r.node or 'model'}`: {r.why}" for words, r in left[:200])
        notes = "\n".join(f"- {note}" for note in self.notes)
        ledger = [f"| `{words}` | {saved.file:,} | {saved.session:,} |" for words, saved in self.ledger.items()]
        saved = "\n".join(["| pass | in the file | in memory |", "|---|--:|--:|", *ledger]) if ledger else "none"
        return f"""# onnxopt: {Path(self.source).name}

| | |
|---|---|
| result | {self.output or "nothing written"} ({self.ended}) |
| accuracy | {self.accuracy_line()} |
| speed | {self.speed_line()} |
| size | {self.size_line()} |
| download | {self.download_line()} |
| nodes | {self.before.nodes} -> {self.after.nodes} |
| data | {self.data} |
| took | {self.seconds:.1f} s, {self.peak_memory / 2**20:.0f} MiB at most |

{notes}

## Steps

| pass | outcome | why | s |
|---|---|---|---|
{rows}

## Bytes saved, by cause

{saved}

## Left alone

{refusals or "nothing"}
"""


def check_form(path: Path) -> None:
    """Find out before the work that a report of this kind cannot be written.

    Raises:
        UsageError: for an ending other than .json or .md.
    """
    if path.suffix not in FORMS:
        raise UsageError(f"--report {path}: the ending says the form; there are {' and '.join(FORMS)}")


def write(report: Report, path: Path) -> None:
    """Write the report in the form that the ending of the path names.

    Raises:
        UsageError: for another ending, or where it cannot be written.
    """
    check_form(path)
    in_json = path.suffix == ".json"
    text = json.dumps(report.to_dict(), indent=2, default=str) + "\n" if in_json else report.to_markdown()
    files.write_text(path, text)


def _smaller(before: int, after: int) -> str:
    ratio = before / after if after else float("inf")
    return f"{before:,} -> {after:,} bytes ({ratio:.2f}x smaller)"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
