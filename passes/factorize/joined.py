"""Two convolutions in a row as one, axis by axis.

On an axis on which the second has a kernel of 1 and no padding, what the first does stays, and strides multiply. On one
on which the first has a kernel of 1, no stride and no padding, what the second does stays; its padding then has to be
zeros of what the first reads, too, so that the first must have no bias.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxopt.layers import Layer

Pads = tuple[int, int] | str
"""Before and after, or the mode in which ONNX Runtime finds them itself."""
NONE = (0, 0)


@dataclass(frozen=True)
class Axis:
    """How the kernel of a convolution goes over one axis."""

    kernel: int
    stride: int
    dilation: int
    pads: Pads


@dataclass(frozen=True)
class Sweep:
    """How it goes over all axes, and what it asks of the first of two convolutions."""

    axes: tuple[Axis, ...]
    unbiased: bool = False
    """Whether the first must have no bias."""

    def attributes(self) -> list[ir.Attr]:
        """Those of Conv."""
        mode = next((axis.pads for axis in self.axes if isinstance(axis.pads, str)), None)
        pads = [axis.pads[end] for end in (0, 1) for axis in self.axes if not isinstance(axis.pads, str)]
        return [
            ir.AttrInt64s("kernel_shape", [axis.kernel for axis in self.axes]),
            ir.AttrInt64s("strides", [axis.stride for axis in self.axes]),
            ir.AttrInt64s("dilations", [axis.dilation for axis in self.axes]),
            ir.AttrInt64s("pads", pads) if mode is None else ir.AttrString("auto_pad", mode),
        ]


def sweep(layer: Layer) -> Sweep:
    """That of a convolution."""
    kernel = layer.numbers().shape[2:]
    attributes, ones = layer.node.attributes, [1] * len(kernel)
    strides, dilations = attributes.get_ints("strides", ones), attributes.get_ints("dilations", ones)
    mode = attributes.get_string("auto_pad", "NOTSET")
    numbers = attributes.get_ints("pads", [0] * 2 * len(kernel)) if mode == "NOTSET" else [0] * 2 * len(kernel)
    pads: list[Pads] = list(zip(numbers[: len(kernel)], numbers[len(kernel) :], strict=True))
    if mode.startswith("SAME"):
        pads = [mode if size > 1 else NONE for size in kernel]  # a kernel of 1 never needs any
    apart = [1 if size == 1 else dilation for size, dilation in zip(kernel, dilations, strict=True)]
    return Sweep(tuple(map(Axis, kernel, strides, apart, pads)))


def joined(first: Sweep, second: Sweep) -> Sweep | str:
    """That of both in one, or why there is none."""
    axes, unbiased = [], False
    for one, two in zip(first.axes, second.axes, strict=True):
        if two.kernel == 1 and two.pads == NONE:
            if isinstance(one.pads, str) and two.stride > 1:
                return "the padding of the first depends on its stride"
            axes.append(Axis(one.kernel, one.stride * two.stride, one.dilation, one.pads))
        elif one.kernel == 1 and one.stride == 1 and one.pads == NONE:
            unbiased = unbiased or two.pads != NONE
            axes.append(two)
        else:
            return "both have a kernel, a stride or padding on the same axis"
    modes = {axis.pads for axis in axes if isinstance(axis.pads, str)}
    explicit = [axis for axis in axes if not isinstance(axis.pads, str)]
    if len(modes) > 1 or (modes and any(axis.pads != NONE or axis.kernel > 1 for axis in explicit)):
        return "they are padded in different ways"
    return Sweep(tuple(axes), unbiased)


def product(second: np.ndarray, first: np.ndarray) -> np.ndarray:
    """The weights of both in one, float64.

    Args:
        second: ``[outputs, between, *kernel]``.
        first: ``[between, inputs, *kernel]``; on each axis one of the two kernels is 1.
    """
    spatial = second.ndim - 2
    found = np.tensordot(second.astype(np.float64), first.astype(np.float64), axes=(1, 0))  # [o, *k2, i, *k1]
    order = [0, 1 + spatial, *(place for axis in range(spatial) for place in (1 + axis, 2 + spatial + axis))]
    sizes = [one * two for one, two in zip(first.shape[2:], second.shape[2:], strict=True)]
    return found.transpose(order).reshape(len(second), first.shape[1], *sizes)


def per_output(second: Sweep) -> int:
    """Positions of what the first gives for each position of what the second gives."""
    return int(np.prod([axis.stride for axis in second.axes]))


def seen(weights: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """What a convolution makes of a constant ``[inputs]`` where it reads no padding, ``[outputs]``, float64."""
    spatial: Sequence[int] = range(2, weights.ndim)
    return np.asarray(weights.astype(np.float64).sum(axis=tuple(spatial)) @ bias)
