"""Load weights into a module: safetensors or a state dict, never a pickle that could run code."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from onnxopt.errors import DataError, UsageError

CONTAINERS = ("state_dict", "model_state_dict", "model", "module")
"""Under which keys training scripts put the state dict."""
RENAMED = ((".gamma", ".weight"), (".beta", ".bias"))
"""Names of LayerNorm in checkpoints that came from TensorFlow, and ours."""
SHOWN = 8
"""Names listed of each kind."""
INFLATION = 4
"""How much more than its size on disk a file may hold."""


@dataclass(frozen=True)
class Loaded:
    """What was loaded.

    Attributes:
        path: the file.
        count: tensors that were loaded.
        prefix: of the names in the file that was added (``+bert.``) or removed (``-module.``); empty if none.
        missing: tensors of the module that the file has not.
        unexpected: tensors of the file that the module has not.
    """

    path: Path
    count: int
    prefix: str
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()


def load_weights(module: nn.Module, path: Path, *, strict: bool = True, unused: Iterable[str] = ()) -> Loaded:
    """Load the weights of a file into a module.

    A prefix that all names on one side have (``module.`` of DataParallel, ``bert.``) may differ. Tensors
    tied to a loaded one may be missing.

    Args:
        module: changed in place, only if all fits.
        path: ``.safetensors``, or what ``torch.save`` wrote.
        strict: whether missing and unexpected names are errors; wrong shapes always are.
        unused: patterns of names that a file may have and the module need not (heads that are not exported).

    Raises:
        UsageError: if safetensors is not installed.
        DataError: if the file cannot be read, holds code, or does not fit; says which names.
    """
    given = read(path)
    wanted = module.state_dict()
    renamed, prefix = _fitted(given, wanted)
    wrong = [
        f"{name} is {_shape(renamed[name])}, the module has {_shape(wanted[name])}"
        for name in wanted
        if name in renamed and renamed[name].shape != wanted[name].shape
    ]
    missing = [name for name in _untied(wanted, renamed) if not name.endswith("num_batches_tracked")]
    unexpected = [name for name in renamed if name not in wanted and not any(fnmatch(name, one) for one in unused)]
    problems = [_listed("of another shape", wrong)]
    if strict:
        problems += [_listed("missing from the file", missing), _listed("unknown to the module", unexpected)]
    if any(problems):
        hint = "" if wrong else "; --no-strict loads the others"
        raise DataError(f"{path} does not fit the module: {'; '.join(filter(None, problems))}{hint}")
    fitting = {name: tensor for name, tensor in renamed.items() if name in wanted}
    if not fitting:
        raise DataError(f"{path} has no tensor whose name the module knows; {_listed('in the file', [*given])}")
    module.load_state_dict(fitting, strict=False)
    return Loaded(path, len(fitting), prefix, tuple(missing), tuple(unexpected))


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name.

    Raises:
        UsageError: if safetensors is not installed.
        DataError: if the file is missing, damaged, or holds more than tensors.
    """
    if not path.is_file():
        raise DataError(f"there is no weights file {path}")
    found = _safetensors(path) if path.suffix == ".safetensors" else _state_dict(path)
    for key in CONTAINERS:
        if isinstance(found.get(key), Mapping):
            found = found[key]
            break
    others = [name for name, value in found.items() if not isinstance(value, Tensor)]
    if others or not found:
        what = f"{others[0]!r} is a {type(found[others[0]]).__name__}" if others else "it is empty"
        raise DataError(f"{path} is not a state dict: {what}; save module.state_dict()")
    return {str(name): tensor for name, tensor in found.items()}


def _safetensors(path: Path) -> dict[str, Any]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ModuleNotFoundError as error:
        raise UsageError("safetensors is not installed: pip install 'onnxopt[torch]'") from error
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} is not a safetensors file, or is cut off: {error}") from error


def _state_dict(path: Path) -> dict[str, Any]:
    _check_size(path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files end in many ways
        refused = "weights only load failed" in str(error).lower()
        what = (
            "holds more than tensors, perhaps code, and was not loaded" if refused else "cannot be read, or is cut off"
        )
        raise DataError(f"{path} {what}; save module.state_dict() alone, or safetensors") from error
    if not isinstance(found, Mapping):
        raise DataError(f"{path} is not a state dict but a {type(found).__name__}; save module.state_dict()")
    return dict(found)


def _check_size(path: Path) -> None:
    """Refuse an archive that would grow in memory: torch.save does not compress."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            held = sum(entry.file_size for entry in archive.infolist())
        if held > INFLATION * path.stat().st_size:
            raise DataError(f"{path} would grow to {held} bytes when read, which no state dict does; it was not loaded")


def _fitted(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """The tensors under the module's names, with the prefix that makes most of them fit."""
    given = {_today(name): tensor for name, tensor in given.items()}
    best, said = dict(given), ""
    for change in sorted({f"-{one}" for one in _prefixes(given)} | {f"+{one}" for one in _prefixes(wanted)}):
        prefix = change[1:]
        renamed = {name.removeprefix(prefix) if change[0] == "-" else prefix + name: t for name, t in given.items()}
        if len(renamed.keys() & wanted.keys()) > len(best.keys() & wanted.keys()):
            best, said = renamed, change
    return best, said


def _prefixes(names: Iterable[str]) -> set[str]:
    """First components, as far as three deep: ``module.``, ``module.bert.``."""
    parts = [name.split(".") for name in names]
    return {".".join(one[:depth]) + "." for one in parts for depth in (1, 2, 3) if len(one) > depth}


def _today(name: str) -> str:
    for old, new in RENAMED:
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def _untied(wanted: Mapping[str, Tensor], renamed: Mapping[str, Tensor]) -> list[str]:
    """Names that are not loaded, and not tied to one that is."""
    loaded = {wanted[name].data_ptr() for name in renamed if name in wanted}
    return [name for name, tensor in wanted.items() if name not in renamed and tensor.data_ptr() not in loaded]


def _shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))


def _listed(kind: str, names: list[str]) -> str:
    if not names:
        return ""
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{len(names)} {kind}: {', '.join(names[:SHOWN])}{rest}"
