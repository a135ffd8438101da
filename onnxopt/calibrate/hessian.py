"""The triangular factor of a Hessian ``E[x x^T]``, by which errors of some weights are made good by later ones.

The mean squared error of a row w of weights that becomes v is ``(w - v) H (w - v)^T``. With ``H = U U^T``, U upper
triangular, that is ``sum_j U_jj^2 (w_j + f_j - v_j)^2``, where ``f_j = sum_{i<j} (w_i - v_i) U_ij / U_jj`` is known
when it is column j's turn, and ``1 / U_jj^2`` is the first number of the inverse of H without the columns before j.

Source: Chee et al., "QuIP", NeurIPS 2023, theorem 6: the updates of OPTQ (and SparseGPT), without an inverse.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]

DAMPING = 0.01
"""Added to the diagonal of the Hessian, times its mean: the value of the papers on OPTQ and SparseGPT."""


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
