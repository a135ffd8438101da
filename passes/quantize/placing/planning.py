"""Which layers of the chains stay in float after all, and in what form the others compute: by time and by noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from onnxopt.calibrate import observed_shapes
from onnxopt.core import Context, Prediction
from onnxopt.graph import label, opset
from onnxopt.macs import KnownShapes, count
from onnxopt.passes.quantize.int8.chains import Chains
from onnxopt.passes.quantize.placing.kernel_costs import Costs, Form, assumed_costs, kernel_costs
from onnxopt.passes.quantize.placing.placement import Noises, Placement, form
from onnxopt.passes.quantize.placing.sensitivity import decibel
from onnxopt.stopwatch import run_seconds

SECONDS = 15.0
"""For timing kernels."""
WHOLE_SECONDS = 1.5
"""For timing the model itself."""
LEAST_LEFT = 0.05
"""The share of the model's time that is left at least: a gain beyond it is a matter of the clock."""


@dataclass(frozen=True)
class Planned:
    """What was decided.

    Attributes:
        left: nodes that stay in float, by their labels, and why.
        tiles: convolutions with weight zero point 1.
        placement: what it was decided by.
        measured: whether the times are those of kernels on this machine.
    """

    left: dict[str, str]
    tiles: frozenset[ir.Node]
    placement: Placement
    measured: bool

    def predicted(self, model: ir.Model, chains: Chains, context: Context) -> list[Prediction]:
        """What the clock should say of these chains, if kernels were timed.

        Args:
            model: in float still.
            chains: what will be quantized.
            context: samples, of which the first is run.
        """
        if not self.measured or context.calibration is None:
            return []
        whole = run_seconds(model, context.calibration.first(), context.target, WHOLE_SECONDS)
        gain = self.placement.seconds([]) - self.placement.seconds([*chains.layers, *chains.members])
        return [Prediction(whole / max(whole - gain, LEAST_LEFT * whole))]


def plan(
    model: ir.Model,
    chains: Chains,
    context: Context,
    noise: Noises | None,
    budget: tuple[float, float],
    *,
    measure: bool,
) -> Planned:
    """Decide.

    Args:
        model: in float.
        chains: all that can compute in int8.
        context: samples, of which the first gives the shapes, and the target.
        noise: of each layer alone in int8; None where any is allowed.
        budget: its sum that is allowed, and the share of what the fastest placement leaves; the lesser counts.
        measure: whether kernels are timed; else only noise leaves layers in float.
    """
    costs = _measured(model, chains, context) if measure else _assumed(model, chains, context)
    placement = Placement(chains, costs)
    free = placement.fastest()
    chosen = free
    if noise is not None:
        most, share = budget
        loud = sum(one for node, one in noise.items() if node in free.quantized)
        chosen = placement.fastest(noise, min(most, share * loud))
    nodes = [node for node in model.graph if node in chains.layers or node in chains.members]
    left = {
        label(node): f"stays in float: {_quiet(node, noise) if node in free.quantized else _slow(costs.get(node))}"
        for node in nodes
        if node not in chosen.quantized
    }
    tiles = frozenset(node for node in chosen.quantized if node in costs and form(costs[node]) is Form.TILES)
    return Planned(left, tiles, placement, measure)


def _measured(model: ir.Model, chains: Chains, context: Context) -> dict[ir.Node, Costs]:
    assert context.calibration is not None
    nodes = (*chains.layers, *chains.members)
    names = {value.name or "" for node in nodes for value in node.inputs if value is not None}
    shapes = observed_shapes(model, context.calibration, names, context.target)
    return kernel_costs(chains, shapes, opset(model), context.target, SECONDS)


def _assumed(model: ir.Model, chains: Chains, context: Context) -> dict[ir.Node, Costs]:
    shape = KnownShapes(model, {})
    return assumed_costs(chains, {node: count(node, shape) or 0 for node in chains.layers}, context.target)


def _quiet(node: ir.Node, noise: Mapping[ir.Node, float] | None) -> str:
    """What is to be said of a node that gave way to the noise budget."""
    if noise is None or node not in noise:
        return "its neighbours do"
    return f"alone in int8 it leaves {decibel(noise[node]):.1f} dB"


def _slow(costs: Costs | None) -> str:
    """What is to be said of a node that would not pay."""
    if costs is None:
        return "its neighbours do"
    integer = costs[form(costs)]
    if not integer.fused:
        return "ONNX Runtime does not fuse its form"
    times = f"{costs[Form.FLOAT].kernel * 1e6:.0f} us there, {integer.kernel * 1e6:.0f} us in int8"
    return f"{times}, and {(integer.before + integer.after) * 1e6:.0f} us for conversions at its ends"
