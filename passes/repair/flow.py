"""Where the values of a graph are made, how long they are read, and which of them pruning has changed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxopt.calibrate.tap import values
from onnxopt.graph import RANDOM, label, subgraphs, tensor

D = ir.DataType
ARRAYS = (
    *(D.FLOAT, D.FLOAT16, D.DOUBLE, D.BOOL, D.STRING),
    *(D.INT8, D.INT16, D.INT32, D.INT64, D.UINT8, D.UINT16, D.UINT32, D.UINT64),
)
"""Types of which ONNX Runtime gives and takes numpy arrays."""


@dataclass(frozen=True)
class Flow:
    """Of the values of the main graph that are not constant, by name; places count the original's nodes.

    Attributes:
        made: where each is made; those of inputs are -1.
        until: where each is read last; those that are not read are left out.
        drifted: those that are not the same in the pruned network.
        closed: places across which something is read that is no array of numbers (a sequence, say).
    """

    made: dict[str, int]
    until: dict[str, int]
    drifted: frozenset[str]
    closed: frozenset[int]


def follow(original: ir.Model, pruned: ir.Model, types: Mapping[ir.Value, ir.Value]) -> Flow:
    """Compare two models with nodes of the same labels in the same order; Constants may be missing in one.

    Args:
        original: has them all.
        pruned: of which main graph nodes are found by label.
        types: of the original's values (``graph.inferred``).
    """
    twins = {label(node): node for node in pruned.graph}
    made = {value.name or "": -1 for value in original.graph.inputs if tensor(value) is None}
    until: dict[str, int] = {}
    drifted: set[str] = set()
    for place, node in enumerate(original.graph):
        if node.op_type == "Constant":
            continue
        read = {value.name or "" for value in reads(node)}
        given = [value.name for value in node.outputs if value.name]
        if not drifted.isdisjoint(read) or not _alike(node, twins[label(node)]):
            drifted.update(given)
        if not read.isdisjoint(made) or node.op_type in RANDOM:  # else it gives constants
            made.update(dict.fromkeys(given, place))
        until.update(dict.fromkeys(read & made.keys(), place))
    odd = [value.name for value in values(original.graph) if not _is_array(types[value])]
    closed = [range(made[name] + 1, until[name] + 1) for name in odd if name in until]
    return Flow(made, until, frozenset(drifted), frozenset(itertools.chain.from_iterable(closed)))


def _is_array(value: ir.Value) -> bool:
    """Whether numpy has arrays of this type, as far as it is known."""
    return value.type is None or (isinstance(value.type, ir.TensorType) and value.dtype in ARRAYS)


def reads(node: ir.Node) -> Iterator[ir.Value]:
    """What a node reads, and what its bodies read of the graph around them."""
    yield from (value for value in node.inputs if value is not None)
    for body in subgraphs(node):
        for inner in ir.traversal.RecursiveGraphIterator(body):
            yield from (value for value in inner.inputs if value is not None and value.graph is node.graph)


def _alike(one: ir.Node, other: ir.Node) -> bool:
    """Whether two nodes do the same with the same inputs; of those with bodies that is not looked for."""
    if subgraphs(one) or len(one.inputs) != len(other.inputs) or one.attributes.keys() != other.attributes.keys():
        return False
    return all(one.attributes[name].value == other.attributes[name].value for name in one.attributes) and all(
        _same_constant(a, b) for a, b in zip(one.inputs, other.inputs, strict=True)
    )


def _same_constant(one: ir.Value | None, other: ir.Value | None) -> bool:
    """Whether two inputs are the same constant, or none is one."""
    a, b = tensor(one), tensor(other)
    return a is b or (a is not None and b is not None and np.array_equal(a.numpy(), b.numpy()))
