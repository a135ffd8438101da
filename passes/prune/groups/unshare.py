"""Small constants that several nodes read, although what they are in each has nothing to do with the others."""

from __future__ import annotations

import onnx_ir as ir

from onnxopt.graph import constant, initializers, label

LARGEST = 1 << 14
"""Bytes of a constant that is worth a copy; weights that a network shares on purpose are larger."""


def unshare(model: ir.Model) -> None:
    """Give each node a small constant of its own: zeros that two layers share would make them lose the same channels.

    Single numbers, constants of Constant nodes, and those that a graph takes or returns are left.
    """
    for value in list(initializers(model)):
        contents, fixed = value.const_value, value.is_graph_input() or value.is_graph_output()
        if fixed or contents is None or contents.dtype is ir.DataType.STRING:
            continue
        for node, index in list(value.uses())[1:] if contents.size > 1 and contents.nbytes <= LARGEST else []:
            assert isinstance(node.graph, ir.Graph)
            own = constant(node.graph, f"{label(node)}/{node.op_type}/{index}", contents.numpy())
            node.replace_input_with(index, own)
