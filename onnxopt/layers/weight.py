"""A constant that is changed once, for all layers that read it as their weights."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxopt.core import Refusal
from onnxopt.graph import array, label, lift
from onnxopt.layers.node import Layer, layers

Rows = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Weight:
    """The weights of layers.

    Attributes:
        layers: all that read the constant; at least one.
    """

    layers: tuple[Layer, ...]

    @cached_property
    def rows(self) -> Rows:
        """``[channels, products]``, in the order of ``Layer.rows``; as they were when first asked for."""
        return self.layers[0].rows()

    @property
    def value(self) -> ir.Value:
        """The constant."""
        return self.layers[0].weight

    @property
    def names(self) -> list[str]:
        """How reports name its layers."""
        return [label(layer.node) for layer in self.layers]

    @property
    def name(self) -> str:
        """How reports name it: by its first layer."""
        return self.names[0]

    @property
    def grouped(self) -> Rows:
        """The rows, ``[groups, channels, products]``."""
        return self.rows.reshape(self.layers[0].group, -1, self.rows.shape[1])

    @property
    def inputs(self) -> int:
        """Input channels of one group: so many products are neighbours, at one position of a kernel."""
        layer = self.layers[0]
        return int(layer.numbers().shape[1]) if layer.node.op_type == "Conv" else self.rows.shape[1]

    @property
    def biased(self) -> bool:
        """Whether all its layers have a bias, which can take up what the mean of their outputs moves by."""
        return all(layer.bias is not None or layer.added is not None for layer in self.layers)

    def write(self, rows: Rows) -> None:
        """Put new rows into the model, ``[channels, products]``, for all layers."""
        layer, value = self.layers[0], self.layers[0].weight
        producer = value.producer()
        held = value if producer is None else lift(producer)
        assert held is not None
        numbers = layer.shaped(rows)
        numbers = np.array(numbers.T if layer.transposed else numbers, np.float32, order="C")
        held.const_value = ir.Tensor(numbers, name=held.name)

    def move_biases(self, shift: Rows) -> None:
        """Add to the bias of each layer, ``[channels]``, where all have one (``biased``); the layers are stale then."""
        for layer in self.layers:
            bias = array(layer.bias if layer.bias is not None else layer.added)
            assert bias is not None
            layer.write(None, bias.reshape(-1) + shift)


def weights(model: ir.Model) -> tuple[list[Weight], list[Refusal]]:
    """The weights of the main graph in its order, and why those of other layers are none."""
    known, refusals = layers(model)
    readers: dict[ir.Value, list[Layer]] = {}
    for layer in known:
        readers.setdefault(layer.weight, []).append(layer)
    found = []
    for value, many in readers.items():
        if reason := _hindrance(value, many):
            refusals += [Refusal(label(layer.node), reason) for layer in many]
        else:
            found.append(Weight(tuple(many)))
    return found, refusals


def changed(model: ir.Model, new: Mapping[str, tuple[Rows, Rows | None]]) -> ir.Model:
    """A copy with new rows and shifts of some weights, by their names (see ``Weight.write``)."""
    copy = model.clone()
    for weight in weights(copy)[0]:
        if weight.name in new:
            rows, shift = new[weight.name]
            weight.write(rows)
            if shift is not None:
                weight.move_biases(shift)
    return copy


def _hindrance(value: ir.Value, readers: Collection[Layer]) -> str | None:
    """Why a constant cannot be changed for all, if it cannot."""
    if len({(0 if layer.transposed else layer.axis, layer.group) for layer in readers}) > 1:
        return "its weight is read in several ways"
    other = next(_others(value, {layer.node for layer in readers}), None)
    return None if other is None else f"its weight is also read by {other}"


def _others(value: ir.Value, nodes: Collection[ir.Node]) -> Iterator[str]:
    """Who reads a constant, beside these nodes as their weights; a Transpose of them is looked through."""
    if value.is_graph_output():
        yield "the graph as an output"
    for node, index in value.uses():
        if node.op_type == "Transpose" and any(one in nodes for one, _ in node.outputs[0].uses()):
            yield from _others(node.outputs[0], nodes)
        elif node not in nodes or index != 1:
            yield f"{node.op_type} {label(node)!r}"
