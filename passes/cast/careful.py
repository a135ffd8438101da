"""Which nodes stay in float32 where no samples say how large their numbers become."""

from __future__ import annotations

import math

import onnx_ir as ir

from onnxopt.graph import array, given, scalar
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
LONG = 2048
"""Numbers of ordinary size that may be added up."""


def careful(net: Network, known: Kinds, half: Half, looked_at: set[ir.Node]) -> dict[ir.Node, str]:
    """The nodes that stay, each with the reason.

    Args:
        net: the model.
        known: type and shape of every value.
        half: the format; bfloat16 does not overflow.
        looked_at: nodes whose numbers are known.
    """
    found: dict[ir.Node, str] = {}
    for node in net.flexible if half.overflows else ():
        if domain_of(node):
            continue
        why = ALWAYS.get(node.op_type)
        if why is None and node not in looked_at:
            why = CAREFUL.get(node.op_type) or _power(node) or _long(node, known)
        if why is not None:
            found[node] = why
    return found


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
