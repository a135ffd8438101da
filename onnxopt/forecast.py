"""The accuracy that a changed model will lose, foreseen on calibration samples.

What was fitted to samples looks better on them than it is. So it is fitted twice, each time to one half of the samples,
and judged on the other (cross-fitting): no number here comes from samples that its model has seen, and held-out samples
are left alone. It is an estimate, to choose by; what is claimed is measured by the gate.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxopt.metrics import Metric, drop
from onnxopt.runtime import Outputs, Session
from onnxopt.samples import Samples
from onnxopt.target import Target


class Forecast:
    """Judges models by a metric, in expectation (``Metric.foreseen``).

    Args:
        original: its outputs are the reference.
        metric: as the gate has it.
        parts: of the samples; a model is judged on one of them.
        target: where to run.

    Raises:
        DataError: if the metric does not fit the outputs or lacks labels.
    """

    def __init__(self, original: ir.Model, metric: Metric, parts: Sequence[Samples], target: Target) -> None:
        """Run the original."""
        self._parts, self._target = parts, target
        session = Session(original, target)
        self._references: list[list[Outputs]] = []
        labels = []
        for part in parts:
            runs = list(part.run(session))
            self._references.append([part.judged(outputs) for _, outputs in runs])
            labels += [batch.labels for batch, _ in runs]
        self._metric = metric.learned(labels, [outputs for each in self._references for outputs in each])
        self._before = np.concatenate([self._evidence(number, session) for number in range(len(parts))])

    def drop(self, models: Sequence[ir.Model]) -> float:
        """How much worse models are than the original, each on its part."""
        sessions = (Session(model, self._target) for model in models)
        after = np.concatenate([self._evidence(number, session) for number, session in enumerate(sessions)])
        return drop(self._metric, self._before, after)

    def _evidence(self, number: int, session: Session) -> np.ndarray:
        part, rows = self._parts[number], []
        for (batch, outputs), reference in zip(part.run(session), self._references[number], strict=True):
            judged = part.judged(outputs)
            rows.append(self._metric.foreseen(judged, batch.labels, reference, batch.feeds))
        return np.concatenate(rows)
