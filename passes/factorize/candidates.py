"""The ways in which a layer can be split, and what each of them would lose."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxopt.calibrate.moments import Moment
from onnxopt.core import Context
from onnxopt.layers import Weight
from onnxopt.passes.factorize.fit import spread
from onnxopt.passes.factorize.numbers import TURNS, Blocks, Numbers, along, lost, principal
from onnxopt.passes.factorize.split import SVD, Axes, Shape, Split, axes_of

FITTED = 0.75
"""The share of the samples that is fitted on here; the last ones are held out. Measured: a layer of MiniLM that loses
15 % of its outputs' variance on those loses 7 % on the others."""
BASES, HEAVY_BASES = 8, 4
"""Ranks of an input basis that are tried, at most: each is a fit of its own. Fewer for heavy layers,"""
HEAVY = 1e9
"""which have as many multiplications in a step of conjugate gradients; their bases are not refined for the choice."""
OUTPUTS = 64
"""Ranks of an output basis, beside each of those."""
FALL = 10.0
"""Times that the variance of one component is that of the next, where a spectrum falls off to noise."""
SILENT = 1e-12
"""Of the greatest variance: what is less is no more than rounding."""

Allowed = Callable[[Split], bool]


@dataclass(frozen=True)
class Ways:
    """How a weight can be split.

    Attributes:
        weight: without groups.
        losses: of each split, the share of the variance of its outputs that is lost.
        falls: the fewest components after which the spectrum of its outputs falls off, one for each such place.
    """

    weight: Weight
    losses: Mapping[Split, float]
    falls: Sequence[int]


def parted(context: Context) -> tuple[Context, Context]:
    """With the samples that are fitted on, and those held out; twice with the same where there are too few."""
    samples = context.calibration
    assert samples is not None
    first = samples.take(max(1, round(len(samples) * FITTED)))
    rest = dataclasses.replace(samples.data, index=samples.data.index[len(first) :])
    if not len(rest):
        return context, context
    held = dataclasses.replace(samples, data=rest)
    return dataclasses.replace(context, calibration=first), dataclasses.replace(context, calibration=held)


def ways(
    weight: Weight, forms: Collection[str], multiple: int, allowed: Allowed, fit: Moment | None, held: Moment | None
) -> Ways:
    """All that is allowed.

    Args:
        weight: without groups.
        forms: of convolutions; products have but one.
        multiple: of the ranks of convolutions.
        allowed: says of a split whether it may be.
        fit: moments that are fitted on; None for none, and singular values.
        held: moments of samples held out, where there are moments.
    """
    rows, shape = weight.rows.astype(np.float64), Shape.of(weight.layers[0])
    grid = multiple if shape.kernel else 1
    spreads = spread(weight, fit), spread(weight, held, shrunk=False)
    losses: dict[Split, float] = {}
    falls: list[int] = []
    for form in forms if shape.kernel else (SVD,):
        kinds = axes_of(form, shape)
        if form == SVD:
            basis, variances = principal(rows, spreads[0])
            falls = _falls(variances)
            judged = variances if spreads[1] is None else along(rows, basis, spreads[1])
            losses |= _of_components(kinds[0], lost(judged), grid, allowed)
        elif kinds:
            losses |= _of_blocks(kinds, rows, spreads, shape, grid, allowed)
    return Ways(weight, losses, falls)


def _falls(variances: Numbers) -> list[int]:
    some = np.maximum(variances, SILENT * variances.max(initial=0.0))
    return [int(place) + 1 for place in np.flatnonzero(some[:-1] >= FALL * some[1:])]


def _of_components(axes: Axes, shares: Numbers, grid: int, allowed: Allowed) -> dict[Split, float]:
    """Those of the principal components of the outputs."""
    splits = [Split(axes, (rank,)) for rank in range(grid, len(shares), grid)]
    return {split: float(shares[split.between[0]]) for split in splits if allowed(split)}


def _of_blocks(
    kinds: Sequence[Axes],
    rows: Numbers,
    spreads: tuple[Numbers | None, Numbers | None],
    shape: Shape,
    grid: int,
    allowed: Allowed,
) -> dict[Split, float]:
    """Those with a basis of the inputs, and perhaps one of the outputs."""
    blocks, judge = (Blocks.of(rows, one, shape.kernel, kinds[0][0]) for one in spreads)
    start, found = blocks.start(), dict[Split, float]()
    light = len(rows) * rows.shape[1] ** 2 < HEAVY
    ranks = [one for one in range(grid, len(start), grid) if _wanted(kinds, one, [grid], allowed)]
    for rank in some(ranks, BASES if light else HEAVY_BASES):
        splits = _wanted(kinds, rank, some(range(grid, len(rows), grid), OUTPUTS), allowed)
        alike = round(rank / len(start) * len(rows))  # as small a share of the outputs as of the inputs
        last = min((_last(split, len(rows)) for split in splits), key=lambda one: (abs(one - alike), one))
        shares = judge.lost(*blocks.fitted(start[:, :rank], last, TURNS if light else 0))
        found |= {split: float(shares[_last(split, len(rows))]) for split in splits}
    return found


def some(ranks: Sequence[int], count: int) -> list[int]:
    """At most so many of them, the first and the last among them, the others evenly between."""
    places = np.unique(np.linspace(0, len(ranks) - 1, count).round().astype(int)) if ranks else ()
    return [ranks[place] for place in places]


def _wanted(kinds: Sequence[Axes], rank: int, outputs: Sequence[int], allowed: Allowed) -> list[Split]:
    """The splits with this basis of the inputs, and those of the outputs."""
    splits = [Split(axes, (rank,)) for axes in kinds if len(axes) == 2]
    splits += [Split(axes, (rank, last)) for axes in kinds if len(axes) == 3 for last in outputs]
    return [split for split in splits if allowed(split)]


def _last(split: Split, outputs: int) -> int:
    """The rank of what the outputs are made of."""
    return split.between[1] if len(split.between) == 2 else outputs
