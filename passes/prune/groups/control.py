"""If, Loop and Scan: what goes into a body and comes out of it. Inside, values of the outer graph are what they are."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxopt.graph import subgraphs
from onnxopt.passes.prune.groups.tracer import Axes, Axis, Barrier, Tracer, rule

OTHER = "branches or steps give it different sizes"


@rule("If")
def choice(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """An output is that of one branch or of the other."""
    branches = subgraphs(node)
    for branch in branches:
        tracer.trace(branch)
    return [_joined(tracer, values) for values in zip(*(branch.outputs for branch in branches), strict=True)]


@rule("Loop")
def loop(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """Trip count, condition, what is carried; the body gives a condition, what is carried, and what is stacked."""
    (body,) = subgraphs(node)
    carried = node.inputs[2:]
    finals = _carried(tracer, body, carried, body.inputs[2:], body.outputs[1 : 1 + len(carried)])
    return [*finals, *([None, *tracer.of(value)] for value in body.outputs[1 + len(carried) :])]


@rule("Scan")
def scan(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """What is carried, and what is taken apart; the body gives what is carried, and what is stacked."""
    (body,) = subgraphs(node)
    scanned = node.attributes.get_int("num_scan_inputs", 0)
    count = len(node.inputs) - scanned
    if len(body.inputs) != len(node.inputs):
        raise Barrier("this opset scans batches")
    places = node.attributes.get_ints("scan_input_axes", [0] * scanned)
    for value, inner, place in zip(node.inputs[count:], body.inputs[count:], places, strict=True):
        axes = list(tracer.of(value))
        tracer.bar([axes.pop(place)], "it is taken apart")
        tracer.axes[inner] = axes
    finals = _carried(tracer, body, node.inputs[:count], body.inputs[:count], body.outputs[:count])
    stacked = [list(tracer.of(value)) for value in body.outputs[count:]]
    for axes, place in zip(stacked, node.attributes.get_ints("scan_output_axes", [0] * len(stacked)), strict=True):
        axes.insert(place % (len(axes) + 1), None)
    return [*finals, *stacked]


def _carried(
    tracer: Tracer,
    body: ir.Graph,
    starts: Sequence[ir.Value | None],
    inputs: Sequence[ir.Value],
    results: Sequence[ir.Value],
) -> list[Axes]:
    """Trace a body whose inputs are first what is given, then its own results."""
    tracer.axes.update(zip(inputs, map(tracer.of, starts), strict=True))
    tracer.trace(body)
    return [_joined(tracer, pair) for pair in zip(starts, results, strict=True)]


def _joined(tracer: Tracer, values: Sequence[ir.Value | None]) -> Axes:
    """The axes of what is one of several values."""
    first, *others = map(tracer.of, values)
    if any(len(axes) != len(first) for axes in others):
        raise Barrier(OTHER)
    return [_one(tracer, list(column)) for column in zip(first, *others, strict=True)]


def _one(tracer: Tracer, axes: list[Axis]) -> Axis:
    if len({None if axis is None else len(axis) for axis in axes}) > 1:
        tracer.bar(axes, OTHER)
        return None
    for other in axes[1:]:
        tracer.tie(axes[0], other)
    return axes[0]
