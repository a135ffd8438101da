"""Where the vectors that a layer reads lie: in its input, or in what that is the mean of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxopt.calibrate.vectors import Places, extent, places, vectors_at
from onnxopt.graph import STANDARD_DOMAINS, array, given
from onnxopt.layers import Layer

Array = npt.NDArray[np.float32]
MOVERS = ("Flatten", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Gather", "Transpose")
"""Operators that may stand between a pooling and the layer that reads it."""


@dataclass(frozen=True)
class Source:
    """Where the vectors of a layer are.

    Attributes:
        name: of the value.
        axis: of the channels, where the layer reads the mean of the value over all axes between the first and this
            one, or after it; None where it reads the value itself.
    """

    name: str
    axis: int | None = None

    def extent(self, layer: Layer, numbers: Array) -> tuple[int, ...]:
        """How many vectors there are on each axis."""
        return extent(layer, numbers.shape) if self.axis is None else self._last(numbers).shape[:-1]

    def places(self, layer: Layer, numbers: Array, count: int, draw: np.random.Generator) -> Places:
        """At most ``count`` of their places."""
        if self.axis is None:
            return places(layer, numbers.shape, count, draw)
        total = numbers.size // numbers.shape[self.axis]
        return np.sort(draw.choice(total, min(count, total), replace=False))

    def vectors(self, layer: Layer, numbers: Array, at: Places) -> Array:
        """Those at these places, ``[groups, places, products]`` in the order of ``Layer.rows``."""
        if self.axis is None:
            return vectors_at(layer, numbers, at)
        last = self._last(numbers)
        return last[np.unravel_index(at, last.shape[:-1])][None]

    def explains(self, layer: Layer, numbers: Array, read: Array) -> bool:
        """Whether the layer reads nothing but the means, in order.

        Args:
            layer: that reads them.
            numbers: the value.
            read: what the layer reads.
        """
        last = self._last(numbers)
        means = last.reshape(len(last), -1, last.shape[-1]).mean(1)
        whole = layer.group == 1 and layer.rows().shape[1] == means.shape[1] and read.size == means.size
        return whole and np.allclose(
            read.reshape(means.shape), means, rtol=1e-3, atol=1e-4 * float(np.abs(means).max())
        )

    def _last(self, numbers: Array) -> Array:
        """With the channels on the last axis."""
        assert self.axis is not None
        return np.moveaxis(numbers, self.axis, -1)


def unpooled(node: ir.Node, twins: Mapping[ir.Value, ir.Value]) -> Source | None:
    """What the layer's input is the mean of, as far as the operators tell."""
    value = node.inputs[0]
    while (maker := value.producer() if value is not None else None) is not None:
        value = maker.inputs[0] if maker.inputs else None
        if value is None or maker.domain not in STANDARD_DOMAINS:
            return None
        if maker.op_type == "GlobalAveragePool":
            return Source(value.name or "", 1)
        if maker.op_type == "ReduceMean":
            return _mean(maker, value, twins)
        if maker.op_type not in MOVERS:
            return None
    return None


def _mean(node: ir.Node, value: ir.Value, twins: Mapping[ir.Value, ir.Value]) -> Source | None:
    """A ReduceMean over all axes but the first and the channels."""
    shape, axes = twins[value].shape, array(given(node, 1))
    if shape is None:
        return None
    listed = node.attributes.get_ints("axes", []) if axes is None else axes.reshape(-1).tolist()
    left = set(range(1, len(shape))) - {axis % len(shape) for axis in listed}
    return Source(value.name or "", left.pop()) if len(left) == 1 and len(listed) == len(shape) - 2 else None


def row_of(layer: Layer, numbers: Array, at: Places, shape: tuple[int, ...]) -> Array | None:
    """What stands beside the outputs of a layer at these places, ``[places, channels]``; None if its shape is another.

    Args:
        layer: that gives the outputs.
        numbers: of another value.
        at: places among the vectors that the layer reads.
        shape: how many vectors there are on each axis.
    """
    last = np.moveaxis(numbers, 1, -1) if layer.node.op_type == "Conv" else numbers
    return last[np.unravel_index(at, shape)] if last.shape[:-1] == shape else None
