"""Integer grids: scales and zero points of activations, weights and biases.

``real = scale * (integer - zero_point)``. Activations are uint8 and asymmetric, weights int8 and symmetric with a scale
for each output channel, biases int32: the types that ONNX Runtime's kernels on x86 are fastest with (measured,
facts/ort_cpu_limits.md section 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

LEVELS = 255
"""Steps of uint8."""
WEIGHT_MAX = 127
"""int8 is used symmetrically: -127 to 127."""
PAIR_MAX = 128
"""Largest |a + b| of neighbouring int8 weights whose products with 255 fit in 16 bits: 255 * 128 = 32640."""
AMX_PRODUCTS = 512
"""Products for each output from which a convolution is faster as a matrix product on AMX tiles."""
INT32_MAX = 2**31 - 2**24
"""Bound of a bias, with room for the sum it is added to."""


@dataclass(frozen=True)
class Grid:
    """How an activation is quantized: one scale (float32) and one zero point (uint8) for the whole tensor."""

    scale: np.float32
    zero_point: np.uint8


def activation_grid(low: float, high: float) -> Grid:
    """The uint8 grid over ``[low, high]``; zero is always on it, so that padding is exact.

    Args:
        low: smallest number to represent.
        high: greatest.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.float32((high - low) / LEVELS)
    if not scale > np.finfo(np.float32).tiny:  # all zeros
        return Grid(np.float32(1), np.uint8(0))
    return Grid(scale, np.uint8(np.clip(round(-low / float(scale)), 0, LEVELS)))


def weight_scales(rows: Array, bias: Array | None, input_scale: float, *, pairs: bool) -> Array:
    """One scale for each output channel.

    Args:
        rows: ``[channels, products]``, each row in the order in which the kernel sums it.
        bias: ``[channels]`` or None; a channel of tiny weights must still hold its bias in int32.
        input_scale: of the activation that the weights are multiplied with.
        pairs: bound the sums of neighbours (products 0 and 1, 2 and 3, ...), which processors without VNNI
            add in 16 bits and saturate (vpmaddubsw). Measured on Zen 3 with ONNX Runtime 1.31: these pairs and
            no others, in matrix products along K, in convolutions along (kernel position, input channel).
    """
    largest = np.abs(rows).max(axis=1, initial=0.0)
    scales = largest / WEIGHT_MAX
    if pairs:
        scales = np.maximum(scales, _largest_pair(rows) / PAIR_MAX)
    if bias is not None:
        scales = np.maximum(scales, np.abs(bias) / (INT32_MAX * input_scale))
    return np.where(scales > np.finfo(np.float32).tiny, scales, 1.0).astype(np.float32)


def quantized_rows(rows: Array, scales: Array, *, pairs: bool) -> npt.NDArray[np.int8]:
    """The weights as int8, ``[channels, products]`` as given.

    With ``pairs``, rounding may push a pair over its bound by one: the greater of the two then gives way.
    """
    integers = np.clip(np.rint(rows / scales[:, None]), -WEIGHT_MAX, WEIGHT_MAX).astype(np.int16)
    if pairs:
        even = integers.shape[1] // 2 * 2
        both = integers[:, :even].reshape(len(integers), -1, 2)
        for sign in (1, -1):
            excess = np.maximum(both * sign, 0).sum(axis=2) - PAIR_MAX
            greater = (both * sign).argmax(axis=2)[..., None]
            less = np.take_along_axis(both, greater, 2) - sign * np.maximum(excess, 0)[..., None]
            np.put_along_axis(both, greater, less, 2)
        integers[:, :even] = both.reshape(len(integers), -1)
    result: npt.NDArray[np.int8] = integers.astype(np.int8)
    return result


def quantized_bias(bias: Array, scales: Array, input_scale: float) -> npt.NDArray[np.int32]:
    """The bias as int32 at scale ``scales * input_scale``, ``[channels]``."""
    integers = np.rint(bias.astype(np.float64) / (scales.astype(np.float64) * input_scale))
    return np.clip(integers, -INT32_MAX, INT32_MAX).astype(np.int32)


def _largest_pair(rows: Array) -> Array:
    """The greatest sum, up or down, that two neighbouring weights of a row can add to a non-negative activation."""
    even = rows[:, : rows.shape[1] // 2 * 2].reshape(len(rows), -1, 2)
    up, down = np.maximum(even, 0).sum(axis=2), np.maximum(-even, 0).sum(axis=2)
    largest: Array = np.maximum(up, down).max(axis=1, initial=0.0)
    return largest
