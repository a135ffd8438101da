"""How far the outputs of a changed model are from the original's, on samples without labels.

Of class scores it is the Kullback-Leibler divergence, in nats: a small error of a likely class counts, a large one of a
class that is never chosen does not. Of all other floats it is the squared error over the variance among the samples.
What a model gives for padding tokens does not count, where an input ``attention_mask`` says which they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt.calibrate.histogram import Array
from onnxopt.calibrate.vectors import MASK
from onnxopt.runtime import Outputs, Session
from onnxopt.samples import Samples
from onnxopt.target import Target

ERROR, SCORES, PROBABILITIES = "error", "scores", "probabilities"
LEAST = 1e-30


class Reference:
    """The outputs of the original model, kept to compare others with."""

    def __init__(self, model: ir.Model, samples: Samples, target: Target, *, errors: bool = False) -> None:
        """Run the model once.

        Args:
            model: the original.
            samples: without regard to their labels; but labels that are classes say that the outputs are scores.
            target: where to run.
            errors: take the squared error of scores, too.
        """
        self._samples, self._target = samples, target
        self._expected = [dict(outputs) for outputs in self._run(model)]
        first = self._expected[0] if self._expected else {}
        floats = [name for name, array in first.items() if _is_float(array)]
        self._names = [name for name in samples.judged(first) if name in floats] or floats
        self._kinds = dict.fromkeys(self._names, ERROR)
        if not errors:
            self._kinds = {name: self._kind(name) for name in self._names}
        self._spreads = {name: _spread([outputs[name] for outputs in self._expected]) for name in self._names}

    def divergence(self, model: ir.Model) -> float:
        """The mean over the float outputs, each over all samples; infinite where an output is not finite.

        Raises:
            ModelError: if the model does not load or run.
        """
        totals, rows = dict.fromkeys(self._names, 0.0), dict.fromkeys(self._names, 0)
        for outputs, expected in zip(self._run(model), self._expected, strict=True):
            for name, kind in self._kinds.items():
                wanted, got = (np.asarray(one[name], np.float64) for one in (expected, outputs))
                totals[name] += float(np.square(got - wanted).sum()) if kind == ERROR else _kl(wanted, got, kind)
                rows[name] += len(wanted) if wanted.ndim else 1
        each = [
            totals[name] / (self._spreads[name] if kind == ERROR else max(rows[name], 1))
            for name, kind in self._kinds.items()
        ]
        mean = float(np.mean(each)) if each else 0.0
        return mean if math.isfinite(mean) else math.inf

    def _run(self, model: ir.Model) -> Iterator[Outputs]:
        for batch, outputs in self._samples.run(Session(model, self._target)):
            mask = batch.feeds.get(MASK)
            yield {name: _seen(array, mask) for name, array in outputs.items()}

    def _kind(self, name: str) -> str:
        """What an output is: ``[samples, classes]`` (and 1s) of class scores or probabilities, or other numbers."""
        arrays = [np.asarray(outputs[name]) for outputs in self._expected]
        if any(array.ndim < 2 or array.shape[1] < 2 or math.prod(array.shape[2:]) != 1 for array in arrays):
            return ERROR
        if all((array >= 0).all() and np.allclose(array.sum(axis=1), 1, atol=1e-3) for array in arrays):
            return PROBABILITIES
        return SCORES if self._samples.data.has_class_labels else ERROR


def _seen(array: Any, mask: np.ndarray | None) -> Any:
    """Of an output with a row for each token, those that a mask shows."""
    if mask is None or np.shape(array)[: mask.ndim] != mask.shape or np.ndim(array) <= mask.ndim:
        return array
    return array[mask.astype(bool)]


def _is_float(array: object) -> bool:
    return np.issubdtype(np.asarray(array).dtype, np.floating)


def _kl(wanted: Array, got: Array, kind: str) -> float:
    """The divergence of the second distribution from the first, summed over the samples."""
    first, second = (_logarithms(array.reshape(len(array), -1), kind) for array in (wanted, got))
    with np.errstate(invalid="ignore"):
        return float((np.exp(first) * (first - second)).sum())


def _logarithms(rows: Array, kind: str) -> Array:
    """Of the probabilities."""
    if kind == PROBABILITIES:
        found: Array = np.log(np.maximum(rows, LEAST))
        return found
    from scipy.special import log_softmax

    with np.errstate(invalid="ignore"):
        return np.asarray(log_softmax(rows, axis=1))


def _spread(outputs: Sequence[np.ndarray]) -> float:
    """The sum of squares about the mean of all samples; about 0 where there is one sample, or they have many shapes."""
    alike = len({array.shape[1:] for array in outputs}) == 1 and sum(map(len, outputs)) > 1
    joined = np.concatenate(outputs).astype(np.float64) if alike else np.concatenate([a.reshape(-1) for a in outputs])
    return max(float(((joined - joined.mean(0) if alike else joined) ** 2).sum()), LEAST)
