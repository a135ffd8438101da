"""Matrices as integers of 8 or 4 bits, with a scale and a zero point for each block of a column."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

Integers = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

SHRINK = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
"""Shares of a block's range that are tried for 4 bits."""
COLUMNS = 1024
"""Columns of a matrix that are quantized at once: memory stays flat."""


def quantized(
    weight: Floats, bits: int, block: int, scale: type[np.floating] = np.float32
) -> tuple[np.ndarray, Floats, np.ndarray]:
    """A matrix as integers, ``weight = scale * (integer - zero point)``.

    Args:
        weight: float32 [K, N].
        bits: 8 or 4.
        block: rows that share a scale, the last block may have fewer; 0: all of them.
        scale: the type of the scales; the integers are chosen for scales that it has.

    Returns:
        uint8 or uint4 [K, N]; the scales, ``scale`` [blocks, N], or [N] where ``block`` is 0; the zero points likewise.
    """
    rows = len(weight)
    parts = [_columns(part, bits, block or rows, scale) for part in _cut(weight)]
    integers, scales, zeros = (np.concatenate(several, axis=-1) for several in zip(*parts, strict=True))
    if not block:
        scales, zeros = scales[0], zeros[0]
    kind = (ir.DataType.UINT8 if bits == 8 else ir.DataType.UINT4).numpy()
    return integers[:rows].astype(kind), scales.astype(scale), zeros.astype(kind)


def _cut(weight: Floats) -> Iterator[Floats]:
    for start in range(0, weight.shape[1], COLUMNS):
        yield weight[:, start : start + COLUMNS]


def _columns(weight: Floats, bits: int, block: int, scale: type[np.floating]) -> tuple[Integers, Floats, Integers]:
    """The same for a few columns; with zeros after the last row so that all blocks are full."""
    steps, (rows, columns) = 2**bits - 1, weight.shape
    padded = np.pad(weight, ((0, -rows % block), (0, 0))).reshape(-1, block, columns)
    low, high = np.minimum(padded.min(axis=1), 0), np.maximum(padded.max(axis=1), 0)  # [blocks, columns]
    best = _rounded(padded, low, high, steps, scale)
    if bits == 4:
        for shrink in SHRINK[1:]:
            best = _better(padded, best, _rounded(padded, low * shrink, high * shrink, steps, scale))
    integers, scales, zeros = best
    return integers.reshape(-1, columns), scales, zeros


def _rounded(
    blocks: Floats, low: Floats, high: Floats, steps: int, scale: type[np.floating]
) -> tuple[Integers, Floats, Integers]:
    """Integers, scales and zero points of a grid from ``low`` to ``high``; what is outside is clipped."""
    scales = ((high - low) / steps).astype(scale).astype(np.float32)
    scales = np.where(scales > np.finfo(np.float32).tiny, scales, np.float32(1))
    zeros = np.clip(np.rint(-low / scales), 0, steps)
    integers = np.clip(np.rint(blocks / scales[:, None]) + zeros[:, None], 0, steps)
    return integers.astype(np.uint8), scales, zeros.astype(np.uint8)


def _better(
    blocks: Floats, one: tuple[Integers, Floats, Integers], other: tuple[Integers, Floats, Integers]
) -> tuple[Integers, Floats, Integers]:
    """For each block the one of less squared error."""
    wins = _squared_error(blocks, *other) < _squared_error(blocks, *one)
    return (
        np.where(wins[:, None], other[0], one[0]),
        np.where(wins, other[1], one[1]),
        np.where(wins, other[2], one[2]),
    )


def _squared_error(blocks: Floats, integers: Integers, scales: Floats, zeros: Integers) -> Floats:
    real = (integers.astype(np.float32) - zeros[:, None]) * scales[:, None]
    error: Floats = np.square(real - blocks).sum(axis=1)
    return error
