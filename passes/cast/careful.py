"""Which nodes stay in float32 where no samples say how large their numbers become."""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx_ir as ir

from onnxopt.graph import array, given, label, scalar
from onnxopt.passes.cast.half import Half
from onnxopt.passes.cast.kinds import Kinds
from onnxopt.passes.cast.network import Network
from onnxopt.passes.cast.slots import domain_of

ALWAYS = {
    "ReduceLogSum": "it adds up before the logarithm",
    "ReduceLogSumExp": "it adds up exponents",
    "ReduceProd": "products of many numbers leave any format",
}
"""Operators that stay whatever samples say, for what they compute inside is not seen."""
CAREFUL = {
    "CumSum": "it adds up many numbers",
    "Exp": "exp(11.1) is beyond 65504",
    "LRN": "it squares numbers",
    "ReduceL2": "it squares numbers",
    "ReduceSumSquare": "it squares numbers",
}
TAMES = frozenset(
    ("ArgMax", "ArgMin", "BatchNormalization", "Clip", "Equal", "Erf", "Greater", "GreaterOrEqual", "HardSigmoid")
) | {"InstanceNormalization", "LayerNormalization", "Less", "LessOrEqual", "Log", "LogSoftmax", "RMSNormalization"}
TAMES |= {"ReduceLogSumExp", "Sigmoid", "SimplifiedLayerNormalization", "Softmax", "Softsign", "Sqrt", "Tanh", "TopK"}
"""Operators whose results are of ordinary size, however large is what they read."""
LONG = 2048
"""Numbers of ordinary size that may be added up."""


def careful(net: Network, known: Kinds, half: Half, looked_at: set[ir.Node], large: set[ir.Node]) -> dict[ir.Node, str]:
    """The nodes that stay, each with the reason, and those that read what they give, up to one that makes it small.

    Args:
        net: the model.
        known: type and shape of every value.
        half: the format; bfloat16 does not overflow.
        looked_at: nodes whose numbers are known.
        large: nodes that compute with constants beyond the format.
    """
    found: dict[ir.Node, str] = {}
    untamed: dict[ir.Value, str] = {}
    for node in net.flexible if half.overflows else ():
        why = None if domain_of(node) else ALWAYS.get(node.op_type)
        if node in looked_at:
            found |= {} if why is None else {node: why}
            continue
        if why is None and not domain_of(node):
            why = CAREFUL.get(node.op_type) or _power(node) or _long(node, known)
        read = [value for value in node.inputs if value in untamed]
        if why is None and read:
            why = f"it reads {read[0].name!r}, and {untamed[read[0]]}"
        if why is not None:
            found[node] = why
        if (why is not None or node in large) and not _tames(node, untamed):
            untamed |= dict.fromkeys(node.outputs, f"what {label(node)!r} gives may be too large")
    return found


def _tames(node: ir.Node, untamed: Mapping[ir.Value, str]) -> bool:
    """Whether a result is of ordinary size: also of a quotient of two large numbers."""
    if domain_of(node) or node.op_type in TAMES:
        return True
    return node.op_type == "Div" and all(value in untamed for value in node.inputs)


def _power(node: ir.Node) -> str | None:
    """Whether a node squares what it reads."""
    exponent = scalar(given(node, 1)) if node.op_type == "Pow" else None
    squares = node.op_type == "Mul" and node.inputs[0] is node.inputs[1]
    if squares or (node.op_type == "Pow" and (exponent is None or not 0 <= exponent <= 1)):
        return "the square of 256 is beyond 65504"
    return None


def _long(node: ir.Node, known: Kinds) -> str | None:
    """Whether a node adds up many numbers, or nobody knows how many."""
    if node.op_type not in ("GlobalAveragePool", "ReduceL1", "ReduceMean", "ReduceSum"):
        return None
    dims = known.shapes.get(node.inputs[0]) if node.inputs[0] is not None else None
    if dims is None:
        return "it adds up any number of numbers"
    if node.op_type == "GlobalAveragePool":
        summed = list(dims[2:])
    else:
        listed = array(given(node, 1))
        axes = node.attributes.get_ints("axes", []) if listed is None else [int(axis) for axis in listed]
        if len(node.inputs) > 1 and node.inputs[1] is not None and listed is None:
            return "it adds up any number of numbers"
        summed = [dims[axis] for axis in axes if -len(dims) <= axis < len(dims)] if axes else list(dims)
    if not all(isinstance(dim, int) for dim in summed):
        return None if node.op_type == "GlobalAveragePool" else "it adds up any number of numbers"
    count = math.prod(dim for dim in summed if isinstance(dim, int))
    return f"it adds up {count} numbers" if count > LONG else None
