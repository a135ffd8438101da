"""How far numbers are from what they should be, gathered batch by batch: only sums are kept."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxopt.metrics.base import Array, is_float
from onnxopt.metrics.fidelity import SQNR_CAP


@dataclass(frozen=True)
class ErrorOf:
    """The error of one value over all samples.

    Attributes:
        name: of the value.
        dtype: of its elements.
        shape: in the first batch, as text (``1x1000``).
        largest: max abs error, over the elements that are finite in both.
        relative: the worst batch's max abs error over its largest magnitude; inf where shapes, integers, NaN or inf
            are not the same.
        sqnr: ``10 log10(sum(a^2) / sum((a - b)^2))`` dB, within -150 and 150; None of what is not float.
        cosine: of all elements; None of what is not float.
        not_finite: elements that are NaN or inf in the reference, and in the model.
        appeared: elements that are NaN or inf in the model and were not so in the reference.
        clash: a sentence on another shape or dtype; empty where there is none.
    """

    name: str
    dtype: str
    shape: str
    largest: float
    relative: float
    sqnr: float | None
    cosine: float | None
    not_finite: tuple[int, int] = (0, 0)
    appeared: int = 0
    clash: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON, which has no infinity: None."""
        found = {**self.__dict__, "not_finite": list(self.not_finite)}
        return {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in found.items()}


@dataclass
class Tally:
    """Sums of one value; ``add`` each batch, then ask for ``result``."""

    name: str
    dtype: str = ""
    shape: str = ""
    floats: bool = False
    sums: Array = field(default_factory=lambda: np.zeros(4))
    """Of a^2, (a - b)^2, b^2 and ab."""
    largest: float = 0.0
    relative: float = 0.0
    before: int = 0
    after: int = 0
    appeared: int = 0
    clash: str = ""

    def add(self, expected: Any, got: Any) -> None:
        """One batch: arrays, or lists of arrays (ONNX sequences)."""
        if isinstance(expected, list):
            if not isinstance(got, list) or len(got) != len(expected):
                self._clash(f"a sequence of {len(got) if isinstance(got, list) else 0} instead of {len(expected)}")
                return
            for one, other in zip(expected, got, strict=True):
                self.add(one, other)
            return
        a, b = np.asarray(expected), np.asarray(got)
        if not self.dtype:
            self.dtype, self.shape, self.floats = str(a.dtype), _shape(a), is_float(a)
        if a.shape != b.shape or a.dtype != b.dtype:
            self._clash(f"{b.dtype} of shape {_shape(b)} instead of {a.dtype} of shape {_shape(a)}")
        elif self.floats:
            self._add_floats(a.astype(np.float64).ravel(), b.astype(np.float64).ravel())
        elif not np.array_equal(a, b):
            self.relative = math.inf
            if a.dtype.kind in "iu":
                self.largest = max(self.largest, float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max()))

    def result(self) -> ErrorOf:
        """The error so far."""
        return ErrorOf(
            self.name, self.dtype, self.shape, self.largest, self.relative, self.sqnr, self._cosine(),
            (self.before, self.after), self.appeared, self.clash,
        )  # fmt: skip

    @property
    def sqnr(self) -> float | None:
        """In dB; None of what is not float, or of another shape."""
        if not self.floats or self.clash:
            return None
        signal, noise = self.sums[:2]
        if noise == 0:
            return SQNR_CAP
        ratio = 10 * math.log10(signal / noise) if signal > 0 and math.isfinite(noise) else -SQNR_CAP
        return max(-SQNR_CAP, min(SQNR_CAP, ratio))

    def _cosine(self) -> float | None:
        if not self.floats or self.clash:
            return None
        a, _, b, product = self.sums
        size = math.sqrt(a) * math.sqrt(b)
        return float(a == b) if size == 0 else float(np.clip(product / size, -1, 1))

    def _clash(self, words: str) -> None:
        self.clash, self.relative = self.clash or words, math.inf

    def _add_floats(self, a: Array, b: Array) -> None:
        fine = np.isfinite(a), np.isfinite(b)
        self.before, self.after = self.before + int((~fine[0]).sum()), self.after + int((~fine[1]).sum())
        if not (fine[0].all() and fine[1].all()):
            same = (a == b) | (np.isnan(a) & np.isnan(b))
            odd = ~(same | (fine[0] & fine[1]))
            self.appeared += int((odd & ~fine[1]).sum())
            self.relative = math.inf if odd.any() else self.relative
            scale = np.abs(a[fine[0]]).max(initial=0.0)
            both = fine[0] & fine[1]
            a, b = a[both], b[both]
        else:
            scale = np.abs(a).max(initial=0.0)
        gap = np.abs(a - b)
        worst = float(gap.max(initial=0.0))
        self.largest = max(self.largest, worst)
        if worst:
            self.relative = max(self.relative, worst / scale if scale > 0 else math.inf)
        with np.errstate(over="ignore"):
            self.sums += [a @ a, gap @ gap, b @ b, a @ b]


def _shape(values: Array) -> str:
    return "x".join(map(str, values.shape)) or "scalar"
