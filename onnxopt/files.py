"""Load and save models: external data, sparse weights, path safety, sizes, atomic writes.

A model file may be hostile: sizes are checked before anything is allocated, and external
data are read only from the model's own folder. A write is complete or did not happen: it
goes to a temporary file in the same folder, is flushed to disk, and then renamed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import math
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from onnxopt import soundness, sparse
from onnxopt.errors import ModelError, UsageError
from onnxopt.graph import attribute_tensors, initializers, weight_bytes
from onnxopt.sparse import SparseTensor

PROTOBUF_LIMIT = 2**31 - 1
SINGLE_FILE_LIMIT = 1_800_000_000
"""Bytes of weights above which they go to a file beside the model: protobuf ends at 2 GB."""
FREE_INITIALIZERS = 4
"""The IR version before which every initializer had to be an input of the graph."""
SMALL_TENSOR = 1024
"""Bytes up to which a tensor stays in the model file: shapes and scalars are read when a model loads."""

logging.getLogger("onnx_ir").addHandler(logging.NullHandler())  # what it warns of is checked here, or harmless


def load(path: str | os.PathLike[str]) -> ir.Model:
    """Read a model; weights in external files stay there until they are needed.

    Raises:
        ModelError: if the file is missing, empty, truncated, not ONNX, of an unknown opset, or if its
            external data are missing, of the wrong size, or outside the model's folder.
    """
    path = Path(path).absolute()
    proto = _parse(path)
    soundness.check_text(proto, path)
    soundness.check_opsets(proto, path)
    for tensor, is_initializer in soundness.tensors(proto):
        soundness.check_tensor(tensor, path)
        if not is_initializer and tensor.data_location == onnx.TensorProto.EXTERNAL:
            _draw_in(tensor, path.parent)
    weights = sparse.take_out(proto)
    try:
        model = ir.serde.deserialize_model(proto)
        model.graph.sort()  # some exporters do not; a cycle raises
    except Exception as error:
        raise ModelError(f"{path}: the graph is not valid ONNX: {_first_line(error)}") from error
    soundness.check_complete(model, path)
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        ir.external_data.set_base_dir(graph, path.parent)
    sparse.put_back(model, weights)
    return model


def to_proto(model: ir.Model) -> onnx.ModelProto:
    """The protobuf form, sparse weights included. Weights in external files are still there.

    Raises:
        ModelError: if the model holds what ONNX has no form for.
    """
    try:
        proto = sparse.serialize(model)
    except ir.serde.SerdeError as error:
        raise ModelError(f"the model cannot be written as ONNX: {_first_line(_root(error))}") from error
    if any(not value.is_graph_input() for value in model.graph.initializers.values()):
        proto.ir_version = max(proto.ir_version, FREE_INITIALIZERS)
    for graph in sparse.graphs(proto.graph):
        _say_once(graph)
    return proto


def _say_once(graph: onnx.GraphProto) -> None:
    """Do not state the types and shapes of weights, as onnx_ir does: their tensors say them."""
    weights = {weight.name for weight in graph.initializer}
    stated = [info for info in graph.value_info if info.name not in weights]
    if len(stated) < len(graph.value_info):
        del graph.value_info[:]
        graph.value_info.extend(stated)


def to_bytes(model: ir.Model) -> bytes:
    """The model as one byte string, the same for the same model; external weights are drawn in.

    Raises:
        ModelError: if the weights are too large for one protobuf message.
    """
    if weight_bytes(model) > SINGLE_FILE_LIMIT:
        raise ModelError("the weights are larger than 1.8 GB: the model needs external data")
    if any(isinstance(t, ir.ExternalTensor) for t in _all_tensors(model)):
        model = ir.external_data.load_to_model(model.clone())
    return bytes(to_proto(model).SerializeToString(deterministic=True))


def save(model: ir.Model, path: str | os.PathLike[str]) -> list[Path]:
    """Write a model, completely or not at all; returns the files written, the model first.

    Weights above 1.8 GB go to ``<name>.<hash>.data`` beside it: the hash makes the data of an older
    model of the same name survive until the new model is in place.

    Raises:
        UsageError: if the place cannot be written or the disk is full; what was there is unchanged.
    """
    path = Path(path)
    check_apart(path, external_files(model))
    if weight_bytes(model) > SINGLE_FILE_LIMIT:
        with _explained(path):
            return _save_with_data(model, path)
    contents = to_bytes(model)
    with _explained(path):
        _write_atomically(path, contents)
    return [path]


def sha256(path: Path) -> str:
    """The hash of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file, completely or not at all.

    Raises:
        UsageError: if the place cannot be written or the disk is full.
    """
    with _explained(Path(path)):
        _write_atomically(Path(path), text.encode())


def check_writable(path: Path, *, source: Path | None, force: bool) -> None:
    """Find out before hours of work that the result could not be written.

    Raises:
        UsageError: if ``path`` is the input (without ``force``), a folder, or in a folder that cannot be written.
    """
    folder = path.absolute().parent
    with _explained(path):
        if path.is_dir():
            raise UsageError(f"{path} is a folder; give the name of a file with -o")
        if source is not None and _same(path, source) and not force:
            raise UsageError(f"the output {path} is the input itself; choose another with -o, or add --force")
        if not folder.is_dir():
            raise UsageError(f"there is no folder {folder} for the output; make it first")
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".onnxopt-"):
            pass


def check_apart(path: Path, inputs: Iterable[str | os.PathLike[str]]) -> None:
    """Nothing that is read may be written over.

    Raises:
        UsageError: if ``path`` is one of the files ``inputs``, under whatever name.
    """
    if any(_same(path, Path(given)) for given in inputs):
        raise UsageError(f"{path} is read as input, and would be lost; choose another name for what is written")


def external_files(model: ir.Model) -> set[Path]:
    """The files that hold weights of a model."""
    return {Path(tensor.path) for tensor in _all_tensors(model) if isinstance(tensor, ir.ExternalTensor)}


def _same(path: Path, other: Path) -> bool:
    return os.path.exists(path) and os.path.exists(other) and path.samefile(other)


def _parse(path: Path) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(_read(path))
    except DecodeError as error:
        raise ModelError(f"{path} is not an ONNX model, or is cut off; export or copy it again") from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    if not proto.opset_import or not (proto.graph.node or proto.graph.output):
        raise ModelError(f"{path} is not an ONNX model: it holds no graph; export or copy it again")
    return proto


def _read(path: Path) -> bytes:
    if not path.exists():
        raise ModelError(f"there is no file {path}")
    if path.is_dir():
        raise ModelError(f"{path} is a folder; give the .onnx file in it")
    if not path.is_file():
        raise ModelError(f"{path} is not a regular file; give the .onnx file")
    size = path.stat().st_size
    if size == 0:
        raise ModelError(f"{path} is empty; export or copy it again")
    if size > PROTOBUF_LIMIT:
        raise ModelError(f"{path} has {size} bytes, more than protobuf's 2 GB; save its weights as external data")
    return path.read_bytes()


def _draw_in(tensor: onnx.TensorProto, folder: Path) -> None:
    """Read external data now: onnx_ir keeps track of those of initializers alone."""
    entries = soundness.external_entries(tensor)
    size = soundness.byte_count(math.prod(tensor.dims), ir.DataType(tensor.data_type))
    with (folder / entries["location"]).open("rb") as file:
        file.seek(int(entries.get("offset", 0)))
        tensor.raw_data = file.read(size)
    tensor.ClearField("external_data")
    tensor.data_location = onnx.TensorProto.DEFAULT


def _all_tensors(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    yield from (v.const_value for v in initializers(model) if v.const_value is not None)
    yield from attribute_tensors(model)


def _save_with_data(model: ir.Model, path: Path) -> list[Path]:
    with tempfile.TemporaryDirectory(dir=path.absolute().parent, prefix=".onnxopt-") as scratch:
        staged = Path(scratch) / "weights"
        copy = _unloaded(model, Path(scratch), staged.name)
        data = path.with_name(f"{path.stem}.{_hash(staged)}.data")
        for value in initializers(copy):
            if isinstance(value.const_value, ir.ExternalTensor):
                value.const_value = _moved(value.const_value, data.name)
        contents = to_proto(copy).SerializeToString(deterministic=True)
        _flush(staged)
        is_new = not data.exists()
        os.replace(staged, data)
    try:
        _write_atomically(path, contents)
    except BaseException:
        if is_new:
            data.unlink(missing_ok=True)
        raise
    return [path, data]


def _unloaded(model: ir.Model, folder: Path, name: str) -> ir.Model:
    """A copy whose weights are in a file; sparse ones, which would become dense there, stay in the model."""
    copy = model.clone()
    kept = [(value, value.const_value) for value in initializers(copy) if isinstance(value.const_value, SparseTensor)]
    for value, _ in kept:
        value.const_value = ir.Tensor(np.zeros(0, np.uint8), name=value.name)
    ir.external_data.unload_from_model(copy, folder, name, size_threshold_bytes=SMALL_TENSOR)
    for value, contents in kept:
        value.const_value = contents
    return copy


def _moved(tensor: ir.ExternalTensor, location: str) -> ir.ExternalTensor:
    return ir.ExternalTensor(
        location, tensor.offset, tensor.length, tensor.dtype, shape=tensor.shape, name=tensor.name or ""
    )


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:8]


def _write_atomically(path: Path, contents: bytes) -> None:
    path = path.absolute()
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".onnxopt-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(contents)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or str(error)
        raise UsageError(f"{path} cannot be written: {reason}; nothing was changed") from error


def _root(error: BaseException) -> BaseException:
    return error if error.__cause__ is None else _root(error.__cause__)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
