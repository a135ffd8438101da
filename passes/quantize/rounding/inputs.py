"""What int8 layers read on calibration samples, as vectors on the grids of their inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxopt.calibrate import vectors
from onnxopt.core import Context
from onnxopt.passes.quantize.grids.grid import LEVELS, Array, Grid
from onnxopt.passes.quantize.int8.layers import Int8Layer


def stream(
    model: ir.Model, layers: Sequence[Int8Layer], grids: Mapping[ir.Value, Grid], context: Context, count: int
) -> Iterator[tuple[Int8Layer, Array]]:
    """The vectors of ``calibrate.vectors.stream``, rounded to the grids of what the layers read."""
    for layer, x in vectors.stream(model, layers, context, count):
        source = layer.node.inputs[0]
        assert source is not None
        yield layer, on_grid(x, grids[source])


def on_grid(numbers: Array, grid: Grid) -> Array:
    """The nearest numbers on a grid."""
    zero = np.float32(grid.zero_point)
    result: Array = (np.clip(np.rint(numbers / grid.scale) + zero, 0, LEVELS) - zero) * grid.scale
    return result
