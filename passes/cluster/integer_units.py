"""Weights that are integers already, with fewer of them: the kernels read int8 as before.

Few whole numbers with the scales that 256 of them had err by far more than with scales of their own: a scale for the
largest weight of a channel leaves most of its weights the few numbers about zero. Measured on a squeezenet11 in int8,
each constant coded by itself: a divergence of 0.42 at 2.4 bits instead of 0.47, 0.074 at 4.2 instead of 0.084.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxopt.calibrate.hessian import Numbers
from onnxopt.calibrate.moments import Moment
from onnxopt.layers import Rows, Weight
from onnxopt.passes.cluster.codebook import GRID
from onnxopt.passes.cluster.coding import Coded, Coder
from onnxopt.passes.cluster.exact import exact
from onnxopt.passes.cluster.forms import NODE, Form, Packed, Whole, shaped
from onnxopt.passes.cluster.integers import Integers
from onnxopt.passes.cluster.units import WeightUnit
from onnxopt.passes.quantize.grids.grid import PAIR_MAX

FINE = 64
"""Levels up to which a table is as good in whole numbers as in floats; a finer one takes the scales that are there."""
LARGEST = 127
"""Whole number of such a table."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Rescaled(Packed):
    """Codes into a table of whole numbers, which DequantizeLinear multiplies with other scales than before.

    Attributes:
        steps: these scales, float32, broadcast to the codes.
    """

    steps: np.ndarray


class IntegerUnit(WeightUnit):
    """The weights of a layer behind DequantizeLinear.

    Args:
        weight: as floats (``integers.Seen``).
        moment: of what its layers read.
        samples: that the moment is of.
        integers: what is stored.
        pairs: whether the sum of two neighbours is bounded (see ``quantize.grids.grid``).
    """

    nodes = 4
    sampled_levels = (4, 16, FINE, GRID)
    """Up to FINE levels the error falls as that of floats; with 256 there is none."""

    def __init__(self, weight: Weight, moment: Moment, samples: int, integers: Integers, *, pairs: bool) -> None:
        """Look whether each channel has a scale, which may then be another."""
        self.integers, self._pairs = integers, pairs and not weight.layers[0].depthwise
        super().__init__(weight, moment, samples)
        rows = self._layer.as_rows(self._read(np.broadcast_to(integers.scales, integers.numbers.shape)))
        self._row_scales = rows[:, 0].reshape(weight.grouped.shape[:2]).astype(np.float64)
        per_channel = integers.scales.size == len(rows)
        self._free = per_channel and not pairs and integers.numbers.dtype == np.int8 and not integers.zero.any()
        self.exact = exact(integers.numbers, self.axis)

    def floats(self, form: Form) -> np.ndarray:
        """The integers of the form times the scales."""
        scales = form.steps if isinstance(form, Rescaled) else self.integers.scales
        return np.asarray((form.values.astype(np.int32) - self.integers.zero) * scales, np.float32)

    @property
    def stored(self) -> str:
        """That of the integers."""
        return self.integers.name

    def erring(self) -> Form:
        """In integers, a coarse table's error is as good as any."""
        return self.form(8)

    def size(self, levels: int) -> float:
        """A byte each, or packed; scales are there in any case."""
        count = self.integers.numbers.size
        if self.exact is not None:
            levels = min(levels, self._enough)
        if levels >= GRID:
            return float(count) if levels == GRID else np.inf
        fitting = self.packing(levels)
        return np.inf if fitting is None else float(fitting.size * fitting.words(count) + levels + self.nodes * NODE)

    def error(self, levels: int) -> float:
        """None from 8 bits on: that is how they are."""
        return 0.0 if levels >= GRID else super().error(levels)

    def sampled(self) -> list[float]:
        """That of 8 bits is too small to count."""
        return [max(loss, 1e-9) for loss in super().sampled()]

    def instead(self, rows: Rows, moments: Numbers, levels: int) -> Form:
        """Integers for other rows."""
        weights = rows.reshape(self.weight.grouped.shape).astype(np.float64)
        if self._free and levels <= FINE:
            return self._rescaled(Coder(weights, moments).coded(levels))
        return self._with_scales(weights, moments, min(levels, GRID))

    def _made(self, levels: int) -> Form:
        return Whole(self.integers.numbers) if levels >= GRID else self.coded(levels)

    def coded(self, levels: int) -> Form:
        """Whole numbers for the weights as they are."""
        if not self._free:
            return super().coded(levels)
        if levels > FINE:
            return self._with_scales(self.weight.grouped.astype(np.float64), self.own_moments, levels)
        return self._rescaled((self._coder or self._new_coder()).coded(levels))

    def _new_coder(self) -> Coder:
        scales = None if self._free else self._row_scales
        return Coder(self.weight.grouped.astype(np.float64), self.own_moments, scales)

    def _with_scales(self, weights: Numbers, moments: Numbers, levels: int) -> Form:
        """With the scales that are there."""
        return self._shaped(Coder(weights, moments, self._row_scales).coded(levels), levels)

    def _rescaled(self, found: Coded) -> Form:
        step = max(float(np.abs(found.table).max()), 1e-30) / LARGEST
        table = np.rint(found.table / step).astype(np.int8)
        steps = shaped(found.scales.reshape(-1) * step, self.numbers.ndim, self.axis)
        return Rescaled(self._codes(found.codes.reshape(self.weight.rows.shape)), table, steps=steps)

    def _shaped(self, found: Coded, levels: int) -> Form:
        codes = found.codes.reshape(self.weight.rows.shape)
        numbers = self._codes(bounded(codes, found.table) if self._pairs else codes)
        zero = int(self.integers.zero.reshape(-1)[0]) if self.integers.zero.size else 0
        table = np.clip(found.table + zero, *_ends(self.integers.numbers.dtype)).astype(self.integers.numbers.dtype)
        return Whole(table[numbers]) if levels >= GRID else Packed(numbers, table)

    def _codes(self, rows: np.ndarray) -> np.ndarray:
        """In the shape of the constant."""
        return self._read(self._layer.shaped(rows))

    def _read(self, numbers: np.ndarray) -> np.ndarray:
        """From the shape of the constant to that in which the layer reads it, or back."""
        return numbers.T if self._layer.transposed else numbers


def bounded(codes: np.ndarray, table: Numbers) -> np.ndarray:
    """Codes of which no two neighbours of a row add up to more than a pair may; the greater gives way, step by step.

    Args:
        codes: ``[channels, products]``.
        table: of whole numbers, ascending.
    """
    codes, even = codes.astype(np.int64), codes.shape[1] // 2 * 2
    both = codes[:, :even].reshape(len(codes), -1, 2)
    for sign in (1, -1):
        while True:
            values = table[both] * sign
            over = np.maximum(values, 0).sum(axis=2) > PAIR_MAX
            if not over.any():
                break
            greater = values.argmax(axis=2)[..., None]
            less = np.take_along_axis(both, greater, 2) - sign * over[..., None]
            np.put_along_axis(both, greater, less, 2)
    codes[:, :even] = both.reshape(len(codes), -1)
    return codes.astype(np.uint8)


def _ends(kind: np.dtype) -> tuple[int, int]:
    found = np.iinfo(kind)
    return int(found.min), int(found.max)
