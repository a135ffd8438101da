"""Int8 for whole chains, written as the QDQ pairs that ONNX Runtime fuses into its fastest kernels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
from onnx_ir.passes.common import NameFixPass

from onnxopt.calibrate import METHODS, calibrate
from onnxopt.core import Change, Context, Exactness, Pass, Refusal, option
from onnxopt.graph import inferred, label, opset, walk
from onnxopt.macs import KnownShapes, count
from onnxopt.passes.quantize.bias import shifts
from onnxopt.passes.quantize.chains import WEIGHTED, Chains, find, united
from onnxopt.passes.quantize.grid import Grid, activation_grid
from onnxopt.passes.quantize.layers import Twins
from onnxopt.passes.quantize.sensitivity import decibel, noises
from onnxopt.passes.quantize.writer import Writer
from onnxopt.runtime import kernels

MINIMUM_OPSET = 13
"""DequantizeLinear per channel (attribute axis) begins here."""
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
    calibration: str = option(
        "auto", "how ranges are learned; auto: for each value what disturbs its readers least", choices=METHODS
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
        grids = self._grids(model, chains, context)
        pairs = context.target.int8_saturates if self.portable == "auto" else self.portable == "yes"
        if self.min_sqnr > 0:
            loud = self._loud(model, chains, noises(model, chains, grids, context, pairs=pairs))
            chains = self._chains(model, twins, loud)
            grids = self._grids(model, chains, context)
        if not chains.layers:
            return [*chains.refusals, Refusal("", f"no layer can compute in int8 at {self.min_sqnr:g} dB")]
        moved = shifts(model, chains, grids, context, pairs=pairs) if self.correct_bias else {}
        labels = {node: label(node) for node in chains.layers}
        Writer(model.graph, chains, grids, moved, pairs, context.target.has_amx).write()
        NameFixPass()(model)
        built = kernels(model, context.target)
        return [_outcome(node, name, built.get(node.name or "")) for node, name in labels.items()] + chains.refusals

    def _chains(self, model: ir.Model, twins: Twins, loud: Mapping[str, str]) -> Chains:
        """The chains without the nodes to be left, those of ``loud`` with their reasons."""
        leave = {*self.leave, *loud}
        chains = find(model.graph, twins, self.ops, leave=leave, whole=self.whole_chains)
        chains.refusals += [Refusal(name, why) for name, why in loud.items()]
        return chains

    def _grids(self, model: ir.Model, chains: Chains, context: Context) -> dict[ir.Value, Grid]:
        """The grid of each value, from its range on the calibration samples."""
        assert context.calibration is not None
        names = [value.name or "" for value in chains.values]
        bounds = calibrate(model, context.calibration, names, context.target, self.calibration).bounds
        return {value: activation_grid(*bound) for value, bound in united(chains, bounds).items()}

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
