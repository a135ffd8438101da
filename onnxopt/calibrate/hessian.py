"""Error feedback: the errors of some weights are made good by later ones, by the triangular factor of a Hessian.

The mean squared error of a row w of weights that becomes v is ``(w - v) H (w - v)^T``. With ``H = U U^T``, U upper
triangular, that is ``sum_j U_jj^2 (w_j + f_j - v_j)^2``, where ``f_j = sum_{i<j} (w_i - v_i) U_ij / U_jj`` is known
when it is column j's turn, and ``1 / U_jj^2`` is the first number of the inverse of H without the columns before j.

Source: Chee et al., "QuIP", NeurIPS 2023, theorem 6: the updates of OPTQ (and SparseGPT), without an inverse.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]

DAMPING = 0.01
"""Added to the diagonal of the Hessian, times its mean: the value of the papers on OPTQ and SparseGPT."""
BLOCK = 128
"""Columns after which errors are carried on to all later ones."""


def factored(hessian: Numbers) -> tuple[Numbers, Numbers]:
    """U of the damped Hessian with each column divided by its diagonal, and the diagonal of U.

    Args:
        hessian: ``E[x x^T]`` of the inputs of each group, or a multiple, ``[groups, products, products]``.

    Returns:
        ``[groups, products, products]`` and ``[groups, products]``.
    """
    mean = np.diagonal(hessian, axis1=1, axis2=2).mean(axis=1)
    damping = DAMPING * np.where(mean > 0, mean, 1)
    damped = hessian + damping[:, None, None] * np.eye(hessian.shape[1])
    factor = np.linalg.cholesky(damped[:, ::-1, ::-1])[:, ::-1, ::-1]  # a lower factor, turned around, is an upper one
    diagonal = np.diagonal(factor, axis1=1, axis2=2)
    return np.ascontiguousarray(factor / diagonal[:, None]), diagonal


Choose = Callable[[int, Numbers], Numbers]
"""The values that the weights of a column take, ``[groups, channels]``: told which column it is, in order of turns, and
what each weight wants to be, its own error and those before it considered."""


def in_turn(hessian: Numbers) -> npt.NDArray[np.int64]:
    """The order in which columns have their turn, ``[groups, products]``: those of large inputs first.

    There are many left to make good their errors then.
    """
    return np.argsort(-np.diagonal(hessian, axis1=1, axis2=2), axis=1, kind="stable")


def ordered(hessian: Numbers, order: npt.NDArray[np.int64]) -> Numbers:
    """The Hessian with its columns and rows in another order."""
    return np.take_along_axis(np.take_along_axis(hessian, order[:, :, None], 1), order[:, None], 2)


def fed_back(weights: Numbers, factor: Numbers, choose: Choose) -> Numbers:
    """The value of each weight, chosen column by column, each making good the errors of those before.

    Args:
        weights: in the order of turns, ``[groups, channels, products]``.
        factor: of their Hessian, in the same order (see ``factored``).
        choose: the values of a column.
    """
    products = weights.shape[2]
    values, errors = np.zeros_like(weights), np.zeros_like(weights)
    for start in range(0, products, BLOCK):
        block = slice(start, start + BLOCK)
        wanted = weights[..., block] + errors[..., :start] @ factor[:, :start, block]
        for j in range(start, min(start + BLOCK, products)):
            column = wanted[..., j - start] + (errors[..., start:j] @ factor[:, start:j, j, None])[..., 0]
            values[..., j] = choose(j, column)
            errors[..., j] = weights[..., j] - values[..., j]
    return values
