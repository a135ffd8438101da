"""Int8 for whole chains, written as the QDQ pairs that ONNX Runtime fuses into its fastest kernels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import NameFixPass

from onnxopt.calibrate import calibrate
from onnxopt.core import Change, Context, Exactness, Pass, Refusal, option
from onnxopt.graph import constant, drop_unread, inferred, label, opset, tensor, walk
from onnxopt.macs import KnownShapes, count
from onnxopt.passes.quantize.bias import shifts
from onnxopt.passes.quantize.chains import WEIGHTED, Chains, data_inputs, find, united
from onnxopt.passes.quantize.grid import Grid, activation_grid, quantized_bias, quantized_rows, weight_scales
from onnxopt.passes.quantize.layers import Layer, Twins
from onnxopt.passes.quantize.sensitivity import decibel, noises
from onnxopt.runtime import kernels

MINIMUM_OPSET = 13
"""DequantizeLinear per channel (attribute axis) begins here."""
UINT8 = ir.TensorType(ir.DataType.UINT8)
QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul")


@dataclass(frozen=True)
class QuantizeInt8(Pass):
    """Quantize chains of layers to uint8 activations and int8 weights, with ranges learned from calibration data.

    Before: ``y = Relu(Conv(x, W, b))`` in float32
    After:  ``y = DQ(Q(Relu(Conv(DQ(Q(x)), DQ(W8), DQ(b32)))))``: QuantizeLinear/DequantizeLinear pairs that
    ONNX Runtime fuses into one integer kernel, into whose range the Relu vanishes.

    Weights are symmetric with a scale for each output channel. Gemm and MatMul give floats where a float operator
    reads them, so nothing between the layers of a transformer is quantized. Where the processor would add pairs of
    products in 16 bits (``portable``), the scale of a channel is just as large as its largest pair asks for, and the
    result is exact there, too.

    With ``min-sqnr``, layers are quantized one at a time first, and those whose noise is largest for their work stay
    in float until the sum of the others' is small enough.

    Left alone: operators without an integer kernel (Softmax, LayerNormalization, Gelu and others), operators that
    would need conversions of their own, layers named in ``leave``, layers without constant float32 weights, nodes in
    subgraphs; models below opset 13; models that are quantized already.

    Exact up to: lossy; the gate decides.

    Source: which operators fuse and how kernels add was measured on ONNX Runtime 1.31; grids after Jacob et al.,
    "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", CVPR 2018.
    """

    name: ClassVar[str] = "quantize-int8"
    exactness: ClassVar[Exactness] = Exactness.LOSSY

    ops: tuple[str, ...] = option(WEIGHTED, "layers to quantize", choices=WEIGHTED)
    whole_chains: bool = option(True, "also what lies between layers: Add, Mul, Concat, pooling, activations")
    leave: tuple[str, ...] = option((), "nodes that stay in float, by the name of their output")
    min_sqnr: float = option(
        0.0, "signal to quantization noise of the outputs in dB that is kept by leaving layers in float; 0: any", low=0
    )
    correct_bias: bool = option(True, "take off each bias what quantization shifts its channel by on average")
    portable: str = option(
        "auto",
        "bound pair sums for processors without VNNI: auto asks this one",
        choices=("auto", "yes", "no"),
    )

    def run(self, model: ir.Model, context: Context) -> list[Change | Refusal]:
        """Quantize in place."""
        reason = _hindrance(model)
        if reason or context.calibration is None:
            return [Refusal("", reason or "needs calibration data (--data)")]
        twins = inferred(model)
        chains = self._chains(model, twins, {})
        if not chains.layers:
            return [*chains.refusals, Refusal("", "no layer of the main graph can compute in int8")]
        names = [value.name or "" for value in chains.values]
        bounds = calibrate(model, context.calibration, names, context.target).bounds
        grids = _grids(chains, bounds)
        pairs = context.target.int8_saturates if self.portable == "auto" else self.portable == "yes"
        if self.min_sqnr > 0:
            loud = self._loud(model, chains, noises(model, chains, grids, context, pairs=pairs))
            chains = self._chains(model, twins, loud)
            grids = _grids(chains, bounds)
        if not chains.layers:
            return [*chains.refusals, Refusal("", f"no layer can compute in int8 at {self.min_sqnr:g} dB")]
        moved = shifts(model, chains, grids, context, pairs=pairs) if self.correct_bias else {}
        labels = {node: label(node) for node in chains.layers}
        _Writer(model.graph, chains, grids, moved, pairs).write()
        NameFixPass()(model)
        built = kernels(model, context.target)
        return [_outcome(node, name, built.get(node.name or "")) for node, name in labels.items()] + chains.refusals

    def _chains(self, model: ir.Model, twins: Twins, loud: Mapping[str, str]) -> Chains:
        """The chains without the nodes to be left, those of ``loud`` with their reasons."""
        leave = {*self.leave, *loud}
        chains = find(model.graph, twins, self.ops, leave=leave, whole=self.whole_chains)
        chains.refusals += [Refusal(name, why) for name, why in loud.items()]
        return chains

    def _loud(self, model: ir.Model, chains: Chains, noise: Mapping[ir.Node, float]) -> dict[str, str]:
        """The layers to leave in float, and why: those with the most noise for their work go first."""
        shape = KnownShapes(model, {})
        work = {node: max(count(node, shape) or 0, 1) for node in chains.layers}
        left, allowed = sum(noise.values()), 10 ** (-self.min_sqnr / 10)
        loud = {}
        for node in sorted(chains.layers, key=lambda node: noise[node] / work[node], reverse=True):
            if left <= allowed:
                break
            left -= noise[node]
            loud[label(node)] = f"stays in float: alone in int8 it leaves {decibel(noise[node]):.1f} dB"
        return loud


def _grids(chains: Chains, bounds: Mapping[str, tuple[float, float]]) -> dict[ir.Value, Grid]:
    return {value: activation_grid(*bound) for value, bound in united(chains, bounds).items()}


def _hindrance(model: ir.Model) -> str | None:
    """Why the model cannot be quantized at all."""
    if opset(model) < MINIMUM_OPSET:
        return f"opset {opset(model)} is below {MINIMUM_OPSET}: run upgrade-opset first"
    if any(node.op_type in QUANTIZED for node in walk(model)):
        return "the model is quantized already"
    return None


def _outcome(node: ir.Node, name: str, kernel: str | None) -> Change | Refusal:
    """What ONNX Runtime makes of a layer: only that counts."""
    if kernel in (None, node.op_type):
        return Refusal(name, f"ONNX Runtime does not fuse it: {node.op_type} would run in float between conversions")
    return Change(name, f"{node.op_type} in int8 ({kernel})")


@dataclass
class _Writer:
    """Writes the pairs into a graph.

    Attributes:
        graph: changed in place.
        chains: what is quantized.
        grids: of every value in them.
        moved: how far the channels of a layer are off on average, which its bias makes good.
        pairs: whether pair sums are bounded.
    """

    graph: ir.Graph
    chains: Chains
    grids: dict[ir.Value, Grid]
    moved: Mapping[ir.Node, np.ndarray]
    pairs: bool
    weights: dict[tuple[ir.Value, int, bytes], ir.Value] = field(default_factory=dict)

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

    def _quantize_weights(self, node: ir.Node, layer: Layer) -> None:
        source = node.inputs[0]
        assert source is not None
        rows, bias, scale = layer.rows(), layer.bias_numbers(), float(self.grids[source].scale)
        pairs = self.pairs and layer.pairs
        scales = weight_scales(rows, bias, scale, pairs=pairs)
        key = (layer.weight, layer.axis, scales.tobytes())  # tied weights stay one
        if key not in self.weights:
            integers = layer.shaped(quantized_rows(rows, scales, pairs=pairs))
            self.weights[key] = self._dequantized(layer.weight, integers, scales, layer.axis)
        node.replace_input_with(1, self.weights[key])
        if node in self.moved:
            bias = (0 if bias is None else bias) - self.moved[node]
        if bias is not None:
            integers = quantized_bias(bias, scales, scale)
            like = layer.bias or ir.Value(name=f"{label(node)}/bias", type=layer.weight.type)
            _set_bias(node, self._dequantized(like, integers, scales * np.float32(scale), 0))
        drop_unread([value for value in (layer.weight, layer.bias) if value is not None])

    def _dequantized(self, like: ir.Value, integers: np.ndarray, scales: np.ndarray, axis: int) -> ir.Value:
        name = like.name or "weight"
        inputs = [
            constant(self.graph, f"{name}/{'int8' if integers.dtype == np.int8 else 'int32'}", integers),
            constant(self.graph, f"{name}/scale", scales),
            constant(self.graph, f"{name}/zero", np.zeros(scales.shape, integers.dtype)),
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
