"""The constants of a model that can be coded, and why others cannot."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import onnx_ir as ir

from onnxopt.calibrate.inputs import fits, input_moments
from onnxopt.calibrate.moments import Moment
from onnxopt.core import Context, Refusal
from onnxopt.graph import array, inferred, tensor
from onnxopt.layers import Table, Weight, tables, weights
from onnxopt.passes.cluster.integer_units import IntegerUnit
from onnxopt.passes.cluster.integers import Integers, Seen
from onnxopt.passes.cluster.units import ConstantUnit, TableUnit, Unit, WeightUnit

VECTORS = 16384
"""Drawn for each layer: four times as many as for rounding to integers; errors on other samples are 5 % less then."""
TABLE = 1 << 18
"""Fewest numbers of a table that is decoded after the lookup: a smaller one is hardly worth the nodes at run time."""


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
        weights: of layers.
        integers: those of them that are quantized, by name of their constant.
        tables: decoded after their lookups.
        others: decoded while the model is loaded.
        refusals: why others are none of them.
    """

    weights: tuple[Weight, ...]
    integers: Mapping[str, Integers]
    tables: tuple[Table, ...]
    others: tuple[ir.Value, ...]
    refusals: tuple[Refusal, ...]

    @classmethod
    def of(cls, seen: Seen, wanted: Wanted) -> Found:
        """Look at every float32 initializer of the main graph that has two dimensions, or a layer."""
        model = seen.model
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
        return cls(tuple(layers), seen.weights, tuple(rows), tuple(others), tuple(refusals))

    def units(self, model: ir.Model, context: Context) -> list[Unit]:
        """All of them, those of weights as calibration samples have it."""
        plain = [*map(TableUnit, self.tables), *(ConstantUnit(value, value.name or "") for value in self.others)]
        return [*self.fitted(model, context), *plain]

    def fitted(self, model: ir.Model, context: Context) -> list[Unit]:
        """Those that depend on calibration samples."""
        assert context.calibration is not None
        moments = input_moments(model, self.weights, context, VECTORS) if self.weights else ()
        return [self._unit(weight, moment, context) for weight, moment in moments]

    def _unit(self, weight: Weight, moment: Moment, context: Context) -> Unit:
        assert context.calibration is not None
        samples, integers = len(context.calibration), self.integers.get(weight.value.name or "")
        if integers is None:
            return WeightUnit(weight, moment, samples)
        return IntegerUnit(weight, moment, samples, integers, pairs=context.target.int8_saturates)


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
    if all(_decodes(use.node, value) for use in value.uses()):
        return False
    return sum(size > 1 for size in contents.shape.numpy()) > 1


def _decodes(node: ir.Node, value: ir.Value) -> bool:
    """Whether a value is what bytes of a table stand for (see ``writing``)."""
    cast = node.inputs[1].producer() if node.op_type == "Gather" and node.inputs[1] is not None else None
    lookup = cast.inputs[0].producer() if cast is not None and cast.op_type == "Cast" and cast.inputs[0] else None
    words = tensor(lookup.inputs[0]) if lookup is not None and lookup.op_type == "Gather" else None
    return node.inputs[0] is value and words is not None and words.dtype is ir.DataType.UINT8


def _odd(value: ir.Value) -> str | None:
    """Why a constant cannot be coded."""
    numbers = array(value)
    assert numbers is not None
    return None if np.isfinite(numbers).all() else "it has numbers that are not finite"
