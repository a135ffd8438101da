"""Sparse initializers: carried through, made dense when read, refused when damaged."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxopt import files, sparse
from onnxopt.errors import ModelError
from onnxopt.graph import array, initializers
from onnxopt.runtime import Session
from onnxopt.target import Target

DENSE = np.array([[0, 2, 0], [5, 0, 0]], np.float32)
LINEAR = np.array([1, 3], np.int64)
PER_AXIS = np.array([[0, 1], [1, 0]], np.int64)


def proto(indices: np.ndarray = LINEAR, dims: tuple[int, ...] = (2, 3), **values: Any) -> onnx.ModelProto:
    """``y = x + w`` with a sparse ``w``."""
    numbers = values.get("values", np.array([2, 5], np.float32))
    weight = helper.make_sparse_tensor(
        numpy_helper.from_array(numbers, "w"), numpy_helper.from_array(indices, "i"), dims
    )
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]) for name in "xy"]
    node = helper.make_node("Add", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], sparse_initializer=[weight])
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


def load(message: onnx.ModelProto, folder: Path) -> ir.Model:
    (folder / "m.onnx").write_bytes(message.SerializeToString())
    return files.load(folder / "m.onnx")


@pytest.mark.parametrize("indices", [LINEAR, PER_AXIS], ids=["linear", "per axis"])
def test_dense(indices: np.ndarray) -> None:
    np.testing.assert_array_equal(sparse.dense(proto(indices).graph.sparse_initializer[0]), DENSE)


@pytest.mark.parametrize("indices", [LINEAR, PER_AXIS], ids=["linear", "per axis"])
def test_a_sparse_weight_stays_sparse(indices: np.ndarray, tmp_path: Path) -> None:
    message = proto(indices)
    model = load(message, tmp_path)
    weight = next(iter(initializers(model)))
    assert isinstance(weight.const_value, sparse.SparseTensor)
    np.testing.assert_array_equal(weight.const_value.numpy(), DENSE)
    for written in (files.to_proto(model), files.to_proto(model.clone())):
        assert written.graph.sparse_initializer == message.graph.sparse_initializer
        assert not written.graph.initializer
    assert isinstance(weight.const_value, sparse.SparseTensor)  # the model itself is as it was


def test_onnxruntime_takes_what_is_written(tmp_path: Path) -> None:
    model = load(proto(), tmp_path)
    outputs = Session(files.save(model, tmp_path / "out.onnx")[0], Target()).run({"x": np.zeros((2, 3), np.float32)})
    np.testing.assert_array_equal(outputs["y"], DENSE)


def test_a_rewritten_weight_is_dense(tmp_path: Path) -> None:
    model = load(proto(), tmp_path)
    next(iter(initializers(model))).const_value = ir.Tensor(DENSE * 2, name="w")
    written = files.to_proto(model)
    assert not written.graph.sparse_initializer
    np.testing.assert_array_equal(numpy_helper.to_array(written.graph.initializer[0]), DENSE * 2)


def test_without_a_nonzero_all_are_zero(tmp_path: Path) -> None:
    model = load(proto(np.zeros(0, np.int64), values=np.zeros(0, np.float32)), tmp_path)
    assert array(next(iter(initializers(model)))).tolist() == np.zeros((2, 3)).tolist()  # type: ignore[union-attr]


def few(message: onnx.ModelProto) -> None:
    message.graph.sparse_initializer[0].values.dims[:] = [10**12]


def unknown_type(message: onnx.ModelProto) -> None:
    message.graph.sparse_initializer[0].values.data_type = 100


def elsewhere(message: onnx.ModelProto) -> None:
    values = message.graph.sparse_initializer[0].values
    values.data_location = TensorProto.EXTERNAL
    values.external_data.add(key="location", value="../secret")


DAMAGED: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "an index beyond the shape": (lambda: proto(np.array([1, 6], np.int64)), "indices outside its shape"),
    "an index below zero": (lambda: proto(np.array([-1, 3], np.int64)), "indices outside its shape"),
    "an index beyond one axis": (lambda: proto(np.array([[0, 3], [1, 0]], np.int64)), "indices outside its shape"),
    "fewer indices than values": (lambda: proto(np.array([1], np.int64)), "do not fit"),
    "indices of another rank": (lambda: proto(np.array([[1], [0]], np.int64)), "do not fit"),
    "indices of three axes": (lambda: proto(np.zeros((2, 1, 1), np.int64)), "do not fit"),
    "indices that are no int64": (lambda: proto(np.array([1, 3], np.int32)), "do not fit"),
    "values of two axes": (lambda: proto(values=np.ones((2, 1), np.float32)), "do not fit"),
    "a negative dimension": (lambda: proto(dims=(2, -3)), "do not fit"),
    "a dense form beyond all memory": (lambda: proto(dims=(10**6, 10**6)), "bytes of memory"),
    "a dense form beyond all numbers": (lambda: proto(dims=(2**62,) * 20), "bytes of memory"),
}
CHANGED: dict[str, tuple[Callable[[onnx.ModelProto], None], str]] = {
    "more values declared than there are": (few, "the file is damaged"),
    "an unknown data type": (unknown_type, "unknown data type 100"),
    "values in a file outside": (elsewhere, "outside the model's folder"),
}


@pytest.mark.parametrize(("make", "said"), DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_weights_are_refused(make: Callable[[], onnx.ModelProto], said: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=said):
        load(make(), tmp_path)


@pytest.mark.parametrize(("change", "said"), CHANGED.values(), ids=CHANGED.keys())
def test_damaged_files_are_refused(change: Callable[[onnx.ModelProto], None], said: str, tmp_path: Path) -> None:
    message = proto()
    change(message)
    with pytest.raises(ModelError, match=said):
        load(message, tmp_path)
