"""What sharing saves in the memory of ONNX Runtime, where it is not what it saves in the file.

Measured on ONNX Runtime 1.31 (CPU, resident memory after loading): products pack their weights once more and let go of
the original, and of equal packed weights keep one, shared or not; a Transpose or Reshape of a constant is computed when
the model is loaded, into memory of its own.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxopt.graph import rank

PACKING = {"MatMul": (1,), "Gemm": (1,), "MatMulInteger": (1,), "LSTM": (1, 2), "ConvTranspose": (1,)}
"""Operators and those of their inputs that they pack."""
COPYING = ("Transpose", "Reshape", "Cast")
"""Operators that are computed when the model is loaded."""


def is_held(value: ir.Value) -> bool:
    """Whether a constant stays in memory as it is, because some reader does not take a copy of its own."""
    return value.is_graph_output() or any(not _takes_a_copy(use.node, use.idx, value) for use in value.uses())


def _takes_a_copy(node: ir.Node, index: int, value: ir.Value) -> bool:
    if node.op_type == "MatMul" and rank(value) != 2:
        return False
    return node.op_type in COPYING or index in PACKING.get(node.op_type, ())
