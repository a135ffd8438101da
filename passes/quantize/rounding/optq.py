"""OPTQ: weights rounded one after the other, each making good the errors of those before.

Source: Frantar, Ashkboos, Hoefler, Alistarh, "OPTQ: Accurate Quantization for Generative Pre-trained Transformers",
ICLR 2023; in the form of LDLQ, to which Chee et al., "QuIP", NeurIPS 2023, theorem 6, prove it equal: it needs one
Cholesky factor and no inverse.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from onnxopt.calibrate.hessian import Numbers, factored, fed_back, in_turn, ordered
from onnxopt.passes.quantize.grids.grid import PAIR_MAX, WEIGHT_MAX


def optq(weights: Numbers, hessian: Numbers, *, pairs: bool) -> Numbers:
    """The integers ``q`` that make ``(w - q) H (w - q)^T`` small for each row ``w``; ``[groups, channels, products]``.

    ``q_j`` is the integer nearest to ``w_j + f_j``, with f of ``calibrate.hessian``.

    Args:
        weights: divided by their scales, ``[groups, channels, products]``.
        hessian: ``E[x x^T]`` of the inputs of each group, or a multiple, ``[groups, products, products]``.
        pairs: whether the sums of neighbouring integers are bounded (see ``grid``).
    """
    order = in_turn(hessian)
    factor, _ = factored(ordered(hessian, order))
    partners = _partners(order) if pairs else None
    weights = np.take_along_axis(weights, order[:, None], 2)
    chosen = np.zeros_like(weights)

    def nearest(j: int, wanted: Numbers) -> Numbers:
        low, high = _bounds(chosen, None if partners is None else partners[:, j])
        chosen[..., j] = np.clip(np.rint(wanted), low, high)
        return chosen[..., j]

    integers = fed_back(weights, factor, nearest)
    return np.take_along_axis(integers, np.argsort(order)[:, None], 2)


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
