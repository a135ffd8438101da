"""Which constants may be stored otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir

from onnxopt.core import Refusal
from onnxopt.graph import given, initializers, label, nodes, rank
from onnxopt.layers import layers
from onnxopt.sparse import SparseTensor

OTHERS: Mapping[str, tuple[int, ...]] = {"MatMul": (1,), "ConvTranspose": (1,), "LSTM": (1, 2), "GRU": (1, 2)}
"""Operators with weights beside Conv, Gemm and MatMul of a matrix, and which inputs these are."""
FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE)


def storable(model: ir.Model, min_bytes: int) -> tuple[list[ir.Value], list[Refusal]]:
    """The float32 initializers of the main graph that nodes alone read, and why others of that size are left."""
    found, refusals = [], []
    for value in initializers(model):
        contents = value.const_value
        if contents is None or contents.dtype not in FLOATS or contents.nbytes < min_bytes or not value.uses():
            continue
        why = _hindrance(value, contents, model)
        if why is None:
            found.append(value)
        else:
            refusals.append(refusal(value, why))
    return found, refusals


def reader(value: ir.Value) -> str:
    """How reports name the place of a constant: by the first node that reads it."""
    return label(next(iter(value.uses())).node)


def refusal(value: ir.Value, why: str) -> Refusal:
    """Why a constant is left."""
    return Refusal(reader(value), f"{value.name!r} {why}")


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


def relative_error(numbers: np.ndarray, others: np.ndarray) -> float:
    """The length of the difference in that of the numbers; what is not finite is not counted."""
    finite = np.isfinite(numbers)
    numbers, others = (np.where(finite, one, 0).ravel().astype(np.float64) for one in (numbers, others))
    length = float(np.linalg.norm(numbers))
    return float(np.linalg.norm(numbers - others)) / length if length else 0.0


def _hindrance(value: ir.Value, contents: ir.TensorProtocol, model: ir.Model) -> str | None:
    if isinstance(contents, SparseTensor):
        return "is stored sparse"
    if contents.dtype is not ir.DataType.FLOAT:
        return f"is {contents.dtype}, not float32"
    if value.graph is not model.graph:
        return "is a constant of a subgraph"
    if value.is_graph_input():
        return "can be overridden by a caller"
    if value.is_graph_output():
        return "is an output of the graph"
    return _quantized(use.node for use in value.uses())


def _quantized(readers: Iterable[ir.Node]) -> str | None:
    """Scales of integers: rounded, they would move numbers that were rounded with them already."""
    for node in readers:
        if "Quant" in node.op_type or node.op_type.startswith("QLinear") or node.domain == "com.microsoft":
            return f"is read by {node.op_type} {label(node)!r}"
    return None
