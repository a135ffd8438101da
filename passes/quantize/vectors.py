"""The vectors that a layer multiplies its rows of weights with, sampled from what it reads on calibration samples."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import numpy as np
import onnx_ir as ir
from numpy.lib.stride_tricks import sliding_window_view

from onnxopt.calibrate.tap import Values
from onnxopt.core import Context
from onnxopt.passes.quantize.grid import LEVELS, Array, Grid
from onnxopt.passes.quantize.layers import Layer
from onnxopt.runtime import Session


def stream(
    model: ir.Model, layers: Sequence[Layer], grids: Mapping[ir.Value, Grid], context: Context, count: int
) -> Iterator[tuple[Layer, Array]]:
    """For each batch of calibration samples and each layer the vectors that are drawn from them.

    Args:
        model: in float, not changed.
        layers: of its main graph.
        grids: of their inputs: what the vectors are rounded to.
        context: calibration samples, where to run, and the seed of the drawing.
        count: vectors of each layer over all samples, about; those of a convolution come from all its positions.

    Yields:
        The layer, and ``[groups, vectors, products]`` in the order of ``Layer.rows``.
    """
    assert context.calibration is not None
    sources = {layer.node: cast(ir.Value, layer.node.inputs[0]) for layer in layers}
    tap = Values.of(model, {value.name or "" for value in sources.values()}, context.calibration.state.values())
    draws = {layer.node: np.random.default_rng(context.seed) for layer in layers}
    for batch, outputs in context.calibration.run(Session(tap.model, context.target)):
        share = math.ceil(count * batch.size / len(context.calibration))
        for layer in layers:
            source = sources[layer.node]
            numbers = outputs[tap.outputs[source.name or ""]]
            yield layer, on_grid(vectors(layer, numbers, share, draws[layer.node]), grids[source])


def vectors(layer: Layer, numbers: Array, count: int, draw: np.random.Generator) -> Array:
    """At most ``count`` of the vectors in one input of the layer, ``[groups, vectors, products]``.

    Args:
        layer: Conv, Gemm or MatMul.
        numbers: what it reads: ``[samples, channels, *sizes]`` for a Conv, else ``[..., products]``.
        count: how many to draw, without replacement.
        draw: makes the choice.
    """
    is_conv = layer.node.op_type == "Conv"
    windows = _windows(layer, numbers) if is_conv else numbers.reshape(-1, numbers.shape[-1], 1)
    places = windows.shape[: numbers.ndim - 1] if is_conv else windows.shape[:1]
    total = math.prod(places)
    chosen = np.sort(draw.choice(total, min(count, total), replace=False))
    groups = layer.node.attributes.get_int("group", 1)
    drawn = windows[np.unravel_index(chosen, places)]  # [vectors, channels, *kernel]
    drawn = drawn.reshape(len(chosen), groups, drawn.shape[1] // groups, -1)
    result: Array = drawn.transpose(1, 0, 3, 2).reshape(groups, len(chosen), -1)
    return result


def on_grid(numbers: Array, grid: Grid) -> Array:
    """The nearest numbers on a grid."""
    zero = np.float32(grid.zero_point)
    result: Array = (np.clip(np.rint(numbers / grid.scale) + zero, 0, LEVELS) - zero) * grid.scale
    return result


def _windows(layer: Layer, image: Array) -> Array:
    """A view ``[samples, *positions, channels, *kernel]`` of an image ``[samples, channels, *sizes]``."""
    attributes, kernel = layer.node.attributes, layer.numbers().shape[2:]
    axes = range(2, image.ndim)
    strides = attributes.get_ints("strides", [1] * len(axes))
    dilations = attributes.get_ints("dilations", [1] * len(axes))
    spans = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    image = np.pad(image, [(0, 0), (0, 0), *_pads(layer.node, image.shape[2:], spans, strides)])
    windows = sliding_window_view(image, spans, axis=tuple(axes))
    steps = [slice(None, None, step) for step in (1, 1, *strides, *dilations)]
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
