"""Int8 for whole chains, written as the QDQ pairs that ONNX Runtime fuses into its fastest kernels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import onnx_ir as ir
from onnx_ir.passes.common import NameFixPass

from onnxopt.calibrate import METHODS, calibrate
from onnxopt.core import Change, Context, Exactness, Pass, Prediction, Refusal, option
from onnxopt.graph import inferred, label, opset, walk
from onnxopt.layers import WEIGHTED
from onnxopt.passes.quantize.grids.grid import Grid, activation_grid
from onnxopt.passes.quantize.grids.portable import bounds_pairs, portable_option
from onnxopt.passes.quantize.int8.bias import shifts
from onnxopt.passes.quantize.int8.chains import Chains, find, united
from onnxopt.passes.quantize.int8.writer import Writer
from onnxopt.passes.quantize.placing.planning import plan
from onnxopt.passes.quantize.placing.sensitivity import noises
from onnxopt.passes.quantize.rounding.rounding import METHODS as METHODS_OF_ROUNDING
from onnxopt.passes.quantize.rounding.rounding import rounded
from onnxopt.runtime import kernels

MINIMUM_OPSET = 13
"""DequantizeLinear per channel (attribute axis) begins here."""
QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul")
INTEGER = {"Conv": "QLinearConv", "Gemm": "QGemm", "MatMul": "QLinearMatMul"}
"""The kernel that ONNX Runtime should make of a layer between its pairs."""


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

    The times of all kernels, in float and in int8, are measured on this machine, and what computes in int8 is chosen
    so that the whole takes least time (``placement``); times are kept for the next run, unless others used the machine
    meanwhile. With ``min-sqnr`` or ``noise``, each layer is also quantized alone, and layers whose noise is large for
    the time they save stay in float until the sum of the others' is small enough.

    Left alone: operators without an integer kernel (Softmax, LayerNormalization, Gelu and others), layers that would
    not pay, layers named in ``leave``, layers without constant float32 weights, nodes in subgraphs; models below opset
    13; models that are quantized already; other providers than the CPU.

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
    noise: float = option(
        1.0, "the same as a share of the noise that all layers in int8 would leave; 1: all of it", low=0, high=1
    )
    placement: str = option(
        "fastest",
        "what computes in int8; fastest: by the times of kernels, measured here; everywhere: whole chains",
        choices=("fastest", "everywhere"),
    )
    calibration: str = option(
        "auto", "how ranges are learned; auto: for each value what disturbs its readers least", choices=METHODS
    )
    rounding: str = option(
        "optq",
        "of weights; optq: later ones make good the error of earlier ones; adaround: learned, slow, needs PyTorch",
        choices=("nearest", *METHODS_OF_ROUNDING),
    )
    correct_bias: bool = option(True, "take off each bias what quantization shifts its channel by on average")
    portable: str = portable_option()

    def run(self, model: ir.Model, context: Context) -> list[Change | Refusal | Prediction]:
        """Quantize in place."""
        reason = context.target.no_int8 or _hindrance(model)
        if reason or context.calibration is None:
            return [Refusal("", reason or "needs calibration data (--data)")]
        twins = inferred(model)
        chains = find(model.graph, twins, self.ops, leave=self.leave, whole=self.whole_chains)
        if not chains.layers:
            return [*chains.refusals, Refusal("", "no layer of the main graph can compute in int8")]
        grids = self._grids(model, chains, context)
        pairs = bounds_pairs(self.portable, context.target)
        limited = self.min_sqnr > 0 or self.noise < 1
        noise = noises(model, chains, grids, context, pairs=pairs) if limited else None
        alone = {label(node): one for node, one in (noise or {}).items()}
        timed = self.placement == "fastest" and context.target.is_here
        most = 10 ** (-self.min_sqnr / 10) if self.min_sqnr > 0 else math.inf
        planned = plan(model, chains, context, noise, (most, self.noise), measure=timed)
        if planned.left:
            chains = find(model.graph, twins, self.ops, leave={*self.leave, *planned.left}, whole=self.whole_chains)
            chains.refusals += [Refusal(name, why, noise=alone.get(name)) for name, why in planned.left.items()]
            grids = self._grids(model, chains, context)
        if not chains.layers:
            return [*chains.refusals, Refusal("", "no layer gains from int8")]
        predicted = planned.predicted(model, chains, context)
        if self.rounding != "nearest":
            self._round(model, chains, grids, context, pairs=pairs)
        moved = shifts(model, chains, grids, context, pairs=pairs) if self.correct_bias else {}
        labels = {node: label(node) for node in chains.layers}
        Writer(model.graph, chains, grids, moved, pairs, planned.tiles).write()
        NameFixPass()(model)
        built = kernels(model, context.target)
        done = [_outcome(node, name, built.get(node.name or ""), alone.get(name)) for node, name in labels.items()]
        return [*done, *chains.refusals, *predicted]

    def finer(self) -> QuantizeInt8 | None:
        """With weights rounded by error feedback."""
        return replace(self, rounding="optq") if self.rounding == "nearest" else None

    def _round(
        self, model: ir.Model, chains: Chains, grids: Mapping[ir.Value, Grid], context: Context, *, pairs: bool
    ) -> None:
        """Let the layers hold the integers that the rounding method chooses; it passes over what is too large."""
        found = rounded(model, chains, grids, context, self.rounding, pairs=pairs)
        for node, layer in chains.layers.items():
            if node in found:
                chains.layers[node] = replace(layer, integers=found[node])
            else:
                chains.refusals.append(Refusal(label(node), f"rounded to nearest: too large for {self.rounding}"))

    def _grids(self, model: ir.Model, chains: Chains, context: Context) -> dict[ir.Value, Grid]:
        """The grid of each value, from its range on the calibration samples."""
        assert context.calibration is not None
        names = [value.name or "" for value in chains.values]
        bounds = calibrate(model, context.calibration, names, context.target, self.calibration).bounds
        return {value: activation_grid(*bound) for value, bound in united(chains, bounds).items()}


def _hindrance(model: ir.Model) -> str | None:
    """Why the model cannot be quantized at all."""
    if opset(model) < MINIMUM_OPSET:
        return f"opset {opset(model)} is below {MINIMUM_OPSET}: run upgrade-opset first"
    if any(node.op_type in QUANTIZED for node in walk(model)):
        return "the model is quantized already"
    return None


def _outcome(node: ir.Node, name: str, kernel: str | None, noise: float | None) -> Change | Refusal:
    """What ONNX Runtime makes of a layer: only that counts."""
    if kernel in (None, node.op_type):
        why = f"ONNX Runtime does not fuse it: {node.op_type} would run in float between conversions"
        return Refusal(name, why, INTEGER.get(node.op_type), noise)
    return Change(name, f"{node.op_type} in int8 ({kernel})", kernel=kernel, noise=noise)
