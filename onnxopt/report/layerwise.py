"""Layer by layer: which kernel was planned and which ran, how long it took before and after, what passes said."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import onnx_ir as ir

from onnxopt.core import Change, Refusal
from onnxopt.graph import label
from onnxopt.pipeline import Step
from onnxopt.stopwatch import node_kernels, node_seconds
from onnxopt.target import Target

MOST = 500
"""Layers that are listed; of more, those that take the most time."""


@dataclass(frozen=True)
class Layer:
    """One node, before and after.

    Attributes:
        name: its first output, as everywhere in reports.
        op: operator in the original, or in the result where the original has no such node.
        planned: the kernel that a kept pass wants ONNX Runtime to run; else the operator in the result. None: it is
            gone from the result.
        kernel_before, kernel: what ONNX Runtime really runs, in the original and in the result; None: fused into
            another node, or not there.
        seconds_before, seconds: with all that is fused into it; None where it does not run by itself.
        sqnr_db: sensitivity: signal to noise ratio of the outputs with this layer alone in int8, where it was measured.
        changes: what kept passes did to it.
        refusals: why passes left it alone.
    """

    name: str
    op: str
    planned: str | None
    kernel_before: str | None
    kernel: str | None
    seconds_before: float | None
    seconds: float | None
    sqnr_db: float | None
    changes: tuple[str, ...]
    refusals: tuple[str, ...]

    @property
    def tells(self) -> bool:
        """Whether there is anything to be said of it."""
        told = (self.seconds_before, self.seconds, *self.refusals)
        return any(told)


@dataclass(frozen=True)
class Layers:
    """The layers of a model and its result.

    Attributes:
        rows: in the order of the original, then what only the result has.
        left_out: nodes without a time of their own, of which no pass said anything, and those beyond the most.
        rest_before, rest: seconds of nodes that ONNX Runtime put in, or that belong to no single node.
    """

    rows: tuple[Layer, ...]
    left_out: int
    rest_before: float
    rest: float

    def to_dict(self) -> dict[str, object]:
        """Ready for JSON."""
        return {**asdict(self), "rows": [asdict(row) for row in self.rows]}


@dataclass(frozen=True)
class Side:
    """One of the two models: operators, kernels and seconds by label; and the seconds of the rest."""

    ops: Mapping[str, str]
    kernels: Mapping[str, str]
    seconds: Mapping[str, float]
    rest: float


def layers(
    original: ir.Model, result: ir.Model, steps: Sequence[Step], feeds: Mapping[str, np.ndarray], target: Target
) -> Layers:
    """Time both models node by node, and gather what passes said.

    Args:
        original, result: not changed.
        steps: of the run.
        feeds: the inputs of one run.
        target: where to run.

    Raises:
        ModelError: if ONNX Runtime does not load or run one of them.
    """
    before = _side(original, feeds, target)
    after = before if result is original else _side(result, feeds, target)
    return joined(before, after, steps)


def joined(before: Side, after: Side, steps: Sequence[Step]) -> Layers:
    """The rows of two models."""
    said = _said(steps)
    every = [_row(name, before, after, said.get(name, [])) for name in dict.fromkeys([*before.ops, *after.ops])]
    telling = [row for row in every if row.tells]
    longest = sorted(telling, key=lambda row: -max(row.seconds_before or 0.0, row.seconds or 0.0))[:MOST]
    kept = {row.name for row in longest}
    rows = tuple(row for row in telling if row.name in kept)
    return Layers(rows, len(every) - len(rows), before.rest, after.rest)


def _side(model: ir.Model, feeds: Mapping[str, np.ndarray], target: Target) -> Side:
    seconds, rest = node_seconds(model, feeds, target)
    ops = {label(node): node.op_type for node in model.graph if node.op_type != "Constant"}
    return Side(ops, node_kernels(model, target), seconds, rest)


def _said(steps: Iterable[Step]) -> dict[str, list[tuple[Step, Change | Refusal]]]:
    """What passes said of each node: of the refused ones, only what they left alone."""
    found: dict[str, list[tuple[Step, Change | Refusal]]] = {}
    for step in steps:
        items: list[Change | Refusal] = [*(step.changes if step.kept else ()), *step.refusals]
        for item in items:
            found.setdefault(item.node, []).append((step, item))
    return found


def _row(name: str, before: Side, after: Side, said: Sequence[tuple[Step, Change | Refusal]]) -> Layer:
    planned = [item.kernel for step, item in said if step.kept and item.kernel]
    noises = [item.noise for _, item in said if item.noise is not None]
    changes = [f"{step.words}: {item.what}" for step, item in said if isinstance(item, Change)]
    refusals: dict[str, str] = {}
    for step, item in said:
        if isinstance(item, Refusal):
            refusals.setdefault(item.why, f"{step.words}: {item.why}")
    return Layer(
        name=name,
        op=before.ops.get(name) or after.ops[name],
        planned=planned[-1] if planned else after.ops.get(name),
        kernel_before=before.kernels.get(name),
        kernel=after.kernels.get(name),
        seconds_before=before.seconds.get(name),
        seconds=after.seconds.get(name),
        sqnr_db=-10 * math.log10(max(noises[-1], 1e-30)) if noises else None,
        changes=tuple(dict.fromkeys(changes)),
        refusals=tuple(refusals.values()),
    )
