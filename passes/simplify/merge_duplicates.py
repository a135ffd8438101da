"""Compute the same thing once."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Hashable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from onnxopt.core import Change, Context, Exactness, Pass
from onnxopt.graph import STANDARD_DOMAINS, drop_unread, label, subgraphs, tensor
from onnxopt.sparse import SparseTensor

KNOWN_DOMAINS = {*STANDARD_DOMAINS, "ai.onnx.ml", "com.microsoft"}
RANDOM = ("Bernoulli", "Dropout", "Multinomial", "Random", "Sampling")
"""Parts of the names of operators that may give something else each time."""
LEFT = {"Constant", "QuantizeLinear", "DequantizeLinear"}
"""Constants are for share-initializers; quantization tools want one Quantize and Dequantize per reader."""
SMALL = 1024
"""Bytes up to which constants are compared by what they hold."""
GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)

Table = MutableMapping[Hashable, ir.Node]


@dataclass(frozen=True)
class MergeDuplicates(Pass):
    """Keep one of several nodes with the same operator, attributes and inputs (common subexpressions).

    Before:
        ``a = Relu(x)``, ``b = Relu(x)``, ``y = Add(a, b)``; in a branch, too, where the other node is outside
    After:
        ``a = Relu(x)``, ``y = Add(a, a)``
    Left alone:
        random operators; operators of unknown domains; nodes with a subgraph (their bodies are searched);
        QuantizeLinear and DequantizeLinear; two nodes that both give outputs of the graph.
    Exact up to:
        nothing.
    Source:
        common subexpression elimination. onnx_ir's pass merges Bernoulli, loses optional outputs, tells equal
        constants apart and does not enter subgraphs, so this one does not use it.
    """

    name: ClassVar[str] = "merge-duplicates"
    exactness: ClassVar[Exactness] = Exactness.EXACT

    def run(self, model: ir.Model, context: Context) -> list[Change]:
        """Merge in graph order, so that duplicates of duplicates go in one run."""
        changes: list[Change] = []
        _merge(model.graph, {}, changes)
        return changes


def _merge(graph: ir.Graph, seen: Table, changes: list[Change]) -> None:
    """Merge the nodes of a graph with each other and with those seen around it."""
    for node in list(graph):
        for inner in subgraphs(node):
            _merge(inner, ChainMap({}, seen), changes)
        key = _key(node)
        if key is None:
            continue
        first = seen.setdefault(key, node)
        if first is not node and _replaceable(node, first):
            name, read = label(node), [v for v in node.inputs if v is not None]
            _replace(node, first)
            drop_unread(read)
            changes.append(Change(name, f"{node.op_type} is the same as {label(first)!r}"))


def _key(node: ir.Node) -> Hashable | None:
    """What two nodes have in common if they compute the same; None for a node to leave alone."""
    if node.domain not in KNOWN_DOMAINS or node.op_type in LEFT:
        return None
    if any(part in node.op_type for part in RANDOM):
        return None
    attributes = [(name, _attribute(attribute)) for name, attribute in sorted(node.attributes.items())]
    if any(contents is None for _, contents in attributes):
        return None
    outputs = tuple(bool(value.name) for value in node.outputs)  # an optional output may be left out
    return node.op_identifier(), outputs, tuple(_input(value) for value in node.inputs), tuple(attributes)


def _attribute(attribute: ir.Attr) -> Hashable | None:
    if attribute.is_ref() or attribute.type in GRAPHS:
        return None
    if attribute.type is ir.AttributeType.TENSOR:
        return _contents(attribute.as_tensor())
    values = attribute.value if isinstance(attribute.value, Sequence) else [attribute.value]
    if not all(isinstance(value, (int, float, str)) for value in values):
        return None
    return repr(list(values))  # which tells 0.0 from -0.0, as equality does not


def _input(value: ir.Value | None) -> Hashable:
    """A small constant by what it holds, everything else by itself."""
    constant = tensor(value)
    contents = None if constant is None else _contents(constant)
    return id(value) if contents is None else contents


def _contents(constant: ir.TensorProtocol) -> Hashable | None:
    if isinstance(constant, SparseTensor) or constant.dtype is ir.DataType.STRING or constant.nbytes > SMALL:
        return None
    return constant.dtype, tuple(constant.shape), constant.tobytes()


def _replaceable(node: ir.Node, first: ir.Node) -> bool:
    """Whether the first node can stand for this one, in what the graph returns too."""
    returned = [pair for pair in zip(node.outputs, first.outputs, strict=True) if pair[0].is_graph_output()]
    return not returned or (first.graph is node.graph and not any(new.is_graph_output() for _, new in returned))


def _replace(node: ir.Node, first: ir.Node) -> None:
    for old, new in zip(node.outputs, first.outputs, strict=True):
        if old.is_graph_output():
            new.name, new.type, new.shape = old.name, old.type, old.shape
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    assert node.graph is not None
    node.graph.remove(node, safe=True)
