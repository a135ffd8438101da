"""Float numbers that stand for whole ones: positions, sizes, indices. Rounded to 16 bits they would be other ones.

float16 has no whole numbers between 2048 and 4096 but the even ones, bfloat16 none but the even ones from 256 on.
What is computed from integers stays in float32 where it becomes an integer again, is compared, or is an angle.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx_ir as ir

from onnxopt.graph import given, tensor, walk
from onnxopt.passes.cast.kinds import FLOAT, Kinds, is_float
from onnxopt.passes.cast.slots import domain_of

MOVES = frozenset(
    ("Cast", "Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Tile")
) | {"Transpose", "Unsqueeze"}
ARITHMETIC = frozenset(
    (
        "Abs",
        "Add",
        "Ceil",
        "Clip",
        "CumSum",
        "Div",
        "Einsum",
        "Exp",
        "Floor",
        "Log",
        "MatMul",
        "Max",
        "Min",
        "Mod",
        "Mul",
    )
) | {"Neg", "Pow", "Reciprocal", "Round", "Sign", "Sqrt", "Sub", "Sum", "Where"}
NEEDS = ("Ceil", "Equal", "Floor", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Mod", "Round")
"""Operators whose result leaps where what they read moves a little."""
ANGLES = ("Cos", "Sin")
SMALL_INTEGERS = (ir.DataType.BOOL, ir.DataType.INT8, ir.DataType.UINT8)
"""Of these, either format holds each."""


def whole_numbers(model: ir.Model, known: Kinds) -> dict[ir.Node, str]:
    """The nodes that stay, each with the reason."""
    counted = _counted(model, known)
    found: dict[ir.Node, str] = {}
    for node in walk(model):
        if domain_of(node):
            continue
        if _makes_integers(node, known):
            found |= dict.fromkeys(_makers(node, counted, known, nearest=True), "its result becomes an integer")
        elif node.op_type in ANGLES:
            makers = _makers(node, counted, known, nearest=True)
            found |= dict.fromkeys([*makers, node], "its result is an angle")
        elif node.op_type in NEEDS:
            makers = _makers(node, counted, known, nearest=False)
            if any(value in counted for value in node.inputs if value is not None):
                found |= dict.fromkeys([*makers, node], "it computes with whole numbers")
        elif node.op_type == "Resize":
            scales = given(node, 2) if len(node.inputs) > 2 else given(node, 1)
            found |= dict.fromkeys(_upwards([scales], counted, known), "it computes a size")
    return found


def _counted(model: ir.Model, known: Kinds) -> set[ir.Value]:
    """Float values that are computed from integers alone, and constants."""
    found: set[ir.Value] = set()
    for node in walk(model):
        if domain_of(node) or not any(is_float(value, known) for value in node.outputs):
            continue
        if node.op_type == "Range" or (node.op_type == "Cast" and _is_integer(known.dtype(node.inputs[0]))):
            found.update(node.outputs)
        elif node.op_type in MOVES | ARITHMETIC:
            floats = [value for value in node.inputs if is_float(value, known)]
            if any(value in found for value in floats) and all(v in found or tensor(v) is not None for v in floats):
                found.update(node.outputs)
    return found


def _is_integer(kind: ir.DataType | None) -> bool:
    return kind is not None and kind.is_integer() and kind not in SMALL_INTEGERS


def _makes_integers(node: ir.Node, known: Kinds) -> bool:
    """Whether a node casts floats to integers."""
    if node.op_type != "Cast" or not is_float(node.inputs[0], known):
        return False
    return ir.DataType(node.attributes.get_int("to", FLOAT)).is_integer()


def _makers(node: ir.Node, counted: set[ir.Value], known: Kinds, *, nearest: bool) -> Iterator[ir.Node]:
    """What computes the inputs of a node from integers; and what computes them at all, if ``nearest``."""
    if nearest:
        yield from (maker for value in node.inputs if value is not None and (maker := value.producer()) is not None)
    yield from _upwards(node.inputs, counted, known)


def _upwards(values: Iterable[ir.Value | None], counted: set[ir.Value], known: Kinds) -> Iterator[ir.Node]:
    """All nodes that compute these values, as far as they compute with whole numbers."""
    waiting, seen = list(values), set()
    while waiting:
        value = waiting.pop()
        node = value.producer() if value is not None else None
        if value not in counted or node is None or node in seen:
            continue
        seen.add(node)
        yield node
        waiting += node.inputs
