"""Weights that lie on a grid of integers: what a quantizer has left of them, whatever the file says they are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

PROBED = 64
"""Numbers of a row that are looked at before the whole row is: most rows are on no grid."""
OFF = 1e-3
"""Of a step, how far numbers may be off a grid that was multiplied out in float32, which leaves a hundredth of that."""

Steps = npt.NDArray[np.float64]


def steps(rows: np.ndarray, top: int) -> Steps:
    """The greatest step of which all numbers of a row are multiples, by ``top`` at most; ``[rows]``.

    0 where there is none, 1 where all are zero.

    Args:
        rows: ``[rows, numbers]``, finite, with at least one number.
        top: the greatest integer of the grid.
    """
    greatest = np.abs(rows).max(axis=1).astype(np.float64)
    found, left = np.where(greatest > 0, 0.0, 1.0), np.flatnonzero(greatest > 0)
    probe = rows[:, :: max(1, rows.shape[1] // PROBED)]
    for count in range(1, top + 1):
        step = greatest[left] / count
        fits = _multiples(probe[left], step)
        fits[fits] = _multiples(rows[left[fits]], step[fits])
        found[left[fits]] = step[fits]
        left = left[~fits]
    return found


def _multiples(rows: np.ndarray, step: Steps) -> npt.NDArray[np.bool_]:
    """Whether all numbers of a row are multiples of a step."""
    places = rows / step[:, None]
    fits: npt.NDArray[np.bool_] = np.abs(places - np.rint(places)).max(axis=1, initial=0) <= OFF
    return fits
