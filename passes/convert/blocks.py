"""The arithmetic of space-to-depth: a convolution over pixels as one over blocks of pixels.

Along one dimension, a convolution of stride ``b``, kernel ``k`` and pad ``p`` before is

    y[i] = sum over u of W[u] x[b i + u - p]

The pixels that one output reads are those of blocks of b: ``u - p = b a + r`` with ``a = floor((u - p) / b)`` and
``0 <= r < b``. With the pixels r of a block as channels, that is a convolution of stride 1 over blocks,

    y[i] = sum over a, r of W'[r, a - first] x[r, i + a]

where ``a`` runs from ``first = floor(-p / b)`` to ``last = floor((k - 1 - p) / b)``, and W' is zero where u would be -1
or k. The pad before is ``-first`` blocks: with a size n that b divides, what is outside are whole blocks. With the old
pad after ``q``, there are ``n / b + floor((p + q - k) / b) + 1`` outputs: the pad after is ``floor((p + q - k) / b) +
last + 1`` blocks, that is q / b rounded up or down; never negative.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def over_blocks(weight: np.ndarray, pads: Sequence[int], size: int) -> tuple[np.ndarray, list[int]]:
    """A kernel of stride ``size`` as one over blocks of ``size`` x ``size`` pixels.

    Args:
        weight: ``[M, C, kernel, kernel]``.
        pads: top, left, bottom, right; of an image that ``size`` divides.
        size: ``b``.

    Returns:
        ``[M, b * b * C, blocks, blocks]``, the channels in the order of SpaceToDepth: row, column, c; and the pads.
    """
    outputs, channels, *kernel = weight.shape
    first = [-pad // size for pad in pads[:2]]
    last = [(k - 1 - pad) // size for k, pad in zip(kernel, pads[:2], strict=True)]
    count = [b - a + 1 for a, b in zip(first, last, strict=True)]
    found = np.zeros([outputs, size, size, channels, *count], weight.dtype)
    for u, v in np.ndindex(*kernel):
        (a, r), (b, s) = divmod(u - pads[0], size), divmod(v - pads[1], size)
        found[:, r, s, :, a - first[0], b - first[1]] = weight[:, :, u, v]
    after = [(p + q - k) // size + end + 1 for p, q, k, end in zip(pads[:2], pads[2:], kernel, last, strict=True)]
    return found.reshape(outputs, -1, *count), [-first[0], -first[1], *after]


def unblocked(weight: np.ndarray, size: int) -> np.ndarray:
    """``[M, b * b * C, blocks, blocks]`` to ``[M, C, kernel, kernel]``, the kernel of b times as many pixels."""
    outputs, _, *kernel = weight.shape
    seen = weight.reshape(outputs, size, size, -1, *kernel)
    return seen.transpose(0, 3, 4, 1, 5, 2).reshape(outputs, -1, size * kernel[0], size * kernel[1])


def trimmed(weight: np.ndarray, pads: Sequence[int]) -> tuple[np.ndarray, list[int]]:
    """The weight without rows and columns of zeros at its edges, as far as its pads (top, left, bottom, right) go."""
    around = list(pads)
    for axis in (0, 1):
        for edge, place in ((axis, 0), (axis + 2, -1)):
            while around[edge] > 0 and weight.shape[2 + axis] > 1 and not weight.take(place, 2 + axis).any():
                weight = np.delete(weight, place, 2 + axis)
                around[edge] -= 1
    return weight, around


def shifted(weight: np.ndarray, steps: int) -> np.ndarray:
    """A kernel for ``steps`` x ``steps`` outputs at once: the kernel at each place, zeros around it.

    Args:
        weight: ``[M, C, kernel, kernel]``, of stride 1.
        steps: the new stride.

    Returns:
        ``[steps * steps * M, C, kernel + steps - 1, ...]``, the outputs in the order of DepthToSpace: row, column, m.
    """
    outputs, channels, height, width = weight.shape
    found = np.zeros([steps, steps, outputs, channels, height + steps - 1, width + steps - 1], weight.dtype)
    for i, j in np.ndindex(steps, steps):
        found[i, j, :, :, i : i + height, j : j + width] = weight
    return found.reshape(-1, *found.shape[3:])
