"""Conv, ConvTranspose, Gemm and MatMul as one thing: a linear map with output channels.

A gain and an offset per output channel after such a node fold into its weight and bias::

    gain * linear(x) + offset = linear'(x)    with W' = W * gain, b' = b * gain + offset

``gain``, ``offset`` and ``b`` have shape [C]. Where the C output channels lie in the weight:

=============  =========================  =======================================
Conv           [C, C_in/g, kernel...]     axis 0
ConvTranspose  [C_in, C/g, kernel...]     axis 1, and the g blocks of C_in/g rows
Gemm           [K, C], or [C, K] transB   axis 1, or 0
MatMul         [K, C]                     axis 1
=============  =========================  =======================================

so that every weight can be seen as [groups, rows, channels of a group, rest].
"""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx_ir as ir

from onnxopt.core import Change, Refusal
from onnxopt.graph import STANDARD_DOMAINS, array, given, label, only_read_by, replace, tensor

OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)


@dataclass(frozen=True)
class Linear:
    """A linear node with constant weights.

    Attributes:
        node: the node.
        weight: its weight, of its own dtype.
        bias: [C] in float64, ``beta`` of Gemm included; None where there is none.
        channels: C, the number of output channels.
    """

    node: ir.Node
    weight: np.ndarray
    bias: np.ndarray | None
    channels: int


def linear_before(reader: ir.Node, index: int = 0) -> Linear | Refusal | None:
    """The linear node behind input ``index`` of ``reader``; None where there is none, or MatMul without weights."""
    value = given(reader, index)
    node = None if value is None else value.producer()
    if value is None or node is None or node.op_type not in OPERATORS or node.domain not in STANDARD_DOMAINS:
        return None
    weight = given(node, 1)
    if weight is None or (node.op_type == "MatMul" and tensor(weight) is None and not weight.is_initializer()):
        return None
    found = _read(node) if only_read_by(value, reader) else _why_not_only(value, reader)
    if isinstance(found, str):
        return Refusal(label(reader), f"{node.op_type} {label(node)!r}: {found}")
    return found


def _why_not_only(value: ir.Value, reader: ir.Node) -> str:
    """Why ``only_read_by`` says no."""
    if value.is_graph_output():
        return "its output is an output of the graph"
    producer = value.producer()
    if producer is not None and producer.graph is not reader.graph:
        return "it lies in an outer graph"
    return "its output is also read elsewhere"


def fold(linear: Linear, reader: ir.Node, gain: np.ndarray | None, offset: np.ndarray | None) -> Change | Refusal:
    """Put ``gain * linear(x) + offset``, which ``reader`` computes, into the linear node; None is 1 and 0.

    A weight without a gain is not copied, so that a shared one stays shared. MatMul has no place for an
    offset: with one it becomes Gemm, so its data must have rank 2.
    """
    node, op_type, dtype = linear.node, linear.node.op_type, linear.weight.dtype
    weight = node.inputs[1] if gain is None else _scaled(linear, gain)
    inputs: list[ir.Value | np.ndarray | None] = [node.inputs[0], weight]
    if linear.bias is not None or offset is not None:
        inputs.append(_shifted(linear, gain, offset))
        op_type = "Gemm" if op_type == "MatMul" else op_type
    if any(part is None for part in inputs):
        return Refusal(label(reader), f"the folded weights of {node.op_type} {label(node)!r} do not fit {dtype}")
    replace([node, reader], op_type, inputs, [a for a in node.attributes.values() if a.name != "beta"])
    return Change(label(reader), f"{reader.op_type} folded into {node.op_type}")


def _read(node: ir.Node) -> Linear | str:
    """The weights of a linear node, or why they cannot be folded into."""
    weight, transposed = array(node.inputs[1]), node.attributes.get_int("transB", 0) == 1
    if weight is None:
        return "its weight is not constant"
    if ir.DataType.from_numpy(weight.dtype) not in FLOATS or weight.size == 0:
        return "its weight is not of a float type, or empty"
    if node.op_type in ("Gemm", "MatMul") and weight.ndim != 2:
        return "its weight is not a matrix"
    channels = weight.shape[0 if node.op_type == "Conv" or transposed else 1]
    if node.op_type == "ConvTranspose":
        channels *= node.attributes.get_int("group", 1)
    if given(node, 2) is None:
        return Linear(node, weight, None, channels)
    bias = array(given(node, 2))
    if bias is None:
        return "its bias is not constant"
    if bias.ndim > 2 or (bias.ndim == 2 and bias.shape[0] != 1):
        return "its bias differs from row to row"
    beta = node.attributes.get_float("beta", 1.0) if node.op_type == "Gemm" else 1.0
    full = np.broadcast_to(beta * bias.astype(np.float64).reshape(-1), [channels])
    return Linear(node, weight, full, channels)


def _scaled(linear: Linear, gain: np.ndarray) -> np.ndarray | None:
    """``W * gain`` in the type of W; None where that type rounds it by more than the type's precision."""
    node, weight = linear.node, linear.weight
    groups = node.attributes.get_int("group", 1) if node.op_type == "ConvTranspose" else 1
    by_rows = node.op_type == "Conv" or node.attributes.get_int("transB", 0) == 1
    rows = 1 if by_rows else weight.shape[0] // groups
    seen = weight.astype(np.float64).reshape(groups, rows, linear.channels // groups, -1)
    exact = seen * gain.reshape(groups, 1, -1, 1)
    with np.errstate(over="ignore"):
        rounded = exact.astype(weight.dtype)
    error = np.abs(rounded.astype(np.float64) - exact).max(axis=(1, 3))
    precision = float(ml_dtypes.finfo(weight.dtype).eps)  # type: ignore[no-untyped-call]
    fits = np.all(error <= precision * np.abs(exact).max(axis=(1, 3)))  # False for inf and nan too
    return rounded.reshape(weight.shape) if fits else None


def _shifted(linear: Linear, gain: np.ndarray | None, offset: np.ndarray | None) -> np.ndarray | None:
    """``b * gain + offset`` in the type of W; None where it is not finite in that type."""
    bias = np.zeros(linear.channels) if linear.bias is None else linear.bias
    exact = bias * (1.0 if gain is None else gain) + (0.0 if offset is None else offset)
    with np.errstate(over="ignore"):
        rounded = exact.astype(linear.weight.dtype)
    return rounded if np.isfinite(rounded.astype(np.float64)).all() else None
