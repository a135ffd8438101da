"""Constants in fewer bytes, and the nodes that make their numbers again.

A matrix is decoded by nodes that depend on constants alone, which ONNX Runtime computes when it loads the model: the
file is smaller, and at run time nothing changes. A table is decoded behind its lookups, a few rows at a time: then it
stays small in memory, too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxopt.core import Change, Saved
from onnxopt.graph import constant, label
from onnxopt.passes.constants import reader
from onnxopt.passes.settling import Stored
from onnxopt.sizes import constant_bytes, node_bytes


@dataclass(frozen=True)
class Decode:
    """A node: its inputs are parts of a constant or outputs of nodes before it, by their words; the last has none.

    Attributes:
        op_type: a standard operator, unless there is a domain.
        inputs: words.
        attributes: of the node.
        gives: the word of its output.
        domain: of the operator.
    """

    op_type: str
    inputs: tuple[str, ...]
    attributes: Mapping[str, int] | None = None
    gives: str = ""
    domain: str = ""


@dataclass(frozen=True, eq=False)
class Coded(Stored):
    """An initializer of the main graph, and nodes that make its numbers.

    Attributes:
        parts: what is stored, by its word.
        nodes: what makes the numbers of it, in order.
        looked_up: whether it is a table, and decoded behind each lookup; of each part, the same rows are looked up.
        stays: of a form that ONNX Runtime need not fold: what to say where it does not.
        fused: what to say where it does something with it.
        packing: bytes of memory that it takes for that.
    """

    parts: Mapping[str, np.ndarray]
    nodes: tuple[Decode, ...]
    looked_up: bool = False
    stays: str = ""
    fused: str = ""
    packing: int = 0

    @property
    def must_fold(self) -> bool:
        """A table is decoded at each run, and so is what need not be folded."""
        return not self.looked_up and not self.stays

    def write(self, model: ir.Model) -> Change:
        """Put it into the place of the initializer; says what that saves."""
        graph = model.graph
        value = graph.initializers[self.name]
        held, before = value.const_value, constant_bytes(value)
        assert held is not None
        uses, node = [use.node for use in value.uses()], reader(value)
        parts = {word: constant(graph, f"{self.name}/{word}", numbers) for word, numbers in self.parts.items()}
        grown = constant_bytes(*parts.values())
        if self.looked_up:
            grown -= node_bytes(uses)
            grown += sum(node_bytes(self._behind(lookup, parts)) for lookup in uses)
        del graph.initializers[self.name]
        if not self.looked_up:
            grown += node_bytes(self._before(graph, value, parts))
        for domain in {step.domain for step in self.nodes if step.domain}:
            model.opset_imports.setdefault(domain, 1)
        in_memory = 0 if self.must_fold else held.nbytes - sum(part.nbytes for part in _tensors(parts.values()))
        return Change(node, f"{self.name!r} {self.what}", Saved(before - grown, in_memory))

    def settled(self, change: Change, *, left: bool) -> Change:
        """Say whether it is fused."""
        if left or not self.fused or change.saved is None:
            return dataclasses.replace(change, what=change.what + self.stays)
        saved = change.saved + Saved(0, -self.packing)
        return dataclasses.replace(change, what=change.what + self.fused, saved=saved)

    def _before(self, graph: ir.Graph, value: ir.Value, parts: Mapping[str, ir.Value]) -> list[ir.Node]:
        """Decode it in front of all nodes."""
        nodes = self._chain(self.name, parts)
        out = nodes[-1].outputs[0]
        out.name, out.type, out.shape = value.name, value.type, value.shape
        graph.insert_before(graph[0], nodes)
        ir.convenience.replace_all_uses_with(value, out)
        return nodes

    def _behind(self, lookup: ir.Node, parts: Mapping[str, ir.Value]) -> list[ir.Node]:
        """Look up rows of each part, and decode these."""
        ids, name = lookup.inputs[1], label(lookup)
        rows = {word: ir.Node("", "Gather", [part, ids], name="") for word, part in parts.items()}
        for word, node in rows.items():
            node.outputs[0].name = f"{name}/{word}"
        decoded = self._chain(name, {word: node.outputs[0] for word, node in rows.items()})
        return self._in_place(lookup, [*rows.values(), *decoded])

    def _in_place(self, lookup: ir.Node, nodes: list[ir.Node]) -> list[ir.Node]:
        """Put nodes in the place of a lookup; the last one gives what it gave."""
        assert lookup.graph is not None
        out = nodes[-1].outputs
        ir.convenience.replace_nodes_and_values(lookup.graph, lookup, [lookup], nodes, lookup.outputs, out)
        return nodes

    def _chain(self, name: str, inputs: Mapping[str, ir.Value | None]) -> list[ir.Node]:
        """The decode nodes; all outputs but the last have names."""
        known, nodes = dict(inputs), []
        for step in self.nodes:
            read = [known[word] for word in step.inputs]
            node = ir.node(step.op_type, read, step.attributes, domain=step.domain, name="")
            if step.gives:
                node.outputs[0].name = f"{name}/{step.gives}"
                known[step.gives] = node.outputs[0]
            nodes.append(node)
        return nodes


def _tensors(values: Collection[ir.Value]) -> list[ir.TensorProtocol]:
    return [value.const_value for value in values if value.const_value is not None]
