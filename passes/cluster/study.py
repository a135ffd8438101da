"""What is learned of a model before its constants are coded: what can be, what it costs, and what that does."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import numpy as np
import onnx_ir as ir

from onnxopt import progress
from onnxopt.calibrate import content_key
from onnxopt.calibrate.inputs import fits, input_moments
from onnxopt.calibrate.sensitivity import Prober
from onnxopt.core import Context, Refusal
from onnxopt.forecast import Forecast
from onnxopt.graph import array, inferred, tensor
from onnxopt.layers import Table, Weight, tables, weights
from onnxopt.metrics import find_metric
from onnxopt.passes.cluster.allocation import Allocation, Levels
from onnxopt.passes.cluster.forms import Form
from onnxopt.passes.cluster.lockstep import coded_in_step
from onnxopt.passes.cluster.units import LEVELS, WHOLE, ConstantUnit, TableUnit, Unit, WeightUnit
from onnxopt.samples import Samples

VECTORS = 16384
"""Drawn for each layer: four times as many as for rounding to integers; errors on other samples are 5 % less then."""
TABLE = 1 << 18
"""Fewest numbers of a table that is decoded after the lookup: a smaller one is hardly worth the nodes at run time."""
FEWEST_SAMPLES = 8
"""With fewer, models are judged on the samples that they are fitted to."""


@dataclass(frozen=True)
class Wanted:
    """What is to be coded.

    Attributes:
        size: fewest numbers of a constant.
        only: names, * stands for anything; none: all.
        leave: names that stay.
    """

    size: int
    only: tuple[str, ...]
    leave: tuple[str, ...]

    def why_not(self, name: str, count: int) -> str | None:
        """Why a constant stays as it is."""
        if (self.only and not _named(name, self.only)) or _named(name, self.leave):
            return "is to be left"
        return f"{count} numbers are fewer than {self.size}" if count < self.size else None


def _named(name: str, words: Collection[str]) -> bool:
    return any(name == word or fnmatchcase(name, word) for word in words)


@dataclass(frozen=True)
class Found:
    """The constants of a model that can be coded.

    Attributes:
        weights: with the moments of what their layers read.
        tables: decoded after their lookups.
        others: decoded while the model is loaded.
        refusals: why others are none of them.
    """

    weights: tuple[Weight, ...]
    tables: tuple[Table, ...]
    others: tuple[ir.Value, ...]
    refusals: tuple[Refusal, ...]

    @classmethod
    def of(cls, model: ir.Model, wanted: Wanted) -> Found:
        """Look at every float32 initializer of the main graph that has two dimensions, or a layer."""
        known, twins = weights(model)[0], inferred(model)
        looked_up = {table.value: table for table in tables(model)[0] if _decodable(table, twins)}
        by_value = {weight.value: weight for weight in known if fits(weight)}
        refusals: list[Refusal] = []
        layers: list[Weight] = []
        rows: list[Table] = []
        others: list[ir.Value] = []
        for value in model.graph.initializers.values():
            weight, table = by_value.get(value), looked_up.get(value)
            name = weight.name if weight else table.name if table else value.name or ""
            if weight is None and not _plain(value):
                continue
            contents = tensor(value)
            assert contents is not None
            if reason := wanted.why_not(name, contents.size) or _odd(value):
                refusals.append(Refusal(name, reason))
            elif weight is not None:
                layers.append(weight)
            elif table is not None:
                rows.append(table)
            else:
                others.append(value)
        return cls(tuple(layers), tuple(rows), tuple(others), tuple(refusals))

    def units(self, model: ir.Model, context: Context) -> list[Unit]:
        """All of them, those of weights as calibration samples have it."""
        plain = [*map(TableUnit, self.tables), *(ConstantUnit(value, value.name or "") for value in self.others)]
        return [*self.fitted(model, context), *plain]

    def fitted(self, model: ir.Model, context: Context) -> list[Unit]:
        """Those that depend on calibration samples."""
        assert context.calibration is not None
        moments = input_moments(model, self.weights, context, VECTORS) if self.weights else ()
        return [WeightUnit(weight, moment, len(context.calibration)) for weight, moment in moments]


def _decodable(table: Table, twins: Mapping[ir.Value, ir.Value]) -> bool:
    """Whether a table is worth decoding after the lookup, and the shapes of what is looked up are known well enough."""
    ids = [node.inputs[1] for node in table.lookups]
    known = all(one is not None and twins[one].shape is not None for one in ids)
    contents = tensor(table.value)
    return known and contents is not None and contents.size >= TABLE


def _plain(value: ir.Value) -> bool:
    """Whether a constant is one of float32 numbers in two dimensions or more; vectors are scales and biases."""
    contents = tensor(value)
    if contents is None or value.is_graph_output() or contents.dtype is not ir.DataType.FLOAT:
        return False
    return sum(size > 1 for size in contents.shape.numpy()) > 1


def _odd(value: ir.Value) -> str | None:
    """Why a constant cannot be coded."""
    numbers = array(value)
    assert numbers is not None
    return None if np.isfinite(numbers).all() else "it has numbers that are not finite"


class Study:
    """A model whose constants are going to be coded.

    Attributes:
        units: all that can be.
        allocation: of levels to units.
        refusals: why other constants cannot be.
    """

    def __init__(self, model: ir.Model, context: Context, wanted: Wanted) -> None:
        """Learn of the calibration samples, code all constants with a few numbers of levels, and try each alone."""
        self._model, self._context = model.clone(), context
        self._found = Found.of(self._model, wanted)
        self.refusals = self._found.refusals
        self.units = self._found.units(self._model, context)
        prober = Prober(self._model, len(self.units), context)
        self._sensitivities = {unit.name: self._tried(unit, prober) for unit in self.units}
        for place, unit in enumerate(self.units):
            progress.detail(f"coding constant {place + 1} of {len(self.units)}")
            unit.error(LEVELS[0])
        self.allocation = Allocation(self.units, self._sensitivities)
        self._forecast: tuple[Forecast, list[_Fold]] | None = None

    def _tried(self, unit: Unit, prober: Prober) -> float:
        erring = unit.erring()
        return prober.sensitivity(substituted(self._model, {unit.name: unit}, {unit.name: erring}), unit.loss(erring))

    def apart(self, levels: Levels) -> Coded:
        """Each constant coded by itself."""
        return _apart(self._model, {unit.name: unit for unit in self.units}, levels)

    def in_step(self, levels: Levels) -> Coded:
        """Layers fitted and coded one after the other, in the network as coded so far."""
        return _in_step(self._model, {unit.name: unit for unit in self.units}, levels, self._context)

    def drop(self, levels: Levels, *, in_step: bool) -> float:
        """The drop of the metric that is expected, by models whose codes are chosen on other samples.

        Raises:
            DataError: if the metric does not fit the outputs.
        """
        forecast, folds = self._folds()
        if in_step:
            return forecast.drop([_in_step(self._model, fold.units, levels, fold.context).model for fold in folds])
        return forecast.drop([_apart(self._model, fold.units, levels).model for fold in folds])

    def _folds(self) -> tuple[Forecast, list[_Fold]]:
        """Units fitted to one part of the samples each, and who judges each on the others."""
        if self._forecast is None:
            samples = self._context.calibration
            assert samples is not None
            parts = samples.split(0.5, self._context.seed) if len(samples) >= FEWEST_SAMPLES else (samples,)
            folds = [self._fitted(part) for part in parts]
            metric = self._context.metric
            if metric is None or (metric.needs_labels and not samples.data.has_labels):
                labels = samples.data.has_labels, samples.data.has_class_labels
                metric = find_metric(None, labels[0], class_labels=labels[1])
            judges = tuple(part.grouped(metric.group) for part in reversed(parts))
            self._forecast = Forecast(self._model, metric, judges, self._context.target), folds
        return self._forecast

    def _fitted(self, part: Samples) -> _Fold:
        """The units, those of weights fitted to a part of the samples."""
        context = replace(self._context, calibration=part)
        fitted = self._found.fitted(self._model, context)
        return _Fold({unit.name: unit for unit in [*self.units, *fitted]}, context)


@dataclass(frozen=True)
class _Fold:
    """Units that are fitted to a part of the samples."""

    units: Mapping[str, Unit]
    context: Context


@dataclass(frozen=True)
class Coded:
    """A model whose constants are what their forms stand for.

    Attributes:
        model: it.
        forms: of the constants, by unit name; those that stay as they are are left out.
    """

    model: ir.Model
    forms: dict[str, Form]


def _apart(model: ir.Model, units: Mapping[str, Unit], levels: Levels) -> Coded:
    forms = {name: units[name].form(count) for name, count in levels.items() if count != WHOLE}
    return Coded(substituted(model, units, forms), forms)


def _in_step(model: ir.Model, units: Mapping[str, Unit], levels: Levels, context: Context) -> Coded:
    apart = _apart(model, units, levels)
    return Coded(*coded_in_step(model, apart.model, units, levels, apart.forms, context))


def study(model: ir.Model, context: Context, wanted: Wanted) -> Study:
    """What is learned of a model; from memory where it was learned in this run before."""
    assert context.calibration is not None
    names = [str(wanted)]
    key = content_key(model, context.calibration, names, context.target, f"cluster {context.seed} {context.metric}")
    if key is None:
        return Study(model, context, wanted)
    if key not in context.memory:
        context.memory[key] = Study(model, context, wanted)
    found = context.memory[key]
    assert isinstance(found, Study)
    return found


def substituted(model: ir.Model, units: Mapping[str, Unit], forms: Mapping[str, Form]) -> ir.Model:
    """A copy whose constants are what forms stand for, by unit name, with biases that take up the mean error."""
    copy = model.clone()
    shifts = {}
    for name, form in forms.items():
        unit = units[name]
        copy.graph.initializers[unit.value.name or ""].const_value = ir.Tensor(form.values, name=unit.value.name)
        shifts[name] = unit.shift(form)
    move_biases(copy, shifts)
    return copy


def move_biases(model: ir.Model, shifts: Mapping[str, np.ndarray | None]) -> None:
    """Add to the biases of layers, by the names of their weights; in place."""
    wanted = {name: shift for name, shift in shifts.items() if shift is not None}
    for weight in weights(model)[0] if wanted else ():
        if weight.name in wanted:
            weight.move_biases(wanted[weight.name])
