"""The two-layer blocks of a transformer: where its neurons are, and by what names."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxopt.graph import array, nodes

ELEMENTWISE = ("Add", "Div", "Erf", "Gelu", "Mul", "Pow", "Relu", "Sigmoid", "Sub", "Tanh")
"""What stands between the two products."""


@dataclass(frozen=True)
class Block:
    """Two products with constant weights, and nothing but element-wise operators between them.

    Attributes:
        widen: the first, whose columns are the neurons.
        narrow: the second, which alone reads them.
        between: all values that have one number for each neuron.
    """

    widen: ir.Node
    narrow: ir.Node
    between: tuple[ir.Value, ...]

    @property
    def width(self) -> int:
        """Of what the block reads."""
        return _weight(self.widen)[0]

    @property
    def neurons(self) -> int:
        """How many there are."""
        return _weight(self.widen)[1]


def blocks(model: ir.Model) -> list[Block]:
    """All of them, in order."""
    found = (_block(node) for node in nodes(model, "MatMul") if _weight(node))
    return [block for block in found if block is not None]


def patterns(model: ir.Model) -> list[str]:
    """Names of the values of all blocks, with a star for each number in them; without those that fit other values."""
    names = {value.name or "" for block in blocks(model) for value in block.between}
    others = {value.name or "" for node in model.graph for value in node.outputs} - names
    found = sorted({re.sub(r"\d+", "*", name) for name in names})
    return [pattern for pattern in found if not fnmatch.filter(others, pattern)]


def _block(widen: ir.Node) -> Block | None:
    """What begins with this product; None where anything else reads the neurons."""
    between, ends = [widen.outputs[0]], []
    for reader in _readers(between):
        if reader.op_type in ELEMENTWISE and all(value in between or _is_row(value) for value in reader.inputs):
            between.append(reader.outputs[0])
        elif reader not in ends:
            ends.append(reader)
    if len(ends) != 1 or ends[0].op_type != "MatMul" or not _weight(ends[0]) or ends[0].inputs[0] not in between:
        return None
    if any(value.is_graph_output() for value in between):
        return None
    return Block(widen, ends[0], tuple(between))


def _readers(values: Sequence[ir.Value]) -> Iterator[ir.Node]:
    """Whoever reads one of the values, in the order of the graph, while their list grows."""
    graph = values[0].graph
    yield from (node for node in graph or () if any(value in values for value in node.inputs))


def _is_row(value: ir.Value | None) -> bool:
    numbers = array(value)
    return numbers is not None and numbers.ndim < 2


def _weight(node: ir.Node) -> tuple[int, ...]:
    """The shape of the constant that is multiplied with; empty where there is none."""
    numbers = array(node.inputs[1])
    return () if numbers is None or numbers.ndim != 2 else numbers.shape
