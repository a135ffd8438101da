"""How important each weight is, and by that which go."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import onnx_ir as ir

from onnxopt.calibrate.inputs import energies, input_moments
from onnxopt.core import Context
from onnxopt.layers import Weight
from onnxopt.passes.prune.weights.patterns import Array, Mask, Pattern, lowest, share_of
from onnxopt.passes.prune.weights.sparsegpt import saliency

MAGNITUDE, WANDA, SECOND_ORDER = IMPORTANCES = ("magnitude", "wanda", "second-order")


def importance(name: str, model: ir.Model, weights: Sequence[Weight], context: Context) -> Iterator[Array]:
    """The importance of all numbers of each weight, ``[channels, products]``.

    Args:
        name: ``magnitude``: ``|w_ij|``; ``wanda``: ``|w_ij| ||x_j||``; ``second-order``: see ``sparsegpt.saliency``.
        model: not changed.
        weights: of its layers.
        context: calibration samples for all but the magnitude.

    Raises:
        DataError: if what a layer reads is not finite.
    """
    if name == MAGNITUDE:
        yield from (np.abs(weight.rows) for weight in weights)
    elif name == WANDA:
        for weight, energy in zip(weights, energies(model, weights, context), strict=True):
            norms = np.sqrt(energy).astype(np.float32)
            yield (np.abs(weight.grouped) * norms[:, None]).reshape(weight.rows.shape)
    else:
        for weight, met in input_moments(model, weights, context):
            found = saliency(weight.grouped.astype(np.float64), met.second).reshape(weight.rows.shape)
            yield found.astype(np.float32)


def apart(pattern: Pattern, weight: Weight, scores: Array, ratio: float, *, by_row: bool) -> Mask:
    """The units of one weight that go, among all of it or in each row alike."""
    units = _ranked(pattern, weight, scores)
    if by_row and not pattern.of:
        return lowest(units, share_of(ratio, units.shape[1]))
    return pattern.lowest(units, share_of(ratio, units.size))


def together(pattern: Pattern, weights: Sequence[Weight], scores: Iterable[Array], ratio: float) -> Iterator[Mask]:
    """The units of each weight that go, among those of all weights.

    Their squared scores are divided by the sum of their layer's: those go that take the smallest share of it with
    them. So a layer with few weights keeps more of them.
    """
    ranked = [_ranked(pattern, weight, _shares(one)) for weight, one in zip(weights, scores, strict=True)]
    flat = np.concatenate([units.reshape(-1) for units in ranked])
    goes = lowest(flat, share_of(ratio, flat.size))
    parts = np.split(goes, np.cumsum([units.size for units in ranked])[:-1])
    return (part.reshape(units.shape) for part, units in zip(parts, ranked, strict=True))


def _shares(scores: Array) -> Array:
    """Divided by the root of the sum of their squares."""
    norm = float(np.linalg.norm(scores.astype(np.float64)))
    return scores / np.float32(norm or 1)


def _ranked(pattern: Pattern, weight: Weight, scores: Array) -> Array:
    """The scores of units; those that are zero come first, whatever they read."""
    return np.where(pattern.gone(weight.rows), np.float32(-1), pattern.units(scores))
