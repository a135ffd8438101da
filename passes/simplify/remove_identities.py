"""Remove nodes that give what they take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxopt.core import Change, Context, Exactness, Pass
from onnxopt.graph import array, bypass, drop_unread, given, inferred, nodes, opset, tensor

NUMPY_BROADCAST = 7
"""The opset from which arithmetic broadcasts as numpy does."""
TO_THE_END = 2**31 - 1
LARGEST_CONSTANT = 1 << 16
"""Elements of a factor or summand worth looking at."""


@dataclass(frozen=True)
class RemoveIdentities(Pass):
    """Let the readers of a node that does nothing read its input instead.

    Before:
        ``h = Identity(x)``, ``y = Relu(h)``. Likewise: Dropout at inference, Cast to the same type,
        Transpose, Reshape, Flatten and Expand to the same layout, Concat, Sum, Mean, Max and Min of one, Pad
        by nothing, Tile by 1, Slice over all, Clip without bounds, ``x * 1``, ``x / 1``, ``x - 0``
    After:
        ``y = Relu(x)``
    Left alone:
        a node between an input or weight and an output of the same graph; ``x + 0``, which makes 0 of -0;
        shapes that the file states but nothing proves.
    Exact up to:
        nothing.
    Source:
        ONNX operator specification.
    """

    name: ClassVar[str] = "remove-identities"
    exactness: ClassVar[Exactness] = Exactness.EXACT

    def run(self, model: ir.Model, context: Context) -> list[Change]:
        """Remove them in graph order, so that a chain goes in one run."""
        facts, changes = Facts(model), []
        for node in nodes(model, *SAME):
            value = SAME[node.op_type](node, facts)
            read = [v for v in node.inputs if v is not None]
            others = [out for out in node.outputs[1:] if out.uses() or out.is_graph_output()]
            if value is None or others or not bypass(node, value):
                continue
            drop_unread(read)
            changes.append(Change(node.outputs[0].name or "", f"{node.op_type} does nothing"))
        return changes


class Facts:
    """What is known of the model besides its nodes; shapes when first asked for: they cost an inference."""

    def __init__(self, model: ir.Model) -> None:
        """Keep the model."""
        self.model, self.opset = model, opset(model)

    @cached_property
    def _twins(self) -> Mapping[ir.Value, ir.Value]:
        return inferred(self.model, believe=False)

    def dtype(self, value: ir.Value | None) -> ir.DataType | None:
        """The element type, if known."""
        twin = None if value is None else self._twins.get(value)
        return None if twin is None else twin.dtype

    def shape(self, value: ir.Value | None) -> list[int | None] | None:
        """The dimensions that are proven, None for each that is dynamic; None if even the rank is unknown."""
        twin = None if value is None else self._twins.get(value)
        if twin is None or twin.shape is None:
            return None
        return [dim if isinstance(dim, int) else None for dim in twin.shape]


def _first(node: ir.Node, facts: Facts) -> ir.Value | None:
    return node.inputs[0]


def _only(node: ir.Node, facts: Facts) -> ir.Value | None:
    return node.inputs[0] if len(node.inputs) == 1 else None


def _dropout(node: ir.Node, facts: Facts) -> ir.Value | None:
    if facts.opset < 7:
        return node.inputs[0] if node.attributes.get_int("is_test", 0) == 1 else None
    training = given(node, 2)
    off = array(training)
    return node.inputs[0] if training is None or (off is not None and not off.any()) else None


def _cast(node: ir.Node, facts: Facts) -> ir.Value | None:
    own = facts.dtype(node.inputs[0])
    return node.inputs[0] if own is not None and node.attributes.get_int("to", -1) == own else None


def _cast_like(node: ir.Node, facts: Facts) -> ir.Value | None:
    own, other = facts.dtype(node.inputs[0]), facts.dtype(node.inputs[1])
    return node.inputs[0] if own is not None and own == other else None


def _transpose(node: ir.Node, facts: Facts) -> ir.Value | None:
    perm = node.attributes.get_ints("perm", None)
    if perm is None:
        shape = facts.shape(node.inputs[0])
        return node.inputs[0] if shape is not None and len(shape) <= 1 else None
    return node.inputs[0] if list(perm) == sorted(perm) else None


def _reshape(node: ir.Node, facts: Facts) -> ir.Value | None:
    wanted, shape = array(given(node, 1)), facts.shape(node.inputs[0])
    if wanted is None or shape is None or len(wanted) != len(shape):
        return None
    copies = node.attributes.get_int("allowzero", 0) == 0
    rest = [w for w, dim in zip(wanted.tolist(), shape, strict=True) if not (w == dim or (w == 0 and copies))]
    return node.inputs[0] if rest in ([], [-1]) else None


def _flatten(node: ir.Node, facts: Facts) -> ir.Value | None:
    shape = facts.shape(node.inputs[0])
    same = shape is not None and len(shape) == 2 and node.attributes.get_int("axis", 1) in (1, -1)
    return node.inputs[0] if same else None


def _expand(node: ir.Node, facts: Facts) -> ir.Value | None:
    wanted = array(given(node, 1))
    return node.inputs[0] if wanted is not None and _absorbs(node.inputs[0], wanted.tolist(), facts) else None


def _tile(node: ir.Node, facts: Facts) -> ir.Value | None:
    repeats = array(given(node, 1))
    return node.inputs[0] if repeats is not None and (repeats == 1).all() and repeats.ndim == 1 else None


def _pad(node: ir.Node, facts: Facts) -> ir.Value | None:
    by_input = array(given(node, 1))
    pads = node.attributes.get_ints("pads", None) if facts.opset < 11 else by_input
    return node.inputs[0] if pads is not None and not np.any(pads) else None


def _slice(node: ir.Node, facts: Facts) -> ir.Value | None:
    bounds = _slice_bounds(node, facts.opset)
    if bounds is None:
        return None
    starts, ends, axes, steps = bounds
    if any(starts) or any(step != 1 for step in steps):
        return None
    if all(end >= TO_THE_END for end in ends):
        return node.inputs[0]
    shape = facts.shape(node.inputs[0])
    dims = [None] * len(ends) if shape is None else [shape[axis] for axis in axes or range(len(ends))]
    whole = all(dim is not None and end >= dim for dim, end in zip(dims, ends, strict=True))
    return node.inputs[0] if whole else None


def _slice_bounds(node: ir.Node, version: int) -> list[list[int]] | None:
    """Starts, ends, axes and steps, empty where they are left out; None where one is not constant."""
    if version < 10:
        return [list(node.attributes.get_ints(name, [])) for name in ("starts", "ends", "axes", "steps")]
    values = [given(node, index) for index in range(1, 5)]
    found = [array(value) for value in values]
    if any(value is not None and numbers is None for value, numbers in zip(values, found, strict=True)):
        return None
    return [[] if numbers is None else numbers.tolist() for numbers in found]


def _clip(node: ir.Node, facts: Facts) -> ir.Value | None:
    bounds = [value for value in node.inputs[1:] if value is not None]
    return node.inputs[0] if facts.opset >= 11 and not bounds else None


def _one(numbers: np.ndarray) -> bool:
    return bool((numbers == 1).all())


def _zero(numbers: np.ndarray) -> bool:
    """Zeros that change nothing when subtracted: not -0, for -0 - -0 is 0."""
    plain = numbers.dtype.kind in "iuf"
    return plain and not numbers.any() and not (numbers.dtype.kind == "f" and np.signbit(numbers).any())


def _neutral(is_neutral: Callable[[np.ndarray], bool], *sides: int) -> Rule:
    """The rule for an operator with a neutral number on one of these sides."""

    def kept(node: ir.Node, facts: Facts) -> ir.Value | None:
        for side in sides if facts.opset >= NUMPY_BROADCAST else ():
            constant, other = tensor(node.inputs[side]), node.inputs[1 - side]
            if constant is None or constant.size > LARGEST_CONSTANT or not is_neutral(constant.numpy()):
                continue
            if _absorbs(other, list(constant.numpy().shape), facts):
                return other
        return None

    return kept


def _absorbs(value: ir.Value | None, shape: list[int], facts: Facts) -> bool:
    """Whether broadcasting a value with this shape leaves the value's own shape."""
    if not shape:
        return value is not None
    own = facts.shape(value)
    if own is None or len(shape) > len(own):
        return False
    tail = own[len(own) - len(shape) :]
    return all(theirs in (1, dim) for theirs, dim in zip(shape, tail, strict=True))


Rule = Callable[[ir.Node, Facts], ir.Value | None]
"""The input that a node gives unchanged, or None."""

SAME: Mapping[str, Rule] = {
    "Identity": _first,
    "Dropout": _dropout,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Expand": _expand,
    "Tile": _tile,
    "Pad": _pad,
    "Slice": _slice,
    "Clip": _clip,
    **dict.fromkeys(("Concat", "Sum", "Mean", "Max", "Min"), _only),
    "Mul": _neutral(_one, 0, 1),
    "Div": _neutral(_one, 1),
    "Sub": _neutral(_zero, 1),
}
