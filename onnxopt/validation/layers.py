"""Where the error grows: the values inside two models, compared one by one.

Each matched value is compared twice. Its *error* is that of the new model as it is. Its *own* error is what the nodes
before it make of the reference's values: nothing is inherited there. Numbers are reduced to sums batch by batch, and
values are taken in groups that fit in memory.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt import progress
from onnxopt.calibrate.tap import Values
from onnxopt.graph import inferred
from onnxopt.metrics.fidelity import SQNR_CAP
from onnxopt.runtime import Session
from onnxopt.samples import Samples
from onnxopt.target import Target
from onnxopt.validation.errors import Tally
from onnxopt.validation.hybrid import compose
from onnxopt.validation.pair import QUANTIZED, Match, Pair, leaves, values_of

SAMPLES = 16
"""At most, that values inside are compared on."""
GROUP_BYTES = 192 * 2**20
"""Of values that are held at once."""
UNKNOWN = 2**20
"""Bytes that a value counts whose shape cannot be told."""
BAD = 20.0
"""dB: an error of its own under this is no rounding."""
REUSED = 10.0
"""dB: where two values have bad errors of their own, and the second is so much better once the new model computes both
from what is before the first, then the first is not the same quantity in both models (channels scaled by one layer
and scaled back by the next, a name reused)."""
SUSPECTS = 16
"""Values for which that is tried."""
FAR = 8
"""Values between the two, at most."""


@dataclass(frozen=True)
class Layer:
    """One matched value.

    Attributes:
        value: its name in the reference.
        op: the operator that gives it in the new model.
        sqnr: dB, of the new model as it is; up to 150.
        own: dB, with the reference's values before it; None where the two cannot be put in one graph.
        grows: dB by which the SQNR falls from the worst value that it is computed from (0 or more).
        relative: the largest difference over the largest magnitude.
        appeared: NaN or inf where the reference has numbers.
        clash: a sentence where the shape is another.
        worst: whether the error comes from here, more than from anywhere before it.
    """

    value: str
    op: str
    sqnr: float | None
    own: float | None
    grows: float | None
    relative: float
    appeared: int
    clash: str
    worst: bool

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON, which has no infinity: None."""
        return {**self.__dict__, "relative": self.relative if math.isfinite(self.relative) else None}


@dataclass(frozen=True)
class Layers:
    """All matched values in the order of the new model.

    Attributes:
        rows: one for each.
        samples: that they were compared on.
        how: matched by ``names``, or by more.
        nodes: of the reference and the new model.
        note: what could not be done, and why; empty where nothing.
    """

    rows: tuple[Layer, ...]
    samples: int
    how: str
    nodes: tuple[int, int]
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "matched_by": self.how,
            "samples": self.samples,
            "nodes": list(self.nodes),
            "note": self.note,
            "rows": [row.to_dict() for row in self.rows],
        }

    @property
    def worst_first(self) -> tuple[Layer, ...]:
        """The rows with their own errors in order, the largest first."""
        return tuple(sorted(self.rows, key=lambda row: (_own(row), row.sqnr if row.sqnr is not None else SQNR_CAP)))


Measured = dict[str, tuple[Tally, Tally | None]]
"""Name of a matched value to its error and its own error."""


def some(samples: Samples, count: int, seed: int) -> Samples:
    """So many of the samples, drawn by seed: the first may all be of one class. A sequence is cut instead."""
    if count >= len(samples):
        return samples
    return samples.split(count / len(samples), seed)[0]


def compared(pair: Pair, samples: Samples, target: Target, seed: int = 0) -> tuple[Pair, Layers]:
    """Compare all matched values of floats; and the pair without values that are not the same quantity in both.

    Raises:
        ModelError: if one of the models does not run.
    """
    samples = some(samples, SAMPLES, seed)
    progress.stage("comparing the values inside")
    found = measure(pair, samples, target)
    if clashing := {name for name, (error, _) in found.items() if error.clash}:
        pair = pair.without(clashing)
        found = measure(pair, samples, target)
    if reused := _reused(pair, found, samples, target):
        pair = pair.without(reused)
        found = measure(pair, samples, target)
    return pair, _table(pair, found, len(samples))


def measure(pair: Pair, samples: Samples, target: Target, names: Collection[str] | None = None) -> Measured:
    """Errors and own errors of all matched values of floats, or of those with these names."""
    floats = [match for match in pair.matches if match.floats and (names is None or match.old in names)]
    found: Measured = {}
    sizes = _sizes(pair, samples)
    total = sum(sizes[match.old] for match in floats)
    batch = 1 if samples.state else max(1, min(8, GROUP_BYTES // max(1, 3 * total)))
    for group in _groups(floats, sizes, 3 * batch):
        progress.count("value", len(found), len(floats))
        found |= _measured(pair, group, samples, target, batch)
    return found


def _measured(pair: Pair, group: Sequence[Match], samples: Samples, target: Target, size: int) -> Measured:
    """One group: the new model as it is, beside the reference from which the new model's nodes read."""
    keep = set(samples.state.values())
    inside = Values.of(pair.new, [match.new for match in group], keep)
    new = Session(inside.model, target, optimize=False)
    mixed = not pair.hindrance
    if mixed:
        old = Session(compose(pair, (), group, keep), target, optimize=False)
    else:
        before = Values.of(pair.old, [match.old for match in group], keep)
        old = Session(before.model, target, optimize=False)
    tallies = [(Tally(match.old), Tally(match.old) if mixed else None) for match in group]
    runs = (session.stream(samples.data.batches(size), samples.state, samples.start) for session in (old, new))
    for (_, expected), (_, got) in zip(*runs, strict=True):
        for i, match in enumerate(group):
            values = expected[f"tap/old/{i}"] if mixed else expected[before.outputs[match.old]]
            error, own = tallies[i]
            error.add(values, got[inside.outputs[match.new]])
            if own is not None:
                own.add(values, expected[f"tap/new/{i}"])
    return {match.old: tally for match, tally in zip(group, tallies, strict=True)}


def _groups(matches: Sequence[Match], sizes: dict[str, int], copies: int) -> Iterator[list[Match]]:
    group: list[Match] = []
    total = 0
    for match in matches:
        own = copies * sizes[match.old]
        if group and total + own > GROUP_BYTES:
            yield group
            group, total = [], 0
        group.append(match)
        total += own
    if group:
        yield group


def _sizes(pair: Pair, samples: Samples) -> dict[str, int]:
    """Bytes of each matched value for one sample, as float32."""
    feeds = samples.first()
    model = pair.old.clone()
    for value in model.graph.inputs:
        if value.name in feeds:
            value.shape = ir.Shape(np.asarray(feeds[value.name]).shape)
    shapes = {value.name: twin.shape for value, twin in inferred(model).items()}
    return {match.old: _bytes(shapes.get(match.old)) for match in pair.matches if match.floats}


def _bytes(shape: ir.Shape | None) -> int:
    if shape is None or not all(isinstance(dim, int) for dim in shape):
        return UNKNOWN
    return 4 * math.prod(shape.numpy())


def _reused(pair: Pair, found: Measured, samples: Samples, target: Target) -> set[str]:
    """Values that stand for another quantity in the new model, though the name is the same."""
    between = {name: _between(name, pair, found) for name, tallies in found.items() if _is_bad(tallies)}
    suspects = [name for name, dropped in between.items() if dropped]
    odd: set[str] = set()
    for name in suspects[:SUSPECTS]:
        again = measure(pair.without(between[name]), samples, target, [name])
        if _own_of(again[name]) > _own_of(found[name]) + REUSED:
            odd |= between[name]
    return odd


def _between(name: str, pair: Pair, found: Measured) -> set[str]:
    """What lies between a value and the nearest ones before it with bad errors of their own, and these."""
    after, stops = values_of(pair.new), {match.new: match.old for match in pair.matches}
    names = {old: new for new, old in stops.items()}
    path: dict[str, bool] = {}

    def visit(one: str, far: int) -> bool:
        if one not in path:
            path[one] = False
            path[one] = _is_bad(found.get(one)) or (far > 0 and any(visit(v, far - 1) for v in before(one)))
        return path[one]

    def before(one: str) -> list[str]:
        return [stops[leaf] for leaf in leaves(after[names[one]], stops)]

    for one in before(name):
        visit(one, FAR)
    return {one for one, leads in path.items() if leads}


def _own_of(tallies: tuple[Tally, Tally | None] | None) -> float:
    """DB; 150 where it is not known."""
    own = None if tallies is None else tallies[1]
    if own is None:
        return SQNR_CAP
    return -SQNR_CAP if own.sqnr is None or own.appeared else own.sqnr


def _is_bad(tallies: tuple[Tally, Tally | None] | None) -> bool:
    return _own_of(tallies) < BAD


def _table(pair: Pair, found: Measured, samples: int) -> Layers:
    after, stops = values_of(pair.new), {match.new: match.old for match in pair.matches}
    rows: dict[str, Layer] = {}
    for match in pair.matches:
        if match.old not in found:
            continue
        error, own = found[match.old][0].result(), found[match.old][1]
        value = after[match.new]
        sources = [rows[stops[name]].sqnr for name in leaves(value, stops) if stops[name] in rows]
        inherited = min((one for one in sources if one is not None), default=SQNR_CAP)
        grows = None if error.sqnr is None else max(0.0, inherited - error.sqnr)
        producer = value.producer()
        op = "QuantizeLinear" if match.old.endswith(QUANTIZED) else producer.op_type if producer else "constant"
        rows[match.old] = Layer(
            match.old, op, error.sqnr, None if own is None else own.sqnr, grows,
            error.relative, error.appeared, error.clash, False,
        )  # fmt: skip
    marked = tuple(_marked(rows.values()))
    nodes = sum(1 for _ in pair.old.graph), sum(1 for _ in pair.new.graph)
    return Layers(marked, samples, pair.how, nodes, pair.hindrance)


def _marked(rows: Any) -> Iterator[Layer]:
    """Mark the value with the largest error of its own, and those within 3 dB of it."""
    rows = list(rows)
    lowest = min((_own(row) for row in rows), default=SQNR_CAP)
    for row in rows:
        worst = lowest < SQNR_CAP and _own(row) <= lowest + 3
        yield Layer(**{**row.__dict__, "worst": worst})


def _own(row: Layer) -> float:
    """DB; what it grows by where the own error is not known."""
    if row.clash or row.appeared:
        return -SQNR_CAP
    if row.own is not None:
        return row.own
    return SQNR_CAP - (row.grows or 0.0)
