"""Store weights as codes into small tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxopt.core import Change, Context, Exactness, Pass, Refusal, option
from onnxopt.errors import DataError, UsageError
from onnxopt.graph import adopt, opset
from onnxopt.passes.cluster.allocation import Levels
from onnxopt.passes.cluster.codebook import GRID
from onnxopt.passes.cluster.fewest import Fewest, fewest
from onnxopt.passes.cluster.forms import Form, Whole
from onnxopt.passes.cluster.found import Wanted
from onnxopt.passes.cluster.integer_units import Rescaled
from onnxopt.passes.cluster.lockstep import Coded
from onnxopt.passes.cluster.stored import Clustered
from onnxopt.passes.cluster.study import Study, study
from onnxopt.passes.cluster.trials import Trials
from onnxopt.passes.cluster.units import LEVELS, WHOLE, TableUnit, Unit
from onnxopt.passes.settling import settle

MINIMUM_OPSET = 11
"""From which on slices are computed, and everything that decoding needs is there."""
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
    in_step: bool = option(True, "with bits: fit layers in the network as coded so far, and not each by itself")
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
        """Code in a copy, look which constants ONNX Runtime decodes when it loads it, and take that over."""
        if context.calibration is None:
            return [Refusal("", "needs calibration data (--data)")]
        if opset(model) < MINIMUM_OPSET:
            return [Refusal("", f"opset {opset(model)} is below {MINIMUM_OPSET}; upgrade-opset first")]
        found = study(model, context, Wanted(self.size, self.only, self.leave))
        refusals = found.found.refusals
        if not found.units:
            return [*refusals, Refusal("", "there is no constant to code")]
        try:
            chosen = self._chosen(found, context)
        except DataError as error:
            return [Refusal("", f"what it would lose cannot be foreseen: {error}"), *refusals]
        said, changed = _settled(model, found, chosen.coded, context)
        forms = {name for name, form in chosen.coded.forms.items() if not isinstance(form, Whole)}
        left = {name for name in forms if found.units[name].stored in changed.graph.initializers}
        if left:  # what could not be stored so is as it was, and the others are fitted to that
            levels = {**chosen.levels, **dict.fromkeys(left, WHOLE)}
            refusals = (*refusals, *(item for item in said if isinstance(item, Refusal)))
            said, changed = _settled(model, found, found.coded(levels, in_step=chosen.in_step), context)
        if not any(isinstance(item, Change) for item in said):
            return [*said, *refusals]
        adopt(model, changed)
        return [Change("model", chosen.words), *said, *refusals]

    def _chosen(self, found: Study, context: Context) -> Fewest:
        """The model with coded constants, and what to say of it."""
        if not self.bits:
            return fewest(found, _trials(found, context), self.drop)
        if self.widths == UNIFORM:
            count = next(one for one in LEVELS if one >= min(int(2**self.bits), GRID))
            pays = {name: unit.size(count) < unit.size(WHOLE) for name, unit in found.units.items()}
            levels: Levels = {name: count if pays[name] else WHOLE for name in found.units}
        else:
            levels = found.allocation.within(self.bits)
        words = f"{found.allocation.bits(levels):.2f} bits for a number on average"
        return Fewest(found.coded(levels, in_step=self.in_step), levels, self.in_step, words)


def _settled(model: ir.Model, found: Study, coded: Coded, context: Context) -> tuple[list[Change | Refusal], ir.Model]:
    """What could be stored in another form, and the model with it."""
    changed = model.clone() if found.seen.weights else coded.model.clone()
    if found.seen.weights:
        rescaled = {name: form for name, form in coded.forms.items() if isinstance(form, Rescaled)}
        steps = {found.units[name].value.name or "": form.steps.reshape(-1) for name, form in rescaled.items()}
        found.seen.back(changed, coded.model, steps)
    for name, form in coded.forms.items():
        value = changed.graph.initializers[found.units[name].stored]
        value.const_value = ir.Tensor(np.asarray(form.values), name=value.name)
    stored = [_stored(found.units[name], form) for name, form in coded.forms.items() if not isinstance(form, Whole)]
    return settle(changed, stored, context.target), changed


def _trials(found: Study, context: Context) -> Trials:
    """What was tried of a model; from memory where that was in this run."""
    key = ("trials", found)
    if key not in context.memory:
        context.memory[key] = Trials(found)
    trials = context.memory[key]
    assert isinstance(trials, Trials)
    return trials


def _stored(unit: Unit, form: Form) -> Clustered:
    return Clustered(unit.stored, form.words, unit.name, form, isinstance(unit, TableUnit))
