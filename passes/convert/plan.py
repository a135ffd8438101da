"""What a conversion is: a layer that is looked at, how it would be written otherwise, and the writing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxopt.graph import STANDARD_DOMAINS, array, constant, drop_constant, only_read_by, tensor
from onnxopt.sparse import SparseTensor

AXES_ARE_INPUTS = 13
"""The opset from which Squeeze, Unsqueeze and ReduceSum take their axes as an input."""
SHAPE_FROM = 15
"""The opset from which Shape can leave out the first dimensions."""


@dataclass(frozen=True)
class Site:
    """A layer in its model.

    Attributes:
        node: the layer.
        known: values to their twins with inferred types and shapes (``graph.inferred``).
        opset: of the model.
        block: channels that ONNX Runtime's convolutions compute at once.
    """

    node: ir.Node
    known: Mapping[ir.Value, ir.Value]
    opset: int
    block: int

    def sizes(self, value: ir.Value | None) -> list[int | None] | None:
        """The dimensions of a value, None where one is dynamic; None where its rank is not known."""
        twin = None if value is None else self.known.get(value, value)
        if twin is None or twin.shape is None:
            return None
        return [dim if isinstance(dim, int) else None for dim in twin.shape]

    def hindrance(self, *values: ir.Value | None) -> str | None:
        """Why another kind of layer cannot read these values: not float, of unknown rank, empty; None if it can."""
        for value in values:
            dtype = None if value is None else self.known.get(value, value).dtype
            if dtype is not ir.DataType.FLOAT:
                return f"it computes in {dtype.name.lower() if dtype else 'an unknown type'}, not in float32"
            sizes = self.sizes(value)
            if sizes is None:
                return "the rank of what it reads is not known"
            if 0 in sizes:
                return "what it reads is empty"
        return None


@dataclass(frozen=True)
class Plan:
    """How a layer would be written otherwise.

    Attributes:
        nodes: that go, in the order of the graph; nobody else reads what they give, and the last gives the result.
        write: makes the new nodes and returns the new result. It asks the nodes for their inputs only then, for
            another rewrite may have changed them meanwhile.
    """

    nodes: tuple[ir.Node, ...]
    write: Callable[[Writer], ir.Value]

    def apply(self) -> None:
        """Put the new nodes in the place of the old ones."""
        writer = Writer(self.nodes)
        writer.finish(self.write(writer))


@dataclass(frozen=True)
class Conversion:
    """One way to write a layer otherwise.

    Attributes:
        name: for users.
        op: of the layers it looks at.
        plan: says how such a layer would be written; why it cannot be; None where it is none of those that are meant.
        undoes: the name of the conversion that goes the other way, if this is the one that is not taken without asking
            where nothing is timed.
    """

    name: str
    op: str
    plan: Callable[[Site], Plan | str | None]
    undoes: str = ""

    def at(self, site: Site) -> Plan | str | None:
        """The plan for a layer."""
        node = site.node
        if node.op_type != self.op or node.domain not in STANDARD_DOMAINS or len(node.outputs) != 1:
            return None
        return self.plan(site)


class Writer:
    """Makes the nodes that take the place of others."""

    def __init__(self, old: Sequence[ir.Node]) -> None:
        """``old``: those that go."""
        graph = old[-1].graph
        assert isinstance(graph, ir.Graph)
        self._old, self._graph, self._name = old, graph, old[-1].outputs[0].name
        self._made: list[ir.Node] = []
        everywhere = ir.traversal.RecursiveGraphIterator(graph)
        self._taken = {value.name for node in everywhere for value in node.outputs}
        self._taken |= {*graph.initializers, *(value.name for value in graph.inputs)}

    def __call__(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | np.ndarray | None],
        kind: ir.DataType = ir.DataType.FLOAT,
        /,
        **attributes: int | str | Sequence[int],
    ) -> ir.Value:
        """A new node behind those made so far; what it gives, of type ``kind``. Arrays become constants."""
        name = self._free(f"{self._name}/{op_type}")
        values = [
            constant(self._graph, self._free(f"{name}/{place}"), one) if isinstance(one, np.ndarray) else one
            for place, one in enumerate(inputs)
        ]
        node = ir.node(op_type, values, attributes)
        node.outputs[0].name, node.outputs[0].type = name, ir.TensorType(kind)
        self._made.append(node)
        return node.outputs[0]

    def reshape(self, value: ir.Value | None, sizes: Sequence[int | None] | ir.Value) -> ir.Value:
        """``value`` in another shape: 0 for a dimension as it was, None for one that follows from the others."""
        if isinstance(sizes, ir.Value):
            return self("Reshape", [value, sizes])
        return self("Reshape", [value, np.array([-1 if size is None else size for size in sizes], np.int64)])

    def along(self, op_type: str, value: ir.Value, axes: Sequence[int], opset: int) -> ir.Value:
        """Squeeze, Unsqueeze or ReduceSum along ``axes``; a sum without its axes."""
        more = {"keepdims": 0} if op_type == "ReduceSum" else {}
        if opset >= AXES_ARE_INPUTS:
            return self(op_type, [value, np.array(axes, np.int64)], **more)
        return self(op_type, [value], axes=list(axes), **more)

    def finish(self, result: ir.Value) -> None:
        """Put the new nodes in the place of the old; the result takes over name, type, shape and readers."""
        last = self._old[-1]
        read = [value for node in self._old for value in node.inputs if value is not None]
        ir.convenience.replace_nodes_and_values(self._graph, last, self._old, self._made, [last.outputs[0]], [result])
        for value in read:
            if tensor(value) is not None:
                drop_constant(value)

    def _free(self, name: str) -> str:
        found, count = name, 1
        while found in self._taken:
            found, count = f"{name}.{count}", count + 1
        self._taken.add(found)
        return found


def dense(value: ir.Value | None) -> np.ndarray | None:
    """The numbers of a constant; None where there is none, or where they are stored sparse and are to stay so."""
    return None if isinstance(tensor(value), SparseTensor) else array(value)


def only_reader(node: ir.Node, *op_types: str) -> ir.Node | None:
    """The node of one of these types that alone reads what ``node`` gives, in the same graph."""
    uses = list(node.outputs[0].uses())
    if len(uses) != 1 or not only_read_by(node.outputs[0], uses[0].node):
        return None
    reader = uses[0].node
    return reader if reader.op_type in op_types and reader.domain in STANDARD_DOMAINS else None


def only_source(node: ir.Node, index: int, *op_types: str) -> ir.Node | None:
    """The node of one of these types whose result ``node`` alone reads, as input ``index``."""
    value = node.inputs[index]
    source = None if value is None else value.producer()
    if value is None or source is None or not only_read_by(value, node):
        return None
    return source if source.op_type in op_types and source.domain in STANDARD_DOMAINS else None
