"""Which nodes stay in float32 because of the numbers that they met on samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from onnxopt.calibrate.rounding import Magnitude
from onnxopt.graph import given, label
from onnxopt.passes.cast.constants import COARSE, DIVISORS, KEEPS_SMALL
from onnxopt.passes.cast.exact import MOVES
from onnxopt.passes.cast.half import Half
from onnxopt.passes.cast.kinds import Kinds
from onnxopt.passes.cast.masks import Masks
from onnxopt.passes.cast.network import Network, float_inputs, float_outputs
from onnxopt.passes.cast.slots import domain_of

SUMS = ("GlobalAveragePool", "ReduceL1", "ReduceMean", "ReduceSum")
SQUARES = ("ReduceL2", "ReduceSumSquare")
SKIP_NORMS = ("SkipLayerNormalization", "SkipSimplifiedLayerNormalization")
EXPONENTS = {"Exp": 0.02, "LogSoftmax": 0.02, "Softmax": 0.02}
"""Operators with exponents of what they read, and the error of it that is allowed (2 % of the result)."""
DIFFERENCES = ("Add", "Sub", "Sum")
DIVISOR_SOURCES = frozenset({*KEEPS_SMALL, "Abs", "Add", "Mul", "ReduceMean", "ReduceSum", "Clip"})
"""Operators that a divisor is computed with; of a small one, what it is computed from must be exact, too."""


@dataclass(frozen=True)
class Seen:
    """What is known of the numbers of a model.

    Attributes:
        magnitudes: by the names of values.
        masks: what may be saturated; its values are not looked at.
        half: the format.
        headroom: so many times what was seen must fit.
    """

    magnitudes: Mapping[str, Magnitude]
    masks: Masks
    half: Half
    headroom: float

    def of(self, value: ir.Value | None) -> Magnitude | None:
        """Of a value; None where it was not looked at."""
        if value is None or value in self.masks.values:
            return None
        return self.magnitudes.get(value.name or "")

    def beyond(self, number: float) -> bool:
        """Whether a number is too near to the end of the format."""
        return self.half.overflows and number * self.headroom > self.half.largest


def out_of_range(net: Network, known: Kinds, seen: Seen) -> dict[ir.Node, str]:
    """The nodes that stay, each with the reason."""
    found: dict[ir.Node, str] = {}
    for node in net.flexible:
        values = [*float_inputs(net, node, known), *float_outputs(net, node, known)]
        why = next((why for value in values if (why := _alone(value, seen))), None) or _inside(node, seen)
        if why is not None:
            found.setdefault(node, why)
        for value, reason in _exact(node, seen):
            maker = value.producer()
            found.setdefault(node, reason)
            if maker in net.flexible:
                found.setdefault(maker, f"{label(node)!r} reads it, and {reason}")
    return found


def _alone(value: ir.Value, seen: Seen) -> str | None:
    """Why a value cannot be held in 16 bits."""
    one = seen.of(value)
    if one is None:
        return None
    half = seen.half
    if seen.beyond(one.peak):
        return f"{value.name!r} reaches {one.peak:.3g}, and {half.name} ends at {half.largest:.6g}"
    if one.error > COARSE:
        return f"{value.name!r} is mostly too small for {half.name}: {one.root:.2g} at its root mean square"
    return None


def _inside(node: ir.Node, seen: Seen) -> str | None:
    """Why a node cannot add up in 16 bits; n numbers of root mean square r add up to n r at most."""
    source, result = seen.of(given(node, 0)), seen.of(node.outputs[0])
    if source is None or result is None or not result.count:
        return None
    count, total = source.count / result.count, 0.0
    if not domain_of(node):
        if node.op_type in SUMS:
            total = count * source.root
        elif node.op_type in SQUARES:
            total = count * source.square
        elif node.op_type == "LRN":
            total = node.attributes.get_int("size", 1) * source.peak**2
    elif node.op_type in SKIP_NORMS:
        skip = seen.of(given(node, 1))
        total = (source.root + (skip.root if skip else source.root)) ** 2
    if not seen.beyond(total):
        return None
    return f"it adds up numbers to about {total:.3g}, and {seen.half.name} ends at {seen.half.largest:.6g}"


def _exact(node: ir.Node, seen: Seen) -> Iterator[tuple[ir.Value, str]]:
    """What a node reads and must read more exactly than 16 bits are, with the reason."""
    if domain_of(node):
        return
    result = seen.of(node.outputs[0])
    for index, value in enumerate(node.inputs):
        one = seen.of(value)
        if one is None or value is None:
            continue
        error = _error(one)
        if node.op_type in DIFFERENCES and result is not None and error > COARSE * result.root > 0:
            for term in _terms(value, COARSE * result.root, seen):
                yield term, f"of {one.root:.2g} only {result.root:.2g} is left by {node.op_type}"
        elif error > EXPONENTS.get(node.op_type, float("inf")):
            yield value, f"{node.op_type} of {value.name!r} up to {one.peak:.3g} is off by {error:.1%}"
        elif index in DIVISORS.get(node.op_type, ()):
            for small in _divisors(value, seen):
                least = seen.magnitudes[small.name or ""].least
                yield small, f"the divisor {small.name!r} goes down to {least:.1e}"


def _error(one: Magnitude) -> float:
    """The root mean square of what rounding takes; 0 where it is not known."""
    return one.lost**0.5 if one.lost >= 0 else 0.0


def _terms(value: ir.Value, allowed: float, seen: Seen) -> Iterator[ir.Value]:
    """A value that must be so exact, and those that it is the sum of, as far as rounding them takes more."""
    waiting, met = [value], set()
    while waiting:
        value = waiting.pop()
        one, node = seen.of(value), value.producer()
        if one is None or value in met or _error(one) <= allowed:
            continue
        met.add(value)
        yield value
        if node is not None and not domain_of(node) and node.op_type in (*DIFFERENCES, *MOVES):
            waiting += [source for source in node.inputs if source is not None]


def _divisors(value: ir.Value, seen: Seen) -> Iterator[ir.Value]:
    """A divisor, and what it is computed from, as far as it is too small."""
    waiting, met = [value], set()
    while waiting:
        value = waiting.pop()
        one, node = seen.of(value), value.producer()
        if one is None or value in met:
            continue
        met.add(value)
        small = 0 < one.least < seen.half.step / (2 * COARSE)
        if small:
            yield value
        passes_on = DIVISOR_SOURCES if small else KEEPS_SMALL
        if node is not None and node.op_type in passes_on and not domain_of(node):
            waiting += [source for source in node.inputs if source is not None]
