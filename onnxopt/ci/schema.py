"""Values of a TOML table, read strictly: each word known, each type right, each path inside the folder."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxopt.core import suggestion
from onnxopt.errors import UsageError

Read = Callable[[Any], Any]
"""Turns a value of TOML into ours, or raises ValueError with what is wanted: "a whole number above 0"."""

UNITS = {"": 1, "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9,
         "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}  # fmt: skip
OFF = "off"
"""In place of a limit: none, although the defaults give one."""


@dataclass(frozen=True)
class Place:
    """A folder in which paths are, and where in the file a value stands, for messages.

    Attributes:
        folder: of the TOML file; paths are relative to it.
        words: file and table: ``onnxopt.toml: [[model]] "digits"``.
        outside: whether paths may leave the folder.
    """

    folder: Path
    words: str
    outside: bool = False

    def error(self, what: str) -> UsageError:
        """A sentence with where it is."""
        return UsageError(f"{self.words}: {what}")


def table(values: Any, known: Mapping[str, Read], place: Place) -> dict[str, Any]:
    """The values of a table that are given, each read by its reader.

    Raises:
        UsageError: for a word that is not known (with the nearest), or a value of the wrong kind.
    """
    if not isinstance(values, dict):
        raise place.error("this must be a table of keys and values")
    found = {}
    for key, value in values.items():
        if key not in known:
            raise place.error(f"there is no key {key!r}{suggestion(key, known)}")
        try:
            found[key] = known[key](value)
        except ValueError as error:
            raise place.error(f"{key} = {_shown(value)}: give {error}") from None
    return found


def text(value: Any) -> str:
    """Words that are not empty, in one line."""
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise ValueError("words in quotes")
    return value


def name(value: Any) -> str:
    """What may stand in a file name and in a report without being read as anything else."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,99}", value, re.ASCII):
        raise ValueError('a name of letters, digits, ".", "-" and "_"')
    return value


def flag(value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise ValueError("true or false, without quotes")
    return value


def whole(value: Any) -> int:
    """A whole number from 0."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError("a whole number from 0")
    return value


def number(value: Any) -> float:
    """A finite number from 0."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < math.inf:
        raise ValueError("a number from 0")
    return float(value)


def positive(value: Any) -> float:
    """A finite number above 0."""
    try:
        found = number(value)
    except ValueError:
        found = 0.0
    if not found:
        raise ValueError("a number above 0")
    return found


def share(value: Any) -> float:
    """``"3%"`` or ``0.03``."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)\s*%", value.strip()) if isinstance(value, str) else None
    if match:
        return float(match[1]) / 100
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1:
        return float(value)
    raise ValueError('a share, "3%" or 0.03')


def size(value: Any) -> int:
    """``"2.5 MB"``, ``"2 MiB"`` or a number of bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", value.strip()) if isinstance(value, str) else None
    if match and match[2] in UNITS:
        return int(float(match[1]) * UNITS[match[2]])
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    raise ValueError('a size, "2.5 MB" (kB, MB, GB, KiB, MiB, GiB) or a number of bytes')


def limit(read: Read) -> Read:
    """The same, or ``"off"``, which gives None."""

    def limited(value: Any) -> Any:
        try:
            return None if value == OFF else read(value)
        except ValueError as error:
            raise ValueError(f'{error}, or "{OFF}"') from None

    return limited


def choice(*words: str) -> Read:
    """One of these words."""

    def chosen(value: Any) -> str:
        if value not in words:
            raise ValueError(" or ".join(f'"{word}"' for word in words))
        return str(value)

    return chosen


def several(read: Read) -> Read:
    """One, or a list of at least one, each once; as a tuple."""

    def listed(value: Any) -> tuple[Any, ...]:
        found = tuple(read(each) for each in (value if isinstance(value, list) else [value]))
        if not found or len(set(found)) < len(found):
            raise ValueError("a list of at least one, each of them once")
        return found

    return listed


def count(value: Any) -> int:
    """A whole number from 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError("a whole number from 1")
    return value


def shapes(value: Any) -> dict[str, tuple[int, ...]]:
    """``{ image = [1, 3, 224, 224], sequence = 64 }``: of an input, or of a dynamic dimension by its name."""
    wanted = "a table of shapes: { image = [1, 3, 224, 224], sequence = 64 }"
    if not isinstance(value, dict) or not value:
        raise ValueError(wanted)
    try:
        return {key: tuple(map(count, dims if isinstance(dims, list) else [dims])) for key, dims in value.items()}
    except ValueError:
        raise ValueError(wanted) from None


def words(value: Any) -> dict[str, str]:
    """A table of words: ``{ state_in = "state_out" }``."""
    if not isinstance(value, dict) or not value or not all(isinstance(each, str) for each in value.values()):
        raise ValueError('a table of names: { state_in = "state_out" }')
    return dict(value)


def inside(path: Any, place: Place) -> Path:
    """A path, relative to the folder of the file; what leaves it, by a link too, is refused.

    Raises:
        ValueError: with what is wanted.
    """
    written = Path(text(path))
    found = place.folder / written
    if place.outside:
        return found
    if written.is_absolute() or not found.resolve().is_relative_to(place.folder.resolve()):
        raise ValueError("a path inside the folder of this file, or say allow_outside = true under [ci]")
    return found


def source(value: Any, place: Place) -> str:
    """Where samples come from: a path, ``package.module:function``, or ``file.py:function``."""
    place_of, colon, function = text(value).rpartition(":")
    if not colon:
        return str(inside(value, place))
    return f"{inside(place_of, place)}:{function}" if place_of.endswith(".py") else str(value)


def apart(paths: Iterable[tuple[str, Path]], place: Place) -> None:
    """Nothing that is written may be written twice.

    Raises:
        UsageError: if two of the paths, each with what it is for, are one.
    """
    seen: dict[Path, str] = {}
    for what, path in paths:
        if other := seen.get(path.resolve()):
            raise place.error(f"{path} would be written twice, for {other} and for {what}")
        seen[path.resolve()] = what


def _shown(value: Any) -> str:
    words = "true" if value is True else "false" if value is False else repr(value)
    return words if len(words) <= 60 else f"{words[:57]}..."
