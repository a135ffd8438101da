"""Which constants of floats may be written otherwise, and how reports speak of them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from onnxopt.core import Refusal
from onnxopt.graph import initializers, label
from onnxopt.sparse import SparseTensor

FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE)
CHUNK = 1 << 20
"""Numbers that are compared at once: memory stays flat."""


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


def relative_error(numbers: np.ndarray, others: np.ndarray) -> float:
    """The length of the difference in that of the numbers; what is not finite is not counted."""
    difference = length = 0.0
    numbers, others = numbers.reshape(-1), others.reshape(-1)
    for start in range(0, numbers.size, CHUNK):
        one, other = (part[start : start + CHUNK].astype(np.float64) for part in (numbers, others))
        finite = np.isfinite(one)
        difference += float(np.square(one[finite] - other[finite]).sum())
        length += float(np.square(one[finite]).sum())
    return float(np.sqrt(difference / length)) if length else 0.0


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
