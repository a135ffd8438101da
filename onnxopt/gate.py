"""The accuracy gate: the drop against the original on held-out samples, its interval, the verdict."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt.data import Batch
from onnxopt.metrics import Metric, drop, drop_interval
from onnxopt.runtime import Outputs, Session
from onnxopt.samples import Samples
from onnxopt.target import Target

KEPT_BYTES = 512 * 2**20
"""Outputs of the original are kept up to this; beyond, it runs again beside every candidate."""


@dataclass(frozen=True)
class Drop:
    """How much worse a model is than the original on the same samples; negative where it is better.

    Attributes:
        metric: its name.
        samples: number of held-out samples.
        before: score of the original.
        after: score of the model.
        drop: the difference, in the unit of the metric, positive where the model is worse.
        low, high: paired bootstrap interval of the drop.
        confidence: of the interval.
        passed: the gate's verdict.
    """

    metric: str
    samples: int
    before: float
    after: float
    drop: float
    low: float
    high: float
    confidence: float
    passed: bool

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return dict(self.__dict__)


@dataclass(frozen=True)
class Limits:
    """What the gate asks.

    Attributes:
        max_drop: largest drop, absolute, in the unit of the metric.
        min_score: the score itself must reach this, in place of ``max_drop``.
        strict_interval: ask it of the end of the interval instead of the point.
        confidence: of the interval.
    """

    max_drop: float = 0.01
    min_score: float | None = None
    strict_interval: bool = False
    confidence: float = 0.95


class Gate:
    """Measures candidates against the original, on held-out samples only.

    Raises:
        DataError: if the metric does not fit the outputs or lacks labels.
    """

    def __init__(
        self, original: ir.Model, metric: Metric, held_out: Samples, limits: Limits, target: Target, seed: int = 0
    ) -> None:
        """Run the original once; its outputs are the reference."""
        self.metric, self.held_out, self.limits, self.seed = metric, held_out, limits, seed
        self._original, self._target = original, target
        session = Session(original, target)
        self._kept = self._keep(session)
        self._evidence = self._collect(session)
        self.score = metric.score(self._evidence)

    @property
    def allowed(self) -> float:
        """The largest drop that passes, were there no interval."""
        if self.limits.min_score is None:
            return self.limits.max_drop
        room = self.score - self.limits.min_score
        return max(0.0, room if self.metric.higher_is_better else -room)

    def measure(self, model: ir.Model) -> Drop:
        """The drop of a model, and whether it passes."""
        return self._drop(self._collect(Session(model, self._target)))

    def unchanged(self) -> Drop:
        """The drop of the original itself, without running it again."""
        return self._drop(self._evidence)

    def _drop(self, evidence: np.ndarray) -> Drop:
        return judged_drop(self.metric, self._evidence, evidence, self.limits, self.seed, len(self.held_out))

    def _keep(self, session: Session) -> list[Outputs] | None:
        kept: list[Outputs] = []
        size = 0
        for _, outputs in self.held_out.run(session):
            kept.append(outputs)
            size += sum(np.asarray(output).nbytes for output in outputs.values())
            if size > KEPT_BYTES:
                return None
        return kept

    def _reference(self) -> Iterator[Outputs]:
        if self._kept is not None:
            yield from self._kept
        else:
            session = Session(self._original, self._target)
            yield from (outputs for _, outputs in self.held_out.run(session))

    def _collect(self, session: Session) -> np.ndarray:
        runs = self.held_out.run(session)
        pairs = zip(runs, self._reference(), strict=True)
        return np.concatenate([self._row(batch, outputs, reference) for (batch, outputs), reference in pairs])

    def _row(self, batch: Batch, outputs: Outputs, reference: Outputs) -> np.ndarray:
        outputs, reference = self.held_out.judged(outputs), self.held_out.judged(reference)
        return self.metric.evidence(outputs, batch.labels, reference, batch.feeds)


def judged_drop(metric: Metric, before: np.ndarray, after: np.ndarray, limits: Limits, seed: int, samples: int) -> Drop:
    """The drop between two models, its interval and the verdict.

    Args:
        metric: what made the evidence.
        before: evidence of the original, one row per sample.
        after: that of the model, of the same samples.
        limits: what is asked.
        seed: of the interval.
        samples: how many there were.
    """
    scores = metric.score(before), metric.score(after)
    fallen = drop(metric, before, after)
    low, high = drop_interval(metric, before, after, limits.confidence, seed)
    passed = _passes(metric, limits, scores[1], fallen, high)
    return Drop(metric.name, samples, *scores, fallen, low, high, limits.confidence, passed)


def _passes(metric: Metric, limits: Limits, after: float, fallen: float, high: float) -> bool:
    worst = max(fallen, high) if limits.strict_interval else fallen
    if limits.min_score is None:
        return bool(worst <= limits.max_drop + 1e-12)
    reached = after - (worst - fallen) if metric.higher_is_better else after + (worst - fallen)
    return bool(reached >= limits.min_score if metric.higher_is_better else reached <= limits.min_score)
