"""Attention written out: where it is, and its parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxopt.graph import STANDARD_DOMAINS, array, given, label, nodes, only_read_by, opset, scalar
from onnxopt.passes.fuse.transformer.sizes import Sizes

HEADS_OUT = (0, 2, 1, 3)
"""Between [batch, heads, sequence, size] and [batch, sequence, heads, size]."""
TURNED = (0, 1, 3, 2)
TURNED_HEADS_OUT = (0, 2, 3, 1)
"""Of [batch, sequence, heads, size], to [batch, heads, size, sequence]."""
SIMPLIFY = "where sizes are computed, --pass simplify before may make them known"
FORBIDS = -1e30
"""A score below this swallows whatever is added to it: taken in its place, or added, it gives the same."""


@dataclass(frozen=True)
class Attention:
    """``softmax(query @ key.T * scale + bias) @ value``.

    Attributes:
        softmax: its node.
        product: the node that gives the output, [batch, heads, sequence, value size].
        query: [batch, heads, sequence, size].
        key: [batch, heads, total, size]; or with ``key_heads_inside`` [batch, total, heads, size].
        value: [batch, heads, total, value size].
        bias: what is added to the scores, and its node; the Where of a mask, whose condition and number are ``mask``.
        scale: of the scores.
        heads: their number.
        size: of the query's heads.
        value_size: of the value's heads.
    """

    softmax: ir.Node
    product: ir.Node
    query: ir.Value
    key: ir.Value
    key_heads_inside: bool
    value: ir.Value
    bias: ir.Value | None
    mask: ir.Node | None
    scale: float
    heads: int
    size: int
    value_size: int


def attentions(model: ir.Model, sizes: Sizes) -> Iterator[tuple[ir.Node, Attention | str]]:
    """Every Softmax between two products of computed values: the attention that it is part of, or what is odd."""
    for softmax in nodes(model, "Softmax"):
        product = _reader(softmax)
        if product is None or product.inputs[0] is not softmax.outputs[0] or _constant(product.inputs[1]):
            continue
        found = _read(softmax, product, sizes, oldest_axis=opset(model) < 13)
        if found is not None:
            yield softmax, found


def _reader(node: ir.Node) -> ir.Node | None:
    """The MatMul that alone reads a node."""
    uses = list(node.outputs[0].uses())
    if len(uses) != 1 or uses[0].node.op_type != "MatMul" or uses[0].node.domain not in STANDARD_DOMAINS:
        return None
    return uses[0].node if only_read_by(node.outputs[0], uses[0].node) else None


def _constant(value: ir.Value | None) -> bool:
    return value is None or value.is_initializer() or array(value) is not None


def _read(softmax: ir.Node, product: ir.Node, sizes: Sizes, *, oldest_axis: bool) -> Attention | str | None:
    scores, bias, mask = _without_bias(softmax.inputs[0], softmax)
    scores, scale = _without_factors(scores)
    first, value = scores.producer() if scores is not None else None, product.inputs[1]
    if first is None or first.op_type != "MatMul" or any(map(_constant, first.inputs)) or value is None:
        return None
    if softmax.attributes.get_int("axis", 1 if oldest_axis else -1) not in (-1, 3):
        return "its Softmax is not over the last axis"
    query, factor = _without_factors(first.inputs[0])
    turned, other = _without_factors(first.inputs[1])
    key, inside = _key(turned, sizes)
    if query is None or key is None:
        return "its key is not turned by a Transpose"
    key, third = _without_factors(key)
    assert key is not None
    places = [(query, 1), (key, 2 if inside else 1), (value, 1), (query, 3), (key, 3), (value, 3)]
    if any(sizes.rank(one) != 4 for one in (query, key, value)):
        return f"its query, key and value are not known to have batch, heads, sequence and size: {SIMPLIFY}"
    heads, of_key, of_value, size, key_size, value_size = (sizes.number(one, axis) for one, axis in places)
    if heads is None or size is None or value_size is None:
        return f"its number of heads is not known: {SIMPLIFY}"
    if not (heads == of_key == of_value and size == key_size):
        return f"its {heads} heads of size {size} have other keys ({of_key} of {key_size}) or values ({of_value})"
    total = scale * factor * other * third
    return Attention(softmax, product, query, key, inside, value, bias, mask, total, heads, size, value_size)


def _without_bias(value: ir.Value | None, reader: ir.Node) -> tuple[ir.Value | None, ir.Value | None, ir.Node | None]:
    """The scores, what is added to them, and the Where that forbids some of them."""
    node = None if value is None else value.producer()
    if node is None or value is None or not only_read_by(value, reader) or node.domain not in STANDARD_DOMAINS:
        return value, None, None
    if node.op_type in ("Add", "Sum") and len(node.inputs) == 2:
        for scores, bias in (node.inputs, reversed(node.inputs)):
            if bias is not None and _is_product(scores):
                return scores, bias, None
    if node.op_type == "Where":
        for scores, number in (node.inputs[1:], node.inputs[:0:-1]):
            forbidden = scalar(number)
            if forbidden is not None and forbidden <= FORBIDS and _is_product(scores):
                return scores, None, node
    return value, None, None


def _is_product(value: ir.Value | None) -> bool:
    """Whether these are scores: a product of two computed values, and factors."""
    rest, _ = _without_factors(value)
    node = None if rest is None else rest.producer()
    return node is not None and node.op_type == "MatMul" and not any(map(_constant, node.inputs))


def _without_factors(value: ir.Value | None) -> tuple[ir.Value | None, float]:
    """The value before it was multiplied with, or divided by, constants of one element; and the factor."""
    factor = 1.0
    while value is not None and (node := value.producer()) is not None and node.op_type in ("Mul", "Div"):
        numbers = [scalar(one) for one in node.inputs]
        if numbers[1] is not None and sum(number is not None for number in numbers) == 1:
            factor, value = (factor * numbers[1] if node.op_type == "Mul" else factor / numbers[1]), node.inputs[0]
        elif numbers[0] is not None and node.op_type == "Mul":
            factor, value = factor * numbers[0], node.inputs[1]
        else:
            break
    return value, factor


def _key(turned: ir.Value | None, sizes: Sizes) -> tuple[ir.Value | None, bool]:
    """The key before it was turned, and whether its heads are inside, behind the sequence."""
    node = None if turned is None else turned.producer()
    if turned is None or node is None:
        return None, False
    if node.op_type == "Transpose":
        perm = tuple(node.attributes.get_ints("perm", ()))
        if perm == TURNED:
            return node.inputs[0], False
        return (node.inputs[0], True) if perm == TURNED_HEADS_OUT else (None, False)
    return _turned_as_one(turned, node, sizes), False


def _turned_as_one(turned: ir.Value, last: ir.Node, sizes: Sizes) -> ir.Value | None:
    """The key before batch and heads were made one, turned, and parted again, as torch.export writes it."""
    middle = last.inputs[0].producer() if last.op_type == "Reshape" and last.inputs[0] is not None else None
    if middle is None or middle.op_type != "Transpose" or middle.inputs[0] is None:
        return None
    joined = middle.inputs[0].producer()
    if tuple(middle.attributes.get_ints("perm", ())) != (0, 2, 1) or joined is None:
        return None
    key = joined.inputs[0] if joined.op_type == "Reshape" else None
    shapes = [None if one is None else sizes.shape(one) for one in (key, middle.inputs[0], turned)]
    if any(shape is None for shape in shapes):
        return None
    before, one, after = (shape or [] for shape in shapes)
    fits = len(before) == len(after) == 4 and before[2:] == one[1:] == [after[3], after[2]] and before[:2] == after[:2]
    return key if fits else None


def where(attention: Attention) -> str:
    """How reports name an attention."""
    return label(attention.product)


def forbidden(node: ir.Node) -> tuple[ir.Value, float, bool]:
    """Of a Where: its condition, the number in place of a score, and whether that is taken where it is true."""
    condition, first = node.inputs[0], scalar(given(node, 1))
    assert condition is not None
    number = scalar(given(node, 2)) if first is None else first
    return condition, float(np.float32(number or 0.0)), first is not None
