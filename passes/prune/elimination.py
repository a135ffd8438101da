"""Backward elimination: which channels the layers that read them can best make good for, and what it costs them.

With the moments G of a layer's inputs and its weights W ``[products, outputs]``, the best weights without the products
``S`` lose ``tr(W_S^T P_SS^-1 W_S)``, P being the inverse of G, W the weights refitted so far, and are then
``W - P_:S P_SS^-1 W_S``; P without them is ``P - P_:S P_SS^-1 P_S:``. This is the Optimal Brain Surgeon in blocks.

Sources: Hassibi, Stork, "Second order derivatives for network pruning: Optimal Brain Surgeon", NIPS 1992; Kwon et al.,
"A Fast Post-Training Pruning Framework for Transformers", NeurIPS 2022, for blocks without training. Measured
(`facts/pruning.md`): the choice matters less than the repair, 0.25 points on a ResNet-56 at 30 % fewer MACs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg

from onnxopt.passes.prune.reading import Classes, Numbers, Reading
from onnxopt.passes.repair.least_squares import damped

RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Relative to the mean of G's diagonal. Measured: 1e-3 suits 500 small images, 1 to 10 a hundred large ones."""
PROBE = 0.3
"""The share of the channels without which the ridge is chosen."""
STEPS = 64
"""In which all channels would go; several at once where there are more."""


@dataclass
class Eliminated:
    """In which order channels go, and what the layers that read them lose.

    Attributes:
        order: classes, the first to go first.
        loss: of the squared outputs of the readers, as a share, summed over the readers, after so many are gone.
        ridges: with which the readings are fitted, one for each.
    """

    order: Classes
    loss: Numbers
    ridges: tuple[float, ...]


@dataclass
class _Reader:
    """The state of one reading.

    Attributes:
        classes: of the products that are left.
        weights: as refitted, ``[products, outputs]``.
        inverse: of the damped moments.
        scale: 1 over the squared outputs of the whole layer.
    """

    classes: Classes
    weights: Numbers
    inverse: Numbers
    scale: float

    @classmethod
    def of(cls, reading: Reading, ridge: float) -> _Reader:
        second = (reading.fitted + reading.held).second(centred=reading.biased)
        weights = reading.weights()
        energy = float(np.einsum("ko,ko->", weights, second @ weights))
        inverse = scipy.linalg.inv(damped(second, ridge), check_finite=False)
        return cls(reading.classes.copy(), weights, inverse, 1 / max(energy, 1e-30))

    def scores(self, alive: Classes) -> Numbers:
        """What it would lose without each class."""
        order = np.argsort(self.classes, kind="stable")
        starts = np.searchsorted(self.classes[order], alive)
        ends = np.searchsorted(self.classes[order], alive, side="right")
        found = np.zeros(len(alive))
        for size in np.unique(ends - starts).tolist():
            if size:
                which = np.flatnonzero(ends - starts == size)
                places = order[starts[which][:, None] + np.arange(size)]  # [classes, size]
                found[which] = self._lost(places)
        return found * self.scale

    def _lost(self, places: np.ndarray) -> Numbers:
        """``tr(W_S^T P_SS^-1 W_S)`` for each row S of places."""
        inner = self.inverse[places[:, :, None], places[:, None, :]]
        weights = self.weights[places]
        lost: Numbers = (weights * np.linalg.solve(inner, weights)).sum((1, 2))
        return lost

    def without(self, gone: Classes) -> float:
        """Let classes go; what it loses."""
        out = np.isin(self.classes, gone)
        if not out.any():
            return 0.0
        across = self.inverse[~out][:, out]
        solved = scipy.linalg.solve(
            self.inverse[out][:, out], np.hstack([across.T, self.weights[out]]), assume_a="pos", check_finite=False
        )
        lost = float((self.weights[out] * solved[:, len(across) :]).sum())
        self.inverse = self.inverse[~out][:, ~out] - across @ solved[:, : len(across)]
        self.weights = self.weights[~out] - across @ solved[:, len(across) :]
        self.classes = self.classes[~out]
        return max(lost, 0.0) * self.scale


def eliminated(readings: Sequence[Reading], classes: Classes, costs: Numbers, most: int) -> Eliminated:
    """Let the channel go that costs most for what is lost with it, again and again.

    Args:
        readings: all that read the classes, measured.
        classes: that can go.
        costs: what each class costs, of the same unit.
        most: how many may go.
    """
    ridges = tuple(best_ridge(reading, classes) for reading in readings)
    readers = [_Reader.of(reading, ridge) for reading, ridge in zip(readings, ridges, strict=True)]
    alive, total = np.sort(classes), 0.0
    order: list[int] = []
    losses: list[float] = []
    price = dict(zip(classes.tolist(), costs.tolist(), strict=True))
    step = max(1, len(classes) // STEPS)
    while len(order) < most:
        scores = np.sum([reader.scores(alive) for reader in readers], axis=0)
        per_cost = scores / np.array([price[one] for one in alive.tolist()])
        chosen = np.argsort(per_cost, kind="stable")[: min(step, most - len(order))]
        gone = alive[chosen]
        before = total
        total += sum(reader.without(np.sort(gone)) for reader in readers)
        order += gone.tolist()
        losses += np.linspace(before, total, len(gone) + 1)[1:].tolist()
        alive = np.delete(alive, chosen)
    return Eliminated(np.array(order, np.int64), np.array(losses), ridges)


def best_ridge(reading: Reading, classes: Classes) -> float:
    """The ridge with which the layer, fitted without a share of the classes, errs least on the samples held out."""
    ranked = np.unique(reading.classes[np.isin(reading.classes, classes)])
    fitted = reading.fitted.second(centred=reading.biased)
    energies = np.diagonal(fitted) * (reading.weights() ** 2).sum(1)
    energy = np.array([energies[reading.classes == one].sum() for one in ranked.tolist()])
    gone = ranked[np.argsort(energy, kind="stable")[: max(1, round(len(ranked) * PROBE))]]
    return min(RIDGES, key=lambda ridge: (_error_without(reading, gone, ridge), -ridge))


def _error_without(reading: Reading, gone: Classes, ridge: float) -> float:
    """Of the refitted layer; infinite where the rounding of moments of few samples outweighs the ridge."""
    try:
        return held_error(reading, refitted(reading, gone, ridge))
    except np.linalg.LinAlgError:
        return np.inf


def refitted(reading: Reading, gone: Classes, ridge: float) -> Numbers:
    """The weights fitted on the first samples, ``[products, outputs]``, with zeros for the classes that are gone.

    Least squares towards what the layer gives, and a ridge towards its own weights.
    """
    second, weights = reading.fitted.second(centred=reading.biased), reading.weights()
    stay = ~np.isin(reading.classes, gone)
    inner = damped(second[stay][:, stay], ridge)
    wanted = second[stay] @ weights + (inner - second[stay][:, stay]) @ weights[stay]
    found = np.zeros_like(weights)
    found[stay] = scipy.linalg.solve(inner, wanted, assume_a="pos", check_finite=False)
    return found


def held_error(reading: Reading, weights: Numbers) -> float:
    """The squared error of other weights on the held-out samples, with the bias that the first samples give them."""
    off = reading.weights() - weights
    second = reading.held.second(centred=reading.biased)
    error = float((off * (second @ off)).sum())
    if reading.biased:
        means = [moments.total / max(moments.count, 1) for moments in (reading.held, reading.fitted)]
        error += float((((means[0] - means[1]) @ off) ** 2).sum())
    return error
