"""Codes chosen layer by layer in a network that is coded so far, beside the original (see ``passes.repair``).

Each layer reads what the coded network really gives it. Its weights are first fitted so that with these inputs it gives
what the original's layer gives, the drift of a skip path made good, and then coded. So errors are corrected where they
are met, and do not add up.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxopt import progress
from onnxopt.calibrate.hessian import Numbers
from onnxopt.calibrate.inputs import INDEPENDENT
from onnxopt.calibrate.inputs import drawn as regularized
from onnxopt.core import Context
from onnxopt.graph import label
from onnxopt.layers import Layer, layer
from onnxopt.passes.cluster.forms import Form
from onnxopt.passes.cluster.units import Unit, WeightUnit
from onnxopt.passes.repair.drawn import Drawn, bias_of, draw
from onnxopt.passes.repair.fit import best, bias_only, biased, changed, fit
from onnxopt.passes.repair.least_squares import Array
from onnxopt.passes.repair.lockstep import Lockstep
from onnxopt.passes.repair.norms import Norm, estimate
from onnxopt.passes.repair.shelf import Shelf
from onnxopt.passes.repair.sites import Site, plan

Levels = Mapping[str, int]

VECTORS = 16_000
"""Drawn for each layer, over all samples."""


@dataclass(frozen=True)
class Coded:
    """A model whose constants are what their forms stand for.

    Attributes:
        model: it.
        forms: of the constants, by unit name; those that stay as they are are left out.
    """

    model: ir.Model
    forms: dict[str, Form]


@dataclass(frozen=True)
class Task:
    """What is to be coded.

    Attributes:
        original: not changed.
        units: by name.
        levels: of each.
        context: calibration samples, where to run, seed.
        fixed: constants that nothing but codes may change.
    """

    original: ir.Model
    units: Mapping[str, Unit]
    levels: Levels
    context: Context
    fixed: Collection[str] = ()


def coded_in_step(task: Task, apart: Coded) -> Coded:
    """The network with its layers fitted and coded anew, one after the other.

    Args:
        task: what is to be coded.
        apart: the same with each constant coded by itself; not changed.
    """
    samples = task.context.calibration
    assert samples is not None
    changing, forms = apart.model.clone(), dict(apart.forms)
    flow, sites, _ = plan(task.original, changing, {})
    alone = {unit.name: unit for unit in task.units.values() if isinstance(unit, WeightUnit) and unit.name in forms}
    with Shelf() as shelf:
        walk = Lockstep(task.original, changing, flow, shelf, task.context)
        for number, site in enumerate(sites, 1):
            progress.count("layer", number, len(sites))
            walk.advance(site.place)
            if isinstance(site, Norm):
                estimate(site, walk)
                continue
            first, held = draw(site, walk, VECTORS, task.context.seed)
            unit = alone.get(label(site.before.node))
            if unit is None or held is None or bias_only(site):
                whole = unit is None and site.before.weight.name not in task.fixed
                fit(site, first, held, "least-squares" if whole else "bias")
                continue
            refit = _Refit(site, unit, task.levels[unit.name], len(samples))
            forms[unit.name] = refit.written(first, held) or forms[unit.name]
    return Coded(changing, forms)


class _Refit:
    """A layer whose weights are fitted to its inputs in the coded network, and then coded.

    Args:
        site: where both networks stand.
        unit: the weights of the layer.
        levels: of their codes.
        samples: that vectors are drawn from.
    """

    def __init__(self, site: Site, unit: WeightUnit, levels: int, samples: int) -> None:
        self._site, self._unit, self._levels, self._samples = site, unit, levels, samples
        self._now = _looked_up(site.after.node)
        self._rows, self._bias = self._now.rows(), bias_of(self._now)

    def written(self, first: Drawn, held: Drawn) -> Form | None:
        """Write new codes, and give their form; or None, with a corrected bias, if those that are there err less.

        That is judged on the vectors held out.
        """
        rows, bias = self._fitted(first, held)
        form = self._unit.instead(rows, self._moments(first, held), self._levels)
        new, there = self._unit.rows(form), self._rows
        vectors = np.concatenate([first.x, held.x], axis=1)
        moved = self._moved(bias, vectors, rows - new)
        kept = None if self._bias is None else self._bias + (first.target - first.given).mean(axis=1).reshape(-1)
        if self._error(held, new, moved) < self._error(held, there, kept):
            self._now.write(new, moved)
            return form
        self._now.write(None, kept)
        return None

    def _fitted(self, first: Drawn, held: Drawn) -> tuple[Array, Array | None]:
        """The original's rows and bias, changed so that they give what they gave, as well as can be."""
        before = self._site.before
        rows, bias = before.rows(), bias_of(before)
        parts = (self._with(part, rows, bias) for part in (first, held))
        found = best(self._site, *parts, whole=True)
        return (rows, bias) if found is None else changed(before, found.fit)

    def _with(self, part: Drawn, rows: Array, bias: Array | None) -> Drawn:
        """The vectors with what other rows and another bias would give."""
        return Drawn(part.x, part.target, self._given(part, rows, bias), part.outputs)

    def _given(self, part: Drawn, rows: Array, bias: Array | None) -> Array:
        groups, _, channels = part.given.shape
        more = part.x @ (rows - self._rows).reshape(groups, channels, -1).transpose(0, 2, 1)
        if bias is not None:
            more += (bias - (0 if self._bias is None else self._bias)).reshape(groups, 1, channels)
        given: Array = part.given + more
        return given

    def _error(self, part: Drawn, rows: Array, bias: Array | None) -> float:
        """Behind the activation, where there is one."""
        given = self._given(part, rows, bias)
        if self._site.bounds is not None:
            return self._site.bounds.loss(part.target, given)
        return float(np.square(part.target - given, dtype=np.float64).sum())

    def _moments(self, first: Drawn, held: Drawn) -> Numbers:
        """Of what the layer reads; the original's where it reads means, of which there are few."""
        if self._site.pooled is not None:
            return self._unit.own_moments
        x = np.concatenate([first.x, held.x], axis=1)
        mean = x.mean(axis=1, dtype=np.float64)
        second = sum(part.transpose(0, 2, 1) @ part for part in np.array_split(x, max(1, x.shape[1] // 4096), axis=1))
        found = np.asarray(second, np.float64) / x.shape[1]
        if biased(self._site.before):
            found -= mean[:, :, None] * mean[:, None]
        return regularized(found, min(x.shape[1], INDEPENDENT * self._samples))

    def _moved(self, bias: Array | None, x: Array, off: Array) -> Array | None:
        """The bias that takes up the mean error of codes."""
        if not biased(self._site.before):
            return None
        groups, _, products = x.shape
        mean = x.mean(axis=1, dtype=np.float64)
        shift = (off.reshape(groups, -1, products) @ mean[:, :, None]).reshape(-1)
        return np.asarray(shift + (0 if bias is None else bias), np.float32)


def _looked_up(node: ir.Node) -> Layer:
    """A node of which it is known that it is a layer."""
    found = layer(node, {value: value for value in node.inputs if value is not None})
    assert isinstance(found, Layer)
    return found
