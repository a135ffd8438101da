"""Constants that few levels hold exactly: those with few distinct numbers, and those on a grid of integers.

Weights that come out of a quantizer lie on such a grid in every channel, whatever the file says they are. A grid of
one's own, ever so good, changes them: 6 % of the predictions of a mobilenet_v2 that was quantized before (measured,
facts/size_and_rank.md section 8).
"""

from __future__ import annotations

import numpy as np

from onnxopt.passes.cluster.forms import Form, Grid, Packed, shaped
from onnxopt.passes.cluster.words import PACKINGS

MOST = PACKINGS[-1].levels
"""Distinct numbers that codes can tell apart."""
LARGEST = 127
"""Integer on a grid."""
OFF = 1e-3
"""Of a step, how far from the grid numbers may lie: the rounding of float32 leaves a hundredth of that."""
FIRST = 4096, 8
"""Numbers, and channels, that are looked at before all others."""


def exact(numbers: np.ndarray, axis: int) -> Form | None:
    """The smallest form that stands for a constant as it is; None where there is none.

    Args:
        numbers: float32 or integers.
        axis: of its channels.
    """
    few = _few(numbers)
    if few is not None or numbers.dtype != np.float32:
        return few
    rows = np.moveaxis(numbers, axis, 0).reshape(numbers.shape[axis], -1).astype(np.float64)
    if not rows.size or _steps(rows[: FIRST[1]]) is None or (steps := _steps(rows)) is None:
        return None
    integers = np.rint(rows / steps[:, None])
    power = np.square(integers).sum(axis=1)
    fitted = np.where(power > 0, (rows * integers).sum(axis=1) / np.maximum(power, 1), 1.0)
    back = np.moveaxis(integers.reshape(np.moveaxis(numbers, axis, 0).shape), 0, axis)
    grid = Grid(back.astype(np.int8), shaped(fitted, numbers.ndim, axis))
    packed = _few(grid.integers)
    if packed is None:
        return grid
    return Packed(packed.codes, packed.table.astype(np.float32), grid.scales)


def _few(numbers: np.ndarray) -> Packed | None:
    """Codes for a constant of few distinct numbers, told apart by their bits: 0 and -0 are two."""
    plain = numbers.reshape(-1)
    bits = plain.view(np.uint32) if plain.dtype == np.float32 else plain
    if len(np.unique(bits[: FIRST[0]])) > MOST:
        return None
    found, codes = np.unique(bits, return_inverse=True)
    if len(found) > MOST:
        return None
    return Packed(codes.reshape(numbers.shape).astype(np.uint8), found.view(numbers.dtype))


def _steps(rows: np.ndarray) -> np.ndarray | None:
    """The step of each row's grid; None unless all rows lie on one."""
    largest = np.abs(rows).max(axis=1)
    steps = np.where(largest > 0, 0.0, 1.0)
    for count in (LARGEST, *range(1, LARGEST)):
        left = np.flatnonzero(steps == 0)
        if not len(left):
            break
        places = rows[left] * (count / largest[left])[:, None]
        fits = np.abs(places - np.rint(places)).max(axis=1) <= OFF
        steps[left[fits]] = (largest[left] / count)[fits]
    return None if (steps == 0).any() else steps
