"""Let weights that are nearly equal be one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxopt.core import Change, Context, Exactness, Pass, Refusal, Saved, option
from onnxopt.graph import array, constant, label
from onnxopt.layers import Table, tables
from onnxopt.passes.constants import reader, refusal, relative_error, storable
from onnxopt.passes.share.clusters import Labels, Rows, nearest, within
from onnxopt.passes.share.memory import saved_by_sharing
from onnxopt.sizes import constant_bytes, node_bytes

TENSOR, ROW = "tensor", "row"
INDEX, NODE = 4, 128
"""Bytes of a row in the index, and about those of a lookup in it."""


@dataclass(frozen=True)
class ShareSimilar(Pass):
    """Let weights that are nearly equal share their mean: whole ones, or rows of a table.

    Before:
        weights ``v`` and ``w`` of one shape; or a table t of which rows are looked up, ``e = Gather(t, ids)``
    After:
        ``v``, the mean of both, alone. With ``by=row``, ``e = Gather(rows, Gather(index, ids))``: the rows that differ,
        and for each row of t the number of its own

        Near is ``|a - b| <= tolerance * min(|a|, |b|)``, of whole weights or of rows; the mean of many weighs as many
        when it is compared with others. With ``clusters``, there are at most so many of one shape, or rows of a table,
        found by k-means.
    Left alone:
        weights of fewer than ``min_bytes``; those that can be overridden, are returned, not float32, not finite,
        sparse, in subgraphs or Constant nodes, or that quantization reads; rows where the index would cost more than
        it saves; with ``by=row``, all that are no tables.
    Exact up to:
        lossy; the gate decides. With ``tolerance=0`` only equal ones are shared, and nothing changes.
    Source:
        Han, Mao, Dally, "Deep Compression", ICLR 2016, shares single weights by k-means; here whole rows and tensors
        are, so that no lookup is needed where the numbers are read.
    """

    name: ClassVar[str] = "share-similar"
    exactness: ClassVar[Exactness] = Exactness.LOSSY

    tolerance: float = option(0.01, "greatest relative distance of two that share", low=0, high=1)
    by: str = option(TENSOR, "what is shared: whole weights, or rows of tables", choices=(TENSOR, ROW))
    clusters: int = option(0, "in place of tolerance: most weights of one shape, or rows of a table; 0: any", low=0)
    min_bytes: int = option(1024, "smaller weights are left alone", low=256)

    def run(self, model: ir.Model, context: Context) -> list[Change | Refusal]:
        """Share in place."""
        values, refusals = storable(model, self.min_bytes)
        finite = [value for value in values if np.isfinite(_numbers(value)).all()]
        refusals += [refusal(value, "is not finite") for value in values if value not in finite]
        if self.by == TENSOR:
            return [*self._tensors(finite, context.seed), *refusals]
        said = [self._rows(table, context.seed) for table in tables(model)[0] if table.value in finite]
        return [*(item for item in said if item is not None), *refusals]

    def _tensors(self, values: Sequence[ir.Value], seed: int) -> Iterator[Change]:
        """Share whole weights."""
        by_shape = defaultdict(list)
        for value in values:
            by_shape[_numbers(value).shape].append(value)
        for alike in by_shape.values():
            means, labels = self._grouped(np.stack([_numbers(value).reshape(-1) for value in alike]), seed)
            for group, mean in enumerate(means):
                yield from _shared([alike[i] for i in np.flatnonzero(labels == group)], mean)

    def _rows(self, table: Table, seed: int) -> Change | Refusal | None:
        """Share rows of a table."""
        numbers = table.numbers()
        means, labels = self._grouped(numbers, seed)
        if len(means) == len(numbers):
            return None
        if (len(numbers) - len(means)) * numbers[0].nbytes <= INDEX * len(numbers) + NODE * len(table.lookups):
            return Refusal(table.name, f"only {len(numbers) - len(means)} rows of {table.value.name!r} are near others")
        error = relative_error(numbers, means[labels])
        what = f"{len(means):,} of {len(numbers):,} rows of {table.value.name!r} stay, relative error {error:.1e}"
        return Change(table.name, what, _written(table, means, labels))

    def _grouped(self, rows: Rows, seed: int) -> tuple[Rows, Labels]:
        """The means, and which of them each row has."""
        if not self.clusters:
            return within(rows, self.tolerance)
        if len(np.unique(rows, axis=0)) <= self.clusters:
            return rows, np.arange(len(rows))
        return nearest(rows, self.clusters, seed)


def _numbers(value: ir.Value) -> Rows:
    found = array(value)
    assert found is not None
    return found


def _shared(alike: Sequence[ir.Value], mean: Rows) -> Iterator[Change]:
    """Let the first of the weights be the mean, and all others go."""
    first, *others = alike
    if not others:
        return
    before = {value: _numbers(value) for value in alike}
    first.const_value = ir.Tensor(mean.reshape(before[first].shape), name=first.name)
    for value in others:
        error = relative_error(before[value], _numbers(first))
        node, saved = reader(value), saved_by_sharing(value, first, equal=False)
        assert value.graph is not None
        del value.graph.initializers[value.name or ""]
        ir.convenience.replace_all_uses_with(value, first)
        yield Change(node, f"{value.name!r} is {first.name!r} now, relative error {error:.1e}", saved)


def _written(table: Table, means: Rows, labels: Labels) -> Saved:
    """Look up the row in an index first; says what that saves."""
    value, graph = table.value, table.lookups[0].graph
    assert isinstance(graph, ir.Graph)
    before = constant_bytes(value) + node_bytes(table.lookups)
    rows = constant(graph, f"{value.name}/rows", means)
    index = constant(graph, f"{value.name}/index", labels.astype(np.int32))
    nodes = []
    for lookup in table.lookups:
        which = ir.Node("", "Gather", [index, lookup.inputs[1]], name="")
        which.outputs[0].name = f"{label(lookup)}/row"
        graph.insert_before(lookup, which)
        lookup.replace_input_with(0, rows)
        lookup.replace_input_with(1, which.outputs[0])
        nodes += [which, lookup]
    del graph.initializers[value.name or ""]
    in_memory = _held(value) - _held(rows) - _held(index)
    return Saved(before - constant_bytes(rows, index) - node_bytes(nodes), in_memory)


def _held(value: ir.Value) -> int:
    return value.const_value.nbytes if value.const_value is not None else 0
