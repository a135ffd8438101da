"""Keep one of several equal weights."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxopt.core import Change, Context, Exactness, Pass, Saved, option
from onnxopt.graph import constant, initializers, opset, subgraphs, walk
from onnxopt.passes.share.memory import saved_by_sharing
from onnxopt.sizes import constant_bytes, node_bytes
from onnxopt.sparse import SparseTensor

Scopes = Mapping[ir.Graph, ir.Graph | ir.Function | None]
"""Each subgraph to the graph around it."""
RESHAPE_OPSET = 5
"""From here Reshape takes the shape as an input."""


@dataclass(frozen=True)
class ShareInitializers(Pass):
    """Let the readers of a weight that is equal to another read that one.

    Before:
        weights ``v`` and ``w`` with the same type, shape and bits, or ``w`` = ``v`` transposed or in another shape;
        ``w`` may be in a subgraph
    After:
        ``v`` alone; ``w = Transpose(v)`` or ``Reshape(v, shape)``, which ONNX Runtime computes once, when it loads the
        model: these save nothing of its memory, only of the file
    Left alone:
        weights under ``min_bytes`` (scales, biases: equal by chance, and a later pass may have to tell them
        apart); those that are inputs or outputs, or that a DequantizeLinear reads; two in sibling branches;
        sparse ones; strings; other shapes before opset 5.
    Exact up to:
        nothing.
    Source:
        comparison bit by bit, by the SHA-256 of each weight, so that one at a time is in memory.
    """

    name: ClassVar[str] = "share-initializers"
    exactness: ClassVar[Exactness] = Exactness.EXACT

    min_bytes: int = option(1024, "smaller weights are left alone", low=256)

    def run(self, model: ir.Model, context: Context) -> list[Change]:
        """First the equal ones, then the transposed ones, then those of another shape."""
        scopes = {inner: node.graph for node in walk(model) for inner in subgraphs(node)}
        changes = []
        for value, first in _pairs(self._candidates(model), _layout, _layout, scopes):
            saved = _read_instead(value, first, model)
            changes.append(Change(value.name or "", f"equal to {first.name!r}", saved))
        flat = [value for value in self._candidates(model) if len(_numbers(value).shape) == 2]
        for value, first in _pairs(flat, _layout, _turned, scopes):
            saved = _computed_instead(value, first, model, "Transpose")
            changes.append(Change(value.name or "", f"the transpose of {first.name!r}", saved))
        if opset(model) >= RESHAPE_OPSET:
            for value, first in _pairs(self._candidates(model), _line, _line, scopes):
                saved = _computed_instead(value, first, model, "Reshape")
                changes.append(Change(value.name or "", f"{first.name!r} in another shape", saved))
        return changes

    def _candidates(self, model: ir.Model) -> list[ir.Value]:
        plain = [value for value in initializers(model) if _is_plain(value) and not _is_dequantized(value)]
        return [value for value in plain if value.uses() and _numbers(value).nbytes >= self.min_bytes]


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


def _line(numbers: np.ndarray) -> np.ndarray:
    return numbers.reshape(-1)


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
    return _numbers(value).dtype, _numbers(value).size


def _digest(value: ir.Value, turn: Callable[[np.ndarray], np.ndarray]) -> Hashable:
    numbers = turn(_numbers(value).numpy())
    return _numbers(value).dtype, numbers.shape, hashlib.sha256(numbers.tobytes()).digest()


def _encloses(outer: object, inner: object, scopes: Scopes) -> bool:
    """Whether values of one graph can be read in the other."""
    while isinstance(inner, ir.Graph) and inner is not outer:
        inner = scopes.get(inner)
    return inner is outer


def _read_instead(value: ir.Value, first: ir.Value, model: ir.Model) -> Saved:
    """Remove a weight; its readers read the other."""
    saved = saved_by_sharing(value, first, equal=True)
    _remove(value, first, model)
    ir.convenience.replace_all_uses_with(value, first)
    return saved


def _computed_instead(value: ir.Value, first: ir.Value, model: ir.Model, op_type: str) -> Saved:
    """Remove a weight; its readers read what a Transpose or Reshape makes of the other."""
    graph, before = value.graph, constant_bytes(value)
    assert isinstance(graph, ir.Graph)
    _remove(value, first, model)
    added, attributes = [], [ir.AttrInt64s("perm", [1, 0])]
    if op_type == "Reshape":
        added, attributes = [constant(graph, f"{value.name}/shape", np.array(_numbers(value).shape.numpy()))], []
    out = ir.Value(name=value.name, type=value.type, shape=value.shape)
    node = ir.Node("", op_type, [first, *added], attributes, outputs=[out])
    graph.insert_before(graph[0], node)
    ir.convenience.replace_all_uses_with(value, out)
    return Saved(before - node_bytes([node]) - constant_bytes(*added), 0)


def _remove(value: ir.Value, first: ir.Value, model: ir.Model) -> None:
    """Remove a weight from its graph, and let the name of the other be seen there."""
    graph = value.graph
    assert isinstance(graph, ir.Graph)
    del graph.initializers[value.name or ""]
    if first.graph is not graph:
        _make_name_unique(first, model)


def _make_name_unique(value: ir.Value, model: ir.Model) -> None:
    """Rename a weight where a subgraph has another value of that name, which would hide it."""
    names = Counter(v.name for graph in model.graphs() for v in (*graph.inputs, *graph.initializers.values()))
    names.update(v.name for node in walk(model) for v in node.outputs)
    name, count = value.name, 1
    while names[value.name] > (1 if value.name == name else 0):
        value.name, count = f"{name}.{count}", count + 1
