"""What the model's inputs expect of arrays: rank, fixed dimensions, dtype, finite values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxopt.errors import DataError

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class InputSpec:
    """One input of the model.

    Attributes:
        name: as in the model.
        dtype: of its elements; ``object`` for strings.
        shape: a fixed dimension is an int, a dynamic one a str or None; None alone where the rank is unknown.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str | None, ...] | None

    def __str__(self) -> str:
        """As users read it: ``float32[batch,3,224,224]``."""
        dims = "..." if self.shape is None else ",".join("?" if d is None else str(d) for d in self.shape)
        return f"{_dtype_name(self.dtype)}[{dims}]"

    @property
    def fixed_batch(self) -> int | None:
        """The fixed dimension of axis 0, None where it is dynamic or absent."""
        first = self.shape[0] if self.shape else None
        return first if isinstance(first, int) else None


def takes_whole_feeds(spec: InputSpec, shape: tuple[int, ...], where: str) -> bool:
    """Whether each element on axis 0 is one complete feed (else axis 0 is the batch axis).

    Args:
        spec: the input.
        shape: of the array given for it, (samples, ...).
        where: the file, for messages.

    Raises:
        DataError: if the rank or a fixed dimension does not fit.
    """
    rank = None if spec.shape is None else len(spec.shape)
    if not shape or rank not in (None, len(shape), len(shape) - 1):
        raise DataError(
            f"{where}: array {spec.name!r} has shape {shape}, but the input is {spec}; "
            f"give samples on axis 0, so {_expected_ranks(rank)}"
        )
    if spec.shape is None:
        return False
    whole = rank == len(shape) - 1
    for axis, (want, have) in enumerate(zip(spec.shape if whole else spec.shape[1:], shape[1:], strict=True), 1):
        if isinstance(want, int) and want != have:
            raise DataError(
                f"{where}: array {spec.name!r} has {have} on axis {axis} (shape {shape}), "
                f"but the input is {spec}; it must be {want}"
            )
    return whole


def check_dtype(spec: InputSpec, dtype: np.dtype[Any], where: str) -> None:
    """Refuse a dtype of another kind; widths within a kind are cast when a batch is made.

    Raises:
        DataError: with the line of numpy that would help.
    """
    have, want = kind(dtype), kind(spec.dtype)
    if have == want:
        return
    advice = f"store {spec.name}.astype(np.{_dtype_name(spec.dtype)})"
    if want == "floats" and have == "integers":
        advice += ", scaled as the model was trained (for example / 255)"
    raise DataError(f"{where}: array {spec.name!r} is {_dtype_name(dtype)}, but the input is {spec}; {advice}")


def cast(spec: InputSpec, array: Array, rows: Array, where: str) -> Array:
    """The array in the input's dtype, checked value by value.

    Args:
        spec: the input.
        array: samples on axis 0, (len(rows), ...).
        rows: their numbers in the data, for messages.
        where: the file, for messages.

    Raises:
        DataError: for NaN or inf, and integers that do not fit.
    """
    if kind(spec.dtype) == "strings":
        text = np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array
        return text.astype(object)
    with np.errstate(over="ignore", invalid="ignore"):
        result = array if array.dtype == spec.dtype else array.astype(spec.dtype)
    if kind(spec.dtype) == "integers" and result is not array:
        _refuse_first(result != array, rows, f"{where}: array {spec.name!r} does not fit {spec}")
    if kind(spec.dtype) == "floats":
        _refuse_first(~np.isfinite(result), rows, f"{where}: array {spec.name!r} has NaN or inf")
    return result


def kind(dtype: np.dtype[Any]) -> str:
    """``floats`` (bfloat16 and the like too), ``integers``, ``strings``, ``bool``, or numpy's own name."""
    if dtype.kind in "OUST":
        return "strings"
    if dtype.kind in "iu" or dtype.name.startswith(("int", "uint")):
        return "integers"
    if dtype.kind == "f" or dtype.name.startswith(("bfloat", "float")):
        return "floats"
    return dtype.name


def _refuse_first(bad: Array, rows: Array, problem: str) -> None:
    wrong = bad.reshape(len(rows), -1).any(axis=1)
    if wrong.any():
        raise DataError(f"{problem} at sample {rows[wrong.argmax()]}; correct or leave out that sample")


def _expected_ranks(rank: int | None) -> str:
    if rank is None:
        return "at least 1 axis"
    return "shape (n,)" if rank == 0 else f"{rank} axes, or {rank + 1} if each element is a complete feed"


def _dtype_name(dtype: np.dtype[Any]) -> str:
    return "str_" if kind(dtype) == "strings" else dtype.name
