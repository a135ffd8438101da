"""Arrays on disk, read row by row: ``.npy``, ``.npz``, and a scratch folder for what must be unpacked.

Nothing is unpickled, and sizes in headers are compared with the bytes that are there before memory is taken.
Arrays are memory-mapped for each read and let go after it, so many shards need few file handles.
"""

from __future__ import annotations

import math
import os
import shutil
import struct
import tempfile
import uuid
import weakref
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from onnxopt.data.spec import Array
from onnxopt.errors import DataError

_BROKEN_ZIP = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError, struct.error)
_CHUNK = 1 << 20


class Part(Protocol):
    """An array, or a stretch of one, with samples on axis 0."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(samples, ...)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the elements as they are stored."""

    def rows(self, index: Array) -> Array:
        """The samples at these places, (len(index), ...), in memory."""


@dataclass(frozen=True, eq=False)
class MemoryArray:
    """A part that is in memory already."""

    array: Array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.array.dtype

    def rows(self, index: Array) -> Array:
        return np.asarray(self.array[index])


class Scratch:
    """A temporary folder that goes when nothing refers to it any more, or at exit."""

    @cached_property
    def folder(self) -> Path:
        """Made when first asked for."""
        path = Path(tempfile.mkdtemp(prefix="onnxopt-"))
        weakref.finalize(self, shutil.rmtree, path, ignore_errors=True)
        return path

    def reserve(self, size: int, what: str) -> None:
        """Raise DataError if ``size`` bytes would (nearly) fill the disk."""
        free = shutil.disk_usage(self.folder).free
        if size > 0.9 * free:
            raise DataError(
                f"{what}: {size:,} more bytes are needed in {self.folder.parent}, where {free:,} are free; "
                "set TMPDIR to a larger disk"
            )


@dataclass(frozen=True, eq=False)
class RawArray:
    """Elements that lie plainly in a file, from ``offset`` bytes on."""

    path: Path
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int = 0
    fortran: bool = False
    scratch: Scratch | None = None
    """Kept alive as long as this array, where the file lies in it."""

    def rows(self, index: Array) -> Array:
        if 0 in self.shape:
            return np.empty((len(index), *self.shape[1:]), self.dtype)
        order: Any = "F" if self.fortran else "C"
        try:
            mapped = np.memmap(self.path, self.dtype, "r", self.offset, self.shape, order)
        except (OSError, ValueError) as error:
            raise DataError(f"{self.path} can no longer be read: {error}") from None
        return np.asarray(mapped[index])


@dataclass(frozen=True, eq=False)
class ZippedArray:
    """A compressed member of an ``.npz``: unpacked to the scratch folder at first use, then mapped."""

    path: Path
    member: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    header: int
    fortran: bool
    scratch: Scratch

    def rows(self, index: Array) -> Array:
        return self._unpacked.rows(index)

    @cached_property
    def _unpacked(self) -> RawArray:
        size = _size(self.shape, self.dtype)
        where = f"{self.path}: array {self.member!r}"
        self.scratch.reserve(size, where)
        target = self.scratch.folder / uuid.uuid4().hex
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as stream:
                stream.read(self.header)
                with target.open("wb") as out:
                    written = _copy(stream, out, size)
        except _BROKEN_ZIP as error:
            raise DataError(f"{where} is damaged ({error}); write the file again") from None
        if written != size:
            raise DataError(f"{where} is damaged (it ends early); write the file again")
        return RawArray(target, self.dtype, self.shape, 0, self.fortran, self.scratch)


def read_npy(path: Path) -> RawArray:
    """One ``.npy`` file, mapped.

    Raises:
        DataError: if it is no such file, shorter than its header says, or holds Python objects.
    """
    try:
        with path.open("rb") as stream:
            shape, fortran, dtype = _read_header(stream, str(path))
            offset = stream.tell()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    _check_size(shape, dtype, path.stat().st_size - offset, str(path))
    return RawArray(path, dtype, shape, offset, fortran)


def read_npz(path: Path) -> dict[str, Part]:
    """The arrays of an ``.npz``: stored members are mapped in place, compressed ones unpacked at first use.

    Raises:
        DataError: if the file or one of its members is damaged, or an array holds Python objects.
    """
    scratch = Scratch()
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            return {m.filename.removesuffix(".npy"): _read_member(path, archive, m, scratch) for m in members}
    except _BROKEN_ZIP as error:
        raise DataError(f"{path} is not a readable .npz file ({error}); write it with numpy.savez") from None


def _read_member(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo, scratch: Scratch) -> Part:
    where = f"{path}: array {member.filename.removesuffix('.npy')!r}"
    with archive.open(member) as stream:
        shape, fortran, dtype = _read_header(stream, where)
        header = stream.tell()
    _check_size(shape, dtype, member.file_size - header, where)
    if member.compress_type != zipfile.ZIP_STORED:
        return ZippedArray(path, member.filename, dtype, shape, header, fortran, scratch)
    offset = _member_start(path, member) + header
    _check_size(shape, dtype, path.stat().st_size - offset, where)
    return RawArray(path, dtype, shape, offset, fortran)


def _member_start(path: Path, member: zipfile.ZipInfo) -> int:
    """Where the member's bytes begin: after its local header of 30 bytes, its name and its extra field."""
    with path.open("rb") as stream:
        stream.seek(member.header_offset)
        name, extra = struct.unpack("<HH", stream.read(30)[26:])
    return int(member.header_offset + 30 + name + extra)


def _read_header(stream: IO[bytes], where: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    form = np.lib.format
    try:
        version = form.read_magic(stream)
        read = {(1, 0): form.read_array_header_1_0, (2, 0): form.read_array_header_2_0}[version]
        shape, fortran, dtype = read(stream)
    except Exception as error:  # a hostile header can make literal_eval raise nearly anything
        raise DataError(f"{where} is not a readable .npy array ({error}); write it with numpy.save") from None
    if dtype.hasobject:
        raise DataError(f"{where} holds Python objects, which are never unpickled; store numbers or strings")
    return shape, fortran, dtype


def _size(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Bytes, in Python's integers, which do not overflow."""
    return math.prod(shape) * dtype.itemsize


def _check_size(shape: tuple[int, ...], dtype: np.dtype[Any], there: int, where: str) -> None:
    need = _size(shape, dtype)
    if min(shape, default=0) < 0 or need > there:
        raise DataError(
            f"{where} is damaged: shape {shape} of {dtype} needs {need:,} bytes, and there are {there:,}; "
            "write the file again"
        )


def _copy(stream: IO[bytes], out: IO[bytes], size: int) -> int:
    """Copy at most ``size`` bytes; reading on to the end makes zipfile compare the checksum."""
    left = size
    while left and (chunk := stream.read(min(left, _CHUNK))):
        left -= out.write(chunk)
    stream.read(1)
    return size - left


class Spill:
    """Batches that arrive once, written to a scratch folder: one raw file per array.

    Attributes:
        shards: name to array; batches of the same shapes and dtypes grow one shard.
    """

    def __init__(self) -> None:
        self.shards: list[dict[str, Part]] = []
        self._last: dict[str, RawArray] = {}
        self._scratch = Scratch()
        self._files: dict[str, Path] = {}

    def append(self, batch: Mapping[str, Array], what: str) -> None:
        """Write one batch (name to array, samples on axis 0).

        Raises:
            DataError: if the disk would be full.
        """
        self._scratch.reserve(sum(array.nbytes for array in batch.values()), what)
        parts = {name: self._write(name, array) for name, array in batch.items()}
        if self._last.keys() == parts.keys() and all(_continues(self._last[n], parts[n]) for n in parts):
            parts = {name: _joined(self._last[name], part) for name, part in parts.items()}
            self.shards.pop()
        self._last = parts
        self.shards.append(dict(parts))

    def _write(self, name: str, array: Array) -> RawArray:
        path = self._files.setdefault(name, self._scratch.folder / str(len(self._files)))
        with path.open("ab") as out:
            offset = os.fstat(out.fileno()).st_size
            out.write(array.tobytes())
        return RawArray(path, array.dtype, array.shape, offset, scratch=self._scratch)


def _continues(first: RawArray, second: RawArray) -> bool:
    return first.dtype == second.dtype and first.shape[1:] == second.shape[1:]


def _joined(first: RawArray, second: RawArray) -> RawArray:
    return replace(first, shape=(first.shape[0] + second.shape[0], *first.shape[1:]))


@dataclass(frozen=True, eq=False)
class Column:
    """One array of the data set: its parts, one after the other on axis 0."""

    name: str
    parts: tuple[Part, ...]

    @cached_property
    def _ends(self) -> Array:
        return np.cumsum([part.shape[0] for part in self.parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, rows: Array) -> Array:
        """The samples with these numbers, (len(rows), ...), in that order.

        Raises:
            DataError: if they have different shapes, and so cannot be one array.
        """
        owners = np.searchsorted(self._ends, rows, side="right")
        pieces = [(owners == k, self._from_part(int(k), rows[owners == k])) for k in np.unique(owners)]
        if len(pieces) == 1:
            return pieces[0][1]
        shapes = sorted({piece.shape[1:] for _, piece in pieces})
        if len(shapes) > 1:
            raise DataError(
                f"array {self.name!r} has samples of shapes {shapes[0]} and {shapes[1]}, which cannot share "
                "a batch; pad them to one shape, or use batches of 1"
            )
        result = np.empty((len(rows), *shapes[0]), np.result_type(*(piece.dtype for _, piece in pieces)))
        for where, piece in pieces:
            result[where] = piece
        return result

    def _from_part(self, part: int, rows: Array) -> Array:
        start = self._ends[part] - self.parts[part].shape[0]
        return self.parts[part].rows(rows - start)
