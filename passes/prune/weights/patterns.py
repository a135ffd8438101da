"""Patterns of zeros in a weight, and the choice of the lowest scores that makes them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxopt.errors import UsageError

Array = npt.NDArray[np.floating]
Mask = npt.NDArray[np.bool_]
UNSTRUCTURED = "unstructured"


@dataclass(frozen=True)
class Pattern:
    """Which weights become zero together, and among which the choice is made.

    A weight is ``[..., channels, products]``, as ``Layer.rows`` gives it. Its *units* are its blocks.

    Attributes:
        height: of a block, in output channels.
        width: in neighbouring products of one channel.
        keep: of every ``of`` neighbouring products of one channel, as many stay.
        of: 0: the whole weight may have its zeros anywhere.
    """

    height: int = 1
    width: int = 1
    keep: int = 0
    of: int = 0

    @classmethod
    def parse(cls, words: str) -> Pattern:
        """From ``unstructured``, ``2:4`` (two of four neighbours stay) or ``16x1`` (blocks, height by width).

        Raises:
            UsageError: for anything else.
        """
        if words == UNSTRUCTURED:
            return cls()
        if found := re.fullmatch(r"([1-9]\d*):([1-9]\d*)", words):
            keep, of = map(int, found.groups())
            if keep < of:
                return cls(keep=keep, of=of)
        if found := re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", words):
            return cls(*map(int, found.groups()))
        raise UsageError(f"option pattern: {words!r} is neither {UNSTRUCTURED}, nor N:M as 2:4, nor a block as 16x1")

    def misfit(self, channels: int, inputs: int) -> str | None:
        """Why a weight cannot have the pattern, if it cannot; blocks and groups of neighbours are all whole.

        Args:
            channels: output channels of one group.
            inputs: neighbours in a row: input channels of one group.
        """
        width = self.of or self.width
        if channels % self.height:
            return f"its {channels} output channels are no multiple of {self.height}"
        return f"its {inputs} input channels are no multiple of {width}" if inputs % width else None

    def units(self, scores: Array) -> Array:
        """The root mean square of each block, ``[..., channels / height, products / width]``."""
        if self.height == self.width == 1:
            return scores
        squares = np.square(self._blocks(scores), dtype=np.float64)
        result: Array = np.sqrt(squares.mean(axis=(-3, -1))).astype(np.float32)
        return result

    def gone(self, rows: Array) -> Mask:
        """Which blocks are zero, in the shape of the units."""
        result: Mask = np.logical_not(self._blocks(rows).any(axis=(-3, -1)))
        return result

    def holds(self, rows: Array, count: int) -> bool:
        """Whether the zeros are there: ``count`` units of all, or those of each group of neighbours."""
        gone = self.gone(rows)
        if self.of:
            return bool((gone.reshape(-1, self.of).sum(axis=1) >= self.of - self.keep).all())
        return int(gone.sum()) >= count

    def spread(self, units: Mask) -> Mask:
        """The weights of the blocks that are chosen, ``[..., channels, products]``."""
        return units.repeat(self.height, axis=-2).repeat(self.width, axis=-1)

    def lowest(self, units: Array, count: int) -> Mask:
        """The units with the lowest scores: ``count`` of all, or in each group of neighbours those that do not stay."""
        if self.of:
            return lowest(units.reshape(-1, self.of), self.of - self.keep).reshape(units.shape)
        return lowest(units.reshape(-1), count).reshape(units.shape)

    def _blocks(self, rows: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """``[..., channels / height, height, products / width, width]``."""
        *groups, channels, products = rows.shape
        return rows.reshape(*groups, channels // self.height, self.height, products // self.width, self.width)


def lowest(scores: Array, count: int) -> Mask:
    """The ``count`` lowest along the last axis; of equal ones the first."""
    if count <= 0:
        return np.zeros(scores.shape, bool)
    limit = np.partition(scores, count - 1, axis=-1)[..., count - 1, None]
    below, equal = scores < limit, scores == limit
    missing = count - below.sum(axis=-1, keepdims=True)
    result: Mask = below | (equal & (np.cumsum(equal, axis=-1) <= missing))
    return result


def share_of(ratio: float, total: int) -> int:
    """How many that share is, rounded down: 29 % of 100 are 29, though 0.29 * 100 is less in floating point."""
    return math.floor(ratio * total + 1e-6)
