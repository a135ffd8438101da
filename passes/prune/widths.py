"""How many channels each group keeps: the same share everywhere, those above a threshold, or what a budget allows.

For a budget, channels go where the least is lost for what they save, group by group and step by step, in steps that the
kernels honour. Each step looks a few steps ahead, over flat stretches of the time of a kernel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxopt.passes.prune.costs import Costs, Mask
from onnxopt.passes.prune.groups import Group
from onnxopt.passes.prune.reading import Classes, Numbers

AHEAD = 4
"""Steps looked ahead."""
FINEST = 64
"""Steps in which a group without a grid would lose all."""


@dataclass(frozen=True)
class Prunable:
    """A group, and in which order its channels go.

    Attributes:
        group: of the model.
        order: classes, the first to go first; those that are not in it stay.
        scores: how much each of them matters, within the group.
        loss: what is lost with so many gone, from 0 on, ``[len(order) + 1]``.
        stops: how many may be gone, ascending, 0 first.
    """

    group: Group
    order: Classes
    scores: Numbers
    loss: Numbers
    stops: tuple[int, ...]


def stops(group: Group, multiple: int, least: int, *, everywhere: bool = False) -> tuple[int, ...]:
    """How many classes of a group may be gone.

    Args:
        group: with convolutions or without.
        multiple: of the channels of convolutions: what is left is a multiple of it.
        least: how many classes stay in any case.
        everywhere: whether the same holds for matrix products; their widths are free if not.
    """
    size = len(group)
    most = size - max(least, 0 if group.fixed else 1)
    if group.convolved or everywhere:
        own = size * group.each
        start = group.width if own + group.fixed == group.width else own  # others on the axis keep to the grid, too
        found = [gone for gone in range(1, most + 1) if (start - gone * group.each) % multiple == 0]
    else:
        step = max(1, size // FINEST)
        found = [gone for gone in range(1, most + 1) if (size - gone) % step == 0]
    return (0, *found)


def uniform(groups: Sequence[Prunable], ratios: Mapping[str, float]) -> list[int]:
    """How many of each group go: the stop nearest to its share."""
    return [_nearest(one, ratios[one.group.name] * len(one.group)) for one in groups]


def _nearest(one: Prunable, wanted: float) -> int:
    return min(one.stops, key=lambda gone: (abs(gone - wanted), gone))


def below(groups: Sequence[Prunable], counts: Sequence[int]) -> list[int]:
    """How many of each group go: the last stop that takes none but those counted."""
    return [max(stop for stop in one.stops if stop <= count) for one, count in zip(groups, counts, strict=True)]


def budgeted(groups: Sequence[Prunable], costs: Costs, share: float, classes: int) -> list[int]:
    """How many of each group go, so that the cost is at most a share of what it is: with the least loss, step by step.

    Args:
        groups: that may lose channels.
        costs: of the model.
        share: of the cost that may stay; the least that is possible where it cannot be reached.
        classes: how many there are.
    """
    gone: Mask = np.zeros(classes, bool)
    at = [0] * len(groups)
    now = costs.total(gone)
    wanted = share * now
    best = {number: _step(one, 0, costs, gone) for number, one in enumerate(groups)}
    while now > wanted:
        options = {number: step for number, step in best.items() if step is not None}
        if not options:
            break
        number = min(options, key=lambda key: (options[key][0], key))
        _, stop, saved = options[number]
        chosen = groups[number]
        taken = chosen.order[chosen.stops[at[number]] : chosen.stops[stop]]
        gone[taken] = True
        at[number], now = stop, now - saved
        best = {other: _step(one, at[other], costs, gone) for other, one in enumerate(groups)}
    return [one.stops[place] for one, place in zip(groups, at, strict=True)]


def _step(one: Prunable, at: int, costs: Costs, gone: Mask) -> tuple[float, int, float] | None:
    """The best next step of a group: loss for what is saved, the place of the stop, what is saved; None without one."""
    found = None
    for stop in range(at + 1, min(at + 1 + AHEAD, len(one.stops))):
        first, last = one.stops[at], one.stops[stop]
        saved = costs.saved(gone, one.order[first:last])
        if saved <= 0:
            continue
        price = max(0.0, float(one.loss[last] - one.loss[first])) / saved
        if found is None or price < found[0]:
            found = price, stop, saved
    return found
