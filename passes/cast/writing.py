"""Write a choice into the model: types, constants, attributes, and one Cast for each value that is wanted in both."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import onnx_ir as ir

from onnxopt.core import Change, Saved
from onnxopt.graph import bypass, constant, drop_constant, given, label, nodes, tensor
from onnxopt.passes.cast.half import Half, rounded
from onnxopt.passes.cast.kinds import FLOAT, Kinds
from onnxopt.passes.cast.masks import filling
from onnxopt.passes.cast.network import Network, Read
from onnxopt.passes.cast.slots import domain_of

FREE_SINCE = 4
"""The IR version from which an initializer need not be a graph input."""


@dataclass
class Writer:
    """The model as it is rewritten.

    Attributes:
        model: changed in place.
        net: where its numbers are.
        known: types as they were.
        half: the format.
        chosen: nodes that compute in it.
        changes: what was done.
        names: that are in use.
    """

    model: ir.Model
    net: Network
    known: Kinds
    half: Half
    chosen: set[ir.Node]
    changes: list[Change] = field(default_factory=list)
    names: set[str | None] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Take down the names that are in use, in all graphs."""
        self.names = {value.name for value in self.known.types}

    def write(self) -> list[Change]:
        """All of it."""
        old = set(nodes(self.model, "Cast"))
        self._attributes()
        for value in list(self.net.constants):
            self._constant(value)
        for value, home in self.net.made.items():
            self._value(value, home)
        for cast in nodes(self.model, "Cast"):
            self._settle(cast)
        added = [cast for cast in nodes(self.model, "Cast") if cast not in old]
        self.changes += [Change(label(cast), f"Cast to {_kind(cast)} added") for cast in added]
        return self.changes

    def _attributes(self) -> None:
        """Attributes that say a type."""
        for node in self.net.flexible:
            if node not in self.chosen:
                continue
            if not domain_of(node) and node.op_type == "Cast":
                node.attributes["to"] = ir.AttrInt64("to", self.half.dtype)
            elif not domain_of(node) and node.op_type == "ConstantOfShape":
                numbers = rounded(filling(node), self.half).numbers
                node.attributes["value"] = ir.AttrTensor("value", ir.Tensor(numbers, dtype=self.half.dtype))
            if node.op_type != "Cast":
                self.changes.append(Change(label(node), f"{node.op_type} computes in {self.half.name}"))
        for node in nodes(self.model, "RandomNormalLike", "RandomUniformLike"):
            source = given(node, 0)
            maker = None if source is None else self.net.made.get(source)
            if "dtype" not in node.attributes and maker in self.chosen:
                node.attributes["dtype"] = ir.AttrInt64("dtype", FLOAT)

    def _constant(self, value: ir.Value) -> None:
        """A constant exists once in each type that is read."""
        reads = [read for read in self.net.constants[value] if read.reader in self.chosen]
        contents = tensor(value)
        if not reads or contents is None:
            return
        found = rounded(contents.numpy(), self.half)
        graph = value.graph if value.is_initializer() else value.producer().graph  # type: ignore[union-attr]
        assert isinstance(graph, ir.Graph)
        alone = len(reads) == len(value.uses())
        what, saved = f"constant in {self.half.name}", contents.nbytes // 2 if alone else -contents.nbytes // 2
        for count, became in ((found.zeros, "zero"), (found.capped, f"{self.half.filling:.5g}")):
            what += f", {count} of {contents.size} numbers became {became}" if count else ""
        if alone and value.is_initializer():
            kind = ir.TensorType(self.half.dtype)
            value.const_value = ir.Tensor(found.numbers, dtype=self.half.dtype, name=value.name)
            value.type = kind
        else:
            new = constant(graph, self._free(f"{value.name}/{self.half.name}"), found.numbers)
            _redirect(reads, new)
            drop_constant(value)
            self.model.ir_version = max(self.model.ir_version, FREE_SINCE)
        self.changes.append(Change(label(reads[0].node), what, Saved(saved, saved)))  # type: ignore[arg-type]

    def _value(self, value: ir.Value, home: ir.Node | None) -> None:
        """A computed value has the type of its node; who wants the other one reads a Cast."""
        here = home in self.chosen
        if here:
            if value.is_graph_input() and value.graph is self.model.graph:
                self.changes.append(Change(value.name or "", f"input in {self.half.name}"))
            value.type = ir.TensorType(self.half.dtype)
            if value.is_initializer() and value.const_value is not None:  # the default of an input
                numbers = rounded(value.const_value.numpy(), self.half).numbers
                value.const_value = ir.Tensor(numbers, dtype=self.half.dtype, name=value.name)
        others = [read for read in self.net.reads.get(value, ()) if (read.reader in self.chosen) is not here]
        if not others:
            return
        kind = FLOAT if here else self.half.dtype
        cast = self.net.casts.get(value) if not here else None
        if cast is not None and cast.graph is value.graph and _may_move(cast, value):
            _redirect(others, cast.outputs[0])
            return
        new = ir.Value(name=self._free(f"{value.name}/{_name(kind)}"), type=ir.TensorType(kind), shape=_shape(value))
        _place(ir.Node("", "Cast", [value], [ir.AttrInt64("to", kind)], outputs=[new]), value)
        if any(read.graph is self.model.graph for read in others):  # the output keeps its name
            value.name, new.name = new.name, value.name
        _redirect(others, new)

    def _free(self, name: str) -> str:
        """The name, with a number where it is taken."""
        free, count = name, 1
        while free in self.names:
            free, count = f"{name}.{count}", count + 1
        self.names.add(free)
        return free

    def _settle(self, cast: ir.Node) -> None:
        """Remove a Cast that gives what it reads."""
        source = given(cast, 0)
        if source is None or _kind(cast) != self.half.name:
            return
        if (source.dtype or self.known.dtype(source)) is not self.half.dtype:
            return
        name = label(cast)
        if bypass(cast, source):
            self.changes.append(Change(name, "Cast removed"))


def _kind(cast: ir.Node) -> str:
    return _name(ir.DataType(cast.attributes.get_int("to", 0)))


def _name(kind: ir.DataType) -> str:
    return "float32" if kind is FLOAT else str(kind).lower()


def _shape(value: ir.Value) -> ir.Shape | None:
    return None if value.shape is None else ir.Shape(list(value.shape))


def _redirect(reads: Iterable[Read], new: ir.Value) -> None:
    """Let these readers read another value."""
    for read in reads:
        if read.node is not None:
            read.node.replace_input_with(read.index, new)
        else:
            assert read.graph is not None
            read.graph.outputs[read.index] = new


def _place(cast: ir.Node, value: ir.Value) -> None:
    """Put a Cast right behind what it reads."""
    maker, graph = value.producer(), value.graph
    if maker is not None:
        assert maker.graph is not None
        maker.graph.insert_after(maker, cast)
    elif graph is not None and len(graph):
        graph.insert_before(graph[0], cast)
    elif graph is not None:
        graph.append(cast)


def _may_move(cast: ir.Node, value: ir.Value) -> bool:
    """Move a Cast that there is to where a new one would be."""
    graph = cast.graph
    if graph is None:
        return False
    graph.remove(cast)
    _place(cast, value)
    return True
