"""How many levels each constant gets: the least divergence of the outputs for so many bytes.

Divergences add up (``calibrate.sensitivity``), so this is a knapsack, and on its convex hull each constant minimises
``divergence + price * bytes`` by itself, with one price for all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from onnxopt.passes.cluster.units import LEVELS, Unit

Levels = Mapping[str, int]
"""Unit name to levels."""

HALVINGS = 60
LOWEST, HIGHEST = 1e-24, 1e6
"""Prices, in divergence for a byte."""


class Allocation:
    """What each choice of each unit takes and costs.

    Args:
        units: with names of their own.
        sensitivities: unit name to the divergence of the outputs over its loss.
    """

    def __init__(self, units: Sequence[Unit], sensitivities: Mapping[str, float]) -> None:
        """Ask all units for all choices."""
        self._names = [unit.name for unit in units]
        self.count = sum(unit.numbers.size for unit in units)
        self._sizes = np.array([[unit.size(levels) for levels in LEVELS] for unit in units]).reshape(-1, len(LEVELS))
        losses = [[sensitivities[unit.name] * unit.error(levels) for levels in LEVELS] for unit in units]
        self._losses = np.array(losses).reshape(-1, len(LEVELS))
        self._losses[~np.isfinite(self._sizes)] = np.inf
        self._sizes[~np.isfinite(self._sizes)] = 0

    def within(self, bits: float) -> Levels:
        """The levels of each unit that take no more than so many bits for a number, on average."""
        budget, low, high = bits * self.count / 8, LOWEST, HIGHEST
        for _ in range(HALVINGS):
            price = (low * high) ** 0.5
            low, high = (price, high) if self._taken(price) > budget else (low, price)
        return {name: LEVELS[place] for name, place in zip(self._names, self._at(high), strict=True)}

    def bits(self, levels: Levels) -> float:
        """What they take for a number, on average, about."""
        return float(8 * self._sum(self._sizes, levels) / max(self.count, 1))

    def divergence(self, levels: Levels) -> float:
        """That of the outputs, as predicted."""
        return self._sum(self._losses, levels)

    def _taken(self, price: float) -> float:
        places = self._at(price)
        return float(self._sizes[np.arange(len(places)), places].sum())

    def _at(self, price: float) -> np.ndarray:
        return np.asarray(np.argmin(self._losses + price * self._sizes, axis=1))

    def _sum(self, each: np.ndarray, levels: Levels) -> float:
        return float(sum(each[row, LEVELS.index(levels[name])] for row, name in enumerate(self._names)))
