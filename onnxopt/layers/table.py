"""Embedding tables: constants of which rows are looked up."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxopt.core import Refusal
from onnxopt.graph import STANDARD_DOMAINS, array, label, tensor


@dataclass(frozen=True, eq=False)
class Table:
    """A constant that is read by lookups alone.

    Attributes:
        value: float32 ``[rows, columns]``.
        lookups: Gather nodes of the main graph, along axis 0.
    """

    value: ir.Value
    lookups: tuple[ir.Node, ...]

    @property
    def name(self) -> str:
        """How reports name it: by its first lookup."""
        return label(self.lookups[0])

    def numbers(self) -> np.ndarray:
        """``[rows, columns]``."""
        found = array(self.value)
        assert found is not None
        return found


def tables(model: ir.Model) -> tuple[list[Table], list[Refusal]]:
    """The tables of the main graph in its order, and why other constants that are looked up in are none."""
    found, refusals, seen = [], [], set()
    for node in model.graph:
        value = node.inputs[0] if node.op_type == "Gather" and node.domain in STANDARD_DOMAINS else None
        if value is None or value in seen or tensor(value) is None:
            continue
        seen.add(value)
        if reason := _hindrance(value, node):
            refusals.append(Refusal(label(node), reason))
        else:
            found.append(Table(value, tuple(use.node for use in value.uses())))
    return found, refusals


def _hindrance(value: ir.Value, node: ir.Node) -> str | None:
    """Why a constant is no table, if it is none."""
    contents = tensor(value)
    assert contents is not None
    if contents.dtype is not ir.DataType.FLOAT or len(contents.shape) != 2 or contents.size == 0:
        return f"looks up in {contents.dtype}[{', '.join(map(str, contents.shape))}], not in rows of float32"
    if value.is_graph_output():
        return "its table is an output of the graph"
    for reader, index in value.uses():
        if reader.op_type != "Gather" or index != 0 or reader.graph is not node.graph:
            return f"its table is also read by {reader.op_type} {label(reader)!r}"
        if reader.attributes.get_int("axis", 0) != 0:
            return "does not look up along axis 0"
    return None
