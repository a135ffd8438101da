"""The forms in which a constant can be stored, and what each stands for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from onnxopt.passes.cluster.codebook import Codes
from onnxopt.passes.cluster.words import Packing, packing

NODE = 45
"""Bytes of a node and its names, about."""


class Form(ABC):
    """A constant in another form."""

    @property
    @abstractmethod
    def values(self) -> np.ndarray:
        """What is read in place of the constant: of its shape and type."""

    @property
    @abstractmethod
    def words(self) -> str:
        """As reports say it."""


@dataclass(frozen=True, eq=False)
class Packed(Form):
    """Codes into a table, in words; and what the values of the table are multiplied with.

    Attributes:
        codes: of the constant's shape.
        table: float32 or int8 ``[levels]``.
        scales: float32, broadcasts to the shape; None: of ones.
        fits: the words are parts of rows that are looked up, so that a row is a whole number of words.
    """

    codes: Codes
    table: np.ndarray
    scales: np.ndarray | None = None
    fits: bool = False

    @cached_property
    def packing(self) -> Packing:
        """How the codes are packed."""
        found = packing(len(self.table), digits=self.codes.shape[-1] if self.fits else None)
        assert found is not None
        return found

    @property
    def values(self) -> np.ndarray:
        """The numbers that the codes stand for."""
        found = self.table[self.codes]
        return found if self.scales is None else np.asarray(found * self.scales, np.float32)

    @property
    def words(self) -> str:
        """Levels and bits."""
        return f"{len(self.table)} values ({self.packing.bits:.2f} bits)"


@dataclass(frozen=True, eq=False)
class Grid(Form):
    """Integers of 8 bits, and what they are multiplied with.

    Attributes:
        integers: int8, of the constant's shape.
        scales: float32, broadcasts to the shape.
    """

    integers: np.ndarray
    scales: np.ndarray

    @property
    def values(self) -> np.ndarray:
        """The products."""
        return np.asarray(self.integers.astype(np.float32) * self.scales, np.float32)

    @property
    def words(self) -> str:
        """Bits."""
        return "int8"


@dataclass(frozen=True, eq=False)
class Half(Form):
    """Halves.

    Attributes:
        numbers: float16, of the constant's shape.
    """

    numbers: np.ndarray

    @property
    def values(self) -> np.ndarray:
        """As float32."""
        return self.numbers.astype(np.float32)

    @property
    def words(self) -> str:
        """The type."""
        return "float16"


@dataclass(frozen=True, eq=False)
class Whole(Form):
    """The constant as it is.

    Attributes:
        numbers: of the constant.
    """

    numbers: np.ndarray

    @property
    def values(self) -> np.ndarray:
        """The same."""
        return self.numbers

    @property
    def words(self) -> str:
        """The type."""
        return str(self.numbers.dtype)


def halves(numbers: np.ndarray) -> np.ndarray | None:
    """Float32 numbers as float16, if that loses nothing and saves more than the node that it takes; else None."""
    half = numbers.astype(np.float16)
    saves = numbers.dtype == np.float32 and half.nbytes + NODE < numbers.nbytes
    return half if saves and np.array_equal(half.astype(np.float32), numbers) else None


def shaped(scales: np.ndarray, rank: int, axis: int) -> np.ndarray:
    """Scales ``[channels]`` so that they broadcast along an axis of a constant."""
    return scales.reshape(-1, *[1] * (rank - 1 - axis)).astype(np.float32)
