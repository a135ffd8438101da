"""Remove channels that are constant or not read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxopt.core import Change, Context, Exactness, Pass, Refusal, option
from onnxopt.graph import inferred, opset
from onnxopt.passes.prune.dead import Evidence, examine, intervals, shift
from onnxopt.passes.prune.dead.interval import Flags
from onnxopt.passes.prune.groups import CONVOLUTIONS, Group, Groups, find

OLDEST = 7
"""The opset from which BatchNormalization and Dropout say whether they train, and Add broadcasts as numpy does."""


@dataclass(frozen=True)
class RemoveDeadChannels(Pass):
    """Remove channels of which it is proven from the weights that they are constant, or that nothing reads them.

    Before:
        ``y = Conv(Relu(Conv(x, W, b)), V, c)`` where ``Relu`` gives the same number ``k`` for a channel whatever x
        is: its filter is zero, or its bounds lie below zero; or where all weights of V for that channel are zero
    After:
        the same without the channel in W, b and V, and with ``c + k * (sum of V's weights for it)``
    Left alone:
        a constant other than zero that a convolution pads with zeros, since it is not constant at the borders, or that
        something else than a float32 Conv, Gemm or MatMul reads; channels that cannot go at all (``inspect
        --groups``); the last channel of an axis; and as many channels of convolutions as keep a multiple of
        ``multiple`` where there was one: odd widths are slower.
    Exact up to:
        float rounding. Numbers at run time are taken to be finite: NaN or infinity times a weight of zero would have
        been NaN.
    Source:
        interval arithmetic, with room for float32 rounding. Trained networks have such channels: 9 of the 32 that a
        MobileNetV2 begins with. Widths off the grid of 8 made the same network 0.65 times as fast.
    """

    name: ClassVar[str] = "remove-dead-channels"
    exactness: ClassVar[Exactness] = Exactness.ROUNDING

    multiple: int = option(8, "channels of convolutions stay multiples of it", low=1)

    def run(self, model: ir.Model, context: Context) -> list[Change | Refusal]:
        """Remove until nothing more is dead: a channel that went may have been the last to feed another one."""
        if opset(model) < OLDEST:
            return []
        done: list[Change | Refusal] = []
        while True:
            changes, refusals = _sweep(model, self.multiple)
            done += changes
            if not changes:
                return [*done, *refusals]


def _sweep(model: ir.Model, multiple: int) -> tuple[list[Change], list[Refusal]]:
    """Remove what is dead as things are."""
    groups = find(model)
    if not len(groups):
        return [], []
    evidence = examine(model, groups, intervals(model, inferred(model)))
    gone = _spared(groups, evidence)
    before = gone.copy()
    for group in groups:
        _round(groups, group, gone, multiple)
    changes = [_change(group, count) for group in groups if (count := int(gone[group.classes].sum()))]
    refusals = [
        Refusal(group.name, f"{count} of {len(group)} channels are dead: too few to keep a multiple of {multiple}")
        for group in groups
        if (count := int(before[group.classes].sum())) and not gone[group.classes].any()
    ]
    if changes:
        _remove(groups, evidence, gone)
    return changes, [*refusals, *_kept(evidence)]


def _spared(groups: Groups, evidence: Evidence) -> Flags:
    """The dead channels of all groups, but for one where nothing would be left."""
    gone = np.zeros(groups.count, bool)
    for group in groups:
        gone[group.classes] = evidence.dead[group.classes]
    for axes in groups.axes.values():
        for axis in axes:
            if axis is not None and len(axis) and gone[axis].all():
                gone[axis[0]] = False
    return gone


def _round(groups: Groups, group: Group, gone: Flags, multiple: int) -> None:
    """Spare the first dead channels of a group, so that widths of convolutions stay on the grid."""
    roles = [role for role in (*group.writers, *group.readers) if role.node.op_type in CONVOLUTIONS]
    axes = [axis for role in roles if (axis := groups.axes[role.value][role.axis]) is not None]
    axes = [axis for axis in axes if len(axis) % multiple == 0]
    for one in group.classes[gone[group.classes]]:
        if all((~gone[axis]).sum() % multiple == 0 for axis in axes):
            return
        gone[one] = False


def _change(group: Group, count: int) -> Change:
    return Change(group.name, f"{count} of {len(group)} channels removed: constant or not read")


def _kept(evidence: Evidence) -> list[Refusal]:
    """Channels that are constant, and dead but for one place where they are read."""
    counts = [(int((~evidence.live[np.unique(classes)]).sum()), name, why) for classes, name, why in evidence.kept]
    return [Refusal(name, f"{count} constant channels stay: {why}") for count, name, why in counts if count]


def _remove(groups: Groups, evidence: Evidence, gone: Flags) -> None:
    """Take channels away, and put into biases what they added."""
    shifts = []
    for found in evidence.shifts:
        made = groups.made_by(found.layer.node)
        gained = found.of(gone)
        if gained.any():
            shifts.append((found.layer, gained if made is None else gained[~gone[made]]))
    groups.remove(np.flatnonzero(gone))
    for layer, gained in shifts:
        shift(layer, gained)
