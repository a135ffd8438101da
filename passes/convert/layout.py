"""Where ONNX Runtime has images in blocks of channels: between convolutions, and what it takes along between them.

A node that cannot read blocks, or give them, costs a reordering there that it does not cost elsewhere.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxopt.graph import STANDARD_DOMAINS, tensor

ALIGNED = 4
"""A multiple of so many channels can be put into blocks."""
BLOCK = 16
"""Channels: fewer are read as they are; groups must have a multiple, or one."""
CARRIERS = frozenset(
    {
        *("Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh", "HardSigmoid", "BatchNormalization"),
        *("MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool", "Add", "Sum", "Mul", "Concat"),
    }
)
"""What computes in blocks if it reads blocks, or is fused into the convolution before it."""
SUMS = frozenset({"Add", "Sum", "Mul", "Concat"})
"""Those of them that need blocks from all that they read."""
DEPTH = 16
"""Nodes that are followed at most."""


def in_blocks(value: ir.Value | None, depth: int = DEPTH) -> bool:
    """Whether a value comes out of a convolution in blocks."""
    node = None if value is None else value.producer()
    if node is None or node.domain not in STANDARD_DOMAINS or depth == 0:
        return False
    if node.op_type == "Conv":
        return _computes_in_blocks(node)
    if node.op_type not in CARRIERS:
        return False
    read = node.inputs if node.op_type in SUMS else node.inputs[:1]
    return all(in_blocks(one, depth - 1) for one in read)


def read_in_blocks(value: ir.Value, depth: int = DEPTH) -> bool:
    """Whether a convolution reads a value in blocks, or what other nodes make of it in blocks."""
    for node, index in value.uses():
        if node.domain not in STANDARD_DOMAINS or depth == 0:
            continue
        if node.op_type == "Conv" and index == 0 and _computes_in_blocks(node):
            return True
        carries = node.op_type in CARRIERS and (index == 0 or node.op_type in SUMS)
        others = [one for one in node.inputs if one is not value] if node.op_type in SUMS else []
        if carries and all(map(in_blocks, others)) and read_in_blocks(node.outputs[0], depth - 1):
            return True
    return False


def _computes_in_blocks(conv: ir.Node) -> bool:
    """Whether ONNX Runtime's kernel for blocks takes a convolution (read from its NCHWc transformer)."""
    weight, group = tensor(conv.inputs[1]), conv.attributes.get_int("group", 1)
    if weight is None or len(weight.shape) != 4 or weight.dtype is not ir.DataType.FLOAT:
        return False
    outputs, inputs = weight.shape.numpy()[:2]
    if group == 1:
        return bool(inputs % ALIGNED == 0 or inputs < BLOCK)
    if inputs == 1 and outputs == group:
        return bool(outputs % ALIGNED == 0)
    return bool(inputs % BLOCK == 0 and outputs // group % BLOCK == 0)
