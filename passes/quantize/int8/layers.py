"""The layers with weights that can compute in int8."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from onnxopt import layers
from onnxopt.layers import Layer, Twins
from onnxopt.passes.quantize.grids.grid import quantized_rows, weight_scales


@dataclass(frozen=True)
class Int8Layer(Layer):
    """A layer whose rows of weights can be int8.

    Attributes:
        integers: the rows as a rounding method chose them, int8 ``[channels, products]``; None: rounded to nearest.
    """

    integers: np.ndarray | None = field(default=None, compare=False)

    @property
    def pairs(self) -> bool:
        """Whether a kernel without VNNI may add neighbouring products in 16 bits.

        That of a depthwise convolution sums in 32 bits: measured, no pair saturates.
        """
        return not self.depthwise

    def quantized(self, input_scale: float, *, pairs: bool) -> tuple[np.ndarray, np.ndarray]:
        """The rows as int8 ``[channels, products]``, and their scales ``[channels]``.

        Args:
            input_scale: of the activation that the layer reads.
            pairs: whether the processor adds neighbouring products in 16 bits; not every kernel does.
        """
        rows, bounded = self.rows(), pairs and self.pairs
        scales = weight_scales(rows, self.bias_numbers(), input_scale, pairs=bounded)
        integers = self.integers if self.integers is not None else quantized_rows(rows, scales, pairs=bounded)
        return integers, scales


def layer(node: ir.Node, twins: Twins) -> Int8Layer | str:
    """The node as a layer, or why it is none (see ``onnxopt.layers.layer``)."""
    found = layers.layer(node, twins)
    return Int8Layer(**vars(found)) if isinstance(found, Layer) else found
