"""Along which axes of a weight its output channels lie."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from onnxopt.graph import given, nodes, rank
from onnxopt.layers import layers

OTHERS: Mapping[str, tuple[int, ...]] = {"MatMul": (1,), "ConvTranspose": (1,), "LSTM": (1, 2), "GRU": (1, 2)}
"""Operators with weights beside Conv, Gemm and MatMul of a matrix, and which inputs these are."""


def channel_axes(model: ir.Model) -> dict[ir.Value, set[tuple[int, ...]]]:
    """Constants that layers read as their weights, with the axes of the output channels, as each layer sees them."""
    found: dict[ir.Value, set[tuple[int, ...]]] = {}
    for layer in layers(model)[0]:
        found.setdefault(layer.weight, set()).add((0 if layer.transposed else layer.axis,))
    for node in nodes(model, *OTHERS):
        for index in OTHERS[node.op_type]:
            value = given(node, index)
            dims = rank(value) or 0
            if value is not None and dims > (2 if node.op_type == "MatMul" else 0):
                kept = {"MatMul": (*range(dims - 2), dims - 1), "ConvTranspose": (1,)}.get(node.op_type, (0, 1))
                found.setdefault(value, set()).add(kept)
    return found
