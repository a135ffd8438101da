"""What is learned of a model before its constants are coded, and the model once they are."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from onnxopt import progress
from onnxopt.calibrate import content_key
from onnxopt.calibrate.sensitivity import Prober
from onnxopt.core import Context
from onnxopt.layers import weights
from onnxopt.passes.cluster.allocation import Allocation, Levels
from onnxopt.passes.cluster.forms import Form
from onnxopt.passes.cluster.found import Found, Wanted
from onnxopt.passes.cluster.integers import Seen, unrounded
from onnxopt.passes.cluster.lockstep import Coded, Task, coded_in_step
from onnxopt.passes.cluster.units import LEVELS, WHOLE, Unit

Units = Mapping[str, Unit]


class Study:
    """A model whose constants are going to be coded: what each may take, and what that costs.

    Attributes:
        seen: a copy of it, integers as floats.
        model: that copy.
        plain: the same with activations that are not rounded: what divergences are measured against.
        found: the constants.
        units: the same, by name, as all calibration samples have them.
        allocation: of levels to them.
        context: calibration samples, where to run, seed.
    """

    def __init__(self, model: ir.Model, context: Context, wanted: Wanted) -> None:
        """Learn of the calibration samples, code all constants with a few numbers of levels, and try each alone."""
        self.seen, self.context = Seen.of(model), context
        self.model = self.seen.model
        self.plain = unrounded(self.model) if self.seen.weights else self.model
        self.found = Found.of(self.seen, wanted)
        self.units: Units = {unit.name: unit for unit in self.found.units(self.model, context)}
        prober = Prober(self.plain, len(self.units), context)
        sensitivities = {name: self._tried(unit, prober) for name, unit in self.units.items()}
        for place, unit in enumerate(self.units.values()):
            progress.count("coding constant", place, len(self.units))
            unit.error(LEVELS[0])
        self.allocation = Allocation(list(self.units.values()), sensitivities)

    def _tried(self, unit: Unit, prober: Prober) -> float:
        erring = unit.erring()
        return prober.sensitivity(substituted(self.plain, self.units, {unit.name: erring}), unit.loss(erring))

    def apart(self, levels: Levels, units: Units | None = None) -> Coded:
        """Each constant coded by itself.

        Args:
            levels: of each.
            units: fitted to other samples than all.
        """
        units = units or self.units
        forms = {name: units[name].form(count) for name, count in levels.items() if count != WHOLE}
        return Coded(substituted(self.model, units, forms), forms)

    def coded(self, levels: Levels, *, in_step: bool) -> Coded:
        """One way or the other."""
        return self.in_step(levels) if in_step else self.apart(levels)

    def in_step(self, levels: Levels, units: Units | None = None, context: Context | None = None) -> Coded:
        """Layers fitted and coded one after the other, in the network as coded so far, to what rounding has not moved.

        Args:
            levels: of each.
            units: fitted to other samples than all.
            context: with these samples.
        """
        task = Task(self.plain, units or self.units, levels, context or self.context, self.seen.weights)
        return coded_in_step(task, self.apart(levels, units))


def study(model: ir.Model, context: Context, wanted: Wanted) -> Study:
    """What is learned of a model; from memory where it was learned in this run before."""
    assert context.calibration is not None
    words = f"cluster {context.seed} {context.metric}"
    key = content_key(model, context.calibration, [str(wanted)], context.target, words)
    if key is None:
        return Study(model, context, wanted)
    if key not in context.memory:
        context.memory[key] = Study(model, context, wanted)
    found = context.memory[key]
    assert isinstance(found, Study)
    return found


def substituted(model: ir.Model, units: Units, forms: Mapping[str, Form]) -> ir.Model:
    """A copy whose constants are what forms stand for, by unit name, with biases that take up the mean error."""
    copy = model.clone()
    shifts = {name: units[name].shift(form) for name, form in forms.items()}
    put(copy, units, forms)
    wanted = {name: shift for name, shift in shifts.items() if shift is not None}
    for weight in weights(copy)[0] if wanted else ():
        if weight.name in wanted:
            weight.move_biases(wanted[weight.name])
    return copy


def put(model: ir.Model, units: Units, forms: Mapping[str, Form]) -> None:
    """Let constants be what forms stand for, in place."""
    for name, form in forms.items():
        value = model.graph.initializers[units[name].value.name or ""]
        value.const_value = ir.Tensor(np.asarray(units[name].floats(form)), name=value.name)
