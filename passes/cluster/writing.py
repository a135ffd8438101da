"""Nodes that decode a constant from its stored form: while the model is loaded, or, of a table, after the lookup."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxopt.graph import array, constant, drop_constant, inferred, nodes, opset
from onnxopt.passes.cluster.forms import Form, Grid, Half, Packed, halves

UINT4_OPSET, UINT4_IR, UINT4_LEVELS = 21, 10, 16
"""From where on codes of 4 bits are a type of their own, which takes half of the nodes."""
FLOAT, INT32, INT64 = ir.DataType.FLOAT, ir.DataType.INT32, ir.DataType.INT64
SHARED = 256
"""Bytes of a constant that several may read, at most."""


@dataclass(frozen=True)
class _Rows:
    """A table as it is stored.

    Attributes:
        words: ``[rows, words]``.
        digits: the values that a word stands for, ``[words, digits]``; None where a word is a number.
        scales: ``[rows, 1]``; None: of ones.
        columns: of the table.
    """

    words: ir.Value
    digits: ir.Value | None
    scales: ir.Value | None
    columns: int


class Writer:
    """Writes decode nodes at the beginning of the main graph of a model.

    What several constants need (powers, shapes) is written once.

    Attributes:
        constants: that were written.
        nodes: that were written.
    """

    def __init__(self, model: ir.Model) -> None:
        """For a model that is changed."""
        self._model, self._graph = model, model.graph
        self.constants: list[ir.Value] = []
        self.nodes: list[ir.Node] = []
        kept = [value for value in model.graph.initializers.values() if _is_shared(value)]
        self._shared = {_key(numbers): value for value in kept if (numbers := array(value)) is not None}
        self._tables: dict[Form, _Rows] = {}
        taken = {name for graph in model.graphs() for name in ir.convenience.create_value_mapping(graph)}
        self._names = (name for number in itertools.count() if (name := f"w{number:x}") not in taken)

    def store(self, value: ir.Value, form: Form) -> ir.Value:
        """Let a constant's readers read what is decoded from a form of it.

        Returns:
            What the decode nodes give, under the name of the constant.
        """
        shape, name = value.shape, value.name
        assert shape is not None
        first = next(iter(self._graph))
        found = self._decoded(first, form, [int(size) for size in shape.numpy()])
        found.type, found.shape = value.type, shape
        ir.convenience.replace_all_uses_with(value, found)
        drop_constant(value)
        found.name = name
        return found

    def look_up(self, table: ir.Value, form: Form) -> None:
        """Let the lookups in a table decode what they find; what each gives keeps its name."""
        ranks = _ranks(self._model)
        for node in [use.node for use in table.uses()]:
            ids = node.inputs[1]
            assert ids is not None
            self._found(node, self._stored_rows(form), ranks[ids])
        drop_constant(table)

    def _stored_rows(self, form: Form) -> _Rows:
        """The constants of a table, written once for all its lookups."""
        if form not in self._tables:
            match form:
                case Half():
                    rows = _Rows(self._new(form.numbers), None, None, form.values.shape[1])
                case Grid():
                    rows = _Rows(self._new(form.integers), None, self._scales(form.scales), form.values.shape[1])
                case Packed():
                    scales = None if form.scales is None else self._scales(form.scales)
                    rows = _Rows(*self._digits(form), scales, form.codes.shape[1])
                case _:
                    raise AssertionError(form)
            self._tables[form] = rows
        return self._tables[form]

    def _digits(self, form: Packed) -> tuple[ir.Value, ir.Value]:
        """Rows of bytes, and the values that each byte stands for."""
        packing, (rows, columns) = form.packing, form.codes.shape
        powers = packing.powers[:, 0]
        codes = form.codes.reshape(rows, columns // packing.digits, packing.digits)
        words = (codes * powers).sum(axis=2).astype(np.uint8)
        digits = np.arange(packing.levels**packing.digits)[:, None] // powers % packing.levels
        return self._new(words), self._new(form.table[np.minimum(digits, len(form.table) - 1)])

    def _found(self, node: ir.Node, table: _Rows, rank: int) -> None:
        """Decode the rows that one lookup finds."""
        old, ids = node.outputs[0], node.inputs[1]
        assert ids is not None
        found = self._add(node, "Gather", [table.words, ids])
        if table.digits is not None:
            values = self._add(node, "Gather", [table.digits, self._cast(node, found, INT32)])
            shape = np.array([0] * rank + [table.columns], np.int64)
            found = self._add(node, "Reshape", [values, self._share(shape)])
        else:
            found = self._cast(node, found, FLOAT)
        if table.scales is not None:
            scale = self._add(node, "Gather", [table.scales, ids])
            scale = scale if table.scales.dtype is FLOAT else self._cast(node, scale, FLOAT)
            found = self._add(node, "Mul", [found, scale])
        name, found.type, found.shape = old.name, old.type, old.shape
        ir.convenience.replace_all_uses_with(old, found, replace_graph_outputs=True)
        self._graph.remove(node, safe=True)
        found.name = name

    def _decoded(self, first: ir.Node, form: Form, shape: list[int]) -> ir.Value:
        match form:
            case Half():
                return self._cast(first, self._new(form.numbers), FLOAT)
            case Grid():
                numbers = self._cast(first, self._new(form.integers), FLOAT)
                return self._add(first, "Mul", [numbers, self._numbers(first, form.scales)])
            case Packed():
                numbers = self._unpacked(first, form, shape)
                if form.scales is None:
                    return numbers
                return self._add(first, "Mul", [numbers, self._numbers(first, form.scales)])
        raise AssertionError(form)

    def _unpacked(self, first: ir.Node, form: Packed, shape: list[int]) -> ir.Value:
        """The values of the table that the codes stand for, in the shape of the constant."""
        table, packing = self._numbers(first, form.table), form.packing
        if packing.levels == UINT4_LEVELS and opset(self._model) >= UINT4_OPSET:
            self._model.ir_version = max(self._model.ir_version or 0, UINT4_IR)
            codes = self._cast(first, self._new(form.codes.astype(ir.DataType.UINT4.numpy())), INT32)
            return self._add(first, "Gather", [table, codes])
        words = self._new(packing.packed(form.codes))
        if packing.size == 1:
            words = self._cast(first, words, INT32)
        quotients = self._add(first, "Div", [words, self._share(packing.powers)])
        digits = self._add(first, "Mod", [quotients, self._share(np.array(packing.levels, packing.computed))])
        found = self._add(first, "Gather", [table, digits])
        if form.codes.size % packing.digits:
            flat = self._add(first, "Reshape", [found, self._share(np.array([-1]))])
            ends = [self._share(np.array([end])) for end in (0, form.codes.size)]
            found = self._add(first, "Slice", [flat, *ends])
        return self._add(first, "Reshape", [found, self._share(np.array(shape, np.int64))])

    def _numbers(self, first: ir.Node, numbers: np.ndarray) -> ir.Value:
        """A constant, in halves where that loses nothing and is smaller."""
        half = halves(numbers)
        return self._new(numbers) if half is None else self._cast(first, self._new(half), FLOAT)

    def _scales(self, numbers: np.ndarray) -> ir.Value:
        """Those of rows, which are looked up as they are stored."""
        half = halves(numbers)
        return self._new(numbers if half is None else half)

    def _cast(self, first: ir.Node, value: ir.Value, kind: ir.DataType) -> ir.Value:
        return self._add(first, "Cast", [value], {"to": kind})

    def _add(
        self, before: ir.Node, op: str, inputs: list[ir.Value], attributes: dict[str, ir.DataType] | None = None
    ) -> ir.Value:
        node = ir.node(op, inputs, attributes)
        self._graph.insert_before(before, node)
        node.outputs[0].name = next(self._names)
        self.nodes.append(node)
        return node.outputs[0]

    def _new(self, numbers: np.ndarray) -> ir.Value:
        self.constants.append(constant(self._graph, next(self._names), numbers))
        return self.constants[-1]

    def _share(self, numbers: np.ndarray) -> ir.Value:
        """A small constant that is the same for many."""
        key = _key(numbers)
        if key not in self._shared:
            self._shared[key] = self._new(numbers)
        return self._shared[key]


def _key(numbers: np.ndarray) -> tuple[str, bytes, tuple[int, ...]]:
    return str(numbers.dtype), numbers.tobytes(), numbers.shape


def _is_shared(value: ir.Value) -> bool:
    """Whether a constant may be one that decode nodes of others read."""
    contents = value.const_value
    small = contents is not None and contents.nbytes <= SHARED and contents.dtype in (INT32, INT64)
    return small and not value.is_graph_input() and not value.is_graph_output()


def _ranks(model: ir.Model) -> dict[ir.Value, int]:
    """Of what is looked up, where that is known."""
    twins = inferred(model)
    shapes = {ids: twins[ids].shape for node in nodes(model, "Gather") if (ids := node.inputs[1]) is not None}
    return {ids: len(shape) for ids, shape in shapes.items() if shape is not None}
