"""The fewest bits with which no more than so much accuracy is expected to be lost."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxopt import progress
from onnxopt.passes.cluster.allocation import Levels
from onnxopt.passes.cluster.lockstep import Coded
from onnxopt.passes.cluster.study import Study
from onnxopt.passes.cluster.trials import Curve, Expected, Trials

AMOUNTS = (2.4, 3.2, 4.2, 5.5, 7.5, 12.0)
"""Bits of a number, on average, that are tried: of small networks, much of that are nodes and scales."""
WIDEST = 32.0
"""Bits, with which nothing is lost."""


@dataclass(frozen=True)
class Fewest:
    """The smallest model of which no more than some drop is expected.

    Attributes:
        coded: it.
        levels: of its constants.
        in_step: whether they were coded in step.
        words: how many bits it takes, and what is expected of it.
    """

    coded: Coded
    levels: Levels
    in_step: bool
    words: str


def fewest(study: Study, trials: Trials, drop: float) -> Fewest:
    """Code with as few bits as can be.

    Each constant coded by itself is quick to try; in step is slower, and may be better or, with few samples, worse. So
    amounts are tried the first way, and that which suffices the second way, too, and once more with what that gains.

    Args:
        study: of the model.
        trials: of it.
        drop: of the metric, that may be expected.
    """
    tried = {}
    for amount in AMOUNTS:
        tried[amount] = trials.apart(study.allocation.within(amount))
        progress.detail(f"{amount} bits: expected drop {tried[amount].drop:.4f}")
    curve = Curve([one for one in tried.values() if one.crossed > trials.own])
    limit = curve.divergence(drop)
    bits, divergence = (amount := _amount(tried, limit)), _divergence(tried, amount)
    coded, expected = trials.in_step(study.allocation.within(bits))
    in_step = expected.divergence < divergence
    if in_step:
        less, divergence = _amount(tried, limit * divergence / expected.divergence), expected.divergence
        if less < bits:
            smaller, expected = trials.in_step(study.allocation.within(less))
            if expected.divergence <= limit:
                coded, bits, divergence = smaller, less, expected.divergence
    levels = study.allocation.within(bits)
    words = f"{study.allocation.bits(levels):.2f} bits for a number on average"
    words = f"{words}, expected drop {curve.drop(divergence):.4f}"
    return Fewest(coded if in_step else study.apart(levels), levels, in_step, words)


def _amount(tried: dict[float, Expected], limit: float) -> float:
    """The fewest bits whose divergence is within a limit, between those that were tried; all if none of them is."""
    falling = np.minimum.accumulate(_logarithms(tried))
    if np.log(limit) < falling[-1]:
        return WIDEST
    return float(np.interp(-np.log(limit), -falling, list(tried)))


def _divergence(tried: dict[float, Expected], amount: float) -> float:
    """Of an amount between those that were tried."""
    return float(np.exp(np.interp(amount, list(tried), _logarithms(tried)))) if amount < WIDEST else 0.0


def _logarithms(tried: dict[float, Expected]) -> np.ndarray:
    return np.log([one.divergence for one in tried.values()])
