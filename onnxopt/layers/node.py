"""Layers with constant weights: Conv, Gemm and MatMul, each as rows of weights, to be read and to be written."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxopt.core import Refusal
from onnxopt.graph import STANDARD_DOMAINS, added_row, array, constant, given, inferred, label, rank, rewrite, tensor

Twins = Mapping[ir.Value, ir.Value]
WEIGHTED = ("Conv", "Gemm", "MatMul")
FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
REAL = FLOATS[:1]
"""What weights may be where a pass says nothing else: most write float32."""


@dataclass(frozen=True)
class Layer:
    """A layer with constant weights.

    Attributes:
        node: Conv, Gemm or MatMul.
        weight: the constant, as in the model.
        axis: of the weight, the output channels.
        bias: ``[channels]``; None without one, and for a MatMul (see ``added``).
        transposed: whether the layer reads the constant through a Transpose, as a last layer tied to an embedding does.
    """

    node: ir.Node
    weight: ir.Value
    axis: int
    bias: ir.Value | None
    transposed: bool = False

    @property
    def group(self) -> int:
        """Groups of a convolution; 1 for all others."""
        return self.node.attributes.get_int("group", 1)

    @property
    def depthwise(self) -> bool:
        """Whether it is a convolution of each channel by itself."""
        return self.group > 1 and self.numbers().shape[:2] == (self.group, 1)

    @property
    def added(self) -> ir.Value | None:
        """The bias of a MatMul: the constant ``[channels]`` that an Add alone adds to it; else None."""
        found = added_row(self.node) if self.node.op_type == "MatMul" else None
        row = array(found[1]) if found is not None else None
        fits = row is not None and len(row) == self.numbers().shape[self.axis]
        return found[1] if found is not None and fits else None

    def numbers(self) -> np.ndarray:
        """The weight as the layer reads it."""
        found = array(self.weight)
        assert found is not None
        return found.T if self.transposed else found

    def bias_numbers(self) -> np.ndarray | None:
        """``[channels]``."""
        found = array(self.bias)
        return None if found is None else found.reshape(-1)

    def rows(self) -> np.ndarray:
        """``[channels, products]``, each row in the order in which ONNX Runtime's kernels sum it.

        Of a convolution that is (kernel positions, input channels), as for channels-last images. A copy: a view would
        keep a weight file open.
        """
        return self.as_rows(self.numbers())

    def as_rows(self, numbers: np.ndarray) -> np.ndarray:
        """Numbers in the shape in which the layer reads its weight, as ``rows`` orders them; a copy."""
        numbers = np.moveaxis(numbers, self.axis, 0)
        if self.node.op_type == "Conv":
            numbers = np.moveaxis(numbers, 1, -1)
        return np.array(numbers.reshape(len(numbers), -1))

    def shaped(self, rows: np.ndarray) -> np.ndarray:
        """Rows back in the shape of the weight."""
        shape = self.numbers().shape
        if self.node.op_type != "Conv":
            return np.moveaxis(rows, 0, self.axis)
        return np.moveaxis(rows.reshape(shape[0], *shape[2:], shape[1]), -1, 1)

    def write(self, rows: np.ndarray | None, bias: np.ndarray | None = None) -> None:
        """Put new weights into the model; this layer is stale then, and to be looked up anew.

        They take the place of the constant where nothing else reads it, and stand beside it as a copy otherwise. A
        MatMul that gets its first bias is followed by a new Add, which gives its output under the old name.

        Args:
            rows: ``[channels, products]``, in the order of ``rows``; None: as they are.
            bias: all of it, ``[channels]``; None: as it is.
        """
        added = self.added
        if rows is not None:
            rewrite(self.node, 1, self.shaped(rows).astype(np.float32))
        if bias is None:
            return
        bias = bias.astype(np.float32)
        if self.node.op_type != "MatMul":
            rewrite(self.node, 2, bias)
        elif added is not None:
            (use,) = self.node.outputs[0].uses()
            rewrite(use.node, 1 - use.idx, bias)
        else:
            _add(self.node, bias)


def layers(
    model: ir.Model, ops: Collection[str] = WEIGHTED, floats: Collection[ir.DataType] = REAL
) -> tuple[list[Layer], list[Refusal]]:
    """The layers of the main graph in its order, and why other nodes of these types are none."""
    twins = inferred(model)
    found, refusals = [], []
    for node in model.graph:
        if node.op_type in ops and node.domain in STANDARD_DOMAINS:
            one = layer(node, twins, floats)
            if isinstance(one, Layer):
                found.append(one)
            else:
                refusals.append(Refusal(label(node), one))
    return found, refusals


def layer(node: ir.Node, twins: Twins, floats: Collection[ir.DataType] = REAL) -> Layer | str:
    """The node as a layer, or why it is none.

    Args:
        node: Conv, Gemm or MatMul.
        twins: of its values, with inferred types and shapes (``graph.inferred``).
        floats: what its weight may be.
    """
    weight, bias = given(node, 1), given(node, 2)
    source = _transposed(weight)
    if source is not None and node.op_type == "MatMul" and twins[source].dtype in floats:
        return Layer(node, source, 1, None, transposed=True)
    if weight is None or tensor(weight) is None:
        return "its weight is not constant"
    if twins[weight].dtype not in floats:
        return f"its weight is {twins[weight].dtype}, not float32"
    if bias is not None and tensor(bias) is None:
        return "its bias is not constant"
    if 0 in (weight.shape or ()):
        return "its weight is empty"
    match node.op_type:
        case "Conv":
            return Layer(node, weight, 0, bias)
        case "Gemm":
            return _gemm(node, weight, bias)
    if rank(weight) != 2:
        return "its weight is no matrix"
    return Layer(node, weight, 1, None)


def _transposed(weight: ir.Value | None) -> ir.Value | None:
    """The constant matrix behind a Transpose."""
    producer = weight.producer() if weight is not None else None
    if producer is None or producer.op_type != "Transpose" or producer.domain not in STANDARD_DOMAINS:
        return None
    source = producer.inputs[0]
    if list(producer.attributes.get_ints("perm", [1, 0])) != [1, 0] or rank(source) != 2 or tensor(source) is None:
        return None
    return source


def _gemm(node: ir.Node, weight: ir.Value, bias: ir.Value | None) -> Layer | str:
    scaled = any(node.attributes.get_float(name, 1.0) != 1.0 for name in ("alpha", "beta"))
    if scaled or node.attributes.get_int("transA", 0) == 1:
        return "it scales or transposes"
    axis = 0 if node.attributes.get_int("transB", 0) == 1 else 1
    channels = weight.shape.numpy()[axis] if weight.shape is not None else 0
    numbers = array(bias)
    if numbers is not None and (numbers.size != channels or numbers.shape[-1] != channels):
        return "its bias is not one number for each output"
    return Layer(node, weight, axis, bias)


def _add(node: ir.Node, row: np.ndarray) -> None:
    """Add a constant to what the node gives; the sum takes over name, type, shape and readers."""
    (old,), graph = node.outputs, node.graph
    assert isinstance(graph, ir.Graph)
    adder = ir.node("Add", [None, constant(graph, f"{old.name}/bias", row)])
    (new,) = adder.outputs
    new.type, new.shape = old.type, old.shape
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    adder.replace_input_with(0, old)
    graph.insert_after(node, adder)
    old.name, new.name = f"{old.name}/product", old.name
