"""What is not the same in two models, cut at their matched values: the units of a bisection."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt.graph import STANDARD_DOMAINS, tensor
from onnxopt.metrics.base import Array, is_float
from onnxopt.validation.constants import decoded, numbers
from onnxopt.validation.pair import QUANTIZED, Pair, reads, values_of

GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
MOST = 6
"""Differences that are told of one unit."""


@dataclass(frozen=True)
class Unit:
    """A change: the matched values that other nodes, attributes or weights compute.

    Attributes:
        values: their names in the reference; the outputs of one node.
        node: the name of the node that gives them, in the reference if it has one there; else of what it gives.
        before, after: the operators that compute them from other matched values, in order (``Conv, Relu``).
        differences: sentences.
    """

    values: tuple[str, ...]
    node: str
    before: str
    after: str
    differences: tuple[str, ...]

    @property
    def words(self) -> str:
        """In one line: ``conv3 (Conv): weight 'w' off by up to 0.5 (its largest: 0.3)``."""
        ops = self.before if self.before == self.after else f"{self.before} -> {self.after}"
        return f"{self.node} ({ops}): {'; '.join(self.differences)}"

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {**self.__dict__, "values": list(self.values), "differences": list(self.differences)}


def units(pair: Pair) -> list[Unit]:
    """All changes, in the order of the new model."""
    search = _Search(pair)
    found: dict[int, Unit] = {}
    for match in pair.matches:
        old, new = search.old[match.old], search.new[match.new]
        differences = list(dict.fromkeys(search.differences(old, new)))
        if not differences:
            continue
        key = id(new.producer() or new)
        values = (*(found[key].values if key in found else ()), match.old)
        known = found[key].differences if key in found else ()
        differences = [*known, *(words for words in differences if words not in known)][:MOST]
        before, after = _ops(old, search.stops[0]), _ops(new, search.stops[1])
        node = _label(old, new)
        if match.old.endswith(QUANTIZED):
            node, before, differences = match.old.removesuffix(QUANTIZED), "float", [_quantization(new)]
        found[key] = Unit(values, node, before, after, tuple(differences))
    return list(found.values())


class _Search:
    """The values of both models by name, where to stop, and what is known of constants."""

    def __init__(self, pair: Pair) -> None:
        self.old, self.new = values_of(pair.old), values_of(pair.new)
        self.back = {match.new: match.old for match in pair.matches}
        self.stops = set(self.back.values()), set(self.back)
        self.known = decoded(pair.old), decoded(pair.new)

    def differences(self, old: ir.Value, new: ir.Value) -> Iterator[str]:
        """Sentences on what computes one value and not the other, back to matched values."""
        todo, seen = [(old, new)], set()
        while todo:
            a, b = todo.pop()
            if (id(a), id(b)) in seen:
                continue
            seen.add((id(a), id(b)))
            if (a, b) != (old, new) and (a.name in self.stops[0] or b.name in self.stops[1]):
                if self.back.get(b.name or "") != a.name:
                    yield f"reads {b.name!r} instead of {a.name!r}"
                continue
            one, other = numbers(a, self.known[0]), numbers(b, self.known[1])
            if one is not None and other is not None:
                yield from _apart(a.name or "", one, other)
                continue
            before, after = a.producer(), b.producer()
            if before is None or after is None:
                if before is not after or a.name != b.name:
                    yield f"{_what(b, self.stops[1])} instead of {_what(a, self.stops[0])}"
            elif _kind(before) != _kind(after) or a.index() != b.index():
                yield f"{_ops(b, self.stops[1])} instead of {_ops(a, self.stops[0])}"
                yield from self._constants(a, b)
            else:
                yield from _attributes(before, after)
                pairs = list(zip_longest(_inputs(before), _inputs(after)))
                if any((x is None) is not (y is None) for x, y in pairs):
                    yield "other optional inputs"
                todo += reversed([(x, y) for x, y in pairs if x is not None and y is not None])

    def _constants(self, a: ir.Value, b: ir.Value) -> Iterator[str]:
        """Of replaced nodes: constants that both read under one name."""
        before, after = _cone(a, self.stops[0])[1], {v.name: v for v in _cone(b, self.stops[1])[1]}
        for value in before:
            twin = after.get(value.name)
            if twin is not None:
                one, other = numbers(value, self.known[0]), numbers(twin, self.known[1])
                if one is not None and other is not None:
                    yield from _apart(value.name or "", one, other)


def _apart(name: str, a: Array, b: Array) -> Iterator[str]:
    """How far two constants are apart."""
    if a.shape != b.shape:
        yield f"constant {name!r} of shape {list(b.shape)} instead of {list(a.shape)}"
        return
    floats = is_float(a) and is_float(b)
    if a.dtype == b.dtype and a.tobytes() == b.tobytes():
        return
    if not floats:
        if not np.array_equal(a, b):
            yield f"constant {name!r} is {_short(b)} instead of {_short(a)}"
        return
    one, other = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(invalid="ignore"):
        gap = np.abs(one - other)[~((one == other) | (np.isnan(one) & np.isnan(other)))]
    if not gap.size:
        return
    if a.size == 1:
        yield f"constant {name!r} is {other.item():.6g} instead of {one.item():.6g}"
        return
    largest = np.abs(one[np.isfinite(one)]).max(initial=0.0)
    off = gap[np.isfinite(gap)].max(initial=0.0) if np.isfinite(gap).any() else np.inf
    yield f"weights {name!r} differ by up to {off:.3g} (largest magnitude {largest:.3g})"


def _quantization(value: ir.Value) -> str:
    """What a pair makes of a float value."""
    node = value.producer()
    assert node is not None
    numbers = [tensor(one) for one in node.inputs[1:3]]
    if not numbers or any(one is None for one in numbers):
        return "is quantized"
    scale, *zero = [one.numpy().ravel() for one in numbers if one is not None]
    many = f"{scale.size} scales up to {scale.max():.6g}" if scale.size > 1 else f"scale {scale.max():.6g}"
    point = f", zero point {_short(zero[0].tolist() if zero[0].size > 1 else zero[0].item())}" if zero else ""
    kind = numbers[1].dtype.name.lower() if zero and numbers[1] is not None else "uint8"
    return f"is quantized to {kind}, {many}{point}"


def _attributes(a: ir.Node, b: ir.Node) -> Iterator[str]:
    for name in sorted({*a.attributes, *b.attributes}):
        one, other = a.attributes.get(name), b.attributes.get(name)
        if _written(one) != _written(other):
            graph = any(x is not None and x.type in GRAPHS for x in (one, other))
            yield f"another body ({name})" if graph else f"attribute {name}: {_value(one)} -> {_value(other)}"


def _written(attribute: ir.Attr | None) -> bytes | None:
    """The attribute as in a file, without the documentation."""
    if attribute is None:
        return None
    proto = ir.serde.serialize_attribute(attribute)
    proto.doc_string = ""
    return bytes(proto.SerializeToString(deterministic=True))


def _value(attribute: ir.Attr | None) -> str:
    if attribute is None:
        return "none"
    return _short(attribute.value)


def _short(value: Any) -> str:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, tuple):
        value = list(value)
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _inputs(node: ir.Node) -> list[ir.Value | None]:
    """Inputs, and after them what subgraphs see of the graph around them."""
    given = len([value for value in node.inputs if value is not None])
    return [*node.inputs, *list(reads(node))[given:]]


def _kind(node: ir.Node) -> tuple[str, str]:
    return "" if node.domain in STANDARD_DOMAINS else node.domain, node.op_type


def _label(old: ir.Value, new: ir.Value) -> str:
    """The name of the node: as the reference says, else the model, else that of what it gives."""
    named = [producer.name for producer in (old.producer(), new.producer()) if producer is not None]
    return next(filter(None, named), None) or old.name or "?"


def _what(value: ir.Value, stops: Collection[str]) -> str:
    return f"the input or constant {value.name!r}" if value.producer() is None else _ops(value, stops)


def _ops(value: ir.Value, stops: Collection[str]) -> str:
    """The operators of a cone in order, those that repeat counted: ``Conv, Relu``, ``Gather, 3 Add``."""
    if value.producer() is None:
        return "constant"
    names = Counter(node.op_type for node in reversed(_cone(value, stops)[0]))
    listed = [op if count == 1 else f"{count} {op}" for op, count in names.items()]
    return ", ".join(listed[:4]) + (f" and {len(listed) - 4} more" if len(listed) > 4 else "")


def _cone(value: ir.Value, stops: Collection[str]) -> tuple[list[ir.Node], list[ir.Value]]:
    """The nodes that compute a value from matched ones, the last first, and the constants they read."""
    nodes: list[ir.Node] = []
    constants: list[ir.Value] = []
    todo, seen = [value], {id(value)}
    while todo:
        one = todo.pop(0)
        producer = one.producer()
        if producer is None:
            constants.append(one)
            continue
        if producer not in nodes:
            nodes.append(producer)
            for source in reads(producer):
                if id(source) not in seen and source.name not in stops:
                    seen.add(id(source))
                    todo.append(source)
    return nodes, constants
