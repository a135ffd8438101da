"""Metric, and what several metrics share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxopt.errors import DataError

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]


class Metric(ABC):
    """One way to judge outputs.

    Attributes:
        name: as on the command line.
        higher_is_better: the direction of ``score``.
        needs_labels: whether ``evidence`` reads labels.
        group: this many samples in a row make one row of evidence, and must not be parted.
    """

    name: str
    higher_is_better: bool = True
    needs_labels: bool = False
    group: int = 1

    @abstractmethod
    def evidence(self, outputs: Arrays, labels: Array | None, reference: Arrays, feeds: Arrays) -> Array:
        """One batch as (n, k) float64, one row per sample (or per group of samples).

        Args:
            outputs: of the model that is judged, by name.
            labels: one per sample, or None.
            reference: outputs of the original model.
            feeds: what both were fed.

        Raises:
            DataError: if labels or outputs are not what the metric is about.
        """

    def foreseen(self, outputs: Arrays, labels: Array | None, reference: Arrays, feeds: Arrays) -> Array:
        """The evidence to be expected of samples like these: the same question, with less noise where samples are few.

        For choosing, not for claims. Unless a metric knows better, it is the evidence itself.
        """
        return self.evidence(outputs, labels, reference, feeds)

    def learned(self, labels: Sequence[Array | None], references: Sequence[Arrays]) -> Metric:
        """This metric with what ``foreseen`` must know of all samples together: labels and outputs, batch by batch."""
        return self

    def score(self, evidence: Array) -> float:
        """One number of all rows: the mean of column 0, unless a metric says otherwise.

        Raises:
            DataError: if there are no rows.
        """
        return float(scored_rows(evidence)[:, 0].mean())


def batch_rows(reference: Arrays) -> int:
    """Samples in a batch: the length all outputs share on axis 0; where they differ, 1 row for the batch."""
    lengths = {values.shape[0] if values.ndim else 1 for values in reference.values()}
    return max(lengths.pop(), 1) if len(lengths) == 1 else 1


def needed_labels(metric: Metric, labels: Array | None) -> Array:
    """The labels, or DataError."""
    if labels is None or not len(labels):
        raise DataError(f"metric {metric.name} needs labels; add an array 'labels', or use --metric agreement")
    return labels


def is_float(values: Array) -> bool:
    """Whether the elements are floats, bfloat16 and the like too."""
    return values.dtype.kind == "f" or values.dtype.name.startswith(("float", "bfloat"))


def cosine(a: Array, b: Array) -> Array:
    """(n,) cosine of rows; 1 where both are zero, 0 where one is."""
    norms = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    product = norms[0] * norms[1]
    equal = (norms[0] == 0) & (norms[1] == 0)
    with np.errstate(all="ignore"):
        ratio = np.clip((a * b).sum(axis=1) / product, -1, 1)
    return np.asarray(np.where(product == 0, equal.astype(float), ratio))


def column(values: Array) -> Array:
    """(n,) as evidence (n, 1)."""
    return np.asarray(values, np.float64)[:, None]


def scored_rows(evidence: Array) -> Array:
    """The evidence, or DataError if it is empty."""
    if not len(evidence):
        raise DataError("there are no samples to score; give at least one")
    return evidence
