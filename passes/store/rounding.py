"""Rounding to signed integers of few bits, symmetric about zero: one scale for each row of numbers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from onnxopt.passes.grid import steps

Rows = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int8]

SHRINK = tuple(np.arange(1.0, 0.45, -0.05).tolist())
"""Shares of a row's greatest magnitude that are tried as the greatest integer."""
CHUNK = 1 << 22
"""Numbers that are rounded at once: memory stays flat."""


def rounded(rows: Rows, bits: int) -> tuple[Integers, Rows]:
    """The integers and scales of least squared error, ``rows = scales * integers``.

    Rows whose numbers are multiples of one step already, as those of a dequantized int8 file, keep their numbers, up to
    the rounding of float32.

    Args:
        rows: ``[rows, numbers]``, finite.
        bits: 8 or 4.

    Returns:
        ``[rows, numbers]``, from ``-2**(bits - 1) + 1`` to ``2**(bits - 1) - 1``; ``[rows]``, float32.
    """
    parts = [_rounded(part, 2 ** (bits - 1) - 1) for part in _cut(rows)]
    integers, scales = zip(*parts, strict=True)
    return np.concatenate(integers), np.concatenate(scales)


def _cut(rows: Rows) -> Iterator[Rows]:
    step = max(1, CHUNK // max(1, rows.shape[1]))
    for start in range(0, len(rows), step):
        yield rows[start : start + step]


def _rounded(rows: Rows, top: int) -> tuple[Integers, Rows]:
    greatest = np.abs(rows).max(axis=1).astype(np.float64)
    best = _fitted(rows, greatest / top, top)
    for share in SHRINK[1:]:
        best = _better(best, _fitted(rows, share * greatest / top, top))
    on_grid = steps(rows, top)
    best = _better(best, _fitted(rows, np.where(on_grid > 0, on_grid, greatest / top), top))
    integers, scales, _ = best
    return integers, scales.astype(np.float32)


Fit = tuple[Integers, npt.NDArray[np.float64], npt.NDArray[np.float64]]
"""Integers, scales, and the squared error of each row."""


def _fitted(rows: Rows, steps: npt.NDArray[np.float64], top: int) -> Fit:
    """Rounded to multiples of these steps, with the scale of least squared error for the integers that come of it."""
    steps = np.where(steps > np.finfo(np.float32).tiny, steps, 1.0).astype(np.float32)
    integers = np.clip(np.rint(rows / steps[:, None]), -top, top)
    square = np.einsum("ij,ij->i", integers, integers, dtype=np.float64)
    product = np.einsum("ij,ij->i", rows, integers, dtype=np.float64)
    scales = np.where(square > 0, product / np.maximum(square, 1), 1.0)
    error = np.square(rows - integers * scales[:, None].astype(np.float32)).sum(axis=1, dtype=np.float64)
    return integers.astype(np.int8), scales, error


def _better(one: Fit, other: Fit) -> Fit:
    """For each row the one of less error."""
    wins = other[2] < one[2]
    return (
        np.where(wins[:, None], other[0], one[0]),
        np.where(wins, other[1], one[1]),
        np.where(wins, other[2], one[2]),
    )
