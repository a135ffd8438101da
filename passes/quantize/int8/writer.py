"""Writes the QDQ pairs of chains into a graph."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from onnxopt.graph import constant, drop_constant, label, tensor
from onnxopt.passes.quantize.grids.grid import WEIGHT_MAX, Grid, quantized_bias
from onnxopt.passes.quantize.int8.chains import Chains, data_inputs
from onnxopt.passes.quantize.int8.layers import Int8Layer


@dataclass
class Writer:
    """Writes the pairs into a graph.

    Attributes:
        graph: changed in place.
        chains: what is quantized.
        grids: of every value in them.
        moved: how far the channels of a layer are off on average, which its bias makes good.
        pairs: whether pair sums are bounded.
        tiles: convolutions that get weight zero point 1, with which ONNX Runtime takes them to its matrix product,
            on AMX tiles where there are any; it costs up to 0.25 dB (measured on 1.31).
        weights: those written so far; tied ones stay one.
    """

    graph: ir.Graph
    chains: Chains
    grids: dict[ir.Value, Grid]
    moved: Mapping[ir.Node, np.ndarray]
    pairs: bool
    tiles: Collection[ir.Node] = ()
    weights: dict[tuple[ir.Value, int, int, bytes], ir.Value] = field(default_factory=dict)

    def write(self) -> None:
        """Weights first: they need the grids of the inputs, whose values are replaced then."""
        for node, layer in self.chains.layers.items():
            self._quantize_weights(node, layer)
        integer = {*self.chains.layers, *self.chains.members}
        for value in self.chains.values:
            self._convert(value, integer)
        for node in self.chains.layers:
            _keep_bias_apart(node)
        self.graph.sort()

    def _quantize_weights(self, node: ir.Node, layer: Int8Layer) -> None:
        source = node.inputs[0]
        assert source is not None
        bias, scale = layer.bias_numbers(), float(self.grids[source].scale)
        rows, scales = layer.quantized(scale, pairs=self.pairs)
        zero = int(node in self.tiles)
        key = (layer.weight, layer.axis + 2 * layer.transposed, zero, scales.tobytes())
        if key not in self.weights:
            self.weights[key] = self._dequantized(layer.weight, layer.shaped(rows), scales, layer.axis, zero)
        before = node.inputs[1]
        node.replace_input_with(1, self.weights[key])
        if before is not None:
            drop_constant(before)
        if node in self.moved:
            bias = (0 if bias is None else bias) - self.moved[node]
        if bias is not None:
            integers = quantized_bias(bias, scales, scale)
            like = layer.bias or ir.Value(name=f"{label(node)}/bias", type=layer.weight.type)
            _set_bias(node, self._dequantized(like, integers, scales * np.float32(scale), 0))
        if layer.bias is not None:
            drop_constant(layer.bias)

    def _dequantized(
        self, like: ir.Value, integers: np.ndarray, scales: np.ndarray, axis: int, zero: int = 0
    ) -> ir.Value:
        name = like.name or "weight"
        if zero:
            integers = np.minimum(integers, WEIGHT_MAX - zero) + np.int8(zero)
        inputs = [
            constant(self.graph, f"{name}/{'int8' if integers.dtype == np.int8 else 'int32'}", integers),
            constant(self.graph, f"{name}/scale", scales),
            constant(self.graph, f"{name}/zero", np.full(scales.shape, zero, integers.dtype)),
        ]
        shape = ir.Shape(integers.shape)
        return self._add("DequantizeLinear", inputs, f"{name}/dq", like.type, shape, axis=axis)

    def _convert(self, value: ir.Value, integer: set[ir.Node]) -> None:
        """Put Q and DQ behind the value; of a born one all readers read that, of another those in int8."""
        name, grid, born = value.name or "", self.grids[value], value in self.chains.born
        readers = [use for use in value.uses() if born or (use.node in integer and use.idx in data_inputs(use.node))]
        is_output = born and value.is_graph_output()
        if is_output:
            value.name = f"{name}/float"
        scale = constant(self.graph, f"{name}/scale", np.asarray(grid.scale))
        zero = constant(self.graph, f"{name}/zero", np.asarray(grid.zero_point))
        integers = self._add(
            "QuantizeLinear", [value, scale, zero], f"{name}/q", ir.TensorType(ir.DataType.UINT8), value.shape
        )
        real = self._add("DequantizeLinear", [integers, scale, zero], f"{name}/dq", value.type, value.shape)
        for node, index in readers:
            node.replace_input_with(index, real)
        if is_output:
            real.name = name
            for place, output in enumerate(self.graph.outputs):
                if output is value:
                    self.graph.outputs[place] = real

    def _add(
        self,
        op_type: str,
        inputs: list[ir.Value],
        name: str,
        kind: ir.TypeProtocol | None,
        shape: ir.Shape | None,
        **attributes: int,
    ) -> ir.Value:
        node = ir.node(op_type, inputs, attributes)
        out = node.outputs[0]
        out.name, out.type, out.shape = name, kind, shape
        self.graph.append(node)
        return out


def _set_bias(node: ir.Node, bias: ir.Value) -> None:
    if len(node.inputs) < 3:
        node.resize_inputs(3)
    node.replace_input_with(2, bias)


def _keep_bias_apart(node: ir.Node) -> None:
    """Write the bias Add after a MatMul as Sum: ONNX Runtime would fuse MatMul and Add into a Gemm, in float."""
    if node.op_type != "MatMul":
        return
    for use in list(node.outputs[0].uses()):
        reader = use.node
        others = [value for value in reader.inputs if value is not node.outputs[0]]
        if reader.op_type == "Add" and len(others) == 1 and tensor(others[0]) is not None:
            reader.op_type = "Sum"
