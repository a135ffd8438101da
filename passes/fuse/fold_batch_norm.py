"""Fold BatchNormalization into the linear node before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxopt.core import Change, Context, Exactness, Pass, Refusal
from onnxopt.graph import arrays, label, nodes, opset, rank
from onnxopt.passes.fuse.linear import Linear, fold, linear_before

OLDEST = 7
"""The opset from which inference is the default: before, ``is_test`` says so."""


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """Fold BatchNormalization into the Conv, ConvTranspose, Gemm or MatMul that only it reads.

    Before:
        ``y = BatchNormalization(Conv(x, W, b), scale, shift, mean, var)``
    After:
        ``y = Conv(x, W * gain, (b - mean) * gain + shift)`` with ``gain = scale / sqrt(var + epsilon)``,
        one number per output channel; MatMul becomes Gemm.
    Left alone:
        BatchNormalization in training mode, or with statistics per position (``spatial=0``); a linear
        node with another reader or in another graph; parameters that are not constant; Gemm with a bias
        per row; MatMul of rank other than 2, whose channels are not the last axis; weights that would
        leave the range of their type.
    Exact up to:
        float rounding; the weights are computed in float64.
    Source:
        Jacob et al. 2018, Quantization and Training of Neural Networks for Efficient
        Integer-Arithmetic-Only Inference, section 3.2; ONNX BatchNormalization 7 to 15.
    """

    name: ClassVar[str] = "fold-batch-norm"
    exactness: ClassVar[Exactness] = Exactness.ROUNDING

    def run(self, model: ir.Model, context: Context) -> list[Change | Refusal]:
        """Fold every pair, in graph order."""
        if opset(model) < OLDEST:
            return []
        found = [_fold(norm) for norm in nodes(model, "BatchNormalization")]
        return [item for item in found if item is not None]


def _fold(norm: ir.Node) -> Change | Refusal | None:
    """Rewrite one pair, or leave the graph untouched."""
    linear = linear_before(norm)
    if not isinstance(linear, Linear):
        return linear
    why = _why_not(norm, linear)
    if why is not None:
        return Refusal(label(norm), why)
    constants = arrays(norm.inputs[1:])
    if constants is None:
        return Refusal(label(norm), "its parameters are not constant")
    scale, shift, mean, var = (numbers.astype(np.float64) for numbers in constants)
    var = var + norm.attributes.get_float("epsilon", 1e-5)
    if not np.all(var > 0):
        return Refusal(label(norm), "its variance is negative")
    gain = scale / np.sqrt(var)
    return fold(linear, norm, gain, shift - mean * gain)


def _why_not(norm: ir.Node, linear: Linear) -> str | None:
    """What keeps this normalization from being one gain and one offset per channel."""
    attributes = norm.attributes
    if attributes.get_int("training_mode", 0) == 1 or any(out.name for out in norm.outputs[1:]):
        return "it is in training mode"
    if attributes.get_int("spatial", 1) == 0:
        return "its statistics are per position (spatial=0)"
    if linear.node.op_type == "MatMul" and 2 not in (rank(norm.inputs[0]), rank(linear.node.inputs[0])):
        return "its channels are axis 1 of a MatMul that is not known to have rank 2"
    return None
