"""Weights of 8 or 4 bits for matrix products with few rows, which wait for their weights rather than compute."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxopt.calibrate import observed_shapes
from onnxopt.core import Change, Context, Exactness, Pass, Refusal, option
from onnxopt.errors import UsageError
from onnxopt.graph import constant, drop_constant, drop_unread, label, opset, tensor, weight_bytes
from onnxopt.layers import FLOATS, Layer, layers
from onnxopt.opsets import raise_opset
from onnxopt.passes.quantize.grids.blocks import quantized
from onnxopt.runtime import kernels
from onnxopt.target import Target

PRODUCTS = ("MatMul", "Gemm")
PER_CHANNEL_OPSET, HALF_OPSET, BLOCK_OPSET = 13, 19, 21
"""DequantizeLinear with one scale for each channel, to float16, and with blocks and 4-bit integers."""
KERNEL = "MatMulNBits"
UINT4_IR = 10
"""The version of the file format in which 4-bit integers begin."""
SMALLEST_BLOCK = 16
"""Of those that ONNX Runtime fuses."""


@dataclass(frozen=True)
class QuantizeWeights(Pass):
    """Store the weights of matrix products with few rows in 8 or 4 bits.

    Before:
        ``y = MatMul(x, W)``, x [M, K] with small M, W float32 or float16 [K, N]
    After:
        ``y = MatMul(x, DequantizeLinear(W8, scale, zero))``, W8 uint8 or uint4 [K, N], scale and zero point
        [blocks, N], one for each ``block`` rows of a column. ONNX Runtime fuses both into MatMulNBits with
        accuracy level 4: x is quantized to int8 at run time, in blocks too; on CUDA x stays as it is. The scales are of
        W's type: in a float16 model, which this comes after, MatMulNBits computes in float16. ``Relu(h)`` behind a
        product becomes ``Max(h, 0)``, else nothing is fused.
    Left alone:
        products with more than ``rows`` rows on the first sample, where float is faster; matrices of fewer than
        ``size`` weights; weights that are not constant, not floats or not a matrix; Gemm that scales or
        transposes x; nodes in subgraphs; what ONNX Runtime does not fuse (looked up in the graph it builds). An
        embedding that is also read as it is stays, and the product gets a copy; so does each of several readers.
        The opset is raised to 21 where it is below, or to 13 (float16: 19) with ``block=0`` and 8 bits.
    Exact up to:
        lossy; the gate decides.
    Source:
        ONNX operator specification. Measured on ONNX Runtime 1.31 and a Zen 3 (AVX2), 768 x 50257 with one row: 8 bits
        2.7 times as fast as float, 4 bits 3.7 times; from 16 rows on 8 bits are slower. With zero points the error of
        MiniLM's weights in 4 bits is 8.1 %, without 9.1 %, each with the clipping of least squared error.
    """

    name: ClassVar[str] = "quantize-weights"
    exactness: ClassVar[Exactness] = Exactness.LOSSY

    bits: int = option(8, "of a weight: 8 or 4", low=4, high=8)
    block: int = option(32, "weights that share a scale, a power of two from 16 on; 0: a whole column", low=0)
    rows: int = option(4, "most rows of the input of a product", low=1)
    size: int = option(1 << 18, "fewest weights of a matrix; smaller ones stay in the processor's cache", low=1)
    share: float = option(0.0, "least share of the model's weights that such products must hold", low=0, high=1)
    leave: tuple[str, ...] = option((), "nodes that stay in float, by the name of their output")

    def __post_init__(self) -> None:
        """Refuse what no kernel computes.

        Raises:
            UsageError: for other bits or blocks.
        """
        if self.bits not in (4, 8):
            raise UsageError(f"option bits: {self.bits} is neither 4 nor 8")
        if self.block and (self.block < SMALLEST_BLOCK or self.block & (self.block - 1)):
            raise UsageError(f"option block: {self.block} is neither 0 nor a power of two from {SMALLEST_BLOCK} on")

    def run(self, model: ir.Model, context: Context) -> list[Change | Refusal]:
        """Quantize in place, then undo what ONNX Runtime does not fuse."""
        if context.calibration is None:
            return [Refusal("", "needs calibration data (--data)")]
        products, refusals = layers(model, PRODUCTS, FLOATS)
        names = [value.name or "" for found in products if (value := found.node.inputs[0]) is not None]
        shapes = observed_shapes(model, context.calibration, names, context.target)
        why = {label(found.node): self._why_not(found, shapes) for found in products}
        refusals += [Refusal(name, reason) for name, reason in why.items() if reason]
        chosen = {name for name, reason in why.items() if not reason}
        halves = any(found.weight.dtype is ir.DataType.FLOAT16 for found in products if label(found.node) in chosen)
        reason = (self._too_few(model, products, chosen) or self._raised(model, halves=halves)) if chosen else None
        if reason or not chosen:
            return [*refusals, *([Refusal("", reason)] if reason else [])]
        swaps = [self._quantize(found) for found in layers(model, PRODUCTS, FLOATS)[0] if label(found.node) in chosen]
        return self._settle(model, swaps, context.target) + refusals

    def _too_few(self, model: ir.Model, products: list[Layer], chosen: Collection[str]) -> str | None:
        """Why the products are not worth it, if they are not."""
        held = {found.weight: found.weight.const_value for found in products if label(found.node) in chosen}
        share = sum(contents.nbytes for contents in held.values() if contents is not None) / max(weight_bytes(model), 1)
        return f"products with few rows hold {share:.0%} of the weights" if share < self.share else None

    def _raised(self, model: ir.Model, *, halves: bool) -> str | None:
        """Raise the opset to the one that the integers need; why it cannot be, if it cannot."""
        by_channel = HALF_OPSET if halves else PER_CHANNEL_OPSET
        least = BLOCK_OPSET if self.block or self.bits == 4 else by_channel
        return raise_opset(model, least) if opset(model) < least else None

    def _why_not(self, found: Layer, shapes: Mapping[str, tuple[int, ...]]) -> str | None:
        """Why a layer stays in float."""
        source, weights = found.node.inputs[0], math.prod(found.weight.shape.numpy() if found.weight.shape else ())
        shape = shapes.get(source.name or "") if source is not None else None
        if label(found.node) in self.leave:
            return "is to be left"
        if weights < self.size:
            return f"{weights} weights are fewer than {self.size}"
        if shape is None:
            return "the shape of its input is not known"
        rows = math.prod(shape[:-1])
        return f"its input has {rows} rows, more than {self.rows}" if rows > self.rows else None

    def _quantize(self, found: Layer) -> _Swap:
        """Put integers and a DequantizeLinear behind one layer.

        ONNX Runtime fuses neither of two layers that share their integers or scales: each gets its own.
        """
        node, graph = found.node, found.node.graph
        assert isinstance(graph, ir.Graph)
        weight = found.rows().T  # [K, N]
        kind = weight.dtype.type
        block = self.block if self.block < len(weight) else 0
        numbers = quantized(weight.astype(np.float32, copy=False), self.bits, block, kind)
        parts = zip(("int", "scale", "zero"), numbers, strict=True)
        constants = [constant(graph, f"{found.weight.name}/{part}", one) for part, one in parts]
        where = {"axis": 0, "block_size": block} if block else {"axis": 1}
        dequantize = ir.node("DequantizeLinear", constants, where)
        (real,) = dequantize.outputs
        real.name, real.type, real.shape = f"{label(node)}/dq", found.weight.type, ir.Shape(weight.shape)
        before, attribute = node.inputs[1], node.attributes.get("transB")
        assert before is not None
        graph.insert_before(node, dequantize)
        node.replace_input_with(1, real)
        if attribute is not None:
            node.attributes["transB"] = ir.AttrInt64("transB", 0)
        relu = _relu_behind(node)
        if relu is not None:
            _write_as_max(relu, kind)
        return _Swap(node, dequantize, before, attribute, relu)

    def _settle(self, model: ir.Model, swaps: list[_Swap], target: Target) -> list[Change | Refusal]:
        """Keep what ONNX Runtime fuses; where the DequantizeLinear stays, the float weight comes back."""
        if not swaps:
            return []
        version, needed = model.ir_version, UINT4_IR if self.bits == 4 else 0
        model.ir_version = max(version, needed)
        built = kernels(model, target)
        kept = [swap for swap in swaps if swap.dequantize.name not in built]
        undone = [swap for swap in swaps if swap.dequantize.name in built]
        for swap in undone:
            swap.undo()
        for swap in kept:
            drop_constant(swap.before)
        if not kept:
            model.ir_version = version
        what, why = f"with {self.bits}-bit weights ({KERNEL})", "ONNX Runtime does not fuse it with its weights"
        changes = [Change(label(swap.node), f"{swap.node.op_type} {what}", kernel=KERNEL) for swap in kept]
        return [*changes, *(Refusal(label(swap.node), why, KERNEL) for swap in undone)]


@dataclass(frozen=True)
class _Swap:
    """A layer whose weight was quantized, and what it takes to undo that.

    Attributes:
        node: the layer.
        dequantize: what it reads now.
        before: what it read.
        attribute: its transB; None where it has none.
        relu: the Relu behind it that became a Max.
    """

    node: ir.Node
    dequantize: ir.Node
    before: ir.Value
    attribute: ir.Attr | None
    relu: ir.Node | None

    def undo(self) -> None:
        """Read the float weight again."""
        self.node.replace_input_with(1, self.before)
        if self.attribute is not None:
            self.node.attributes["transB"] = self.attribute
        if self.relu is not None:
            _write_as_relu(self.relu)
        drop_constant(self.dequantize.outputs[0])


def _relu_behind(node: ir.Node) -> ir.Node | None:
    """The Relu that alone reads the node, or the sum of it and a bias."""
    reader = _only_reader(node)
    if reader is not None and reader.op_type == "Add" and any(tensor(value) is not None for value in reader.inputs):
        reader = _only_reader(reader)
    return reader if reader is not None and reader.op_type == "Relu" else None


def _only_reader(node: ir.Node) -> ir.Node | None:
    (out,) = node.outputs
    readers = [use.node for use in out.uses()]
    alone = len(readers) == 1 and readers[0].graph is node.graph and not out.is_graph_output()
    return readers[0] if alone else None


def _write_as_max(relu: ir.Node, kind: type[np.floating]) -> None:
    """Relu(x) as Max(x, 0): a Relu is taken for one that quantization makes superfluous, and nothing is fused."""
    assert isinstance(relu.graph, ir.Graph)
    relu.op_type = "Max"
    relu.resize_inputs(2)
    relu.replace_input_with(1, constant(relu.graph, f"{label(relu)}/zero", np.zeros((), kind)))


def _write_as_relu(maximum: ir.Node) -> None:
    """Undo ``_write_as_max``."""
    zero = maximum.inputs[1]
    assert zero is not None
    maximum.resize_inputs(1)
    maximum.op_type = "Relu"
    drop_unread([zero])
