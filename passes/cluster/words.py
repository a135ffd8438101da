"""Codes packed as the digits of words: what fits, and the numbers of a word.

A word holds ``digits`` codes below ``levels`` as ``sum code_d levels^d``; dividing by the powers, and the remainder,
give them back. Any number of levels can so have nearly the bits that it needs, ``log2(levels)``, in operators of every
opset. ONNX Runtime computes them while it loads the model: for 36 matrices of 384 x 384 in 124 ms (8 levels in words of
64 bits, 3.05 bits a weight) against 180 ms for planes of bits with BitShift (3 bits), 85 against 107 ms for pairs in
bytes, 64 ms for UINT4, which needs opset 21, and 15 ms for float32 (measured on ONNX Runtime 1.31).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from onnxopt.passes.cluster.codebook import Codes


@dataclass(frozen=True)
class Packing:
    """A way to pack codes.

    Attributes:
        levels: codes are below this.
        digits: codes in a word.
        size: bytes of a word: 1 (uint8) or 8 (int64, of which the sign is not used).
    """

    levels: int
    digits: int
    size: int

    @property
    def bits(self) -> float:
        """Of one code."""
        return 8 * self.size / self.digits

    @property
    def computed(self) -> type[np.generic]:
        """The type that words are divided in."""
        return np.int32 if self.size == 1 else np.int64

    @property
    def powers(self) -> np.ndarray:
        """Of each digit, ``[digits, 1]``."""
        powers = np.array([self.levels**digit for digit in range(self.digits)], self.computed)
        return powers[:, None]

    def words(self, count: int) -> int:
        """How many words so many codes take."""
        return math.ceil(count / self.digits)

    def packed(self, codes: Codes) -> np.ndarray:
        """Codes ``[count]`` as words: digit d of word w is code ``d * words + w``, with zeros behind the last code."""
        words = self.words(codes.size)
        digits = np.zeros(self.digits * words, np.int64)
        digits[: codes.size] = codes.reshape(-1)
        total = (digits.reshape(self.digits, words) * self.powers.astype(np.int64)).sum(axis=0)
        return np.asarray(total, np.uint8 if self.size == 1 else np.int64)


def _fullest(digits: int, size: int) -> Packing:
    """With as many levels as so many digits have room for."""
    bits = 8 * size - (size == 8)
    levels = int(2 ** (bits / digits) + 1)
    while levels**digits > 2**bits:
        levels -= 1
    return Packing(levels, digits, size)


IN_BYTES, IN_WORDS = (5, 4, 3, 2), (27, 21, 19, 18, 17, 15, 14, 13, 12, 11, 10, 9)
"""Digits of the packings that are used: each has more levels than the next tighter one."""
_ALL = [*(_fullest(digits, 1) for digits in IN_BYTES), *(_fullest(digits, 8) for digits in IN_WORDS)]
PACKINGS = tuple(sorted(_ALL, key=lambda one: one.bits))
"""Of 3 to 128 levels, by the bits of a code: 3, 4, 6 and 16 levels in bytes, the others in words of 64 bits."""


def packing(levels: int, *, digits: int | None = None) -> Packing | None:
    """The tightest packing for so many levels; None where they are more than any holds.

    Args:
        levels: of the codes.
        digits: bytes of a number of digits that divides this, only: rows that are looked up are whole bytes.
    """
    fitting = (one for one in PACKINGS if one.levels >= levels)
    if digits is not None:
        fitting = (one for one in fitting if one.size == 1 and digits % one.digits == 0)
    return next(fitting, None)
