"""Metrics that compare with the outputs of the original model: agreement, and distances."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from onnxopt.errors import DataError
from onnxopt.metrics.base import Array, Arrays, Metric, batch_rows, column, cosine, is_float, scored_rows

SQNR_CAP = 150.0
"""dB; equal outputs would give infinity."""


@dataclass(frozen=True)
class Agreement(Metric):
    """Share of predictions equal to the original's.

    What a prediction is, the reference decides, batch by batch (``_prediction``): class numbers, the class
    of the highest score, or the side of 0.5. Those outputs count that predict in the way of the first.
    """

    name: str = "agreement"

    def evidence(self, outputs: Arrays, labels: Array | None, reference: Arrays, feeds: Arrays) -> Array:
        """(n, 1): share of equal predictions in each sample."""
        n = batch_rows(reference)
        way = _prediction(*next(iter(reference.items())))
        shares = [
            _agreeing(outputs[name], wanted, way).reshape(n, -1).mean(axis=1)
            for name, wanted in _same_names(outputs, reference)
            if wanted.size and (name == next(iter(reference)) or _predicts(name, wanted, way))
        ]
        if not shares:
            raise DataError("metric agreement: the first output is empty; use --metric max-abs-error")
        return column(np.mean(shares, axis=0))


@dataclass(frozen=True)
class _Way:
    """How an output predicts: ``equal`` values, the ``side`` of 0.5, or the highest on an axis of scores."""

    kind: str
    rank: int
    axis: int = 0


def _prediction(name: str, reference: Array) -> _Way:
    """The way of an output: axis 1 holds classes, for rank 3 the last axis.

    Raises:
        DataError: for one column of numbers that are no probabilities.
    """
    if not is_float(reference):
        return _Way("equal", reference.ndim)
    axis = 2 if reference.ndim == 3 else 1
    columns = reference.shape[axis] if reference.ndim > 1 else 1
    finite = reference[np.isfinite(reference)].astype(np.float64)
    shares = ((finite >= 0) & (finite <= 1)).all()
    if shares and (columns == 1 or not _sums_to_one(reference, axis)):
        return _Way("side", reference.ndim)
    if columns == 1:
        raise DataError(
            f"metric agreement: output {name!r} has one number per sample, and no probability; "
            "use --metric cosine or relative-error"
        )
    return _Way("probabilities" if shares else "scores", reference.ndim, axis)


def _predicts(name: str, reference: Array, way: _Way) -> bool:
    try:
        return _prediction(name, reference) == way
    except DataError:
        return False


def _sums_to_one(values: Array, axis: int) -> bool:
    with np.errstate(invalid="ignore"):
        sums = values.astype(np.float64).sum(axis=axis)
    return bool((np.abs(sums[np.isfinite(sums)] - 1) < 1e-3).all())


def _agreeing(output: Array, reference: Array, way: _Way) -> Array:
    """Equality of predictions, one per element or per vector of scores; NaN, inf, other shapes are wrong."""
    if output.shape != reference.shape:
        return np.zeros(reference.shape, bool)
    if way.kind == "equal":
        return np.asarray(output == reference)
    finite = np.isfinite(output) & np.isfinite(reference)
    if way.kind == "side":
        return np.asarray(((output > 0.5) == (reference > 0.5)) & finite)
    return np.asarray((output.argmax(way.axis) == reference.argmax(way.axis)) & finite.all(way.axis))


@dataclass(frozen=True)
class Distance(Metric):
    """A number per sample from the outputs, float64 (n, d), and the reference's; the worst output counts."""

    name: str
    measure: Callable[[Array, Array], Array] = field(repr=False)
    worst: float
    higher_is_better: bool = False

    def evidence(self, outputs: Arrays, labels: Array | None, reference: Arrays, feeds: Arrays) -> Array:
        """(n, 1): the measure, ``worst`` where a number is not finite or shapes differ."""
        columns = [self._measured(a, b) for a, b in _pairs(self.name, outputs, reference)]
        return column(np.min(columns, axis=0) if self.higher_is_better else np.max(columns, axis=0))

    def _measured(self, output: Array | None, reference: Array) -> Array:
        if output is None:
            return np.full(len(reference), self.worst)
        with np.errstate(all="ignore"):
            values = self.measure(output, reference)
        return np.where(np.isfinite(values) & _finite_rows(output, reference), values, self.worst)


def _relative_error(a: Array, b: Array) -> Array:
    """(n,) ``norm(a - b) / norm(b)``; 0 where both are zero, inf where only b is."""
    error, size = np.linalg.norm(a - b, axis=1), np.linalg.norm(b, axis=1)
    return np.where(error == 0, 0.0, error / size)


def _max_abs_error(a: Array, b: Array) -> Array:
    return np.asarray(np.abs(a - b).max(axis=1, initial=0.0))


def _mse(a: Array, b: Array) -> Array:
    return np.asarray(((a - b) ** 2).sum(axis=1) / max(a.shape[1], 1))


@dataclass(frozen=True)
class Sqnr(Metric):
    """Signal to quantization noise of all samples: ``10 log10(sum(b^2) / sum((a - b)^2))`` dB, up to 150."""

    name: str = "sqnr"

    def evidence(self, outputs: Arrays, labels: Array | None, reference: Arrays, feeds: Arrays) -> Array:
        """(n, 2 outputs): signal power and noise power of each output in turn."""
        columns = []
        for output, wanted in _pairs(self.name, outputs, reference):
            signal, noise = _power(wanted), np.full(len(wanted), np.inf)
            if output is not None:
                noise = np.where(_finite_rows(output, wanted), _power(output, wanted), np.inf)
            columns += [np.where(np.isfinite(signal), signal, 0.0), noise]
        return np.stack(columns, axis=1)

    def score(self, evidence: Array) -> float:
        """DB of the worst output; 150 where there is no noise at all, -inf where there is no signal."""
        signal, noise = scored_rows(evidence)[:, 0::2].sum(axis=0), evidence[:, 1::2].sum(axis=0)
        with np.errstate(all="ignore"):
            ratio = np.where(noise == 0, SQNR_CAP, 10 * np.log10(signal / noise))
        return float(np.minimum(ratio, SQNR_CAP).min())


def _power(a: Array, b: Array | float = 0.0) -> Array:
    """(n,) ``sum((a - b)^2)``."""
    with np.errstate(all="ignore"):
        return np.asarray(((a - b) ** 2).sum(axis=1))


def _pairs(metric: str, outputs: Arrays, reference: Arrays) -> Iterator[tuple[Array | None, Array]]:
    """Each float output and its reference as float64 (n, d); None for an output of another shape.

    Raises:
        DataError: if there is no float output.
    """
    n = batch_rows(reference)
    floats = [(outputs[name], wanted) for name, wanted in _same_names(outputs, reference) if is_float(wanted)]
    if not floats:
        raise DataError(f"metric {metric} needs an output of floats, and there is none; use --metric agreement")
    for output, wanted in floats:
        same = output.shape == wanted.shape
        flat = wanted.reshape(n, -1) if wanted.size else np.zeros((n, 1))
        other = (output.reshape(n, -1) if output.size else np.zeros((n, 1))) if same else None
        yield None if other is None else other.astype(np.float64), flat.astype(np.float64)


def _same_names(outputs: Arrays, reference: Arrays) -> Iterator[tuple[str, Array]]:
    for name, wanted in reference.items():
        if name not in outputs:
            raise DataError(f"the optimized model has no output {name!r}, which the original has")
        yield name, wanted


def _finite_rows(*arrays: Array) -> Array:
    return np.asarray(np.all([np.isfinite(values).all(axis=1) for values in arrays], axis=0))


DISTANCES = (
    Distance("cosine", cosine, -1.0, higher_is_better=True),
    Distance("max-abs-error", _max_abs_error, np.inf),
    Distance("relative-error", _relative_error, np.inf),
    Distance("mse", _mse, np.inf),
)
