"""AdaRound: which weights to round up and which down is learned by gradients, all of a layer at once.

Source: Nagel, Amjad, van Baalen, Louizos, Blankevoort, "Up or Down? Adaptive Rounding for Post-Training Quantization",
ICML 2020, equations 21 to 25.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxopt.calibrate.hessian import Numbers
from onnxopt.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

STEPS = 1000
RATE = 0.02
"""Of Adam."""
STRETCH = (-0.1, 1.1)
"""The sigmoid is stretched to this and clipped to 0 to 1, so that both ends are reached (zeta and gamma)."""
SHARPNESS = (20.0, 2.0)
"""Of the regularizer at its begin and at its end (beta): late, what is near neither end is pushed to one."""
WARM_UP = 0.2
"""Share of the steps before the regularizer begins."""
STRENGTH = 30.0
"""Of the regularizer (lambda), per weight; with 1 too many weights are still undecided at the end (measured)."""
UNDECIDED = 0.05
"""Distance from one half below which the regularizer does not pull: its powers would be denormal, which is slow."""
TINY = 1e-6
"""Share of the mean square of an input below which an error is none."""


def adaround(weights: Numbers, hessian: Numbers, *, pairs: bool) -> Numbers:
    """The integers, each next to its weight, that make ``(w - q) H (w - q)^T`` small; shapes as for ``optq``.

    The paper draws inputs for every step; here the error over all of them, which H holds, is lowered. It is divided
    by that of rounding to nearest, so that one strength of the regularizer fits every layer.

    Args:
        weights: divided by their scales, ``[groups, channels, products]``.
        hessian: ``E[x x^T]`` of the inputs of each group, or a multiple, ``[groups, products, products]``.
        pairs: not looked at: who calls bounds the result.

    Raises:
        UsageError: if PyTorch is not installed.
    """
    try:
        import torch
    except (ImportError, OSError) as error:
        raise UsageError(
            f"adaround needs PyTorch, which is not installed or does not load ({error}): pip install 'onnxopt[torch]'"
        ) from None
    low = np.floor(weights)
    wanted, moments = torch.from_numpy(weights - low).float(), torch.from_numpy(hessian).float()
    power = moments.diagonal(dim1=1, dim2=2).mean(dim=1)[:, None, None].clamp(min=1e-30)
    unit = (_error(wanted - wanted.round(), moments) + TINY * power) / weights.shape[2]
    bottom, top = STRETCH
    hidden = torch.logit((wanted - bottom) / (top - bottom)).requires_grad_()
    optimizer = torch.optim.Adam([hidden], lr=RATE)
    for step in range(STEPS):
        up = (torch.sigmoid(hidden) * (top - bottom) + bottom).clamp(0, 1)
        loss = (_error(wanted - up, moments) / unit).sum()
        done = (step / STEPS - WARM_UP) / (1 - WARM_UP)
        if done > 0:
            beta = SHARPNESS[0] + (SHARPNESS[1] - SHARPNESS[0]) * done
            loss = loss + STRENGTH * (1 - (2 * up - 1).abs().clamp(min=UNDECIDED).pow(beta)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    result: Numbers = low + (hidden.detach().numpy() > 0)
    return result


def _error(off: Tensor, moments: Tensor) -> Tensor:
    """``d H d^T`` of each row d, ``[groups, channels, 1]``."""
    return ((off @ moments) * off).sum(dim=2, keepdim=True)
