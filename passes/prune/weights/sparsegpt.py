"""SparseGPT: weights are set to zero one column after the other, and later columns make good the error.

Source: Frantar, Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot", ICML 2023. The
paper takes columns out of the inverse of the Hessian; the triangular factor used here gives the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from onnxopt.calibrate.hessian import Numbers, factored
from onnxopt.passes.prune.weights.patterns import Mask, Pattern

BLOCK = 128
"""Columns whose zeros are chosen at once: the value of the paper."""


def saliency(weights: Numbers, hessian: Numbers) -> Numbers:
    """The root of the error that each weight leaves if it goes and all later columns make it good, ``|w_j| U_jj``.

    Args:
        weights: ``[groups, channels, products]``.
        hessian: ``E[x x^T]`` of the inputs of each group, or a multiple, ``[groups, products, products]``.
    """
    _, diagonal = factored(hessian)
    result: Numbers = np.abs(weights * diagonal[:, None])
    return result


def sparsegpt(weights: Numbers, hessian: Numbers, pattern: Pattern, count: int) -> Numbers:
    """The weights with zeros in this pattern, those that stay changed so that ``x w^T`` changes little.

    For U and ``f_j`` see ``onnxopt.calibrate.hessian``: a weight that stays becomes ``w_j + f_j``, and one that goes
    costs ``U_jj^2 (w_j + f_j)^2``. That is known when it is column j's turn; those that go are chosen in some columns
    at once, by what it would be if all weights before j in these columns stayed. Weights that are zero stay zero.

    Args:
        weights: ``[groups, channels, products]``.
        hessian: ``E[x x^T]`` of the inputs of each group, or a multiple, ``[groups, products, products]``.
        pattern: of the zeros.
        count: of units that are zero in the end; passed over where the pattern itself says it.
    """
    factor, diagonal = factored(hessian)
    pruned, errors = np.zeros_like(weights), np.zeros_like(weights)
    for columns, zeros in _portions(pattern, pattern.gone(weights), count):
        start, old = columns.start, weights[..., columns]
        carried = errors[..., :start] @ factor[:, :start, columns]
        if_all_stay = old + carried @ np.linalg.inv(factor[:, columns, columns])
        units = pattern.units(np.abs(if_all_stay * diagonal[:, None, columns]))
        chosen = pattern.lowest(np.where(pattern.gone(old), -1, units), zeros)
        goes = pattern.spread(chosen) | (old == 0)
        for j in range(start, columns.stop):
            made_good = carried[..., j - start] + (errors[..., start:j] @ factor[:, start:j, j, None])[..., 0]
            column = weights[..., j] + made_good
            pruned[..., j] = np.where(goes[..., j - start], 0, column)
            errors[..., j] = weights[..., j] - pruned[..., j]
    return pruned


def _portions(pattern: Pattern, gone: Mask, count: int) -> Iterator[tuple[slice, int]]:
    """Columns whose zeros are chosen together, and how many of their units are zero in the end.

    Those that go are spread evenly over the units that are not zero before.
    """
    step = pattern.of or max(BLOCK // pattern.width, 1)
    free, more = int((~gone).sum()), max(count - int(gone.sum()), 0)
    seen = done = 0
    for start in range(0, gone.shape[-1], step):
        here = gone[..., start : start + step]
        seen += int((~here).sum())
        goal = more * seen // max(free, 1)
        columns = slice(start * pattern.width, (start + here.shape[-1]) * pattern.width)
        yield columns, int(here.sum()) + goal - done
        done = goal
