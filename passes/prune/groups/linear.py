"""Layers that multiply with weights: Conv, ConvTranspose, Gemm, MatMul, Einsum."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxopt.graph import given
from onnxopt.passes.prune.groups.elementwise import broadcast
from onnxopt.passes.prune.groups.tracer import Axes, Axis, Barrier, Kept, Tracer, rule

MOVED = "a kernel moves along it"


@rule("Conv")
def conv(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """X [N, C, ...], W [M, C / group, ...], B [M] to [N, M, ...]."""
    x, weight, bias = tracer.of(node.inputs[0]), tracer.of(node.inputs[1]), given(node, 2)
    group = node.attributes.get_int("group", 1)
    made = _grouped(tracer, node, x[1], weight, group) if group > 1 else weight[0]
    if group == 1:
        tracer.tie(x[1], weight[1])
        tracer.writes(node, node.inputs[1], 0)
        tracer.reads(node, node.inputs[1], 1)
    if bias is not None:
        tracer.tie(made, tracer.of(bias)[0])
    tracer.bar([*x[2:], *weight[2:]], MOVED)
    return [[x[0], made, *[None] * (len(x) - 2)]]


def _grouped(tracer: Tracer, node: ir.Node, read: Axis, weight: Axes, group: int) -> Axis:
    """Whole groups go, with all that they read and make; ``group`` is then the number of those that stay.

    Of a depthwise convolution a group is a channel. Groups of many channels, fewer than channels in one, lose the
    same of their channels each.
    """
    made, inputs = weight[0], weight[1]
    if read is None or made is None or inputs is None or len(read) % group or len(made) % group:
        raise Barrier("its groups are not equal")
    if len(inputs) > group:
        for rows in (read, made):
            tracer.tie_all(rows, len(rows) // group)
        tracer.tie(read[: len(inputs)], inputs)
        tracer.writes(node, node.inputs[1], 0)
        tracer.reads(node, node.inputs[1], 1)
        return made
    tracer.bar([inputs], "it counts within a group")
    whole = tracer.fresh(group)
    for rows in (read, made):
        tracer.tie(rows, np.repeat(whole, len(rows) // group))
    if len(inputs) > 1:
        tracer.writes(node, node.inputs[1], 0)

    def adjust(kept: Kept) -> None:
        node.attributes["group"] = ir.AttrInt64("group", kept.count(whole))

    tracer.adjust(adjust)
    return made


@rule("ConvTranspose")
def conv_transpose(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """X [N, C, ...], W [C, M / group, ...], B [M] to [N, M, ...]."""
    x, weight, bias = tracer.of(node.inputs[0]), tracer.of(node.inputs[1]), given(node, 2)
    group = node.attributes.get_int("group", 1)
    tracer.tie(x[1], weight[0])
    made = weight[1]
    if group > 1 and made is not None and x[1] is not None:
        whole = tracer.fresh(group)
        tracer.bar([made], "it counts within a group")
        tracer.tie(x[1], np.repeat(whole, len(x[1]) // group))
        made = np.repeat(whole, len(made))

        def adjust(kept: Kept) -> None:
            node.attributes["group"] = ir.AttrInt64("group", kept.count(whole))

        tracer.adjust(adjust)
    else:
        tracer.writes(node, node.inputs[1], 1)
        tracer.reads(node, node.inputs[1], 0)
    if bias is not None:
        tracer.tie(made, tracer.of(bias)[0])
    tracer.bar([*x[2:], *weight[2:]], MOVED)
    return [[x[0], made, *[None] * (len(x) - 2)]]


@rule("Gemm")
def gemm(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """A [M, K] or its transpose, B [K, N] or its transpose, C broadcasts to [M, N]."""
    turned = [node.attributes.get_int(name, 0) for name in ("transA", "transB")]
    (m, k), (inner, n) = (
        tracer.of(value)[:: -1 if turn else 1] for value, turn in zip(node.inputs[:2], turned, strict=True)
    )
    tracer.tie(k, inner)
    _roles(tracer, node, turned[0] == 1, turned[1] == 1)
    added = given(node, 2)
    return [[m, n]] if added is None else [broadcast(tracer, [[m, n], tracer.of(added)])]


def _roles(tracer: Tracer, node: ir.Node, turned_left: bool, turned_right: bool) -> None:
    """A product with a constant makes channels on the constant's outer axis, and reads on its inner one."""
    for value, outer in zip(node.inputs, (-1 if turned_left else -2, -2 if turned_right else -1), strict=False):
        if (rank := len(tracer.of(value))) > 1:
            tracer.writes(node, value, outer % rank)
            tracer.reads(node, value, (-3 - outer) % rank)


@rule("MatMul")
def matmul(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """A [..., M, K], B [..., K, N] to [..., M, N]; a vector has no M or no N."""
    left, right = (list(tracer.of(value)) for value in node.inputs)
    if not left or not right:
        raise Barrier("it multiplies a scalar")
    inner = right[-2] if len(right) > 1 else right[-1]
    tracer.tie(left[-1], inner)
    _roles(tracer, node, False, False)
    outer = [*([left[-2]] if len(left) > 1 else []), *([right[-1]] if len(right) > 1 else [])]
    return [[*broadcast(tracer, [left[:-2], right[:-2]]), *outer]]


@rule("Einsum")
def einsum(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """Axes of one letter are one."""
    equation = node.attributes.get_string("equation", "").replace(" ", "")
    terms, arrow, result = equation.partition("->")
    if not arrow or "." in equation:
        raise Barrier("its equation has an ellipsis, or no output")
    known: dict[str, Axis] = {}
    for term, value in zip(terms.split(","), node.inputs, strict=True):
        for place, (letter, axis) in enumerate(zip(term, tracer.of(value), strict=True)):
            known[letter] = tracer.tie(known[letter], axis) if letter in known else axis
            (tracer.writes if letter in result else tracer.reads)(node, value, place)
    return [[known[letter] for letter in result]]
