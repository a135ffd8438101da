"""OPTQ: weights rounded one after the other, each making good the errors of those before.

Source: Frantar, Ashkboos, Hoefler, Alistarh, "OPTQ: Accurate Quantization for Generative Pre-trained Transformers",
ICLR 2023; in the form of LDLQ, to which Chee et al., "QuIP", NeurIPS 2023, theorem 6, prove it equal: it needs one
Cholesky factor and no inverse.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from onnxopt.calibrate.hessian import Numbers, factored
from onnxopt.passes.quantize.grids.grid import PAIR_MAX, WEIGHT_MAX

BLOCK = 128
"""Columns after which errors are carried on to all later ones."""


def optq(weights: Numbers, hessian: Numbers, *, pairs: bool) -> Numbers:
    """The integers ``q`` that make ``(w - q) H (w - q)^T`` small for each row ``w``; ``[groups, channels, products]``.

    ``q_j`` is the integer nearest to ``w_j + f_j``, with f of ``calibrate.hessian``. Columns of large inputs come
    first, while there are many left to make good their errors.

    Args:
        weights: divided by their scales, ``[groups, channels, products]``.
        hessian: ``E[x x^T]`` of the inputs of each group, or a multiple, ``[groups, products, products]``.
        pairs: whether the sums of neighbouring integers are bounded (see ``grid``).
    """
    products = weights.shape[2]
    order = np.argsort(-np.diagonal(hessian, axis1=1, axis2=2), kind="stable")
    factor, _ = factored(np.take_along_axis(np.take_along_axis(hessian, order[:, :, None], 1), order[:, None], 2))
    partners = _partners(order) if pairs else None
    weights = np.take_along_axis(weights, order[:, None], 2)
    integers, errors = np.zeros_like(weights), np.zeros_like(weights)
    for start in range(0, products, BLOCK):
        block = slice(start, start + BLOCK)
        wanted = weights[..., block] + errors[..., :start] @ factor[:, :start, block]
        for j in range(start, min(start + BLOCK, products)):
            column = wanted[..., j - start] + (errors[..., start:j] @ factor[:, start:j, j, None])[..., 0]
            low, high = _bounds(integers, None if partners is None else partners[:, j])
            integers[..., j] = np.clip(np.rint(column), low, high)
            errors[..., j] = weights[..., j] - integers[..., j]
    result: Numbers = np.take_along_axis(integers, np.argsort(order)[:, None], 2)
    return result


def _partners(order: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """When the neighbour of each column has its turn; that of a last column without neighbour is its own."""
    neighbours = order ^ 1
    neighbours = np.where(neighbours < order.shape[1], neighbours, order)
    return np.take_along_axis(np.argsort(order), neighbours, 1)


def _bounds(integers: Numbers, partner: npt.NDArray[np.int64] | None) -> tuple[Numbers | int, Numbers | int]:
    """What an integer may be beside its neighbour, ``[groups, channels]``; one that is not chosen yet is 0."""
    if partner is None:
        return -WEIGHT_MAX, WEIGHT_MAX
    other = np.take_along_axis(integers, partner[:, None, None], 2)[..., 0]
    return (
        np.maximum(-WEIGHT_MAX, -PAIR_MAX - np.minimum(other, 0)),
        np.minimum(WEIGHT_MAX, PAIR_MAX - np.maximum(other, 0)),
    )
