"""What sharing saves: in the memory of ONNX Runtime, that is not what it saves in the file.

Measured on ONNX Runtime 1.31 (CPU, resident memory after loading): products pack their weights once more and let go of
the original, and products of one operator keep equal packed weights once, shared or not; a Transpose or Reshape of a
constant is computed when the model is loaded, into memory of its own.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxopt.core import Saved
from onnxopt.graph import rank
from onnxopt.sizes import constant_bytes

PACKING = {"MatMul": (1,), "Gemm": (1,), "MatMulInteger": (1,), "LSTM": (1, 2), "ConvTranspose": (1,)}
"""Operators and those of their inputs that they pack."""
COPYING = ("Transpose", "Reshape", "Cast")
"""Operators that are computed when the model is loaded."""


def saved_by_sharing(value: ir.Value, other: ir.Value, *, equal: bool) -> Saved:
    """What it saves that the readers of a constant read another of the same shape instead.

    Args:
        value: goes.
        other: stays.
        equal: whether both have the same bits: then packed weights are kept once in any case.
    """
    assert value.const_value is not None
    packed = not equal and _is_packed(value) and _is_packed(other)
    held = _is_held(value) and _is_held(other)
    names = len(value.uses()) * (len(value.name or "") - len(other.name or ""))
    return Saved(constant_bytes(value) + names, (packed + held) * value.const_value.nbytes)


def _is_packed(value: ir.Value) -> bool:
    """Whether a reader keeps it in an order of its own."""
    return any(_packs(use.node, use.idx, value) for use in value.uses())


def _is_held(value: ir.Value) -> bool:
    """Whether it stays in memory as it is, because some reader does not take a copy of its own."""
    return any(not _packs(use.node, use.idx, value) and use.node.op_type not in COPYING for use in value.uses())


def _packs(node: ir.Node, index: int, value: ir.Value) -> bool:
    return index in PACKING.get(node.op_type, ()) and (node.op_type != "MatMul" or rank(value) == 2)
