"""Where a report comes from: all that somebody needs to make it again."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from onnxopt import __version__
from onnxopt.files import sha256
from onnxopt.target import instruction_sets, processor

PACKAGES = ("onnx", "onnx-ir", "numpy")
RUNTIMES = ("onnxruntime", "onnxruntime-gpu")
DECISIVE = (
    "avx2", "fma", "f16c", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16",
    "asimd", "asimddp", "i8mm", "bf16", "sve",
)  # fmt: skip
"""Instruction sets, as Linux names them, on which it depends which kernels ONNX Runtime runs."""
LARGEST = 4 * 2**30
"""Bytes of a folder of data whose contents are still hashed."""


@dataclass(frozen=True)
class HashedFile:
    """A file that was read or written.

    Attributes:
        role: ``model``, ``weights``, ``data``, ``eval data`` or ``result``.
        path: as given.
        size: bytes.
        sha256: of its bytes; of a folder, of the names and hashes of all files in it. None where it is too large.
    """

    role: str
    path: str
    size: int
    sha256: str | None


@dataclass(frozen=True)
class Origin:
    """How to reproduce a report.

    Attributes:
        command: words of the command line.
        files: read and written, with hashes.
        seed: of every random choice.
        versions: package to version.
        machine: processor, cores, instruction sets, memory, load, system.
        when: the time in ISO 8601. Nothing else of a report differs only by it.
    """

    command: tuple[str, ...]
    files: tuple[HashedFile, ...]
    seed: int
    versions: Mapping[str, str]
    machine: Mapping[str, Any]
    when: str

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def now() -> str:
    """This second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def hashed(role: str, path: Path) -> HashedFile:
    """A file, or a folder of files, with its hash."""
    if not path.is_dir():
        return HashedFile(role, str(path), path.stat().st_size, sha256(path))
    files = sorted(file for file in path.rglob("*") if file.is_file())
    size = sum(file.stat().st_size for file in files)
    if size > LARGEST:
        return HashedFile(role, str(path), size, None)
    listing = "".join(f"{sha256(file)}  {file.relative_to(path).as_posix()}\n" for file in files)
    return HashedFile(role, str(path), size, hashlib.sha256(listing.encode(errors="surrogateescape")).hexdigest())


def hashes(files: Iterable[tuple[str, Path | str | None]]) -> tuple[HashedFile, ...]:
    """Those that are files; a ``module:function`` is none."""
    return tuple(hashed(role, Path(path)) for role, path in files if path is not None and Path(path).exists())


def versions() -> dict[str, str]:
    """What computes: onnxopt, ONNX Runtime, what holds models and numbers, and Python."""
    found = {"onnxopt": __version__, "python": platform.python_version()}
    for name in (*RUNTIMES, *PACKAGES):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """This machine, and its load now."""
    import psutil

    return {
        "processor": processor(),
        "cores": os.cpu_count() or 1,
        "instruction_sets": [name for name in DECISIVE if name in instruction_sets()],
        "memory": int(psutil.virtual_memory().total),
        "system": platform.platform(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }
