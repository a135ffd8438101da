"""What a model costs with fewer channels: multiply-accumulates, bytes, or seconds, node by node.

The cost of a node shrinks with each axis that loses channels: a convolution's with those it reads and those it makes,
that of an Add with those of its output. Kernels of convolutions count channels in blocks (measured: time is a
staircase), so seconds shrink by blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxopt.graph import label, tensor
from onnxopt.macs import node_macs
from onnxopt.passes.prune.groups import CONVOLUTIONS, Groups
from onnxopt.passes.prune.groups.tracer import Axes
from onnxopt.passes.prune.reading import Classes

Mask = npt.NDArray[np.bool_]
RECURRENT = ("LSTM", "GRU", "RNN")


@dataclass(frozen=True)
class Part:
    """A node, or a constant.

    Attributes:
        cost: with all channels.
        axes: classes of those it shrinks with.
        block: channels that cost as much as one; 1 where each counts.
    """

    cost: float
    axes: tuple[Classes, ...]
    block: int = 1

    def now(self, gone: Mask) -> float:
        """The cost without the channels that are gone, by class."""
        share = 1.0
        for axis in self.axes:
            share *= _blocks(len(axis) - int(gone[axis].sum()), self.block) / _blocks(len(axis), self.block)
        return float(self.cost * share)


def _blocks(channels: int, block: int) -> int:
    return -(-channels // block)


class Costs:
    """The cost of a model, as channels go."""

    def __init__(self, parts: list[Part], classes: int) -> None:
        """``classes``: how many there are."""
        self._parts = parts
        self._touched: list[list[int]] = [[] for _ in range(classes)]
        for number, part in enumerate(parts):
            for one in np.unique(np.concatenate([np.zeros(0, np.int64), *part.axes])).tolist():
                self._touched[one].append(number)

    def total(self, gone: Mask) -> float:
        """Of all parts."""
        return float(sum(part.now(gone) for part in self._parts))

    def saved(self, gone: Mask, more: Classes) -> float:
        """What it saves to let more classes go."""
        touched = sorted({number for one in more.tolist() for number in self._touched[one]})
        after = gone.copy()
        after[more] = True
        return float(sum(self._parts[number].now(gone) - self._parts[number].now(after) for number in touched))


def macs(model: ir.Model, groups: Groups, feeds: Mapping[str, np.ndarray]) -> Costs:
    """Multiply-accumulates; nodes of unknown shape count nothing.

    Args:
        model: that the groups are of.
        groups: of it.
        feeds: its inputs, whose shapes are meant.
    """
    return shrinking(model, groups, node_macs(model, feeds))


def shrinking(model: ir.Model, groups: Groups, each: Sequence[float]) -> Costs:
    """Any costs of the nodes of the main graph, one for each."""
    costs = zip(model.graph, each, strict=True)
    return Costs([part for node, cost in costs if cost for part in _parts(node, cost, groups)], groups.count)


def weight_bytes(groups: Groups) -> Costs:
    """Bytes of constants."""
    parts = []
    for value, axes in groups.axes.items():
        contents = tensor(value)
        if contents is not None:
            parts.append(Part(contents.nbytes, _free(axes)))
    return Costs(parts, groups.count)


def seconds(model: ir.Model, groups: Groups, times: Mapping[str, float], rest: float, block: int) -> Costs:
    """Time of one run.

    Args:
        model: that the groups are of.
        groups: of it.
        times: seconds of nodes, by label.
        rest: seconds beside those.
        block: of channels of convolutions.
    """
    parts = [Part(rest, ())]
    for node in model.graph:
        if label(node) in times:
            parts += _parts(node, times[label(node)], groups, block if node.op_type in CONVOLUTIONS else 1)
    return Costs(parts, groups.count)


def _parts(node: ir.Node, cost: float, groups: Groups, block: int = 1) -> list[Part]:
    """A node; of a recurrent layer the products with what comes in, and those with what it gave a step before."""
    if node.op_type not in RECURRENT:
        return [Part(cost, _axes(node, groups), block)]
    weights = [value for value in node.inputs[1:3] if value is not None]
    sizes = [contents.size if (contents := tensor(value)) is not None else 1 for value in weights]
    return [
        Part(cost * size / sum(sizes), _free(groups.axes.get(value, [])))
        for value, size in zip(weights, sizes, strict=True)
    ]


def _axes(node: ir.Node, groups: Groups) -> tuple[Classes, ...]:
    """The axes with channels that can go: of what a node makes, and of what a product or convolution sums over."""
    found = [*_free(groups.axes.get(node.outputs[0], []))]
    if node.op_type in (*CONVOLUTIONS, "Gemm", "MatMul") and node.attributes.get_int("group", 1) == 1:
        summed = groups.read_by(node)
        if summed is not None and summed.any():
            found.append(summed)
    return tuple(found)


def _free(axes: Axes) -> tuple[Classes, ...]:
    """Those with channels that can go."""
    return tuple(axis for axis in axes if axis is not None and axis.any())
