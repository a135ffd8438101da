"""The two 16-bit formats: how far they reach, how finely, and what becomes of float32 numbers in them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxopt.graph import opset


@dataclass(frozen=True)
class Half:
    """A format of 16 bits.

    Attributes:
        name: as users and ONNX write it.
        dtype: of tensors.
        largest: the largest finite number.
        step: the smallest number, and the distance of small ones.
        unit: largest relative error of rounding, but for small numbers.
        opset: the first in which operators take it.
    """

    name: str
    dtype: ir.DataType
    largest: float
    step: float
    unit: float
    opset: int

    @property
    def overflows(self) -> bool:
        """Whether numbers that networks compute may be beyond the largest; bfloat16 reaches as far as float32."""
        return self.largest < 1e30

    @property
    def filling(self) -> float:
        """What stands for "very negative" in a mask: two of them, and what they are added to, are still finite."""
        return self.largest / 2

    def missing(self, model: ir.Model) -> str | None:
        """Why a model cannot have it, if so."""
        if opset(model) >= self.opset:
            return None
        return f"{self.name} needs opset {self.opset}, and the model has {opset(model)}; upgrade-opset first"


FLOAT16 = Half("float16", ir.DataType.FLOAT16, 65504.0, 2.0**-24, 2.0**-11, 7)
BFLOAT16 = Half("bfloat16", ir.DataType.BFLOAT16, 2.0**127 * (2 - 2.0**-7), 2.0**-133, 2.0**-8, 13)
HALVES = {half.name: half for half in (FLOAT16, BFLOAT16)}


@dataclass(frozen=True)
class Rounded:
    """Numbers in 16 bits.

    Attributes:
        numbers: the same shape.
        zeros: how many became zero.
        capped: how many were beyond the largest; they became ``filling``.
        error: length of the difference in that of the numbers, of those that are finite and not capped.
    """

    numbers: np.ndarray
    zeros: int
    capped: int
    error: float


def rounded(numbers: np.ndarray, half: Half) -> Rounded:
    """Float32 numbers in 16 bits; infinities and NaN stay."""
    beyond = np.isfinite(numbers) & (np.abs(numbers) > half.largest)
    capped = int(beyond.sum())
    if capped:
        numbers = np.where(beyond, np.sign(numbers) * np.float32(half.filling), numbers)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        found = numbers.astype(half.dtype.numpy())
    plain = np.isfinite(numbers) & ~beyond
    kept = np.where(plain, numbers, 0).astype(np.float64)
    back = np.where(plain, found.astype(np.float32), 0).astype(np.float64)
    length = float(np.square(kept).sum())
    error = float(np.sqrt(np.square(kept - back).sum() / length)) if length else 0.0
    zeros = int(((back == 0) & (kept != 0)).sum())
    return Rounded(found, zeros, capped, error)
