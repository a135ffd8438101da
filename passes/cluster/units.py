"""What is coded as one: the weights of layers, embedding tables, other constants; each with any number of levels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from onnxopt.calibrate.hessian import Numbers
from onnxopt.calibrate.inputs import spread
from onnxopt.calibrate.moments import Moment
from onnxopt.calibrate.sensitivity import erring, shift
from onnxopt.graph import array
from onnxopt.layers import Rows, Table, Weight
from onnxopt.passes.cluster.codebook import GRID, Codes
from onnxopt.passes.cluster.coding import Coded, Coder, plain
from onnxopt.passes.cluster.exact import exact
from onnxopt.passes.cluster.forms import NODE, Form, Grid, Half, Packed, Whole, shaped
from onnxopt.passes.cluster.words import PACKINGS, Packing, packing

HALF, WHOLE = 2**16, 2**32
"""Levels of float16 and float32."""
LEVELS = (*(one.levels for one in PACKINGS), GRID, HALF, WHOLE)
"""In which a unit can be stored."""


class Unit(ABC):
    """A float constant that can be stored with fewer levels.

    Attributes:
        value: the constant, an initializer of the main graph.
        name: how reports name it.
        numbers: of the constant.
        exact: the form that loses nothing; None where that takes too many levels.
    """

    axis: int
    """Of the constant, the one whose channels have a scale each."""
    nodes: int
    """Of the decoding of a packed form, about."""
    sampled_levels: tuple[int, ...] = (4, 16, GRID)
    """Levels whose error is found by coding; that of others lies between (its logarithm, over that of the levels)."""

    def __init__(self, value: ir.Value, name: str) -> None:
        """Look whether few levels hold it exactly."""
        self.value, self.name = value, name
        numbers = array(value)
        assert numbers is not None
        self.numbers = np.array(numbers)  # a copy: a view would keep a weight file open
        self.exact = exact(self.numbers, self.axis)
        self._forms: dict[int, Form] = {}
        self._sampled: list[float] = []

    @abstractmethod
    def coded(self, levels: int) -> Form:
        """The best form with a table of so many levels, or on the grid."""

    @abstractmethod
    def loss(self, form: Form) -> float:
        """The error that the form causes, as a share of the variance of what the constant makes."""

    def shift(self, form: Form) -> Rows | None:
        """What biases take up with the form, ``[channels]``; None where there are none."""
        return None

    def floats(self, form: Form) -> np.ndarray:
        """What is computed with, in place of the constant."""
        return form.values

    @property
    def stored(self) -> str:
        """The name of the initializer that is stored in another form."""
        return self.value.name or ""

    def erring(self) -> Form:
        """What errs by about ``sensitivity.PROBE``."""
        rows = np.moveaxis(self.numbers, self.axis, 0)
        found = erring(rows.reshape(len(rows), -1), lambda moved: self.loss(Whole(self._back(moved))))
        return Whole(self._back(found))

    def _back(self, rows: Rows) -> Rows:
        """Rows in the shape of the constant."""
        return np.moveaxis(rows.reshape(np.moveaxis(self.numbers, self.axis, 0).shape), 0, self.axis)

    def packing(self, levels: int) -> Packing | None:
        """How so many levels are packed; None where they cannot be."""
        return packing(levels)

    def form(self, levels: int) -> Form:
        """The best form with no more than so many levels; exact where they suffice."""
        if self.exact is not None and levels >= self._enough:
            return self.exact
        if levels not in self._forms:
            self._forms[levels] = self._made(levels)
        return self._forms[levels]

    def error(self, levels: int) -> float:
        """The loss of the form with so many levels, about: from a few that are coded."""
        if levels == WHOLE or (self.exact is not None and levels >= self._enough):
            return 0.0
        if levels == HALF:
            halves = self.form(HALF)
            return self.loss(halves) if np.isfinite(halves.values).all() else np.inf
        if not self._sampled:
            self._sampled = self.sampled()
        losses = np.log(np.maximum(self._sampled, 1e-12))
        places, place = np.log(self.sampled_levels), np.log(levels)
        if levels < self.sampled_levels[0]:
            return float(np.exp(losses[0] + (losses[1] - losses[0]) / (places[1] - places[0]) * (place - places[0])))
        return float(np.exp(np.interp(place, places, losses)))

    def size(self, levels: int) -> float:
        """Bytes of that form in the file, about, its nodes included; infinite where it cannot be."""
        count, channels = self.numbers.size, self.numbers.shape[self.axis]
        if self.exact is not None and levels >= self._enough:
            levels = self._enough
        if levels >= HALF:
            return float(4 * count if levels == WHOLE else 2 * count + NODE)
        scales = min(4 * channels, 2 * channels + NODE)
        if levels == GRID:
            return float(count + scales + self.nodes * NODE)
        fitting = self.packing(levels)
        if fitting is None:
            return np.inf
        return float(fitting.size * fitting.words(count) + scales + self._table(levels, fitting) + self.nodes * NODE)

    def _table(self, levels: int, fitting: Packing) -> int:
        """Bytes of a table."""
        return min(4 * levels, 2 * levels + NODE)

    def _made(self, levels: int) -> Form:
        if levels == WHOLE:
            return Whole(self.numbers)
        if levels == HALF:
            with np.errstate(over="ignore"):
                return Half(self.numbers.astype(np.float16))
        return self.coded(levels)

    def _formed(self, codes: Codes, found: Coded, levels: int) -> Form:
        """Codes in the shape of the constant as a form."""
        scales = shaped(found.scales, self.numbers.ndim, self.axis)
        if levels != GRID:
            return Packed(codes, found.table.astype(np.float32), scales)
        integers = (codes.astype(np.int16) - GRID // 2).astype(np.int8)
        return Grid(integers, np.asarray(scales / (GRID // 2), np.float32))

    def sampled(self) -> list[float]:
        """The losses of ``sampled_levels``."""
        return [self.loss(self.form(levels)) for levels in self.sampled_levels]

    @property
    def _enough(self) -> int:
        """Levels of the exact form."""
        return len(self.exact.table) if isinstance(self.exact, Packed) else GRID


class WeightUnit(Unit):
    """The weights of layers: codes are chosen by what the layers read."""

    nodes = 5

    def __init__(self, weight: Weight, moment: Moment, samples: int) -> None:
        """Take the moments of what the layers read, of so many samples."""
        self.weight, self._mean = weight, moment.mean
        self._spread = spread(weight, moment, samples).astype(np.float32)
        self._layer = weight.layers[0]
        self.axis = 0 if self._layer.transposed else self._layer.axis
        self._coder: Coder | None = None
        super().__init__(weight.value, weight.name)

    def coded(self, levels: int) -> Form:
        """Codes in the shape of the constant."""
        return self._shaped((self._coder or self._new_coder()).coded(levels), levels)

    def instead(self, rows: Rows, moments: Numbers, levels: int) -> Form:
        """Codes for other rows in place of the weight's, ``[channels, products]``.

        Args:
            rows: to be coded.
            moments: second moments of what they are multiplied with, ``[groups, products, products]``.
            levels: of the table, GRID, HALF or WHOLE.
        """
        if levels >= HALF:
            numbers = self._layer.shaped(rows)
            numbers = numbers.T if self._layer.transposed else numbers
            return Half(numbers.astype(np.float16)) if levels == HALF else Whole(numbers.astype(np.float32))
        coder = Coder(rows.reshape(self.weight.grouped.shape).astype(np.float64), moments)
        return self._shaped(coder.coded(levels), levels)

    @property
    def own_moments(self) -> Numbers:
        """Those of what the layers read in the original."""
        return self._spread.astype(np.float64)

    def _shaped(self, found: Coded, levels: int) -> Form:
        rows = found.codes.reshape(self.weight.rows.shape)
        codes = self._layer.shaped(rows)
        return self._formed(codes.T if self._layer.transposed else codes, found, levels)

    def sampled(self) -> list[float]:
        """With one factor of the moments for all."""
        self._coder = self._new_coder()
        found, self._coder = super().sampled(), None
        return found

    def _new_coder(self) -> Coder:
        return Coder(self.weight.grouped.astype(np.float64), self.own_moments)

    def rows(self, form: Form) -> Rows:
        """What stands for the rows of the weight."""
        numbers = self.floats(form)
        return self._layer.as_rows(numbers.T if self._layer.transposed else numbers)

    def loss(self, form: Form) -> float:
        """Of the outputs of the layers."""
        own = self.weight.grouped.astype(np.float64)
        off = own - self.rows(form).reshape(own.shape)
        return float(((off @ self._spread) * off).sum() / max(((own @ self._spread) * own).sum(), 1e-30))

    def shift(self, form: Form) -> Rows | None:
        """The mean error of the outputs."""
        return shift(self.weight, self.rows(form), self._mean)


class ConstantUnit(Unit):
    """A constant of which nothing is known but its numbers."""

    nodes, axis = 5, 0

    def coded(self, levels: int) -> Form:
        """The nearest values."""
        rows = self.numbers.reshape(len(self.numbers), -1).astype(np.float64)
        found = plain(rows, levels)
        return self._formed(found.codes.reshape(self.numbers.shape), found, levels)

    def loss(self, form: Form) -> float:
        """Of the numbers themselves."""
        off = np.square(form.values - self.numbers, dtype=np.float64).sum()
        return float(off / max(np.square(self.numbers, dtype=np.float64).sum(), 1e-30))


class TableUnit(ConstantUnit):
    """An embedding table, of which rows are looked up in their codes and decoded then."""

    nodes = 7

    def __init__(self, table: Table) -> None:
        """Of all its lookups."""
        self.table = table
        super().__init__(table.value, table.name)
        if isinstance(self.exact, Packed):
            fits = self.packing(len(self.exact.table)) is not None
            self.exact = replace(self.exact, fits=True) if fits else None

    def packing(self, levels: int) -> Packing | None:
        """Rows are whole numbers of bytes."""
        return packing(levels, digits=self.numbers.shape[1])

    def coded(self, levels: int) -> Form:
        """The nearest values, in rows that can be looked up."""
        found = super().coded(levels)
        return replace(found, fits=True) if isinstance(found, Packed) else found

    def _table(self, levels: int, fitting: Packing) -> int:
        """What each byte stands for."""
        return 4 * int(fitting.levels**fitting.digits) * fitting.digits
