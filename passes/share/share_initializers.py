"""Keep one of several equal weights."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxopt.core import Change, Context, Exactness, Pass, option
from onnxopt.graph import initializers, subgraphs, walk
from onnxopt.sparse import SparseTensor

Scopes = Mapping[ir.Graph, ir.Graph | ir.Function | None]
"""Each subgraph to the graph around it."""


@dataclass(frozen=True)
class ShareInitializers(Pass):
    """Let the readers of a weight that is equal to another read that one.

    Before:
        weights ``v`` and ``w`` with the same type, shape and bits, or ``w`` = ``v`` transposed; ``w`` may be
        in a subgraph
    After:
        ``v`` alone; ``w = Transpose(v)``, which ONNX Runtime computes once, when it loads the model
    Left alone:
        weights under ``min_bytes`` (scales, biases: equal by chance, and a later pass may have to tell them
        apart); those that are inputs or outputs, or that a DequantizeLinear reads; two in sibling branches;
        sparse ones; strings.
    Exact up to:
        nothing.
    Source:
        comparison bit by bit, by the SHA-256 of each weight, so that one at a time is in memory.
    """

    name: ClassVar[str] = "share-initializers"
    exactness: ClassVar[Exactness] = Exactness.EXACT

    min_bytes: int = option(1024, "smaller weights are left alone", low=256)

    def run(self, model: ir.Model, context: Context) -> list[Change]:
        """First the equal ones, then the transposed ones."""
        scopes = {inner: node.graph for node in walk(model) for inner in subgraphs(node)}
        changes = []
        for value, first in _pairs(self._candidates(model), _layout, _layout, scopes):
            _read_instead(value, first, model)
            changes.append(Change(value.name or "", f"equal to {first.name!r}"))
        flat = [value for value in self._candidates(model) if len(_numbers(value).shape) == 2]
        for value, first in _pairs(flat, _layout, _turned, scopes):
            _read_instead(value, first, model, transposed=True)
            changes.append(Change(value.name or "", f"the transpose of {first.name!r}"))
        return changes

    def _candidates(self, model: ir.Model) -> list[ir.Value]:
        plain = [value for value in initializers(model) if _is_plain(value) and not _is_dequantized(value)]
        return [value for value in plain if _numbers(value).nbytes >= self.min_bytes]


def _is_plain(value: ir.Value) -> bool:
    constant = value.const_value
    if constant is None or value.is_graph_input() or value.is_graph_output():
        return False
    return not isinstance(constant, SparseTensor) and constant.dtype is not ir.DataType.STRING


def _is_dequantized(value: ir.Value) -> bool:
    """Whether it is quantized: ONNX Runtime does not fuse two products that share their integers (MatMulNBits)."""
    return any(use.node.op_type == "DequantizeLinear" for use in value.uses())


def _numbers(value: ir.Value) -> ir.TensorProtocol:
    assert value.const_value is not None
    return value.const_value


def _layout(numbers: np.ndarray) -> np.ndarray:
    return numbers


def _turned(numbers: np.ndarray) -> np.ndarray:
    return numbers.T


def _pairs(
    values: Sequence[ir.Value],
    kept: Callable[[np.ndarray], np.ndarray],
    sought: Callable[[np.ndarray], np.ndarray],
    scopes: Scopes,
) -> Iterator[tuple[ir.Value, ir.Value]]:
    """Each weight with an earlier one that it can read and that is equal to it, as ``sought`` turns it."""
    sizes = Counter(_size(value) for value in values)
    known: dict[Hashable, list[ir.Value]] = defaultdict(list)
    for value in values:
        if sizes[_size(value)] == 1:
            continue
        alike = known[_digest(value, sought)]
        first = next((other for other in alike if _encloses(other.graph, value.graph, scopes)), None)
        if first is None:
            known[_digest(value, kept)].append(value)
        else:
            yield value, first


def _size(value: ir.Value) -> Hashable:
    return _numbers(value).dtype, tuple(sorted(_numbers(value).shape.numpy()))


def _digest(value: ir.Value, turn: Callable[[np.ndarray], np.ndarray]) -> Hashable:
    numbers = turn(_numbers(value).numpy())
    return _numbers(value).dtype, numbers.shape, hashlib.sha256(numbers.tobytes()).digest()


def _encloses(outer: object, inner: object, scopes: Scopes) -> bool:
    """Whether values of one graph can be read in the other."""
    while isinstance(inner, ir.Graph) and inner is not outer:
        inner = scopes.get(inner)
    return inner is outer


def _read_instead(value: ir.Value, first: ir.Value, model: ir.Model, *, transposed: bool = False) -> None:
    """Remove a weight; its readers read the other, through a Transpose if need be."""
    graph = value.graph
    assert isinstance(graph, ir.Graph)
    del graph.initializers[value.name or ""]
    if first.graph is not graph:
        _make_name_unique(first, model)
    if transposed:
        out = ir.Value(name=value.name, type=value.type, shape=value.shape)
        graph.insert_before(graph[0], ir.Node("", "Transpose", [first], [ir.AttrInt64s("perm", [1, 0])], outputs=[out]))
        first = out
    ir.convenience.replace_all_uses_with(value, first)


def _make_name_unique(value: ir.Value, model: ir.Model) -> None:
    """Rename a weight where a subgraph has another value of that name, which would hide it."""
    names = Counter(v.name for graph in model.graphs() for v in (*graph.inputs, *graph.initializers.values()))
    names.update(v.name for node in walk(model) for v in node.outputs)
    name, count = value.name, 1
    while names[value.name] > (1 if value.name == name else 0):
        value.name, count = f"{name}.{count}", count + 1
