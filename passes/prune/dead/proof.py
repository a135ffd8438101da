"""Which channels can go with nothing lost: those whose share in whatever is summed over channels is a known constant.

Nearly all operators keep channels apart: what they give for one depends on that one, and goes with it. Where channels
are summed, one of them is dead if it is multiplied with zeros, is zero itself, or is a constant that the layer's bias
can take up. A class is dead if it is so wherever it is met. An operator that is not listed here counts as one that
makes use of all that it reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from onnxopt.graph import STANDARD_DOMAINS, array, given, label, walk
from onnxopt.layers import WEIGHTED, Layer, layer
from onnxopt.passes.prune.dead.analysis import Intervals, Unknown
from onnxopt.passes.prune.dead.interval import Flags, Numbers
from onnxopt.passes.prune.dead.products import padded
from onnxopt.passes.prune.groups import Groups
from onnxopt.passes.prune.groups.elementwise import TOGETHER, UNARY
from onnxopt.passes.prune.groups.groups import FIXED
from onnxopt.passes.prune.groups.reduction import REDUCTIONS
from onnxopt.passes.prune.groups.tracer import Classes

PICKING = {"Gather", "Pad", "Shape", "Size", "Slice", "Split"}
"""Operators that keep channels apart, and may leave some out."""
APART = {
    *UNARY,
    *TOGETHER,
    *PICKING,
    *(f"Reduce{name}" for name in REDUCTIONS),
    *("ArgMax", "ArgMin", "AveragePool", "BatchNormalization", "Concat", "CumSum", "DepthToSpace", "DequantizeLinear"),
    *("Dropout", "Expand", "Flatten", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "GroupNormalization"),
    *("Hardmax", "If", "InstanceNormalization", "LayerNormalization", "LogSoftmax", "Loop", "LpNormalization"),
    *("LpPool", "MaxPool", "QuantizeLinear", "RMSNormalization", "Reshape", "Resize", "Scan", "Softmax"),
    *("SimplifiedLayerNormalization", "SpaceToDepth", "Squeeze", "Tile", "Transpose", "Trilu", "Unsqueeze", "Upsample"),
}
"""Operators that keep channels apart, along every axis of which channels can go."""
RECURRENT = ("GRU", "LSTM", "RNN")
BORDERS = "padded with zeros: a constant channel is not constant at the borders"


@dataclass(frozen=True)
class Shift:
    """What constant channels add to the outputs of a layer.

    Attributes:
        layer: before anything is removed.
        classes: of its inputs.
        numbers: of each input the constant; 0 where it is none, or is multiplied with zeros.
    """

    layer: Layer
    classes: Classes
    numbers: Numbers

    def of(self, gone: Flags) -> Numbers:
        """What the bias gains when classes go, ``[outputs]``."""
        weights = np.moveaxis(self.layer.numbers(), self.layer.axis, 0)
        parts = weights.reshape(self.layer.group, -1, *weights.shape[1:2], int(np.prod(weights.shape[2:])))
        numbers = np.where(gone[self.classes], self.numbers, 0).reshape(self.layer.group, -1, 1)
        found: Numbers = (parts.sum(-1, dtype=np.float64) @ numbers).reshape(-1)
        return found


@dataclass
class Evidence:
    """What is known of the classes of a model.

    Attributes:
        live: of each class, whether it is made use of.
        shifts: layers that read constants.
        kept: constant channels that could not go where they are read: classes, the label of the node, and why.
    """

    live: Flags
    shifts: list[Shift] = field(default_factory=list)
    kept: list[tuple[Classes, str, str]] = field(default_factory=list)

    @property
    def dead(self) -> Flags:
        """Of each class, whether it can go."""
        found = ~self.live
        for classes, _, _ in self.kept:
            found[classes] = False
        return found


def examine(model: ir.Model, groups: Groups, known: Intervals) -> Evidence:
    """Look at every node that reads a channel which could go."""
    evidence = Evidence(np.zeros(groups.count, bool))
    evidence.live[FIXED] = True
    for node in walk(model):
        read = _classes(groups, node.inputs)
        if len(read):
            evidence.live[read] |= _uses(node, read, groups, known, evidence)
    return evidence


def _classes(groups: Groups, values: Sequence[ir.Value | None]) -> Classes:
    """All classes of values that can go, each once."""
    axes = [axis for value in values if value is not None for axis in groups.axes.get(value, ()) if axis is not None]
    found = np.unique(np.concatenate([np.zeros(0, np.int64), *axes]))
    free: Classes = found[found != FIXED]
    return free


def _uses(node: ir.Node, read: Classes, groups: Groups, known: Intervals, evidence: Evidence) -> Flags:
    """Of each class, whether the node makes use of it."""
    standard = node.domain in STANDARD_DOMAINS
    if standard and (sides := _summed(node)) is not None:
        inner = [groups.channels(given(node, index), axis) for index, axis in sides]
        return np.isin(read, _used(node, sides, inner, groups, known, evidence))
    made = _classes(groups, node.outputs)
    if standard and node.op_type in APART and any(value in groups.axes for value in node.outputs):
        return np.zeros(len(read), bool) if node.op_type in PICKING else ~np.isin(read, made)
    return np.ones(len(read), bool)


def _summed(node: ir.Node) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """The input and its axis, twice, over which a node sums products; None if it does not."""
    match node.op_type:
        case "Conv":
            return (0, 1), (1, 1)
        case "ConvTranspose":
            return (0, 1), (1, 0)
        case "Gemm":
            turned = [node.attributes.get_int(name, 0) for name in ("transA", "transB")]
            return (0, 1 - turned[0]), (1, turned[1])
        case "MatMul":
            return (0, -1), (1, -2)
    return ((0, 2), (1, 2)) if node.op_type in RECURRENT else None


def _used(
    node: ir.Node,
    sides: Sequence[tuple[int, int]],
    inner: Sequence[Classes | None],
    groups: Groups,
    known: Intervals,
    evidence: Evidence,
) -> Classes:
    """Classes of which a layer makes use; constants that it reads are noted."""
    every = np.concatenate([np.zeros(0, np.int64), *(axis for axis in inner if axis is not None)])
    others = _classes(groups, node.inputs[2:]) if node.op_type in RECURRENT else every[:0]
    if any(axis is None for axis in inner):
        return np.concatenate([every, others])
    left, right = (axis for axis in inner if axis is not None)
    whole = node.op_type == "ConvTranspose" and node.attributes.get_int("group", 1) > 1
    if whole or not right.any():  # whole groups go, with what they read
        return others
    times = len(left) // len(right)
    numbers = _numbers(node.inputs[sides[0][0]], sides[0][1], len(left), known)
    weightless = _weightless(node, sides[1], len(right), times, known)
    constant = np.isfinite(numbers)
    free = weightless | (numbers == 0)
    shifted = constant & ~free & (left != FIXED)
    if shifted.any():
        _note(node, left, np.where(shifted, numbers, 0), known, evidence)
    return np.concatenate([left[~constant & ~free], others])


def _note(node: ir.Node, classes: Classes, numbers: Numbers, known: Intervals, evidence: Evidence) -> None:
    """Take down what constants other than zero add up to, or why they must stay."""
    found = layer(node, known.twins) if node.op_type in WEIGHTED else "its bias cannot take up a constant channel"
    if isinstance(found, str):
        evidence.kept.append((classes[numbers != 0], label(node), found))
    elif node.op_type == "Conv" and padded(node):
        evidence.kept.append((classes[numbers != 0], label(node), BORDERS))
    else:
        evidence.shifts.append(Shift(found, classes, numbers))


def _numbers(value: ir.Value | None, axis: int, count: int, known: Intervals) -> Numbers:
    """Of each position along an axis the number that is always there; NaN where it is not always the same."""
    try:
        found = known.of(value).along(axis).spread([count])
    except Unknown:
        return np.full(count, np.nan)
    return np.where(found.fixed, found.low, np.nan)


def _weightless(node: ir.Node, side: tuple[int, int], count: int, times: int, known: Intervals) -> Flags:
    """Of each input, whether all its weights are zero; of a convolution, in its own group."""
    index, axis = side
    value = node.inputs[index]
    weights = array(value)
    if weights is None:
        tied = layer(node, known.twins) if node.op_type == "MatMul" else ""
        if isinstance(tied, str):
            return np.tile(_numbers(value, axis, count, known) == 0, times)
        weights = tied.numbers()
    if node.op_type == "Conv":
        weights, axes = weights.reshape(times, -1, count, int(np.prod(weights.shape[2:]))), {1, 3}
    else:
        axes = set(range(weights.ndim)) - {axis % weights.ndim}
    found: Flags = np.ravel(weights.any(axis=tuple(axes)))
    return ~found


def shift(old: Layer, gained: Numbers) -> None:
    """Add to the bias of a layer, after channels were removed from it."""
    node, weight = old.node, old.node.inputs[1]
    assert weight is not None
    if old.transposed:
        producer = weight.producer()
        assert producer is not None
        weight = producer.inputs[0]
        assert weight is not None
    now = replace(old, weight=weight, bias=given(node, 2) if old.bias is not None else None)
    bias = array(now.bias if now.bias is not None else now.added)
    now.write(None, gained if bias is None else gained + bias.reshape(-1))
