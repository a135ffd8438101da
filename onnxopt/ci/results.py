"""What came out: of one model, and of all; and the exit code that follows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from onnxopt.errors import BenchmarkFailed, GateRefused

VERSION = 1
"""Of the JSON form. 1: first."""
FORM = "onnxopt ci"
"""What says in the JSON form that it is one."""

ACCURACY, SLOWER, INTERRUPTED = GateRefused.exit_code, BenchmarkFailed.exit_code, 130
WORST_FIRST = (INTERRUPTED, ACCURACY, SLOWER, 5, 3, 2, 1)
"""Of several exit codes the first is the run's: a wrong model is worse news than a slow one, and what was found
out is more than what could not be."""


_WORDS = {"accuracy": "less accurate", "speed": "slower", "noise": "too noisy to tell", "size": "too large"}
"""What a check says of a model that it fails."""


@dataclass(frozen=True)
class Finding:
    """Something that fails a model.

    Attributes:
        check: ``accuracy``, ``speed``, ``noise`` (of a time that cannot be told), ``size``, ``error``, ``interrupted``.
        code: the exit code it stands for.
        sentence: what is wrong.
    """

    check: str
    code: int
    sentence: str


@dataclass(frozen=True)
class Accuracy:
    """A model against a reference.

    Attributes:
        reference: the path that it was compared with.
        line: the result in one sentence.
        problems: sentences on what is beyond the limits.
        notes: what should be known of it.
        comparable: whether inputs and outputs are the same, so that both can be timed on one input.
        score: ``{"metric", "before", "after", "drop", "low", "high", "samples"}``; None without data.
        layers: on failure, the nodes that explain it.
        details: everything, ready for JSON.
    """

    reference: str
    line: str
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    comparable: bool = True
    score: Mapping[str, Any] | None = None
    layers: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Median:
    """Seconds of an iteration: the median and its interval."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Speed:
    """A model against its baseline in one place.

    Attributes:
        where: provider, threads, batch: ``cpu, 1 thread``.
        baseline: the path that it was compared with; None where it was timed alone.
        before: of the baseline; None where it was timed alone.
        after: of the model.
        ratio, low, high: time of the baseline over that of the model, and its interval: above 1, the model is faster.
        stored: whether the baseline's time is from an earlier run.
        environment: processor, cores, ONNX Runtime, ...
        warnings: what the reader must know before quoting a number.
        details: everything, ready for JSON.
    """

    where: str
    baseline: str | None
    before: Median | None
    after: Median
    ratio: float = 1.0
    low: float = 1.0
    high: float = 1.0
    stored: bool = False
    environment: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def slowdown(self) -> tuple[float, float, float]:
        """Share of the baseline's time that a run takes more, with the lower and the upper end; under 0: faster."""
        most = 1 / self.low - 1 if self.low else math.inf
        return 1 / self.ratio - 1, 1 / self.high - 1, most

    def line(self) -> str:
        """The ratio with its interval."""
        return f"{self.ratio:.2f}x [{self.low:.2f}, {self.high:.2f}]" if self.baseline else "timed alone"


@dataclass
class Outcome:
    """One model; filled step by step, so that what was found before an error is kept.

    Attributes:
        name, path: of the entry.
        line: of the entry in the file.
        candidate: the model that was judged: ``path``, or the optimized one.
        optimized: what the optimization gave, in one sentence; None where it was not asked for.
        accuracy: None where it was not compared.
        speed: in each place.
        bytes: of the model's file before and after the optimization, or of the baseline and the model.
        findings: what fails it.
        notes: what does not, and should be known.
        seconds: that it took.
        ended: whether it was gone through: False for a model that was left out or interrupted.
        trace: of an error that is a bug.
    """

    name: str
    path: str
    line: int
    candidate: str = ""
    optimized: str | None = None
    accuracy: Accuracy | None = None
    speed: list[Speed] = field(default_factory=list)
    bytes: tuple[int | None, int] | None = None
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    ended: bool = False
    trace: str = ""

    @property
    def passed(self) -> bool:
        """Whether it was gone through, and nothing fails it."""
        return self.ended and not self.findings

    @property
    def verdict(self) -> str:
        """In a word or two each, the worst first."""
        if not self.findings:
            return "passed" if self.ended else "not run"
        order = {code: rank for rank, code in enumerate(WORST_FIRST)}
        checks = [finding.check for finding in sorted(self.findings, key=lambda each: order.get(each.code, len(order)))]
        return ", ".join(_WORDS.get(check, check) for check in dict.fromkeys(checks))

    def failed(self, check: str, code: int, sentence: str) -> None:
        """Add a finding."""
        self.findings.append(Finding(check, code, sentence))

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        found = {key: value for key, value in asdict(self).items() if key not in ("trace", "bytes")}
        before, after = self.bytes or (None, None)
        return {**found, "bytes": {"before": before, "after": after}, "verdict": self.verdict, "passed": self.passed}


@dataclass(frozen=True)
class Result:
    """All models.

    Attributes:
        config: path of the file.
        outcomes: in its order, those that were left out too.
        ended: ``complete``, ``stopped`` at the first failure, or ``interrupted``.
        seconds: that it took.
        started: date and time, UTC.
        version: of onnxopt.
        machine: processor, cores and versions.
    """

    config: str
    outcomes: tuple[Outcome, ...]
    ended: str
    seconds: float
    started: str
    version: str
    machine: Mapping[str, Any] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """0 where every model passed, else the worst one's; 130 where it was interrupted."""
        codes = [finding.code for outcome in self.outcomes for finding in outcome.findings]
        return worst_code([*codes, *([INTERRUPTED] if self.ended == "interrupted" else [])])

    @property
    def passed(self) -> bool:
        """Whether all models were gone through and passed."""
        return self.exit_code == 0 and all(outcome.passed for outcome in self.outcomes)

    def headline(self) -> str:
        """One sentence: how many passed, and what failed."""
        count = sum(outcome.passed for outcome in self.outcomes)
        failed = [f"{outcome.name} {outcome.verdict}" for outcome in self.outcomes if outcome.findings]
        stopped = "" if self.ended == "complete" else f"; {self.ended}, the rest was not run"
        return f"{count} of {len(self.outcomes)} passed{': ' if failed else ''}{', '.join(failed)}{stopped}"

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON, without NaN and inf, for which it has no form; a later run can take it as stored baseline."""
        found: dict[str, Any] = _finite(self._dict())
        return found

    def _dict(self) -> dict[str, Any]:
        return {
            "form": FORM,
            "version": VERSION,
            "onnxopt": self.version,
            "config": self.config,
            "started": self.started,
            "seconds": round(self.seconds, 2),
            "ended": self.ended,
            "passed": self.passed,
            "exit_code": self.exit_code,
            "headline": self.headline(),
            "machine": dict(self.machine),
            "models": [outcome.to_dict() for outcome in self.outcomes],
        }


def worst_code(codes: Iterable[int]) -> int:
    """The first of ``WORST_FIRST`` among these; 0 where there are none."""
    found = set(codes)
    return next((code for code in WORST_FIRST if code in found), max(found, default=0))


def _finite(value: Any) -> Any:
    """The same, with None for NaN and inf."""
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
