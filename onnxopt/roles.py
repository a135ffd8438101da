"""What integers and masks among a model's inputs mean, read from the graph: so that random inputs respect the model.

An input is followed through the graph with what every value on the way would be if all of the input were 0, and if
all of it were 1 (where that can be told). It is found to be

- an **index**, where it reaches Gather, GatherElements, GatherND, OneHot or their fusions through nodes that only
  move or convert numbers: it must lie within the rows of the smallest table;
- a **mask**, where one of the two becomes a large negative number that is added to something, or chosen in its place
  (``(1 - mask) * -10000``, ``Where(mask, scores, -inf)``), or goes into an attention node: it must be the other one.
  Of integers and booleans also where one of the two becomes 0 and is multiplied with something that is computed;
- a **segment**, where it is an index of a table of two rows at most whose rows are added to those of another table;
- a **length**, where it is the sequence_lens of an LSTM, GRU or RNN.

Where the graph does not say it, the usual names do (``attention_mask``, ``token_type_ids``).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt.graph import array, given, inferred, tensor

LARGE = -9000.0
"""What masks add to scores is at most this; -10000 is the smallest in use."""
MOVES = frozenset({
    "Cast", "CastLike", "Concat", "Dropout", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity",
    "Pad", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
})  # fmt: skip
"""Operators that give numbers of their first input (of any, Concat) as they are."""
INDICES: Mapping[str, int] = {"Gather": 1, "GatherElements": 1, "GatherND": 1, "GatherBlockQuantized": 1, "OneHot": 0}
"""Operator to the input that is an index."""
MASKED: Mapping[str, int] = {"Attention": 3, "QAttention": 4, "MultiHeadAttention": 4, "EmbedLayerNormalization": 7}
"""Operator to the input that masks."""
RECURRENT = ("GRU", "LSTM", "RNN")
LENGTHS = 4
"""The input of a recurrent node that holds sequence lengths."""
MASK_NAMES = ("attention_mask", "input_mask")
SEGMENT_NAMES = ("token_type_ids", "segment_ids", "input_type_ids")
SEGMENTS = 2
"""Rows of a table of segments, at most."""
MOST_VALUES = 10_000
"""That are looked at for one input."""

_Pair = tuple[float | None, float | None]
"""What a value is where all of the input is 0, and 1; None: not known."""
_POINTWISE: Mapping[str, Callable[[Any, Any], Any]] = {
    "Add": np.add, "And": np.logical_and, "Div": np.divide, "Equal": np.equal, "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal, "Less": np.less, "LessOrEqual": np.less_equal, "Max": np.maximum,
    "Min": np.minimum, "Mul": np.multiply, "Or": np.logical_or, "Sub": np.subtract,
}  # fmt: skip


@dataclass(frozen=True)
class Bounds:
    """Between what the numbers of an input must lie, both ends included, and why."""

    low: float
    high: float
    why: str = "given"

    def __str__(self) -> str:
        """``0..511``, or the one number."""
        return f"{self.low:g}" if self.low == self.high else f"{self.low:.10g}..{self.high:.10g}"


@dataclass(frozen=True)
class _Sign:
    """One thing that the graph says of an input; of several, the one of the smallest rank counts."""

    rank: int
    bounds: Bounds


def input_bounds(model: ir.Model) -> dict[str, Bounds]:
    """Input name to its bounds, for the inputs of which the graph or the name says something."""
    shapes = _Shapes(model)
    found = {}
    for value in model.graph.inputs:
        if value.name is None or value.name in model.graph.initializers or value.dtype is None:
            continue
        signs = [*_signs(value, shapes), *_named(value)]
        if signs:
            first = min(sign.rank for sign in signs)
            found[value.name] = min((s.bounds for s in signs if s.rank == first), key=lambda bounds: bounds.high)
    return found


class _Shapes:
    """Sizes of dimensions; they are inferred when one is asked for that the file does not give."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model

    @functools.cached_property
    def _twins(self) -> dict[ir.Value, ir.Value]:
        return inferred(self._model)

    def size(self, value: ir.Value | None, axis: int) -> int | None:
        """The size of a dimension, where it is a number."""
        if value is None:
            return None
        contents = tensor(value)
        shape = value.shape if contents is None else contents.shape
        if shape is None or not -len(shape) <= axis < len(shape) or not isinstance(shape[axis], int):
            shape = self._twins[value].shape if value in self._twins else None
        if shape is None or not -len(shape) <= axis < len(shape):
            return None
        size = shape[axis]
        return size if isinstance(size, int) else None


def _named(value: ir.Value) -> Iterator[_Sign]:
    """What the name says: of a segment, that it is 0; of a mask, only if nothing else was said."""
    name = (value.name or "").lower()
    if name.endswith(SEGMENT_NAMES) and _whole(value):
        yield _Sign(0, Bounds(0, 0, "its name says that it is a segment"))
    if name.endswith(MASK_NAMES):
        yield _Sign(9, Bounds(1, 1, "its name says that it is a mask"))


def _whole(value: ir.Value) -> bool:
    return value.dtype is not None and (value.dtype.is_integer() or value.dtype is ir.DataType.BOOL)


def _signs(start: ir.Value, shapes: _Shapes) -> Iterator[_Sign]:
    """Follow an input as far as it can be told what becomes of it."""
    whole = _whole(start)
    if not whole and not (start.dtype is not None and start.dtype.is_floating_point()):
        return
    waiting: list[tuple[ir.Value, _Pair, bool]] = [(start, (0.0, 1.0), True)]
    seen = set(waiting)
    while waiting and len(seen) < MOST_VALUES:
        value, pair, moved_only = waiting.pop()
        for node, place in value.uses():
            if moved_only and whole:
                yield from _index(node, place, shapes)
            yield from _mask(node, place, pair, whole)
            after = _through(node, place, pair)
            keeps = moved_only and (_moves(node, place) or (node.op_type == "Where" and place > 0))
            if after is None and not keeps:
                continue
            ahead = [(out, after or (None, None), keeps) for out in node.outputs]
            waiting += [one for one in ahead if one not in seen]
            seen.update(ahead)


def _moves(node: ir.Node, place: int) -> bool:
    return node.op_type in MOVES and (place == 0 or node.op_type == "Concat")


def _index(node: ir.Node, place: int, shapes: _Shapes) -> Iterator[_Sign]:
    """Bounds of an index, by the table that it is used on."""
    if node.op_type in RECURRENT and place == LENGTHS:
        length = shapes.size(node.inputs[0], node.attributes.get_int("layout", 0)) or 1
        yield _Sign(1, Bounds(length, length, f"sequence lengths of {node.op_type}"))
    if node.op_type == "EmbedLayerNormalization" and place in (0, 1, 8):
        rows = shapes.size(given(node, {0: 2, 1: 4, 8: 3}[place]), 0)
        yield _Sign(1, Bounds(0, 0 if place == 1 else (rows or 1) - 1, f"rows of {node.op_type}"))
    if node.op_type == "Equal" and (classes := _counted(given(node, 1 - place))) > 1:
        yield _Sign(1, Bounds(0, classes - 1, "compared with 0, 1, 2, ..."))
    if INDICES.get(node.op_type) != place:
        return
    rows = _rows(node, shapes)
    if rows is None:  # a dimension that is not known before it runs: the first is always there
        yield _Sign(3, Bounds(0, 0, f"index of {node.op_type}"))
    elif rows <= SEGMENTS and _is_added_to_rows(node):
        yield _Sign(1, Bounds(0, 0, "segments"))
    else:
        yield _Sign(1, Bounds(0, max(0, rows - 1), f"index of {node.op_type}"))


def _rows(node: ir.Node, shapes: _Shapes) -> int | None:
    """How many different indices there are."""
    if node.op_type == "OneHot":
        depth = array(given(node, 1))
        return None if depth is None or depth.size != 1 else int(depth.reshape(-1)[0])
    if node.op_type == "GatherND":
        first = node.attributes.get_int("batch_dims", 0)
        depth_of = shapes.size(given(node, 1), -1) or 1
        sizes = [shapes.size(node.inputs[0], axis) for axis in range(first, first + depth_of)]
        known = [size for size in sizes if size is not None]
        return min(known) if len(known) == len(sizes) else None
    name = "gather_axis" if node.op_type == "GatherBlockQuantized" else "axis"
    return shapes.size(node.inputs[0], node.attributes.get_int(name, 0))


def _is_added_to_rows(node: ir.Node) -> bool:
    """Whether the rows that a Gather gives are added to those of another one."""
    adds = [use for use in node.outputs[0].uses() if use.node.op_type == "Add"]
    others = [other.producer() for add in adds for other in add.node.inputs if other not in (None, node.outputs[0])]
    return any(other is not None and other.op_type in ("Add", "Gather") for other in others)


def _mask(node: ir.Node, place: int, pair: _Pair, whole: bool) -> Iterator[_Sign]:
    """What keeps everything, where a node masks: the one of 0 and 1 that does not."""
    if MASKED.get(node.op_type) == place:
        hidden = _one(pair, lambda number: number <= LARGE)
        kept = hidden if hidden is not None else _one(pair, lambda number: number == 0)
        if kept is not None:
            yield _Sign(2, Bounds(kept, kept, f"mask of {node.op_type}"))
    elif node.op_type == "Where" and place == 0:
        branches = _chosen(node, pair)
        if None in branches and (kept := _one(branches, lambda number: number <= LARGE)) is not None:
            yield _Sign(2, Bounds(kept, kept, "mask of Where"))
        elif None in branches and whole and (kept := _one(branches, lambda number: number == 0)) is not None:
            yield _Sign(4, Bounds(kept, kept, "mask of Where"))
    elif node.op_type in ("Add", "Mul") and all(_number(other) is None for other in _others(node, place)):
        if node.op_type == "Add" and (kept := _one(pair, lambda number: number <= LARGE)) is not None:
            yield _Sign(2, Bounds(kept, kept, "mask that is added"))
        computed = all(tensor(other) is None for other in _others(node, place))
        if node.op_type == "Mul" and whole and computed and None not in pair:
            kept = _one(pair, lambda number: number == 0)
            if kept is not None:
                yield _Sign(4, Bounds(kept, kept, "mask that is multiplied"))


def _one(pair: _Pair, hides: Callable[[float], bool]) -> int | None:
    """Of 0 and 1 the one that does not hide, where the other does."""
    hidden = [number is not None and hides(number) for number in pair]
    return hidden.index(False) if sum(hidden) == 1 else None


def _through(node: ir.Node, place: int, pair: _Pair) -> _Pair | None:
    """What the node makes of a value; None where that cannot be told."""
    if _moves(node, place):
        to = node.attributes.get_int("to", 0) if node.op_type == "Cast" else 0
        return _each(pair, lambda number: float(number != 0)) if to == ir.DataType.BOOL else pair
    if node.op_type == "Not":
        return _each(pair, lambda number: float(not number))
    if node.op_type == "Neg":
        return _each(pair, lambda number: -number)
    if node.op_type == "Where":
        found = _chosen(node, pair) if place == 0 else pair
        return None if found == (None, None) else found
    if node.op_type in _POINTWISE and len(node.inputs) == 2:
        return _pointwise(node, place, pair)
    return None


def _pointwise(node: ir.Node, place: int, pair: _Pair) -> _Pair | None:
    other, function = _number(node.inputs[1 - place]), _POINTWISE[node.op_type]
    if other is None:  # what decides it alone
        decisive = {"And": 0.0, "Mul": 0.0, "Or": 1.0}.get(node.op_type)
        found = tuple(number if decisive is not None and number == decisive else None for number in pair)
        return None if found == (None, None) else (found[0], found[1])
    with np.errstate(all="ignore"):
        if place == 0:
            return _each(pair, lambda number: float(function(number, other)))
        return _each(pair, lambda number: float(function(other, number)))


def _each(pair: _Pair, function: Callable[[float], float]) -> _Pair:
    zero, one = (None if number is None else function(number) for number in pair)
    return zero, one


def _chosen(node: ir.Node, pair: _Pair) -> _Pair:
    """What a Where gives for its condition."""
    branches = [_number(given(node, place)) for place in (1, 2)]
    zero, one = (None if number is None else branches[0 if number else 1] for number in pair)
    return zero, one


def _others(node: ir.Node, place: int) -> list[ir.Value | None]:
    return [other for at, other in enumerate(node.inputs) if at != place]


def _counted(value: ir.Value | None) -> int:
    """How many numbers there are in a constant 0, 1, 2, ...; 0 where it is another one."""
    contents = _source(value)
    if contents is None or not contents.dtype.is_integer() or contents.size > MOST_VALUES:
        return 0
    numbers = contents.numpy().reshape(-1)
    return numbers.size if (numbers == np.arange(numbers.size)).all() else 0


def _source(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The constant behind a value, through nodes that repeat it or give it another shape."""
    contents, node = tensor(value), value.producer() if value is not None else None
    if contents is None and node is not None and node.op_type in ("Cast", "Expand", "Identity", "Reshape", "Unsqueeze"):
        return _source(given(node, 0))
    return contents


def _number(value: ir.Value | None) -> float | None:
    """The number that all elements of a value are, where it is one."""
    contents = tensor(value)
    if contents is not None:
        if contents.dtype is ir.DataType.STRING or contents.size == 0 or contents.size > MOST_VALUES:
            return None
        numbers = contents.numpy().reshape(-1)
        return float(numbers[0]) if (numbers == numbers[0]).all() else None
    node = value.producer() if value is not None else None
    if node is None:
        return None
    if node.op_type == "ConstantOfShape":
        filled = node.attributes.get("value")
        return 0.0 if filled is None or filled.is_ref() else float(filled.as_tensor().numpy().reshape(-1)[0])
    if node.op_type in ("Cast", "CastLike", "Expand", "Identity", "Reshape", "Unsqueeze"):
        return _number(given(node, 0))
    return None
