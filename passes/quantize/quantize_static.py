"""Static int8 quantization of whole chains, in the form that ONNX Runtime fuses on x86."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import NameFixPass

from onnxopt import files
from onnxopt.calibrate import Ranges, calibrate
from onnxopt.core import Change, Context, Exactness, Pass, Refusal, option
from onnxopt.graph import STANDARD_DOMAINS, adopt, array, constant, given, inferred, label, nodes, tensor, walk

FUSED = (
    "Conv", "Gemm", "MatMul", "Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "Sigmoid", "LeakyRelu",
    "Relu", "Clip", "MaxPool", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Split", "Resize",
)  # fmt: skip
"""Operators with an int8 kernel, or that run in 8 bits because ONNX Runtime drops the Q/DQ around them."""

HEAVY = ("Conv", "Gemm", "MatMul")
FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
MINIMUM_OPSET = 13
"""DequantizeLinear per channel (attribute axis) begins here."""


@dataclass(frozen=True)
class QuantizeStatic(Pass):
    """Quantize activations to uint8 and weights to int8, with ranges learned from calibration data.

    Before: ``y = Relu(Conv(x, W, b))`` in float32
    After:  ``y = DQ(Q(Conv(DQ(Q(x)), DQ(W8), DQ(b32))))``: QuantizeLinear/DequantizeLinear pairs that
    ONNX Runtime fuses into one integer kernel.

    Activations are uint8 and asymmetric, so that Relu is free; weights are int8, symmetric, with a scale
    per output channel; biases int32. Ranges are the smallest and largest value over the calibration data.

    Left alone: operators outside the whitelist, which ONNX Runtime would run in float between two conversions;
    nodes in subgraphs; models below opset 13; models that are quantized already.

    Exact up to: lossy; the gate decides.

    Source: onnxruntime.quantization (QDQQuantizer); which operators fuse was probed on ONNX Runtime 1.31.
    """

    name: ClassVar[str] = "quantize-static"
    exactness: ClassVar[Exactness] = Exactness.LOSSY

    ops: tuple[str, ...] = option(FUSED, "operator types to quantize", choices=FUSED)
    per_channel: bool = option(True, "a scale for each output channel of a weight, not one for all")
    reduce_range: bool = option(False, "7-bit weights, for processors whose int8 products saturate (x86 without VNNI)")

    def run(self, model: ir.Model, context: Context) -> list[Change | Refusal]:
        """Quantize in place."""
        known = inferred(model)
        chosen = [node for node in model.graph if _fits(node, self.ops, known)]
        reason = _hindrance(model, chosen, context)
        if reason or context.calibration is None:
            return [Refusal("", reason or "needs calibration data (--data)")]
        for value, twin in known.items():
            value.type, value.shape = twin.type, twin.shape
        NameFixPass()(model)
        _flatten_biases(model)
        names = sorted({name for node in chosen for name in _activations(node)})
        ranges = calibrate(model, context.calibration, names, context.target)
        quantized = ir.serde.deserialize_model(self._quantize(model, chosen, ranges))
        quantized.graph.sort()  # the quantizer appends its nodes at the end
        adopt(model, quantized)
        return [Change(label(node), f"{node.op_type} in int8") for node in walk(model) if _reads_int8(node)]

    def _quantize(self, model: ir.Model, chosen: list[ir.Node], ranges: Ranges) -> onnx.ModelProto:
        from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType, TensorData, TensorsData

        bounds = {
            name: TensorData(lowest=np.array(low, np.float32), highest=np.array(high, np.float32))
            for name, (low, high) in ranges.bounds.items()
        }
        proto = onnx.load_from_string(files.to_bytes(model))
        del proto.graph.value_info[:]  # stale shapes make the inference inside the quantizer fail
        with _quiet():
            quantizer = QDQQuantizer(
                proto,
                self.per_channel,
                self.reduce_range,
                QuantType.QInt8,
                QuantType.QUInt8,
                TensorsData(CalibrationMethod.MinMax, bounds),
                [node.name for node in chosen],
                [],
                list(self.ops),
                {"WeightSymmetric": True, "ActivationSymmetric": False},
            )
            quantizer.quantize_model()
        result: onnx.ModelProto = quantizer.model.model
        return result


def _hindrance(model: ir.Model, chosen: list[ir.Node], context: Context) -> str | None:
    """Why the model cannot be quantized at all."""
    if model.opset_imports.get("", 0) < MINIMUM_OPSET:
        return f"opset {model.opset_imports.get('', 0)} is below {MINIMUM_OPSET}: run upgrade-opset first"
    if any(node.op_type in ("QuantizeLinear", "QLinearConv", "QLinearMatMul") for node in walk(model)):
        return "the model is quantized already"
    if not any(node.op_type in HEAVY for node in chosen):
        return "the main graph has no float convolution or matrix product"
    return None


def _flatten_biases(model: ir.Model) -> None:
    """Gemm biases of shape [1, N] become [N]: the quantizer reads one number per output channel from axis 0."""
    for node in nodes(model, "Gemm"):
        bias = array(given(node, 2))
        if bias is not None and bias.ndim == 2 and bias.shape[0] == 1:
            assert node.graph is not None
            node.replace_input_with(2, constant(node.graph, f"{label(node)}/bias", bias.reshape(-1)))


def _fits(node: ir.Node, ops: tuple[str, ...], known: Mapping[ir.Value, ir.Value]) -> bool:
    """Whether the node may compute in int8: of a chosen type, on float activations, a Conv with constant weights."""
    if node.op_type not in ops or node.domain not in STANDARD_DOMAINS or known[node.outputs[0]].dtype not in FLOATS:
        return False
    return node.op_type != "Conv" or tensor(node.inputs[1]) is not None


def _activations(node: ir.Node) -> list[str]:
    """The float values that the node reads or gives and that are not constant."""
    values = [value for value in (*node.inputs, *node.outputs) if value is not None]
    return [value.name for value in values if value.name and value.dtype in FLOATS and tensor(value) is None]


def _reads_int8(node: ir.Node) -> bool:
    producers = [value.producer() for value in node.inputs if value is not None]
    return node.op_type != "QuantizeLinear" and any(p and p.op_type == "DequantizeLinear" for p in producers)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The quantizer's own advice about pre-processing does not apply: our passes did it."""
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logging.root.setLevel(level)
