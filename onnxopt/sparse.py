"""Sparse initializers, which onnx_ir drops in silence: carried through as tensors of their own kind.

``take_out`` replaces each by a dense placeholder before onnx_ir reads the model, ``put_back`` gives the
values their sparse contents, ``serialize`` writes those that are still there as sparse again. A pass that
rewrites such a weight leaves a dense one.

Source: ONNX IR specification, SparseTensorProto (indices linear [nnz] or per axis [nnz, rank]).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import onnx
import onnx_ir as ir

from onnxopt.errors import ModelError

_MARK = "onnxopt-sparse:"


class SparseTensor(ir.LazyTensor):
    """A constant kept in its sparse form; its numbers are made dense when asked for, and not kept."""

    def __init__(self, proto: onnx.SparseTensorProto) -> None:
        """Keep the protobuf form."""
        shape, dtype = ir.Shape(proto.dims), ir.DataType(proto.values.data_type)
        super().__init__(lambda: ir.Tensor(dense(proto)), dtype=dtype, shape=shape, name=proto.values.name)
        self.proto = proto


def sparse(numbers: np.ndarray, dtype: ir.DataType, name: str) -> onnx.SparseTensorProto:
    """The numbers with linear indices; only those of which all bits are zero are left out, so -0.0 is kept.

    Args:
        numbers: of any shape but an empty one, each of one byte or more.
        dtype: theirs.
        name: of the constant.
    """
    flat = np.ascontiguousarray(numbers).reshape(-1)
    bits = flat.view(np.uint8).reshape(flat.size, flat.itemsize)
    places = np.flatnonzero(bits.any(axis=1)).astype(np.int64)
    values = onnx.TensorProto(name=name, data_type=dtype.value, dims=places.shape, raw_data=flat[places].tobytes())
    return onnx.SparseTensorProto(values=values, indices=onnx.numpy_helper.from_array(places), dims=numbers.shape)


def dense(proto: onnx.SparseTensorProto) -> np.ndarray:
    """The numbers of a sparse tensor, zeros included, in its dense shape."""
    values, indices = onnx.numpy_helper.to_array(proto.values), onnx.numpy_helper.to_array(proto.indices)
    shape = tuple(proto.dims)
    numbers = np.zeros(math.prod(shape), values.dtype)
    numbers[indices if indices.ndim == 1 else np.ravel_multi_index(tuple(indices.T), shape)] = values
    return numbers.reshape(shape)


def take_out(proto: onnx.ModelProto) -> list[onnx.SparseTensorProto]:
    """Replace every sparse initializer by a dense placeholder without contents.

    Raises:
        ModelError: if one is not sound, or its dense form would not fit into memory.
    """
    found: list[onnx.SparseTensorProto] = []
    for graph in graphs(proto.graph):
        for weight in graph.sparse_initializer:
            _check(weight)
            placeholder = graph.initializer.add(name=weight.values.name, data_type=weight.values.data_type)
            placeholder.dims.extend(weight.dims)
            placeholder.doc_string = f"{_MARK}{len(found)}"
            copy = onnx.SparseTensorProto()
            copy.CopyFrom(weight)
            found.append(copy)
        del graph.sparse_initializer[:]
    return found


def put_back(model: ir.Model, weights: list[onnx.SparseTensorProto]) -> None:
    """Give the placeholders of ``take_out`` their contents."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            mark = (value.const_value.doc_string or "") if value.const_value is not None else ""
            if mark.startswith(_MARK):
                value.const_value = SparseTensor(weights[int(mark.removeprefix(_MARK))])


def serialize(model: ir.Model) -> onnx.ModelProto:
    """The protobuf form of a model, its sparse weights sparse."""
    kept: list[onnx.SparseTensorProto] = []
    swapped: list[tuple[ir.Value, SparseTensor]] = []
    try:
        for graph in model.graphs():
            for value in graph.initializers.values():
                if isinstance(value.const_value, SparseTensor):
                    swapped.append((value, value.const_value))
                    kept.append(value.const_value.proto)
                    value.const_value = _placeholder(value, len(kept) - 1)
        proto = ir.serde.serialize_model(model)
    finally:
        for value, contents in swapped:
            value.const_value = contents
    for graph_proto in graphs(proto.graph) if kept else ():
        for tensor in list(graph_proto.initializer):
            if tensor.doc_string.startswith(_MARK):
                weight = graph_proto.sparse_initializer.add()
                weight.CopyFrom(kept[int(tensor.doc_string.removeprefix(_MARK))])
                weight.values.name = tensor.name
                graph_proto.initializer.remove(tensor)
        names = {weight.values.name for weight in graph_proto.sparse_initializer}
        for info in [info for info in graph_proto.value_info if info.name in names]:
            graph_proto.value_info.remove(info)  # it says dense, and onnx's shape inference fails on that
    return proto


def _placeholder(value: ir.Value, index: int) -> ir.TensorProtocol:
    return ir.Tensor(np.zeros(0, np.uint8), name=value.name, doc_string=f"{_MARK}{index}")


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and all those inside of its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from graphs(attribute.g)
            for inner in attribute.graphs:
                yield from graphs(inner)


def _check(weight: onnx.SparseTensorProto) -> None:
    """The indices must lie in the shape, and the dense form must fit into memory; sizes are checked before."""
    name, dims = weight.values.name, list(weight.dims)
    values, indices = onnx.numpy_helper.to_array(weight.values), onnx.numpy_helper.to_array(weight.indices)
    limits = np.array([math.prod(dims)] if indices.ndim == 1 else dims, object)
    sound = min(dims, default=0) >= 0 and values.ndim == 1 and indices.dtype == np.int64
    if not sound or indices.shape not in ((len(values),), (len(values), len(dims))):
        raise ModelError(f"sparse initializer {name!r} has values and indices that do not fit; the file is damaged")
    places = indices.reshape(len(values), len(limits))
    if ((places < 0) | (places >= limits)).any():
        raise ModelError(f"sparse initializer {name!r} has indices outside its shape; the file is damaged")
    import psutil

    needed = math.prod(dims) * values.itemsize
    if needed > psutil.virtual_memory().available:
        raise ModelError(f"sparse initializer {name!r} would need {needed} bytes of memory; use a larger machine")
