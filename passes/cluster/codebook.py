"""Codebooks: the few values that stand for all, by k-means in one dimension; and the scales of rows that share one.

On a line, clusters are intervals, so Lloyd's algorithm needs nothing but sums over a histogram, and finds the same
table whatever the order of the values. It begins at quantiles of the cube root of the density, which is where the
optimal levels lie when they are many.

Source: Lloyd, "Least Squares Quantization in PCM", IEEE Transactions on Information Theory 1982; Panter, Dite,
"Quantization Distortion in Pulse-Count Modulation", Proceedings of the IRE 1951 (the cube root).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]
Codes = npt.NDArray[np.uint8]

BINS = 4096
ROUNDS = 100
STILL = 1e-6
"""Of the largest value: a table that moves less is final."""
GRID = 255
"""Levels of the table that needs none: the whole numbers from -127 to 127, divided by 127."""
FINE = 40
"""Levels from which less of a row's range is worth clipping."""
SHRINK = {False: np.linspace(0.5, 1.0, 11), True: np.linspace(0.8, 1.0, 5)}
"""Shares of the scale that holds the largest weight, which are tried; of fine tables the second."""
ALTERNATIONS = 2
LEAST = 1e-7
"""Scale of a row of zeros."""


def codebook(values: Numbers, importance: Numbers, levels: int) -> Numbers:
    """The table with the least weighted squared error, as far as Lloyd's algorithm finds it; ascending.

    Args:
        values: of any shape; at least one.
        importance: of each, not negative.
        levels: how many values the table has; some are equal where there are fewer distinct values.
    """
    low, high = float(values.min()), float(values.max())
    if not high > low:
        return np.full(levels, low)
    places = ((values - low) * ((BINS - 1) / (high - low))).astype(np.int64).reshape(-1)
    counted = (importance.reshape(-1), (importance * values).reshape(-1))
    weight, total = (np.asarray(np.bincount(places, each, BINS), np.float64) for each in counted)
    seen = weight > 0
    points: Numbers = total[seen] / weight[seen]
    weights, totals = (np.concatenate([[0.0], np.cumsum(sums[seen])]) for sums in (weight, total))
    table = _spread(points, weight[seen], levels)
    for _ in range(ROUNDS):
        ends = np.concatenate([[0], np.searchsorted(points, middles(table)), [len(points)]])
        mass, moment = np.diff(weights[ends]), np.diff(totals[ends])
        moved = np.sort(np.where(mass > 0, moment / np.maximum(mass, 1e-300), table))
        still = np.abs(moved - table).max() <= STILL * max(abs(low), abs(high))
        table = moved
        if still:
            break
    return table


def _spread(points: Numbers, weight: npt.NDArray[np.float64], levels: int) -> Numbers:
    """Quantiles of the cube root of the density."""
    density, edges = np.histogram(points, 256, weights=weight)
    mass = np.cumsum((np.asarray(density, np.float64) + 1e-12) ** (1 / 3))
    wanted = (np.arange(levels) + 0.5) / levels * mass[-1]
    return np.sort(edges[:-1][np.searchsorted(mass, wanted)] + np.diff(edges)[0] / 2)


def middles(table: Numbers) -> Numbers:
    """Where the nearest value changes from one to the next."""
    found: Numbers = (table[1:] + table[:-1]) / 2
    return found


def nearest(table: Numbers, values: Numbers) -> Codes:
    """The code of the nearest value in an ascending table of at most 256."""
    return np.searchsorted(middles(table), values).astype(np.uint8)


def halved(numbers: Numbers) -> Numbers:
    """The numbers as float16 has them, where that loses nothing but digits; those that it cannot hold stay.

    Tables and scales are rounded before weights are coded with them, so that storing them in two bytes costs nothing.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        half = numbers.astype(np.float16).astype(np.float64)
        sound = np.abs(half - numbers) <= 2.0**-11 * np.abs(numbers)
    return np.where(sound, half, numbers.astype(np.float32))


def grid() -> Numbers:
    """The table of 8 bits."""
    return np.arange(-(GRID // 2), GRID // 2 + 1) / (GRID // 2)


def fitted(rows: Numbers, power: Numbers, left: Numbers, levels: int) -> tuple[Numbers, Numbers]:
    """A table for all rows divided by their scales, and the scale of each row, found in turns.

    Args:
        rows: ``[rows, products]``.
        power: how much an error of each weight counts where the table is fitted; broadcasts to the rows.
        left: the same where a scale is chosen.
        levels: of the table; GRID: it is ``grid()``.
    """
    largest = np.maximum(np.abs(rows).max(axis=1), LEAST)
    scales = halved(largest)
    for _ in range(ALTERNATIONS):
        table = _table(rows, power, levels, scales)
        scales = _scales(rows, left, table, largest)
    return _table(rows, power, levels, scales), scales


def whole(rows: Numbers, power: Numbers, scales: Numbers, levels: int) -> Numbers:
    """A table of whole numbers from -127 to 127 for rows whose scales are given: the others see :func:`fitted`."""
    if levels >= GRID:
        return grid() * (GRID // 2)
    table = codebook(rows / scales[:, None], np.broadcast_to(power, rows.shape) * scales[:, None] ** 2 + 1e-12, levels)
    return np.clip(np.rint(table), -(GRID // 2), GRID // 2)


def _table(rows: Numbers, power: Numbers, levels: int, scales: Numbers) -> Numbers:
    if levels == GRID:
        return grid()
    importance = np.broadcast_to(power, rows.shape) * scales[:, None] ** 2
    return halved(codebook(rows / scales[:, None], importance + 1e-12, levels))


def _scales(rows: Numbers, left: Numbers, table: Numbers, largest: Numbers) -> Numbers:
    """Of each row the one that leaves the least error."""
    reach = max(float(np.abs(table).max()), LEAST)
    best, least = largest / reach, np.full(len(largest), np.inf)
    for share in SHRINK[len(table) >= FINE]:
        scales = np.maximum(halved(largest * share / reach), LEAST)
        values = table[nearest(table, rows / scales[:, None])] * scales[:, None]
        error = (np.square(values - rows) * left).sum(axis=1)
        best, least = np.where(error < least, scales, best), np.minimum(error, least)
    return best
