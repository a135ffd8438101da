"""An ONNX graph as PyTorch modules that torch-pruning can trace, and the weights it leaves as an ONNX graph again.

Small on purpose: two-dimensional convolutional networks, and the two-layer blocks of transformers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from prune_blocks import blocks
from torch import nn
from torch.nn import functional

from onnxopt.calibrate.tap import Values
from onnxopt.core import Context
from onnxopt.graph import added_row, array, bypass, given, inferred
from onnxopt.passes.simplify.remove_dead_code import RemoveDeadCode
from onnxopt.runtime import Session
from onnxopt.target import Target

MOVES = ("Flatten", "Gather", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
"""Operators that only move numbers: several of them in a row may do nothing."""

Inputs = Sequence[Any]
"""Of a node: tensors that are computed, constants as arrays, None where one is left out."""


class Module(nn.Module, ABC):
    """What is pruned in PyTorch, and then written where it came from."""

    @abstractmethod
    def last(self) -> list[nn.Module]:
        """The layers whose channels must stay."""

    @abstractmethod
    def write(self) -> None:
        """Put the weights of the layers into the graph, fewer than they were."""

    def check(self, x: torch.Tensor) -> None:
        """Raise an AssertionError if the graph computes something else for ``x``."""


class Net(Module):
    """The main graph of a convolutional network, node by node; each Conv and Gemm is a layer."""

    def __init__(self, model: ir.Model) -> None:
        """Take the weights; the model stays as it is until ``write``."""
        super().__init__()
        self.model, self.graph = model, model.graph
        self.of = {node: _layer(node) for node in model.graph if node.op_type in ("Conv", "Gemm")}
        self.layers = nn.ModuleList(self.of.values())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The output for the input."""
        found: dict[ir.Value, Any] = {self.graph.inputs[0]: x}
        for node in self.graph:
            inputs = [None if value is None else found.get(value, array(value)) for value in node.inputs]
            layer = self.of.get(node)
            found[node.outputs[0]] = layer(_padded(node, inputs[0])) if layer else OPERATORS[node.op_type](node, inputs)
        return found[self.graph.outputs[0]]

    def check(self, x: torch.Tensor) -> None:
        """See Module; up to one thousandth of the largest number, as sums are in another order."""
        with torch.no_grad():
            ours = self(x).numpy()
        (theirs,) = Session(self.model, Target()).run({self.graph.inputs[0].name or "": x.numpy()}).values()
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-3 * float(np.abs(theirs).max()))

    def last(self) -> list[nn.Module]:
        """Those that make the channels of the output."""
        return [self.of[node] for node in makers(self.graph.outputs[0])]

    def write(self) -> None:
        """See Module."""
        for node, layer in self.of.items():
            transposed = node.op_type == "Gemm" and not node.attributes.get_int("transB", 0)
            store(node.inputs[1], layer.weight.T if transposed else layer.weight)
            if layer.bias is not None:
                store(node.inputs[2], layer.bias)
            if node.op_type == "Conv":
                node.attributes["group"] = ir.AttrInt64("group", layer.groups)
        forget_shapes(self.graph)


class Blocks(Module):
    """The two-layer blocks of a transformer, one after the other: what torch-pruning ranks are their weights alone."""

    def __init__(self, model: ir.Model) -> None:
        """Take the weights; the model stays as it is until ``write``."""
        super().__init__()
        self.graph, self.pairs = model.graph, [(block.widen, block.narrow) for block in blocks(model)]
        self.layers = nn.ModuleList(nn.ModuleList(map(_product, pair)) for pair in self.pairs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As if there was nothing but these blocks."""
        for widen, narrow in self.layers:
            x = x + narrow(functional.gelu(widen(x)))
        return x

    def last(self) -> list[nn.Module]:
        """Those whose channels the rest of the network reads."""
        return [narrow for _, narrow in self.layers]

    def write(self) -> None:
        """See Module."""
        for pair, layers in zip(self.pairs, self.layers, strict=True):
            for node, layer in zip(pair, layers, strict=True):
                store(node.inputs[1], layer.weight.T)
                if (added := added_row(node)) is not None:
                    store(added[1], layer.bias)
        forget_shapes(self.graph)


def without_detours(model: ir.Model, feeds: Mapping[str, np.ndarray]) -> ir.Model:
    """A copy without moves that give back what an earlier one was given, as these inputs (two or more samples) show.

    An export of MobileNetV2 writes ``Gather(Reshape(x), range(size of x))`` for ``x``.
    """
    model = model.clone()
    twins = inferred(model)
    moves = [node for node in model.graph if node.op_type in MOVES and twins[node.inputs[0]].dtype == ir.DataType.FLOAT]
    names = {value.name or "" for node in moves for value in (node.inputs[0], node.outputs[0])}
    tapped = Values.of(model, names)
    seen = Session(tapped.model, Target(), optimize=False).run(feeds)
    for node in moves:
        source = node.inputs[0]
        while (maker := source.producer()) in moves and maker is not None:
            source = maker.inputs[0]
        before, after = (seen[tapped.outputs[value.name]] for value in (source, node.outputs[0]))
        if np.array_equal(before, after):
            bypass(node, source)
    RemoveDeadCode().run(model, Context(Target()))
    return model


def makers(value: ir.Value) -> Iterator[ir.Node]:
    """The Conv and Gemm nodes whose channels a value has."""
    node = value.producer()
    if node is not None and node.op_type in ("Conv", "Gemm"):
        yield node
    elif node is not None:
        yield from (maker for one in node.inputs if one is not None for maker in makers(one))


def store(value: ir.Value, weight: torch.Tensor) -> None:
    """Other numbers for a constant."""
    value.const_value = ir.tensor(weight.detach().numpy().copy(), name=value.name)
    value.shape = value.const_value.shape


def forget_shapes(graph: ir.Graph) -> None:
    """What the file says of the values between: it is no longer true."""
    for node in graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None


# --- layers ---


def _layer(node: ir.Node) -> nn.Module:
    """A Conv, its padding left to ``_padded``, or a Gemm without a scale."""
    weight, bias = (_tensor(given(node, index)) for index in (1, 2))
    if node.op_type == "Gemm":
        return _linear(weight if node.attributes.get_int("transB", 0) else weight.T, bias)
    group = node.attributes.get_int("group", 1)
    strides, dilations = (tuple(node.attributes.get_ints(name, (1, 1))) for name in ("strides", "dilations"))
    channels, size = (weight.shape[1] * group, len(weight)), tuple(weight.shape[2:])
    return _filled(nn.Conv2d(*channels, size, strides, 0, dilations, group, bias is not None), weight, bias)


def _product(node: ir.Node) -> nn.Module:
    """A MatMul with the row that is added to it."""
    _, bias = added_row(node) or (None, None)
    return _linear(_tensor(node.inputs[1]).T, _tensor(bias))


def _tensor(value: ir.Value | None) -> torch.Tensor | None:
    """A copy of a constant; None for an input that is left out."""
    numbers = array(value)
    return None if numbers is None else torch.tensor(numbers)


def _linear(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Module:
    return _filled(nn.Linear(weight.shape[1], weight.shape[0], bias is not None), weight, bias)


def _filled(layer: nn.Module, weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Module:
    layer.weight.data = weight.contiguous()
    if bias is not None:
        layer.bias.data = bias
    return layer


def _padded(node: ir.Node, x: torch.Tensor) -> torch.Tensor:
    """With the zeros that a Conv puts around it."""
    top, left, bottom, right = node.attributes.get_ints("pads", (0, 0, 0, 0))
    return functional.pad(x, (left, right, top, bottom)) if top or left or bottom or right else x


# --- operators ---


def _max_pool(node: ir.Node, inputs: Inputs) -> torch.Tensor:
    kernel, strides = (tuple(node.attributes.get_ints(name, (1, 1))) for name in ("kernel_shape", "strides"))
    ceil = bool(node.attributes.get_int("ceil_mode", 0))
    return functional.max_pool2d(inputs[0], kernel, strides, ceil_mode=ceil)


def _slice(node: ir.Node, inputs: Inputs) -> torch.Tensor:
    """Steps forward, from a start to an end that may lie behind the last."""
    x, starts, ends, axes, steps = inputs
    places = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts.tolist(), ends.tolist(), axes.tolist(), steps.tolist(), strict=True):
        places[axis] = slice(start, end, step)
    return x[tuple(places)]


def _pad(node: ir.Node, inputs: Inputs) -> torch.Tensor:
    """Zeros; ONNX names all first ends and then all last ends, PyTorch both ends of the last axis first."""
    first, last = np.split(inputs[1], 2)
    return functional.pad(inputs[0], np.stack([first, last], 1)[::-1].reshape(-1).tolist())


OPERATORS: Mapping[str, Callable[[ir.Node, Inputs], torch.Tensor]] = {
    "Add": lambda node, inputs: torch.add(*inputs),
    "Clip": lambda node, inputs: inputs[0].clamp(float(inputs[1]), float(inputs[2])),
    "Concat": lambda node, inputs: torch.cat(list(inputs), node.attributes["axis"].as_int()),
    "Flatten": lambda node, inputs: inputs[0].flatten(1),
    "GlobalAveragePool": lambda node, inputs: inputs[0].mean((2, 3), keepdim=True),
    "MaxPool": _max_pool,
    "Pad": _pad,
    "Relu": lambda node, inputs: inputs[0].relu(),
    "Reshape": lambda node, inputs: inputs[0].flatten(1),
    "Slice": _slice,
}
