"""What int8 layers read on calibration samples, as vectors on the grids of their inputs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import numpy as np
import onnx_ir as ir

from onnxopt.calibrate.tap import Values
from onnxopt.calibrate.vectors import vectors
from onnxopt.core import Context
from onnxopt.passes.quantize.grids.grid import LEVELS, Array, Grid
from onnxopt.passes.quantize.int8.layers import Int8Layer
from onnxopt.runtime import Session


def stream(
    model: ir.Model, layers: Sequence[Int8Layer], grids: Mapping[ir.Value, Grid], context: Context, count: int
) -> Iterator[tuple[Int8Layer, Array]]:
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


def on_grid(numbers: Array, grid: Grid) -> Array:
    """The nearest numbers on a grid."""
    zero = np.float32(grid.zero_point)
    result: Array = (np.clip(np.rint(numbers / grid.scale) + zero, 0, LEVELS) - zero) * grid.scale
    return result
