"""The learning rate over a run: a factor of its highest value, from the share of the run that is done.

Sources: `cosine`, Loshchilov and Hutter, "SGDR", ICLR 2017, without restarts. `step`, He, Zhang, Ren
and Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2. `one-cycle`, Smith and
Topin, "Super-Convergence", 2018, with the shape and numbers of PyTorch's OneCycleLR; the momentum stays
as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable

RISE = 0.3
FIRST = 1 / 25
LAST = FIRST / 1e4


def constant(progress: float) -> float:
    """The same throughout."""
    return 1.0


def cosine(progress: float) -> float:
    """From 1 to 0 along half a period."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def linear(progress: float) -> float:
    """From 1 to 0 along a line."""
    return 1 - progress


def step(progress: float) -> float:
    """A tenth from the middle on, a hundredth in the last quarter."""
    return 0.1 ** ((progress >= 0.5) + (progress >= 0.75))


def one_cycle(progress: float) -> float:
    """Up from a 25th for three tenths of the run, then down to almost nothing, both along a cosine."""
    if progress < RISE:
        return 1 + (FIRST - 1) * cosine(progress / RISE)
    return LAST + (1 - LAST) * cosine((progress - RISE) / (1 - RISE))


SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": constant,
    "cosine": cosine,
    "linear": linear,
    "step": step,
    "one-cycle": one_cycle,
}


def factor(schedule: str, warmup: float, step: int, steps: int) -> float:
    """What the highest learning rate is multiplied by in step 0, 1, ... of `steps`.

    In the share `warmup` of the steps it rises in equal parts, the first of which is not 0; the
    schedule then has the steps that are left.
    """
    rising = round(warmup * steps)
    if step < rising:
        return (step + 1) / (rising + 1)
    return SCHEDULES[schedule]((step - rising) / (steps - rising))
