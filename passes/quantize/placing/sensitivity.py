"""How much noise each layer adds to the outputs when it alone is quantized."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from onnxopt.core import Context
from onnxopt.graph import constant
from onnxopt.passes.quantize.grids.grid import Grid
from onnxopt.passes.quantize.int8.chains import Chains
from onnxopt.passes.quantize.int8.emulate import add, rounded_input, rounded_weight
from onnxopt.passes.quantize.int8.layers import Int8Layer
from onnxopt.runtime import Outputs, Session

SWITCHES = "onnxopt/quantized"
"""The input that says which layers are quantized: bool ``[layers]``."""
SAMPLES = 8
"""Samples on which noise is measured: it is a mean over all outputs of all of them."""


def noises(
    model: ir.Model, chains: Chains, grids: Mapping[ir.Value, Grid], context: Context, *, pairs: bool
) -> dict[ir.Node, float]:
    """Mean squared error of the outputs, relative to their mean square, with one layer quantized at a time.

    The model is loaded once: a copy whose layers read either the numbers or their quantized forms, as an input says.
    What a layer's input and weights lose counts; the noise of several layers is close to the sum of theirs, as
    rounding errors are independent (measured in tests/passes/test_quantize_sensitivity.py).

    Args:
        model: in float.
        chains: its layers in int8.
        grids: of their inputs.
        context: calibration samples, of which the first 8 are run, and where.
        pairs: whether pair sums are bounded (see ``grid``).
    """
    copy, twins = _clone(model)
    switches = ir.Value(name=SWITCHES, type=ir.TensorType(ir.DataType.BOOL), shape=ir.Shape([len(chains.layers)]))
    copy.graph.inputs.append(switches)
    for place, (node, layer) in enumerate(chains.layers.items()):
        source = node.inputs[0]
        assert source is not None
        _switch(copy.graph, twins[node], layer, grids[source], switches, place, pairs=pairs)
    copy.graph.sort()
    session = Session(copy, context.target)
    assert context.calibration is not None
    few = context.calibration.take(min(len(context.calibration), SAMPLES))

    def outputs(place: int) -> list[Outputs]:
        fixed = {SWITCHES: np.arange(len(chains.layers)) == place}
        return [outputs for _, outputs in few.run(session, fixed)]

    wanted = outputs(-1)
    return {node: _noise(wanted, outputs(place)) for place, node in enumerate(chains.layers)}


def _clone(model: ir.Model) -> tuple[ir.Model, dict[ir.Node, ir.Node]]:
    copy = model.clone()
    return copy, dict(zip(model.graph, copy.graph, strict=True))


def _switch(
    graph: ir.Graph, node: ir.Node, layer: Int8Layer, grid: Grid, switches: ir.Value, place: int, *, pairs: bool
) -> None:
    """Let the node read its input and weight, or what quantization makes of them."""
    source, weight = node.inputs[0], node.inputs[1]
    assert source is not None
    assert weight is not None
    on = add(graph, "Gather", [switches, constant(graph, f"{SWITCHES}/{place}", np.asarray(place, np.int64))])
    rounded = rounded_input(graph, f"{SWITCHES}/{place}", source, grid)
    node.replace_input_with(0, add(graph, "Where", [on, rounded, source]))
    rounded = rounded_weight(graph, f"{SWITCHES}/{place}", layer, grid, pairs=pairs)
    node.replace_input_with(1, add(graph, "Where", [on, rounded, weight]))


def decibel(noise: float) -> float:
    """Signal to noise ratio of a relative noise power."""
    return -10 * math.log10(max(noise, 1e-30))


def _noise(wanted: list[Outputs], got: list[Outputs]) -> float:
    """The worst output's."""
    errors: dict[str, list[float]] = {}
    powers: dict[str, list[float]] = {}
    for one, other in zip(wanted, got, strict=True):
        for name, numbers in one.items():
            if np.asarray(numbers).dtype.kind == "f" and np.size(numbers):
                errors.setdefault(name, []).append(float(np.mean(np.square(numbers - other[name]))))
                powers.setdefault(name, []).append(float(np.mean(np.square(numbers))))
    return max((sum(errors[name]) / max(sum(powers[name]), 1e-30) for name in errors), default=0.0)
