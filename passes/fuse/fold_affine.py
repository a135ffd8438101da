"""Fold a constant factor or summand into the linear node before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxopt.core import Change, Context, Exactness, Pass, Refusal
from onnxopt.graph import array, given, label, nodes, opset, rank, tensor
from onnxopt.passes.fuse.linear import Linear, fold, linear_before

OLDEST = 7
"""The opset from which Add, Mul, Sub and Div broadcast as numpy does."""


@dataclass(frozen=True)
class FoldAffine(Pass):
    """Fold Mul, Div, Add or Sub by a constant into the Conv, ConvTranspose, Gemm or MatMul that only it reads.

    Before:
        ``y = Conv(x, W, b) * c`` with c one number, or one per output channel ([C, 1, 1], [1, C, 1, 1];
        [C] or [1, C] after Gemm and MatMul)
    After:
        ``y = Conv(x, W * c, b * c)``; ``/ c``: both divided; ``+ c``, ``- c``: ``Conv(x, W, b + c)``
    Left alone:
        ``c - y`` and ``c / y``; a constant along other axes than the channels, or one that makes the
        output larger; MatMul with a summand (it would become Gemm; ONNX Runtime fuses it itself); a linear
        node with another reader or in another graph; parameters that are not constant; weights
        that would leave the range of their type.
    Exact up to:
        float rounding; the weights are computed in float64.
    Source:
        linearity.
    """

    name: ClassVar[str] = "fold-affine"
    exactness: ClassVar[Exactness] = Exactness.ROUNDING

    def run(self, model: ir.Model, context: Context) -> list[Change | Refusal]:
        """Fold every pair, in graph order, so that a chain folds in one run."""
        if opset(model) < OLDEST:
            return []
        found = [_fold(node) for node in nodes(model, "Mul", "Div", "Add", "Sub")]
        return [item for item in found if item is not None]


def _fold(node: ir.Node) -> Change | Refusal | None:
    """Rewrite one pair, or leave the graph untouched."""
    index = 1 if _is_constant(node.inputs[0]) else 0
    other = given(node, 1 - index)
    if not _is_constant(other):
        return None
    linear = linear_before(node, index)
    if not isinstance(linear, Linear):
        return linear
    if linear.node.op_type == "MatMul" and node.op_type in ("Add", "Sub"):
        return None
    if index == 1 and node.op_type in ("Sub", "Div"):
        return Refusal(label(node), "the constant is on the left")
    numbers = array(other)
    if numbers is None:
        return Refusal(label(node), "the constant can be overridden at run time")
    constant = _per_channel(numbers, linear)
    if constant is None:
        return Refusal(label(node), f"the constant of shape {list(numbers.shape)} is not one number per channel")
    match node.op_type:
        case "Mul":
            return fold(linear, node, constant, None)
        case "Div" if np.all(constant != 0):
            return fold(linear, node, 1 / constant, None)
        case "Div":
            return Refusal(label(node), "it divides by zero")
        case "Add":
            return fold(linear, node, None, constant)
        case _:
            return fold(linear, node, None, -constant)


def _is_constant(value: ir.Value | None) -> bool:
    """Whether a value is a constant, one that a caller may override included."""
    return value is not None and (value.is_initializer() or tensor(value) is not None)


def _per_channel(numbers: np.ndarray, linear: Linear) -> np.ndarray | None:
    """The constant as [C] in float64; None where it is not constant along all axes but the channels."""
    node = linear.node
    if node.op_type == "MatMul":
        known = rank(node.inputs[0])
        dims, axis = max(numbers.ndim, 1) if known is None else known, -1
        if known is None and numbers.ndim > 1:
            return None
    else:
        dims, axis = linear.weight.ndim, 1
    if numbers.ndim > dims:
        return None
    shape = [1] * dims
    shape[axis] = numbers.reshape([1] * (dims - numbers.ndim) + list(numbers.shape)).shape[axis]
    if shape[axis] not in (1, linear.channels) or numbers.size != shape[axis]:
        return None
    return np.broadcast_to(numbers.astype(np.float64).reshape(-1), [linear.channels])
