"""The dependency groups of a model in numbers: what each is worth, and which channels must stay, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt.errors import OnnxoptError
from onnxopt.inspection import inlined, with_shapes
from onnxopt.macs import KnownShapes, count
from onnxopt.passes.prune import costs
from onnxopt.passes.prune.costs import Costs
from onnxopt.passes.prune.groups import Group, Groups, find
from onnxopt.samples import random_samples
from onnxopt.stopwatch import node_seconds
from onnxopt.target import Target

FREE_SINCE = 4
"""The IR version from which an initializer need not be a graph input."""


@dataclass(frozen=True)
class GroupInfo:
    """A group in numbers: what would go with all of its channels.

    Attributes:
        group: what shrinks together.
        macs: multiply-accumulates, where they are known.
        size: bytes of constants.
        seconds: of one run; None where no time was measured.
    """

    group: Group
    macs: int
    size: int
    seconds: float | None

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "name": self.group.name,
            "channels": len(self.group),
            "each": self.group.each,
            "fixed": self.group.fixed,
            "why_fixed": self.group.why,
            "inexact": self.group.inexact,
            "macs": self.macs,
            "bytes": self.size,
            "seconds": self.seconds,
            "members": [line.strip() for line in str(self.group).splitlines()[1:]],
        }


@dataclass(frozen=True)
class GroupListing:
    """All groups of a model. A node that reads one group and makes another is in the numbers of both.

    Attributes:
        groups: in the order in which their first layer stands.
        macs: of the main graph, where they are known.
        seconds: of one run; None where no time was measured.
        unmeasured: why; empty where it was.
        staying: reason to the layers whose channels must stay for it.
        frozen: how many weights are inputs of the model, too, and are taken as constants here.
    """

    groups: tuple[GroupInfo, ...]
    macs: int
    seconds: float | None
    unmeasured: str
    staying: Mapping[str, tuple[str, ...]]
    frozen: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "groups": [info.to_dict() for info in self.groups],
            "macs": self.macs,
            "seconds": self.seconds,
            "unmeasured": self.unmeasured,
            "staying": {why: list(layers) for why, layers in self.staying.items()},
            "frozen": self.frozen,
        }


def listing(model: ir.Model, target: Target) -> GroupListing:
    """Find the groups of a model, those that only ``normalised=yes`` prunes included, and what they are worth.

    Args:
        model: not changed; functions count as inlined, and weights as constants even if a caller may override them.
        target: where time is measured, on random inputs; its shapes are those of dynamic inputs. Where it cannot be
            measured, the listing says why.

    Raises:
        UsageError: if the shapes do not fit the model.
    """
    flat = inlined(model)
    frozen = _freeze(flat)
    groups = find(flat, normalised=True)
    fixed, sizes = with_shapes(flat, target.shapes)
    shape = KnownShapes(fixed, sizes)
    macs = costs.shrinking(flat, groups, [count(node, shape) or 0 for node in fixed.graph])
    size = costs.weight_bytes(groups)
    seconds, unmeasured = _seconds(flat, groups, target)
    nothing = np.zeros(groups.count, bool)
    infos = [
        GroupInfo(
            group,
            round(macs.saved(nothing, group.classes)),
            round(size.saved(nothing, group.classes)),
            None if seconds is None else seconds.saved(nothing, group.classes),
        )
        for group in groups
    ]
    whole = None if seconds is None else seconds.total(nothing)
    return GroupListing(tuple(infos), round(macs.total(nothing)), whole, unmeasured, _staying(groups), frozen)


def _freeze(model: ir.Model) -> int:
    """Take weights off the list of inputs; how many."""
    inputs = [value for value in model.graph.inputs if not value.is_initializer()]
    frozen = len(model.graph.inputs) - len(inputs)
    model.graph.inputs.clear()
    model.graph.inputs.extend(inputs)
    model.ir_version = max(model.ir_version, FREE_SINCE)
    return frozen


def _seconds(model: ir.Model, groups: Groups, target: Target) -> tuple[Costs | None, str]:
    """The time of the nodes on random inputs, or why it could not be measured."""
    try:
        feeds = random_samples(model, target, {}).first()
        times, rest = node_seconds(model, feeds, target)
    except OnnxoptError as error:
        return None, str(error)
    return costs.seconds(model, groups, times, rest, block=1), ""


def _staying(groups: Groups) -> dict[str, tuple[str, ...]]:
    """The refusals by reason, the most frequent first."""
    found: dict[str, list[str]] = {}
    for refusal in groups.refusals:
        found.setdefault(refusal.why, []).append(refusal.node)
    return {why: tuple(layers) for why, layers in sorted(found.items(), key=lambda item: -len(item[1]))}
