"""Whether a model file is what it says: checked before anything is allocated, for the file may be hostile.

Every function raises ModelError, with the file, what is wrong in it, and what to do.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from google.protobuf.message import Message

from onnxopt.errors import ModelError
from onnxopt.graph import walk


def check_text(proto: onnx.ModelProto, path: Path) -> None:
    """Protobuf gives names that are not UTF-8 as bytes, which break much later and far from here."""
    wrong = next((text for text in _texts(proto) if isinstance(text, bytes)), None)
    if wrong is not None:
        raise ModelError(f"{path}: the name {wrong[:40]!r} is not UTF-8; the file is damaged")


def _texts(message: Any) -> Iterator[Any]:
    """The text of every field of a message; of tensors the name alone, since weights are not to be copied."""
    if isinstance(message, onnx.TensorProto):
        yield message.name
        return
    for field, value in message.ListFields():
        if field.type == field.TYPE_STRING:
            yield from [value] if isinstance(value, (str, bytes)) else value
        elif field.type == field.TYPE_MESSAGE:
            for part in [value] if isinstance(value, Message) else value:
                yield from _texts(part)


def check_opsets(proto: onnx.ModelProto, path: Path) -> None:
    """The opset must be one that the installed onnx knows."""
    newest = onnx.defs.onnx_opset_version()
    for opset in proto.opset_import:
        if opset.domain in ("", "ai.onnx") and not 1 <= opset.version <= newest:
            raise ModelError(
                f"{path} asks for opset {opset.version}, and the installed onnx knows 1 to {newest}; "
                "export it with a lower opset, or upgrade onnx and onnxruntime"
            )


def tensors(proto: onnx.ModelProto) -> Iterator[tuple[onnx.TensorProto, bool]]:
    """Every tensor of a model, wherever it hides, and whether it is an initializer."""
    graphs = [proto.graph]
    nodes = [node for function in proto.functions for node in function.node]
    while graphs or nodes:
        if graphs:
            graph = graphs.pop()
            nodes.extend(graph.node)
            yield from ((tensor, True) for tensor in graph.initializer)
            for weight in graph.sparse_initializer:
                yield from ((weight.values, False), (weight.indices, False))
            continue
        for attribute in nodes.pop().attribute:
            if attribute.HasField("t") or (attribute.type == attribute.TENSOR and not attribute.ref_attr_name):
                yield attribute.t, False
            yield from ((tensor, False) for tensor in attribute.tensors)
            graphs += [*([attribute.g] * attribute.HasField("g")), *attribute.graphs]


def check_tensor(tensor: onnx.TensorProto, path: Path) -> None:
    """The declared size must be the size there is, before anybody allocates it."""
    where = f"{path}: tensor {tensor.name!r}"
    if any(dim < 0 for dim in tensor.dims):
        raise ModelError(f"{where} has a negative dimension; the file is damaged")
    try:
        size, dtype = math.prod(tensor.dims), ir.DataType(tensor.data_type)
        entries = len(getattr(tensor, onnx.helper.tensor_dtype_to_field(tensor.data_type)))
    except (ValueError, KeyError):
        raise ModelError(
            f"{where} has the unknown data type {tensor.data_type}; upgrade onnx, or export again"
        ) from None
    expected = byte_count(size, dtype)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        _check_external(tensor, expected, path)
    elif tensor.HasField("raw_data") and len(tensor.raw_data) != expected:
        raise ModelError(f"{where} should have {expected} bytes and has {len(tensor.raw_data)}; the file is damaged")
    elif not tensor.HasField("raw_data") and entries != _fields(size, dtype):
        raise ModelError(f"{where} should have {size} numbers and has {entries}; the file is damaged")


def byte_count(size: int, dtype: ir.DataType) -> int:
    """Of ``size`` numbers; strings have no form in bytes. In whole numbers, since a hostile size overflows a float."""
    return 0 if dtype is ir.DataType.STRING else -(-size * dtype.bitwidth // 8)


def _fields(size: int, dtype: ir.DataType) -> int:
    """How many fields of a TensorProto hold ``size`` numbers: two per complex one, one per byte of small ones."""
    if dtype in (ir.DataType.COMPLEX64, ir.DataType.COMPLEX128):
        return 2 * size
    return size if dtype is ir.DataType.STRING or dtype.bitwidth >= 8 else byte_count(size, dtype)


def _check_external(tensor: onnx.TensorProto, expected: int, path: Path) -> None:
    entries = external_entries(tensor)
    location = entries.get("location", "")
    file = path.parent / location
    if not location or not _is_inside(file, path.parent):
        raise ModelError(
            f"{path}: the weights of {tensor.name!r} are at {location!r}, outside the model's folder; "
            "onnxopt reads external data only from there: copy the file beside the model"
        )
    if not os.path.isfile(file):
        raise ModelError(f"{path}: its external data file {file} is missing; copy it beside the model")
    if file.stat().st_nlink > 1:
        raise ModelError(
            f"{path}: its external data file {file} is a hard link, which may lead anywhere; copy the file"
        )
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", expected))
    except ValueError:
        raise ModelError(f"{path}: tensor {tensor.name!r} has an unreadable offset or length") from None
    size = file.stat().st_size
    if offset < 0 or length != expected or offset + length > size:
        raise ModelError(
            f"{path}: tensor {tensor.name!r} needs {expected} bytes at {offset} of {file}, "
            f"which has {size}; the data file is cut off or belongs to another model"
        )


def external_entries(tensor: onnx.TensorProto) -> dict[str, str]:
    """Where the bytes of a tensor lie: location, offset, length."""
    return {entry.key: entry.value for entry in tensor.external_data}


def _is_inside(file: Path, folder: Path) -> bool:
    try:
        return file.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError):  # a NUL byte, links in a circle
        return False


def check_complete(model: ir.Model, path: Path) -> None:
    """onnx_ir takes a value that nothing makes for a new input; it is an error of the file."""
    returned = [value for graph in model.graphs() for value in graph.outputs]
    read = [value for node in walk(model) for value in node.inputs if value is not None]
    for value in (*read, *returned):
        if value.producer() is None and not value.is_graph_input() and not value.is_initializer():
            raise ModelError(f"{path}: the value {value.name!r} is read, but nothing makes it; the file is damaged")
