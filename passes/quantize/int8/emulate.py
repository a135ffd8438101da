"""What quantization makes of a layer's input and weight, in float: for measuring it beside the float layer."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxopt.graph import constant
from onnxopt.passes.quantize.grids.grid import Grid
from onnxopt.passes.quantize.int8.layers import Int8Layer


def add(graph: ir.Graph, op_type: str, inputs: list[ir.Value | None], **attributes: int | list[int]) -> ir.Value:
    """The output of a new node."""
    node = ir.node(op_type, inputs, attributes)
    graph.append(node)
    return node.outputs[0]


def rounded_input(graph: ir.Graph, name: str, value: ir.Value, grid: Grid) -> ir.Value:
    """The value through Q and DQ."""
    scale = constant(graph, f"{name}/scale", np.asarray(grid.scale))
    zero = constant(graph, f"{name}/zero", np.asarray(grid.zero_point))
    return add(graph, "DequantizeLinear", [add(graph, "QuantizeLinear", [value, scale, zero]), scale, zero])


def rounded_weight(graph: ir.Graph, name: str, layer: Int8Layer, grid: Grid, *, pairs: bool) -> ir.Value:
    """The layer's weight as its integers say, float32 in the shape that the layer reads."""
    integers, scales = layer.quantized(float(grid.scale), pairs=pairs)
    return constant(graph, f"{name}/weight", layer.shaped(integers * scales[:, None]).astype(np.float32))
