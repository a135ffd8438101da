"""Which splits are taken: of each layer the cheapest that loses little enough, or of all the best for a budget."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from onnxopt.passes.factorize.candidates import Ways
from onnxopt.passes.factorize.split import SVD, Split

QUIET = 1e-3
"""Of what a layer may lose, that which may be lost although the noise is less."""


@dataclass(frozen=True)
class Choice:
    """A way to write a layer.

    Attributes:
        split: None: as it is.
        cost: in any unit.
        loss: predicted, at the outputs of the model.
    """

    split: Split | None
    cost: float
    loss: float


def cheapest(ways: Ways, choices: Sequence[Choice], most: float) -> Split | None:
    """The cheapest split of a layer that loses no more than ``most``; None where that is the layer as it is.

    Where the spectrum of its outputs falls off to noise before that, no more than the noise may be lost.

    Args:
        ways: of the layer.
        choices: of it, with their own losses; the first is the layer as it is.
        most: a share of the variance of its outputs.
    """
    principal = sorted(
        (one.split.between[0], one.loss) for one in choices if one.split is not None and one.split.form == SVD
    )
    noise = (next((loss for rank, loss in principal if rank >= fall), math.inf) for fall in sorted(ways.falls))
    most = next((max(loss, QUIET * most) for loss in noise if loss <= most), most)
    return min((one for one in choices if one.loss <= most), key=lambda one: (one.cost, one.loss)).split


def within(choices: Sequence[Sequence[Choice]], budget: float, total: float) -> list[Choice]:
    """One choice for each layer, so that all together cost no more than the budget, with the least loss.

    The least that is possible where the budget cannot be met. Steps along the lower hull of each layer's choices are
    taken in the order of what they lose for what they save, which is the best there is for the cost that it ends at;
    then each layer takes what loses less and still fits.

    Args:
        choices: of each layer; the first is the layer as it is. Those of which the loss is not finite are passed over.
        budget: of the cost of the model.
        total: of the model as it is.
    """
    choices = [[one for one in many if math.isfinite(one.loss) and math.isfinite(one.cost)] for many in choices]
    hulls = [_hull(many) for many in choices]
    steps = sorted(
        ((_price(one, two), number, place) for number, hull in enumerate(hulls) for place, (one, two) in _pairs(hull)),
    )
    taken, cost = [many[0] for many in choices], total
    for _, number, place in steps:
        if cost <= budget:
            break
        cost += hulls[number][place].cost - taken[number].cost
        taken[number] = hulls[number][place]
    for number in sorted(range(len(taken)), key=lambda place: (-taken[place].loss, place)):
        fitting = [one for one in choices[number] if cost - taken[number].cost + one.cost <= budget]
        better = min(fitting, key=lambda one: (one.loss, one.cost), default=taken[number])
        if better.loss < taken[number].loss:
            cost += better.cost - taken[number].cost
            taken[number] = better
    return taken


def _pairs(hull: Sequence[Choice]) -> list[tuple[int, tuple[Choice, Choice]]]:
    return list(enumerate(itertools.pairwise(hull), 1))


def _price(one: Choice, two: Choice) -> float:
    """What is lost for what is saved."""
    return (two.loss - one.loss) / (one.cost - two.cost)


def _hull(choices: Sequence[Choice]) -> list[Choice]:
    """From the layer as it is to the cheapest choice, those with less loss than any mixture of others at their cost."""
    hull = [choices[0]]
    for one in sorted(choices[1:], key=lambda choice: (-choice.cost, choice.loss)):
        if one.cost >= hull[-1].cost:
            continue
        while len(hull) > 1 and _price(hull[-2], one) <= _price(hull[-2], hull[-1]):
            hull.pop()
        hull.append(one)
    return hull
