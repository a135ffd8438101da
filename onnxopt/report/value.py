"""The report of one optimization as a value. All its forms are made from what ``to_dict`` gives."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import onnx_ir as ir

from onnxopt.benchmark import Comparison
from onnxopt.core import Saved
from onnxopt.download import download_bytes
from onnxopt.gate import Drop
from onnxopt.graph import walk, weight_bytes
from onnxopt.pipeline import Outcome, Step, size_of
from onnxopt.report.details import Details
from onnxopt.report.markdown import markdown
from onnxopt.report.origin import Origin
from onnxopt.report.spread import spread
from onnxopt.report.stairs import stairs

VERSION = 3
"""Of the JSON form. 1: first. 2: changes have the bytes they saved, there is a ledger of them, and download_bytes.
3: kept_original, ratios, latency, memory, layers, stairs (what each step gave) and origin (how to reproduce); steps say
what they were timed against, changes and refusals which kernel was wanted and what noise was measured; there is no
number that JSON has not (infinite is null)."""


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
        origin: how to reproduce it.
        details: of layers and memory, where they were asked for.
        kept_original: whether the result is the original, because nothing was better.
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
    origin: Origin
    details: Details = field(default_factory=Details)
    kept_original: bool = False

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
        content = {
            "version": VERSION,
            "source": self.source,
            "output": self.output,
            "kept_original": self.kept_original,
            "settings": dict(self.settings),
            "data": self.data,
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            "ratios": self._ratios(),
            "steps": [step.to_dict() for step in self.steps],
            "stairs": stairs(self.steps, self.before.size, self.after.size, self.speed),
            "ledger": {words: asdict(saved) for words, saved in self.ledger.items()},
            "accuracy": self.drop and self.drop.to_dict(),
            "speed": self.speed and self.speed.to_dict(),
            "latency": self.speed and spread(self.speed),
            "memory": self.details.memory(),
            "layers": self.details.layers and self.details.layers.to_dict(),
            "ended": self.ended,
            "notes": [*self.notes, *self.details.notes],
            "seconds": round(self.seconds, 2),
            "peak_memory": self.peak_memory,
            "origin": self.origin.to_dict(),
        }
        plain: dict[str, Any] = _plain(content)
        return plain

    def to_markdown(self) -> str:
        """As Markdown."""
        return markdown(self.to_dict())

    def _ratios(self) -> dict[str, float | None]:
        """What is left of the original, as shares; and how many times as long a run takes, with its interval."""
        first, last, speed = self.details.before, self.details.after, self.speed
        return {
            "bytes": _share(self.before.size, self.after.size),
            "download_bytes": _share(self.before.download, self.after.download),
            "resident": _share(first.resident.median, last.resident.median) if first and last else None,
            "time": None if speed is None else 1 / speed.ratio,
            "time_low": None if speed is None else 1 / speed.high,
            "time_high": None if speed is None or not speed.low else 1 / speed.low,
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


def _smaller(before: int, after: int) -> str:
    ratio = before / after if after else float("inf")
    return f"{before:,} -> {after:,} bytes ({ratio:.2f}x smaller)"


def _share(before: float, after: float) -> float | None:
    return after / before if before else None


def _plain(value: Any) -> Any:
    """What JSON has: no tuples, nothing infinite, and words for all else."""
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)
