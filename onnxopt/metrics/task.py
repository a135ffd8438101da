"""Metrics that compare with labels: top1, top5, and the rank correlation of sentence pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxopt.errors import DataError
from onnxopt.metrics.base import Array, Arrays, Metric, column, cosine, is_float, needed_labels, scored_rows

TEMPERATURES = 3.0
"""The logarithm of a temperature is sought between this and its negative."""


@dataclass(frozen=True)
class TopK(Metric):
    """Whether the label is among the k highest scores; k = 1 takes class numbers and one probability, too.

    The output judged is the first with several numbers per sample, flattened to (n, classes), else the first.
    """

    name: str
    k: int
    needs_labels: bool = True
    temperature: float = 1.0
    """What scores are divided by to be logarithms of probabilities."""

    def evidence(self, outputs: Arrays, labels: Array | None, reference: Arrays, feeds: Arrays) -> Array:
        """(n, 1): 1 where right, 0 where wrong."""
        classes = _class_labels(self, labels)
        output, values = self._judged(outputs, len(classes))
        if values.shape[1] == 1:
            return column(self._single(output, values[:, 0]) == classes)
        count = values.shape[1]
        if classes.min() < 0 or classes.max() >= count:
            raise DataError(
                f"labels are {classes.min()} to {classes.max()}, but output {output!r} has {count} classes, "
                "counted from 0; correct the labels"
            )
        if count <= self.k > 1:
            raise DataError(f"metric {self.name}: output {output!r} has {count} classes; use --metric top1")
        return column((_places(values, classes.astype(int)) < self.k) & np.isfinite(values).all(axis=1))

    def foreseen(self, outputs: Arrays, labels: Array | None, reference: Arrays, feeds: Arrays) -> Array:
        """(n, 1): how likely the original holds the class that is predicted, for k = 1.

        A changed prediction costs what the original gives it less than its own. That follows a change of the drop on
        400 to 2,000 samples by a factor of two at most, and needs few samples (measured: four classifiers with weights
        of 3 to 6 bits, 0.4 to 5 points).
        """
        name, values = self._judged(reference, len(needed_labels(self, labels)))
        if self.k > 1 or values.shape[1] == 1:
            return self.evidence(outputs, labels, reference, feeds)
        predicted = _numbers(outputs[name]).reshape(values.shape)
        places = np.argmax(predicted, axis=1).reshape(-1, 1)
        likely = np.take_along_axis(_probabilities(values, self.temperature), places, axis=1)
        sound = np.isfinite(predicted).all(axis=1, keepdims=True)
        return np.where(sound, likely, 0.0)

    def learned(self, labels: Sequence[Array | None], references: Sequence[Arrays]) -> TopK:
        """With the temperature at which the labels are most likely.

        Source: Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", ICML 2017.
        """
        from scipy.optimize import minimize_scalar

        pairs = [(needed_labels(self, one), outputs) for one, outputs in zip(labels, references, strict=True)]
        values = np.concatenate([self._judged(outputs, len(one))[1] for one, outputs in pairs])
        if self.k > 1 or values.shape[1] == 1:
            return self
        own = np.concatenate([one for one, _ in pairs]).reshape(-1, 1).astype(int)

        def unlikely(logarithm: float) -> float:
            likely = np.take_along_axis(_probabilities(values, float(np.exp(logarithm))), own, axis=1)
            return -float(np.log(np.maximum(likely, 1e-30)).mean())

        found = minimize_scalar(unlikely, bounds=(-TEMPERATURES, TEMPERATURES), method="bounded")
        return replace(self, temperature=float(np.exp(found.x)))

    def _judged(self, outputs: Arrays, n: int) -> tuple[str, Array]:
        flat = {
            name: _numbers(values).reshape(n, -1)
            for name, values in outputs.items()
            if values.size and values.size % n == 0 and values.dtype.kind not in "OUS"
        }
        if not flat:
            raise DataError(f"metric {self.name}: no output has numbers for {n} labels; use --metric agreement")
        wide = [name for name, values in flat.items() if values.shape[1] > 1]
        name = (wide or list(flat))[0]
        return name, flat[name]

    def _single(self, output: str, values: Array) -> Array:
        """The class where a sample has one number: a class number, or the probability of class 1."""
        if self.k > 1:
            raise DataError(f"metric {self.name}: output {output!r} has one number per sample; use --metric top1")
        if values.dtype.kind in "iub":
            return values
        finite = values[np.isfinite(values)]
        if ((finite < 0) | (finite > 1)).any():
            raise DataError(
                f"metric {self.name}: output {output!r} has one number per sample, and no probability; "
                "use --metric cosine or relative-error"
            )
        return np.where(np.isfinite(values), values > 0.5, -1)


def _probabilities(scores: Array, temperature: float) -> Array:
    """(n, classes): of class scores, or of probabilities, at a temperature."""
    from scipy.special import softmax

    shares = (scores >= 0).all() and np.allclose(scores.sum(axis=1), 1, atol=1e-3)
    return np.asarray(softmax((np.log(np.maximum(scores, 1e-30)) if shares else scores) / temperature, axis=1))


def _places(scores: Array, classes: Array) -> Array:
    """(n,) how many classes come before the labelled one; of equal scores the lower number comes first."""
    own = np.take_along_axis(scores, classes[:, None], axis=1)
    earlier = np.arange(scores.shape[1]) < classes[:, None]
    return np.asarray(((scores > own) | ((scores == own) & earlier)).sum(axis=1))


@dataclass(frozen=True)
class SpearmanCosine(Metric):
    """Rank correlation of sentence pairs: cosine of samples 2i and 2i+1 with the gold score labels[2i].

    The first float output (n, d) is the embedding; (n, tokens, d) is averaged over the tokens whose
    ``attention_mask`` is 1 (over all without such an input). NaN anywhere gives the worst score, -1.
    """

    name: str = "spearman-cosine"
    needs_labels: bool = True
    group: int = 2

    def evidence(self, outputs: Arrays, labels: Array | None, reference: Arrays, feeds: Arrays) -> Array:
        """(n/2, 2): cosine of the pair, gold score."""
        gold = needed_labels(self, labels)
        name, embedding = next(((k, v) for k, v in outputs.items() if is_float(v) and v.ndim in (2, 3)), ("", None))
        if embedding is None or len(embedding) != len(gold) or len(gold) % 2 or not _are_numbers(gold):
            raise DataError(
                f"metric {self.name} needs pairs of samples, each a number as label and an embedding, and "
                f"not a batch of {len(gold)} with output {name!r}; use an even batch size or another metric"
            )
        mask = feeds.get("attention_mask")
        vectors = embedding.astype(np.float64)
        if vectors.ndim == 3:
            vectors = _mean_pooled(vectors, np.ones(vectors.shape[:2]) if mask is None else mask)
        return np.stack([cosine(vectors[0::2], vectors[1::2]), gold[0::2].astype(np.float64)], axis=1)

    def score(self, evidence: Array) -> float:
        """Spearman's rank correlation of both columns (scipy); -1 for NaN or where all cosines are equal."""
        from scipy import stats

        similarity, gold = scored_rows(evidence).T
        if len(np.unique(gold)) < 2:
            raise DataError(f"metric {self.name} needs pairs with different gold scores; give more samples")
        if not np.isfinite(similarity).all() or len(np.unique(similarity)) < 2:
            return -1.0
        return float(stats.spearmanr(similarity, gold).statistic)


def _mean_pooled(vectors: Array, mask: Array) -> Array:
    """(n, tokens, d) to (n, d), the mean over tokens where the mask (n, tokens) is 1."""
    weights = np.asarray(mask, np.float64)[:, :, None]
    with np.errstate(invalid="ignore"):
        return np.asarray((vectors * weights).sum(axis=1) / np.maximum(weights.sum(axis=1), 1e-9))


def _are_numbers(labels: Array) -> bool:
    return labels.ndim == 1 and labels.dtype.kind in "iuf"


def _class_labels(metric: Metric, labels: Array | None) -> Array:
    classes = needed_labels(metric, labels)
    classes = classes.reshape(len(classes), -1)
    if classes.shape[1] != 1 or classes.dtype.kind not in "iubf" or (classes % 1).any():
        raise DataError(f"metric {metric.name} needs one class number per sample as label, from 0 on")
    return classes[:, 0]


def _numbers(values: Array) -> Array:
    return values.astype(np.float64) if is_float(values) else values
