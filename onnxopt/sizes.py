"""What the parts of a graph take in a model's file, to the byte: so that a pass can say what it saves."""

from __future__ import annotations

from collections.abc import Iterable

import onnx
import onnx_ir as ir

from onnxopt.sparse import SparseTensor

SHIFT = 7
"""Bits of a number that one byte of protobuf holds."""


def constant_bytes(*values: ir.Value) -> int:
    """Bytes of initializers, with their names, types and shapes; external data count as if they were inside."""
    return sum(_constant_bytes(value) for value in values)


def node_bytes(nodes: Iterable[ir.Node]) -> int:
    """Bytes of nodes, and of what the file says of the types and shapes of their outputs."""
    return sum(
        _entry(ir.serde.serialize_node(node).ByteSize()) + sum(_said_of(value) for value in node.outputs)
        for node in nodes
    )


def _constant_bytes(value: ir.Value) -> int:
    contents = value.const_value
    assert contents is not None
    if isinstance(contents, SparseTensor):
        renamed = onnx.TensorProto(name=value.name).ByteSize() - onnx.TensorProto(name=contents.name).ByteSize()
        return _entry(contents.proto.ByteSize() + renamed)
    if isinstance(contents, ir.TensorProtoTensor):  # written as it was read
        return _entry(contents.raw.ByteSize())
    header = onnx.TensorProto(name=value.name, data_type=contents.dtype.value, dims=contents.shape.numpy()).ByteSize()
    return _entry(header + _entry(contents.nbytes))


def _said_of(value: ir.Value) -> int:
    """Bytes of the type and shape of a value inside the graph."""
    if value.is_graph_input() or value.is_graph_output() or (value.type is None and value.shape is None):
        return 0
    return _entry(ir.serde.serialize_value(value).ByteSize())


def _entry(size: int) -> int:
    """Bytes of a field of this size: its key, its length, and itself."""
    return 1 + max(1, -(-size.bit_length() // SHIFT)) + size
