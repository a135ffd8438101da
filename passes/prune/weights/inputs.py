"""What layers read on calibration samples: the second moments that Wanda and SparseGPT weigh their weights with."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from onnxopt.calibrate.hessian import Numbers
from onnxopt.calibrate.vectors import Array, stream
from onnxopt.core import Context
from onnxopt.errors import DataError
from onnxopt.passes.prune.weights.weight import Weight

VECTORS = 4096
"""Drawn for each layer."""
BUDGET = 512 * 2**20
"""Bytes of all Hessians at one time; there are as many runs over the calibration samples as it takes.

Factoring one takes some four times its own size beside that.
"""


def energies(model: ir.Model, weights: Sequence[Weight], context: Context) -> list[Numbers]:
    """The sum of ``x^2`` over the vectors x that meet each weight, ``[groups, products]``.

    Raises:
        DataError: if a vector is not finite.
    """
    sums = {weight: np.zeros(weight.grouped.shape[::2]) for weight in weights}
    for weight, x in _met(model, weights, context):
        sums[weight] += np.square(x, dtype=np.float64).sum(axis=1)
    return [_finite(weight, total) for weight, total in sums.items()]


def hessians(model: ir.Model, weights: Sequence[Weight], context: Context) -> Iterator[tuple[Weight, Numbers]]:
    """The sum of ``x x^T`` over the vectors x that meet each weight, ``[groups, products, products]``.

    Weights whose Hessian is larger than the budget (of more than 8192 products) are left out.

    Raises:
        DataError: if a vector is not finite.
    """
    for portion in _portions(weights):
        sums = {weight: np.zeros(_shape(weight)) for weight in portion}
        for weight, x in _met(model, portion, context):
            sums[weight] += x.transpose(0, 2, 1) @ x
        for weight in portion:
            yield weight, _finite(weight, sums.pop(weight))


def fits(weight: Weight) -> bool:
    """Whether its Hessian fits into the budget."""
    return _bytes(weight) <= BUDGET


def _portions(weights: Sequence[Weight]) -> Iterator[list[Weight]]:
    """Lists whose Hessians fit into the budget."""
    portion: list[Weight] = []
    for weight in filter(fits, weights):
        if sum(map(_bytes, portion)) + _bytes(weight) > BUDGET:
            yield portion
            portion = []
        portion.append(weight)
    if portion:
        yield portion


def _bytes(weight: Weight) -> int:
    return 8 * math.prod(_shape(weight))


def _shape(weight: Weight) -> tuple[int, int, int]:
    """Of its Hessian, ``[groups, products, products]``."""
    groups, _, products = weight.grouped.shape
    return groups, products, products


def _met(model: ir.Model, weights: Sequence[Weight], context: Context) -> Iterator[tuple[Weight, Array]]:
    """Batch by batch the vectors that meet a weight, ``[groups, vectors, products]``."""
    home = {layer: weight for weight in weights for layer in weight.layers}
    for layer, x in stream(model, list(home), context, VECTORS):
        yield home[layer], x


def _finite(weight: Weight, total: Numbers) -> Numbers:
    """The sum itself."""
    if np.isfinite(total).all():
        return total
    raise DataError(
        f"what {weight.name!r} reads is not finite on the calibration samples; check the model and its inputs"
    )
