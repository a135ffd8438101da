"""The vectors that a layer multiplies its rows of weights with, drawn from what it reads.

A *place* is where one of them lies: an index into the samples and output positions of a convolution, or into the rows
that a matrix product reads, flattened.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from numpy.lib.stride_tricks import sliding_window_view

from onnxopt.calibrate.tap import Values
from onnxopt.core import Context
from onnxopt.layers import Layer
from onnxopt.runtime import Session

MASK = "attention_mask"
"""The input that says of each token whether it is one, or padding: what layers read of padding is no vector."""

Array = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]
AnyLayer = TypeVar("AnyLayer", bound=Layer)


def stream(
    model: ir.Model, layers: Sequence[AnyLayer], context: Context, count: int
) -> Iterator[tuple[AnyLayer, Array]]:
    """For each batch of calibration samples and each layer the vectors that are drawn from them.

    Args:
        model: not changed.
        layers: of its main graph; at least one.
        context: calibration samples, where to run, and the seed of the drawing.
        count: vectors of each layer over all samples, about; those of a convolution come from all its positions.

    Yields:
        The layer, and ``[groups, vectors, products]`` in the order of ``Layer.rows``.
    """
    assert context.calibration is not None
    sources = {layer.node: cast(ir.Value, layer.node.inputs[0]).name or "" for layer in layers}
    tap = Values.of(model, set(sources.values()), context.calibration.state.values())
    draws = {layer.node: np.random.default_rng(context.seed) for layer in layers}
    for batch, outputs in context.calibration.run(Session(tap.model, context.target)):
        share, mask = math.ceil(count * batch.size / len(context.calibration)), batch.feeds.get(MASK)
        for layer in layers:
            yield layer, vectors(layer, outputs[tap.outputs[sources[layer.node]]], share, draws[layer.node], mask)


def vectors(
    layer: Layer, numbers: Array, count: int, draw: np.random.Generator, mask: np.ndarray | None = None
) -> Array:
    """At most ``count`` of the vectors in one input of the layer, ``[groups, vectors, products]``.

    Args:
        layer: Conv, Gemm or MatMul.
        numbers: what it reads: ``[samples, channels, *sizes]`` for a Conv, else ``[..., products]``.
        count: how many to draw, without replacement.
        draw: makes the choice.
        mask: of tokens, 0 where one is padding; a product that reads one vector for each token passes over those.
    """
    return vectors_at(layer, numbers, places(layer, numbers.shape, count, draw, mask))


def places(
    layer: Layer, shape: Sequence[int], count: int, draw: np.random.Generator, mask: np.ndarray | None = None
) -> Places:
    """At most ``count`` of the places in an input of this shape, sorted; those that a mask hides are left out."""
    total = math.prod(extent(layer, shape))
    masked = mask is not None and layer.node.op_type != "Conv" and mask.size == total
    seen = np.flatnonzero(mask) if masked and mask is not None else np.arange(total)
    return np.sort(draw.choice(seen, min(count, len(seen)), replace=False))


def samples_of(layer: Layer, shape: Sequence[int], places: Places) -> Places:
    """The sample, an index on axis 0 of an input of this shape, that each place lies in."""
    return places // math.prod(extent(layer, shape)[1:])


def vectors_at(layer: Layer, numbers: Array, places: Places) -> Array:
    """The vectors at these places, ``[groups, places, products]`` in the order of ``Layer.rows``."""
    sizes = extent(layer, numbers.shape)
    if layer.node.op_type == "Conv":
        windows = _windows(layer, numbers)
    else:
        windows = numbers.reshape(*sizes, numbers.shape[-1], 1)
    drawn = windows[np.unravel_index(places, sizes)]  # [places, channels, *kernel]
    kernel, products = math.prod(drawn.shape[2:]), math.prod(drawn.shape[1:]) // layer.group
    drawn = drawn.reshape(len(places), layer.group, drawn.shape[1] // layer.group, kernel)
    result: Array = drawn.transpose(1, 0, 3, 2).reshape(layer.group, len(places), products)
    return result


def extent(layer: Layer, shape: Sequence[int]) -> tuple[int, ...]:
    """How many places there are on each axis, the samples first."""
    if layer.node.op_type != "Conv":
        return tuple(shape[:-1]) or (1,)
    return (shape[0], *_Sweep.of(layer, shape[2:]).positions(shape[2:]))


@dataclass(frozen=True)
class _Sweep:
    """How the kernel of a convolution goes over an image, each for the spatial axes in turn.

    Attributes:
        strides: from one position to the next.
        dilations: from one number that the kernel reads to the next.
        spans: from the first number that the kernel reads to the last, inclusive.
        pads: zeros before and after.
    """

    strides: Sequence[int]
    dilations: Sequence[int]
    spans: Sequence[int]
    pads: Sequence[tuple[int, int]]

    @classmethod
    def of(cls, layer: Layer, sizes: Sequence[int]) -> _Sweep:
        """Over an image of these sizes."""
        attributes, kernel = layer.node.attributes, layer.numbers().shape[2:]
        strides = attributes.get_ints("strides", [1] * len(sizes))
        dilations = attributes.get_ints("dilations", [1] * len(sizes))
        spans = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
        return cls(strides, dilations, spans, _pads(layer.node, sizes, spans, strides))

    def positions(self, sizes: Sequence[int]) -> list[int]:
        """Of the kernel, in an image of these sizes."""
        axes = zip(sizes, self.pads, self.spans, self.strides, strict=True)
        return [(before + size + after - span) // stride + 1 for size, (before, after), span, stride in axes]


def _windows(layer: Layer, image: Array) -> Array:
    """A view ``[samples, *positions, channels, *kernel]`` of an image ``[samples, channels, *sizes]``."""
    sweep = _Sweep.of(layer, image.shape[2:])
    padded = np.pad(image, [(0, 0), (0, 0), *sweep.pads])
    windows = sliding_window_view(padded, sweep.spans, axis=tuple(range(2, image.ndim)))
    steps = [slice(None, None, step) for step in (1, 1, *sweep.strides, *sweep.dilations)]
    return np.moveaxis(windows[tuple(steps)], 1, image.ndim - 1)


def _pads(node: ir.Node, sizes: Sequence[int], spans: Sequence[int], strides: Sequence[int]) -> list[tuple[int, int]]:
    """Zeros before and after each spatial axis, as the specification of Conv defines them."""
    mode = node.attributes.get_string("auto_pad", "NOTSET")
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        pads = node.attributes.get_ints("pads", [0] * 2 * len(sizes)) if mode == "NOTSET" else [0] * 2 * len(sizes)
        return list(zip(pads[: len(sizes)], pads[len(sizes) :], strict=True))
    missing = [
        max((math.ceil(size / stride) - 1) * stride + span - size, 0)
        for size, span, stride in zip(sizes, spans, strides, strict=True)
    ]
    upper = [(count // 2, count - count // 2) for count in missing]
    return upper if mode == "SAME_UPPER" else [(after, before) for before, after in upper]
