"""Models that are quantized already: weights of 8 bits behind DequantizeLinear, seen as floats and written back.

Seen as floats, layers of such a model are layers as any other, whose inputs are those of the integer kernels. Their
weights are then coded as whole numbers, so that codes are decoded to the integers that the kernels read, and nothing
else of the quantization changes but scales of weights; biases are int32 again in the end, in steps of these scales.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from onnxopt.graph import array, constant, drop_constant, given, label, nodes, replace, rewrite, tensor

NARROW = (ir.DataType.INT8, ir.DataType.UINT8)
LAYERS = ("Conv", "Gemm", "MatMul")
WEIGHT, BIAS = 1, 2
INT32 = 2**31 - 1


@dataclass(frozen=True)
class Integers:
    """A constant of integers, ``real = (numbers - zero) * scales``.

    Attributes:
        name: of the initializer.
        numbers: int8 or uint8, or int32 of a bias.
        scales: float32, broadcasts to the numbers.
        zero: broadcasts to the numbers; int32.
    """

    name: str
    numbers: np.ndarray
    scales: np.ndarray
    zero: np.ndarray

    @property
    def real(self) -> np.ndarray:
        """As floats."""
        return np.asarray((self.numbers.astype(np.int32) - self.zero) * self.scales, np.float32)


@dataclass(frozen=True)
class Seen:
    """A quantized model seen as floats.

    Attributes:
        model: without the DequantizeLinear of constants.
        weights: name of the float constant in it to the integers.
        biases: the same of biases.
    """

    model: ir.Model
    weights: Mapping[str, Integers] = field(default_factory=dict)
    biases: Mapping[str, Integers] = field(default_factory=dict)

    @classmethod
    def of(cls, model: ir.Model) -> Seen:
        """A copy; of a model that is not quantized, just that."""
        copy = model.clone()
        found: tuple[dict[str, Integers], dict[str, Integers]] = {}, {}
        for node in nodes(copy, "DequantizeLinear"):
            integers, place = _integers(node), _place(node)
            if integers is None or place is None or node.graph is not copy.graph:
                continue
            old = node.outputs[0]
            new = constant(copy.graph, f"{integers.name}/real", integers.real)
            ir.convenience.replace_all_uses_with(old, new)
            copy.graph.remove(node, safe=True)
            found[place - WEIGHT][new.name or ""] = integers
        return cls(copy, *found)

    def back(self, model: ir.Model, changed: ir.Model, steps: Mapping[str, np.ndarray]) -> None:
        """Take over all constants that were changed, but for the weights, into the quantized model, in place.

        Args:
            model: that this was made of.
            changed: a copy of ``self.model`` with other constants, and biases where there were none.
            steps: other scales of weights, ``[channels]``, by the name of the float constant. All biases beside them
                are written anew, since kernels take them to be in steps of these scales.
        """
        for name, scales in steps.items():
            (use,) = model.graph.initializers[self.weights[name].name].uses()
            rewrite(use.node, 1, scales)
        twins, before = {label(node): node for node in model.graph}, self.model.graph.initializers
        for node in changed.graph:
            weight = given(node, WEIGHT)
            moved = weight is not None and weight.name in steps
            for index, value in enumerate(node.inputs):
                numbers = array(value) if value is not None and value.is_initializer() else None
                if value is None or numbers is None or value.name in self.weights:
                    continue
                known = before.get(value.name or "")
                if known is None or known.const_value is not value.const_value or (moved and index == BIAS):
                    _write(model.graph, twins[label(node)], index, numbers)


def unrounded(model: ir.Model) -> ir.Model:
    """A copy in which activations are clipped as their integers are, but not rounded.

    Any small change of weights rounds activations another way, which moves the outputs as much as 4 bits do, and loses
    nothing. Measured: a squeezenet11 in int8 with half of its weights as they were diverges from itself by 0.004, and
    by 0.037 with 5.5 bits, where both lose less than half a point.
    """
    copy = model.clone()
    for node in nodes(copy, "DequantizeLinear"):
        source, ends = node.inputs[0], _ends(node)
        maker = source.producer() if source is not None else None
        if maker is None or maker.op_type != "QuantizeLinear" or node.graph is not copy.graph or ends is None:
            continue
        replace([node], "Clip", [maker.inputs[0], *ends])
    return copy


def _ends(node: ir.Node) -> tuple[np.ndarray, np.ndarray] | None:
    """The least and the greatest number that a DequantizeLinear gives; None where channels differ."""
    scale, zero = array(given(node, 1)), array(given(node, 2))
    if scale is None or scale.size != 1 or (zero is None and given(node, 2) is not None):
        return None
    kind = np.iinfo(np.uint8 if zero is None else zero.dtype)
    middle = 0 if zero is None else int(zero.reshape(-1)[0])
    low, high = (np.float32((end - middle) * float(scale.reshape(-1)[0])) for end in (kind.min, kind.max))
    return np.array(low), np.array(high)


def _integers(node: ir.Node) -> Integers | None:
    """The constant that a DequantizeLinear reads, with a scale for all or for each channel."""
    parts = [array(given(node, place)) for place in range(3)]
    source = node.inputs[0]
    if parts[0] is None or parts[1] is None or source is None or "block_size" in node.attributes:
        return None
    if given(node, 2) is not None and parts[2] is None:
        return None
    numbers, scales = np.array(parts[0]), np.array(parts[1], np.float32)
    zero = np.zeros((), np.int32) if parts[2] is None else parts[2].astype(np.int32)
    if scales.ndim:
        axis = node.attributes.get_int("axis", 1) % max(numbers.ndim, 1)
        shape = (-1, *[1] * (numbers.ndim - 1 - axis))
        scales, zero = scales.reshape(shape), zero.reshape(shape) if zero.ndim else zero
    return Integers(source.name or "", numbers, scales, zero)


def _place(node: ir.Node) -> int | None:
    """Whether what it gives is read by layers alone, as their weight or as their bias; and the integers by it alone."""
    source, uses = node.inputs[0], list(node.outputs[0].uses())
    contents = tensor(source)
    if source is None or contents is None or len(source.uses()) > 1 or source.is_graph_output() or not uses:
        return None
    places = {index if reader.op_type in LAYERS else 0 for reader, index in uses}
    if node.outputs[0].is_graph_output() or len(places) > 1:
        return None
    (place,) = places
    wanted = {WEIGHT: NARROW, BIAS: (ir.DataType.INT32,)}
    return place if contents.dtype in wanted.get(place, ()) else None


def _write(graph: ir.Graph, node: ir.Node, index: int, numbers: np.ndarray) -> None:
    """Let a node read other numbers: int32 where that is a bias beside integers, at the scale of their products."""
    scales = [_scale(value) for value in node.inputs[:2]]
    if node.op_type not in LAYERS or index != BIAS or scales[0] is None or scales[1] is None:
        rewrite(node, index, numbers)
        return
    scale = np.broadcast_to((scales[0] * scales[1]).astype(np.float32), numbers.shape)
    integers = np.clip(np.rint(numbers.astype(np.float64) / scale), -INT32, INT32).astype(np.int32)
    old, name = given(node, BIAS), f"{label(node)}/bias"
    node.resize_inputs(BIAS + 1)
    node.replace_input_with(BIAS, None)
    if old is not None:
        drop_constant(old)
    parts = [constant(graph, f"{name}/int32", integers), constant(graph, f"{name}/scale", scale)]
    dequantize = ir.node("DequantizeLinear", parts, {"axis": 0})
    dequantize.outputs[0].name = name
    graph.insert_before(node, dequantize)
    node.replace_input_with(BIAS, dequantize.outputs[0])


def _scale(value: ir.Value | None) -> np.ndarray | None:
    """Of what is dequantized."""
    maker = value.producer() if value is not None else None
    return array(maker.inputs[1]) if maker is not None and maker.op_type == "DequantizeLinear" else None
