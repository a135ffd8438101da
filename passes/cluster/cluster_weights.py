"""Store weights as codes into small tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from onnxopt import progress
from onnxopt.core import Change, Context, Exactness, Pass, Refusal, option
from onnxopt.errors import DataError, UsageError
from onnxopt.folding import unfolded
from onnxopt.graph import adopt, opset
from onnxopt.passes.cluster.allocation import Levels
from onnxopt.passes.cluster.forms import Form
from onnxopt.passes.cluster.study import Study, Wanted, move_biases, study
from onnxopt.passes.cluster.units import LEVELS, TableUnit, Unit
from onnxopt.passes.cluster.writing import Writer

MINIMUM_OPSET = 11
"""From which on slices are computed, and everything that decoding needs is there."""
RANGE = (1.6, 9.0)
"""Bits of a number, on average, between which they are sought: the coarsest table, and 8 with scales."""
HALVINGS = 7
"""Of that range: to 0.06 bits."""
MIXED, UNIFORM = WIDTHS = ("mixed", "uniform")


@dataclass(frozen=True)
class ClusterWeights(Pass):
    """Store weights as codes into tables of a few values, which ONNX Runtime decodes while it loads the model.

    Before:
        ``y = Conv(x, W)``, ``y = MatMul(x, W)``, ``y = Gather(E, ids)``
    After:
        ``W = Reshape(Gather(table, Mod(Div(words, powers), levels))) * scale``, one scale for each channel: constants,
        which are folded, so that the model runs as before. Codes are the digits of words of 8 or 64 bits, in nearly as
        few bits as they need: 2, 2.7, 3.05, 3.6, 3.8, 4, 4.3, ... 7.1 bits for 4 to 128 values; 8 bits are integers on
        a grid. From opset 21 on 4 bits are UINT4. Rows of large embedding tables are looked up packed, and decoded
        after that: ``y = Reshape(Gather(pairs, Gather(words, ids))) * Gather(scale, ids)``.

        Each layer's codes are chosen so that its *outputs* err least: k-means, error feedback, coordinate descent, and
        biases that take up the mean error (see passes/cluster/coding.py). How many values each layer gets is a
        knapsack: each layer alone is made to err, and the divergence of the model's outputs says what that costs.
        Constants that few values hold exactly, and weights on a grid of integers, stay exact.

        With ``drop``, as few bits as can be: the accuracy that is lost is foreseen on calibration samples, each judged
        by a model whose codes were chosen on others. With ``bits``, so many for each number on average.
    Left alone:
        constants of fewer than ``size`` numbers, vectors, those that a caller may override or that are no float32; what
        ONNX Runtime does not fold (looked up in the graph it builds); models below opset 11.
    Exact up to:
        lossy; the gate decides.
    Source:
        Han, Mao, Dally, "Deep Compression", ICLR 2016 (shared values); Frantar, Ashkboos, Hoefler, Alistarh, "OPTQ",
        ICLR 2023 (error feedback); measured on ONNX Runtime 1.31: facts/size_and_rank.md, sections 1 to 4.
    """

    name: ClassVar[str] = "cluster-weights"
    exactness: ClassVar[Exactness] = Exactness.LOSSY

    drop: float = option(0.005, "of the metric that may be expected; not with bits", low=0)
    bits: float = option(0.0, "of a number on average, tables and scales too; 0: as few as drop allows", low=0, high=32)
    widths: str = option(MIXED, "uniform: 2^bits values for all", choices=WIDTHS)
    size: int = option(512, "fewest numbers of a constant", low=2)
    only: tuple[str, ...] = option((), "constants, by the output of their layer or their own name; * for anything")
    leave: tuple[str, ...] = option((), "constants to leave, by the same names")

    def __post_init__(self) -> None:
        """Refuse what has no meaning.

        Raises:
            UsageError: for uniform widths without bits.
        """
        if self.widths == UNIFORM and not 1 < self.bits <= 8:
            raise UsageError(f"option widths: uniform takes bits from 2 to 8, not {self.bits:g}")

    def run(self, model: ir.Model, context: Context) -> Sequence[Change | Refusal]:
        """Code in a copy, and take that over."""
        if context.calibration is None:
            return [Refusal("", "needs calibration data (--data)")]
        if opset(model) < MINIMUM_OPSET:
            return [Refusal("", f"opset {opset(model)} is below {MINIMUM_OPSET}; upgrade-opset first")]
        found = study(model, context, Wanted(self.size, self.only, self.leave))
        if not found.units:
            return [*found.refusals, Refusal("", "there is no constant to code")]
        try:
            levels, about = self._levels(found)
        except DataError as error:
            return [Refusal("", f"what it would lose cannot be foreseen: {error}")]
        return [*_stored(model, found, found.forms(levels), context, about), *found.refusals]

    def _levels(self, found: Study) -> tuple[Levels, str]:
        """The levels of each unit, and what to say of them all."""
        if self.widths == UNIFORM:
            count = next(one for one in LEVELS if one >= int(2**self.bits))
            return {unit.name: count for unit in found.units}, f"{count} values each"
        if self.bits:
            levels = found.allocation.within(self.bits)
            return levels, f"{found.allocation.bits(levels):.2f} bits for a number on average"
        return self._fewest(found)

    def _fewest(self, found: Study) -> tuple[Levels, str]:
        """The fewest bits of which no more than ``drop`` is expected, by bisection."""
        low, high = RANGE
        best, expected = found.allocation.within(high), found.drop(found.allocation.within(high))
        for turn in range(HALVINGS):
            middle = (low + high) / 2
            levels = found.allocation.within(middle)
            drop = found.drop(levels)
            progress.detail(f"{turn + 1} of {HALVINGS}: {middle:.2f} bits, expected drop {drop:.4f}")
            if drop <= self.drop:
                high, best, expected = middle, levels, drop
            else:
                low = middle
        return best, f"{found.allocation.bits(best):.2f} bits for a number on average, expected drop {expected:.4f}"


def _stored(
    model: ir.Model, found: Study, forms: dict[str, Form], context: Context, about: str
) -> list[Change | Refusal]:
    """Write all forms, look which ONNX Runtime folds, and leave out those that it does not."""
    units = {unit.name: unit for unit in found.units if unit.name in forms}
    refusals: list[Refusal] = []
    while units:
        copy = model.clone()
        decoded = _written(copy, units, forms)
        left = {name for name, value in decoded.items() if value in unfolded(copy, context.target, decoded.values())}
        if not left:
            adopt(model, copy)
            changes = [Change(name, f"stored as {forms[name].words}") for name in units]
            return [Change("model", about), *changes, *refusals]
        refusals += [Refusal(name, "ONNX Runtime does not fold its decoding") for name in sorted(left)]
        units = {name: unit for name, unit in units.items() if name not in left}
    return [Refusal("", "there is no constant to code"), *refusals]


def _written(model: ir.Model, units: dict[str, Unit], forms: dict[str, Form]) -> dict[str, str]:
    """Store constants in their forms.

    Returns:
        Unit name to the value that must be folded, of those that are decoded while the model is loaded.
    """
    move_biases(model, {name: unit.shift(forms[name]) for name, unit in units.items()})
    writer, decoded = Writer(model), {}
    for name, unit in units.items():
        value = model.graph.initializers[unit.value.name or ""]
        if isinstance(unit, TableUnit):
            writer.look_up(value, forms[name])
        else:
            decoded[name] = writer.store(value, forms[name]).name or ""
    return decoded
