"""Bias correction: what quantization shifts each output channel by on average, taken off its bias.

Rounding errors of the weights of one channel do not cancel where activations are mostly positive: the channel's mean
moves, and the layers after it see another distribution. Source: Nagel, van Baalen, Blankevoort, Welling, "Data-Free
Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section 4.2, measured on calibration data.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from onnxopt.core import Context
from onnxopt.graph import constant
from onnxopt.passes.quantize.grids.grid import Grid
from onnxopt.passes.quantize.int8.chains import Chains
from onnxopt.passes.quantize.int8.emulate import add, rounded_input, rounded_weight
from onnxopt.passes.quantize.int8.layers import Int8Layer
from onnxopt.runtime import Session

AXES_ARE_INPUT = 18
"""The opset from which ReduceMean takes its axes as an input."""
TAP = "onnxopt/shift/"


def shifts(
    model: ir.Model, chains: Chains, grids: Mapping[ir.Value, Grid], context: Context, *, pairs: bool
) -> dict[ir.Node, np.ndarray]:
    """The mean error of each output channel of each layer, ``[channels]``, that its own quantization makes.

    One run over the calibration samples: beside each layer stands its quantized twin, which reads the same float
    input, so that no error of the layers before is counted twice.

    Args:
        model: in float.
        chains: its layers in int8; those without a bias input of their own (MatMul) are left out.
        grids: of their inputs.
        context: calibration samples, and where to run.
        pairs: whether pair sums are bounded (see ``grid``).
    """
    copy = model.clone()
    twins = dict(zip(model.graph, copy.graph, strict=True))
    taps: dict[str, ir.Node] = {}
    for place, (node, layer) in enumerate(chains.layers.items()):
        if node.op_type == "MatMul":
            continue
        source = node.inputs[0]
        assert source is not None
        taps[f"{TAP}{place}"] = node
        _add_twin(copy.graph, twins[node], layer, grids[source], f"{TAP}{place}", pairs=pairs)
    copy.graph.sort()
    session = Session(copy, context.target)
    assert context.calibration is not None
    sums = {name: np.zeros(()) for name in taps}
    seen = 0
    for batch, outputs in context.calibration.run(session):
        seen += batch.size
        sums = {name: sums[name] + batch.size * outputs[name].astype(np.float64) for name in taps}
    return {node: (sums[name] / max(seen, 1)).astype(np.float32) for name, node in taps.items()}


def _add_twin(graph: ir.Graph, node: ir.Node, layer: Int8Layer, grid: Grid, name: str, *, pairs: bool) -> None:
    """A quantized twin of the node, and as an output of the graph how far its channels are off on average."""
    source, out = node.inputs[0], node.outputs[0]
    assert source is not None
    weight = rounded_weight(graph, name, layer, grid, pairs=pairs)
    inputs = [rounded_input(graph, name, source, grid), weight, *node.inputs[2:]]
    twin = ir.Node("", node.op_type, inputs, list(node.attributes.values()), num_outputs=1)
    graph.append(twin)
    error = add(graph, "Sub", [twin.outputs[0], out])
    mean = _channel_means(graph, error, spatial=node.op_type == "Conv", rank=len(layer.weight.shape or ()))
    mean.name, mean.type, mean.shape = name, ir.TensorType(ir.DataType.FLOAT), None
    graph.outputs.append(mean)


def _channel_means(graph: ir.Graph, value: ir.Value, *, spatial: bool, rank: int) -> ir.Value:
    """The mean over all axes but the channels, axis 1, in operators of every opset."""
    axes = [0, *range(2, rank if spatial else 2)]
    if graph.opset_imports.get("", 0) < AXES_ARE_INPUT:
        return add(graph, "ReduceMean", [value], axes=axes, keepdims=0)
    numbers = constant(graph, f"{value.name}/axes", np.array(axes, np.int64))
    return add(graph, "ReduceMean", [value, numbers], keepdims=0)
