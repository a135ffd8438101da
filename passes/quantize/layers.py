"""The layers with weights that can compute in int8: Conv, Gemm and MatMul, each as rows of weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from onnxopt.graph import STANDARD_DOMAINS, array, given, rank, tensor
from onnxopt.passes.quantize.grid import quantized_rows, weight_scales

Twins = Mapping[ir.Value, ir.Value]


@dataclass(frozen=True)
class Layer:
    """A layer with constant weights.

    Attributes:
        node: Conv, Gemm or MatMul.
        weight: the constant, as in the model.
        axis: of the weight, the output channels.
        bias: ``[channels]``; None without one.
        pairs: whether a kernel without VNNI may add neighbouring products in 16 bits.
        depthwise: whether it is a convolution of each channel by itself.
        transposed: whether the layer reads the constant through a Transpose, as a last layer tied to an embedding does.
        integers: the rows as a rounding method chose them, int8 ``[channels, products]``; None: rounded to nearest.
    """

    node: ir.Node
    weight: ir.Value
    axis: int
    bias: ir.Value | None
    pairs: bool
    depthwise: bool = False
    transposed: bool = False
    integers: np.ndarray | None = field(default=None, compare=False)

    def rows(self) -> np.ndarray:
        """``[channels, products]``, each row in the order in which ONNX Runtime's kernels sum it.

        Of a convolution that is (kernel positions, input channels), as for channels-last images. A copy: a view would
        keep a weight file open.
        """
        numbers = np.moveaxis(self.numbers(), self.axis, 0)
        if self.node.op_type == "Conv":
            numbers = np.moveaxis(numbers, 1, -1)
        return np.array(numbers.reshape(len(numbers), -1))

    def shaped(self, rows: np.ndarray) -> np.ndarray:
        """Rows back in the shape of the weight."""
        shape = self.numbers().shape
        if self.node.op_type != "Conv":
            return np.moveaxis(rows, 0, self.axis)
        return np.moveaxis(rows.reshape(shape[0], *shape[2:], shape[1]), -1, 1)

    def quantized(self, input_scale: float, *, pairs: bool) -> tuple[np.ndarray, np.ndarray]:
        """The rows as int8 ``[channels, products]``, and their scales ``[channels]``.

        Args:
            input_scale: of the activation that the layer reads.
            pairs: whether the processor adds neighbouring products in 16 bits; not every kernel does.
        """
        rows, bounded = self.rows(), pairs and self.pairs
        scales = weight_scales(rows, self.bias_numbers(), input_scale, pairs=bounded)
        integers = self.integers if self.integers is not None else quantized_rows(rows, scales, pairs=bounded)
        return integers, scales

    def bias_numbers(self) -> np.ndarray | None:
        """``[channels]``."""
        found = array(self.bias)
        return None if found is None else found.reshape(-1)

    def numbers(self) -> np.ndarray:
        """The weight as the layer reads it."""
        found = array(self.weight)
        assert found is not None
        return found.T if self.transposed else found


def layer(node: ir.Node, twins: Twins) -> Layer | str:
    """The node as a layer, or why it is none.

    Args:
        node: Conv, Gemm or MatMul.
        twins: of its values, with inferred types and shapes (``graph.inferred``).
    """
    weight, bias = given(node, 1), given(node, 2)
    source = _transposed(weight)
    if source is not None and node.op_type == "MatMul" and twins[source].dtype is ir.DataType.FLOAT:
        return Layer(node, source, 1, None, pairs=True, transposed=True)
    if weight is None or tensor(weight) is None:
        return "its weight is not constant"
    if twins[weight].dtype is not ir.DataType.FLOAT:
        return f"its weight is {twins[weight].dtype}, not float32"
    if bias is not None and tensor(bias) is None:
        return "its bias is not constant"
    if 0 in (weight.shape or ()):
        return "its weight is empty"
    match node.op_type:
        case "Conv":
            return _conv(node, weight, bias)
        case "Gemm":
            return _gemm(node, weight, bias)
    if rank(weight) != 2:
        return "its weight is no matrix"
    return Layer(node, weight, 1, None, pairs=True)


def _transposed(weight: ir.Value | None) -> ir.Value | None:
    """The constant matrix behind a Transpose."""
    producer = weight.producer() if weight is not None else None
    if producer is None or producer.op_type != "Transpose" or producer.domain not in STANDARD_DOMAINS:
        return None
    source = producer.inputs[0]
    if list(producer.attributes.get_ints("perm", [1, 0])) != [1, 0] or rank(source) != 2 or tensor(source) is None:
        return None
    return source


def _conv(node: ir.Node, weight: ir.Value, bias: ir.Value | None) -> Layer | str:
    channels, inputs, *_ = weight.shape.numpy() if weight.shape is not None else (0, 0)
    group = node.attributes.get_int("group", 1)
    depthwise = group == channels > 1 and inputs == 1  # its kernel sums in 32 bits: measured, no pair saturates
    return Layer(node, weight, 0, bias, pairs=not depthwise, depthwise=depthwise)


def _gemm(node: ir.Node, weight: ir.Value, bias: ir.Value | None) -> Layer | str:
    scaled = any(node.attributes.get_float(name, 1.0) != 1.0 for name in ("alpha", "beta"))
    if scaled or node.attributes.get_int("transA", 0) == 1:
        return "it scales or transposes"
    axis = 0 if node.attributes.get_int("transB", 0) == 1 else 1
    channels = weight.shape.numpy()[axis] if weight.shape is not None else 0
    numbers = array(bias)
    if numbers is not None and (numbers.size != channels or numbers.shape[-1] != channels):
        return "its bias is not one number for each output"
    return Layer(node, weight, axis, bias, pairs=True)
