"""Up to which share of a layer's cost a split pays: two kernels take more time than one of as many multiplications."""

from __future__ import annotations

from onnxopt.layers import Weight
from onnxopt.passes.factorize.split import Shape

WIDE = 768
"""Channels from which low rank pays in int8."""
NARROW, SQUARE, OBLONG, ROW = 0.3, 0.6, 0.7, 0.9
"""The shares in int8, of products that are narrower, as wide as high, wider or higher, and of those of a single row.

Measured on ONNX Runtime 1.31 (facts/ort_cpu_limits.md, section 3): 384x384 gains 1.1x at 0.3, 768x768 1.2x at 0.6,
768x3072 1.1x to 1.2x at 0.7; with one row int8 is bound by memory, like float. A ResNet-56 in int8 is 1.08 times as
fast as in float with its convolutions split, and 2.03 times without (facts/size_and_rank.md, section 6).
"""


def int8_limit(weight: Weight, rows: int) -> float:
    """Of a layer that will be quantized, and reads so many rows; 0 for a convolution."""
    shape = Shape.of(weight.layers[0])
    if shape.kernel:
        return 0.0
    narrow, wide = sorted((shape.inputs, shape.outputs))
    if rows == 1:
        return ROW
    if narrow < WIDE:
        return NARROW
    return SQUARE if narrow == wide else OBLONG
