"""Load and save models: external data, sparse weights, path safety, sizes, atomic writes.

A model file may be hostile: sizes are checked before anything is allocated, and external
data are read only from the model's own folder. A write is complete or did not happen: it
goes to a temporary file in the same folder, is flushed to disk, and then renamed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from onnxopt import sparse
from onnxopt.errors import ModelError, UsageError
from onnxopt.graph import attribute_tensors, initializers, weight_bytes

PROTOBUF_LIMIT = 2**31 - 1
SINGLE_FILE_LIMIT = 1_800_000_000
"""Bytes of weights above which they go to a file beside the model: protobuf ends at 2 GB."""


def load(path: str | os.PathLike[str]) -> ir.Model:
    """Read a model; weights in external files stay there until they are needed.

    Raises:
        ModelError: if the file is missing, empty, truncated, not ONNX, of an unknown opset, or if its
            external data are missing, of the wrong size, or outside the model's folder.
    """
    path = Path(path).absolute()
    proto = _parse(path)
    _check_opsets(proto, path)
    for owner in _tensors(proto):
        _check_tensor(owner, path)
    weights = sparse.take_out(proto)
    try:
        model = ir.serde.deserialize_model(proto)
    except Exception as error:
        raise ModelError(f"{path}: the graph is not valid ONNX: {_first_line(error)}") from error
    ir.external_data.set_base_dir(model.graph, path.parent)
    sparse.put_back(model, weights)
    return model


def to_proto(model: ir.Model) -> onnx.ModelProto:
    """The protobuf form, sparse weights included. Weights in external files are still there."""
    return sparse.serialize(model)


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
    with _explained(path):
        if weight_bytes(model) <= SINGLE_FILE_LIMIT:
            _write_atomically(path, to_bytes(model))
            return [path]
        return _save_with_data(model, path)


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
    if path.is_dir():
        raise UsageError(f"{path} is a folder; give the name of a file with -o")
    if source is not None and path.exists() and path.samefile(source) and not force:
        raise UsageError(f"the output {path} is the input itself; choose another with -o, or add --force")
    folder = path.absolute().parent
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder} for the output; make it first")
    with _explained(path), tempfile.NamedTemporaryFile(dir=folder, prefix=".onnxopt-"):
        pass


def _parse(path: Path) -> onnx.ModelProto:
    if not path.exists():
        raise ModelError(f"there is no file {path}")
    if path.is_dir():
        raise ModelError(f"{path} is a folder; give the .onnx file in it")
    size = path.stat().st_size
    if size == 0:
        raise ModelError(f"{path} is empty; export or copy it again")
    if size > PROTOBUF_LIMIT:
        raise ModelError(f"{path} has {size} bytes, more than protobuf's 2 GB; save its weights as external data")
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise ModelError(f"{path} is not an ONNX model, or is cut off; export or copy it again") from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    if not proto.opset_import or not (proto.graph.node or proto.graph.output):
        raise ModelError(f"{path} is not an ONNX model: it holds no graph")
    return proto


def _check_opsets(proto: onnx.ModelProto, path: Path) -> None:
    newest = onnx.defs.onnx_opset_version()
    for opset in proto.opset_import:
        if opset.domain in ("", "ai.onnx") and not 1 <= opset.version <= newest:
            raise ModelError(
                f"{path} asks for opset {opset.version}, and the installed onnx knows 1 to {newest}; "
                "export it with a lower opset, or upgrade onnx and onnxruntime"
            )


def _tensors(message: Any) -> Iterator[onnx.TensorProto]:
    """Every TensorProto in a model, wherever it hides."""
    graphs = [message.graph]
    nodes = [node for function in message.functions for node in function.node]
    while graphs or nodes:
        if graphs:
            graph = graphs.pop()
            yield from graph.initializer
            nodes.extend(graph.node)
            continue
        for attribute in nodes.pop().attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            graphs.extend([attribute.g] if attribute.HasField("g") else [])
            graphs.extend(attribute.graphs)


def _check_tensor(tensor: onnx.TensorProto, path: Path) -> None:
    """The declared size must be the size there is, before anybody allocates it."""
    if any(dim < 0 for dim in tensor.dims):
        raise ModelError(f"{path}: tensor {tensor.name!r} has a negative dimension; the file is damaged")
    try:
        bits = ir.DataType(tensor.data_type).bitwidth
    except (ValueError, TypeError):
        bits = 0  # strings and undefined types hold no raw bytes
    expected = math.ceil(math.prod(tensor.dims) * bits / 8)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        _check_external(tensor, expected, path)
    elif tensor.HasField("raw_data") and bits and len(tensor.raw_data) != expected:
        raise ModelError(
            f"{path}: tensor {tensor.name!r} should have {expected} bytes and has {len(tensor.raw_data)}; "
            "the file is damaged"
        )


def _check_external(tensor: onnx.TensorProto, expected: int, path: Path) -> None:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    file = path.parent / location
    folder = path.parent.resolve()
    if not location or not file.resolve().is_relative_to(folder):
        raise ModelError(
            f"{path}: the weights of {tensor.name!r} are at {location!r}, outside the model's folder; "
            "onnxopt reads external data only from there"
        )
    if not file.is_file():
        raise ModelError(f"{path}: its external data file {file} is missing; copy it beside the model")
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


def _all_tensors(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    yield from (v.const_value for v in initializers(model) if v.const_value is not None)
    yield from attribute_tensors(model)


def _save_with_data(model: ir.Model, path: Path) -> list[Path]:
    with tempfile.TemporaryDirectory(dir=path.absolute().parent, prefix=".onnxopt-") as scratch:
        staged = Path(scratch) / "weights"
        copy = ir.external_data.unload_from_model(model.clone(), scratch, staged.name)
        data = path.with_name(f"{path.stem}.{_hash(staged)}.data")
        for value in initializers(copy):
            if isinstance(value.const_value, ir.ExternalTensor):
                value.const_value = _moved(value.const_value, data.name)
        proto = to_proto(copy)
        _flush(staged)
        os.replace(staged, data)
    _write_atomically(path, proto.SerializeToString(deterministic=True))
    return [path, data]


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


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
