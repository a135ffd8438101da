"""Constants that few levels hold exactly: those with few distinct numbers, and those on a grid of integers.

Weights that come out of a quantizer lie on such a grid in every channel, whatever the file says they are. A grid of
one's own, ever so good, changes them: 6 % of the predictions of a mobilenet_v2 that was quantized before (measured,
facts/size_and_rank.md section 8).
"""

from __future__ import annotations

import numpy as np

from onnxopt.passes.cluster.forms import Form, Grid, Packed, shaped
from onnxopt.passes.cluster.words import PACKINGS
from onnxopt.passes.grid import steps

MOST = PACKINGS[-1].levels
"""Distinct numbers that codes can tell apart."""
LARGEST = 127
"""Integer on a grid."""
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
    if not rows.size or not steps(rows[: FIRST[1]], LARGEST).all() or not (grid := steps(rows, LARGEST)).all():
        return None
    integers = np.rint(rows / grid[:, None])
    power = np.square(integers).sum(axis=1)
    fitted = np.where(power > 0, (rows * integers).sum(axis=1) / np.maximum(power, 1), 1.0)
    back = np.moveaxis(integers.reshape(np.moveaxis(numbers, axis, 0).shape), 0, axis)
    found = Grid(back.astype(np.int8), shaped(fitted, numbers.ndim, axis))
    packed = _few(found.integers)
    if packed is None:
        return found
    return Packed(packed.codes, packed.table.astype(np.float32), found.scales)


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
