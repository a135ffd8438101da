"""Nodes that decode a constant from its stored form: while the model is loaded, or, of a table, after the lookup."""

from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir

from onnxopt.graph import constant, drop_constant, opset
from onnxopt.layers import Table
from onnxopt.passes.cluster.forms import Form, Grid, Half, Packed, halves

UINT4_OPSET, UINT4_IR, UINT4_LEVELS = 21, 10, 16
"""From where on codes of 4 bits are a type of their own, which takes half of the nodes."""
FLOAT, INT32, INT64 = ir.DataType.FLOAT, ir.DataType.INT32, ir.DataType.INT64
TYPES = {np.dtype(np.int32): INT32, np.dtype(np.int64): INT64}


class Writer:
    """Writes decode nodes at the beginning of the main graph of a model.

    What several constants need (powers, shapes) is written once.
    """

    def __init__(self, model: ir.Model) -> None:
        """For a model that is changed."""
        self._model, self._graph = model, model.graph
        self._shared: dict[tuple[str, bytes, tuple[int, ...]], ir.Value] = {}
        taken = {
            value.name for graph in model.graphs() for value in ir.convenience.create_value_mapping(graph).values()
        }
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

    def look_up(self, table: Table, form: Form) -> list[ir.Value]:
        """Let the lookups in a table decode what they find.

        Returns:
            What each lookup gives, under the name that it had.
        """
        assert isinstance(form, (Packed, Grid))
        assert form.scales is not None
        scales = self._new(form.scales)
        if isinstance(form, Grid):
            words, digits = self._new(form.integers), None
        else:
            packing = form.packing
            rows, columns = form.codes.shape
            codes = form.codes.reshape(rows, columns // packing.digits, packing.digits)
            words = self._new((codes * packing.powers[:, 0]).sum(axis=2).astype(np.uint8))
            places = np.arange(packing.levels**packing.digits)[:, None] // packing.powers[:, 0] % packing.levels
            digits = self._new(form.table[np.minimum(places, len(form.table) - 1)])
        return [self._found(node, words, digits, scales, form.values.shape[1]) for node in table.lookups]

    def _found(
        self, node: ir.Node, words: ir.Value, digits: ir.Value | None, scales: ir.Value, columns: int
    ) -> ir.Value:
        """Decode the rows that one lookup finds."""
        old, ids = node.outputs[0], node.inputs[1]
        assert ids is not None
        assert ids.shape is not None
        rows = self._add(node, "Gather", [words, ids])
        if digits is None:
            numbers = self._cast(node, rows, FLOAT)
        else:
            found = self._add(node, "Gather", [digits, self._cast(node, rows, INT32)])
            shape = self._share(np.array([0] * len(ids.shape) + [columns], np.int64))
            numbers = self._add(node, "Reshape", [found, shape])
        scale = self._add(node, "Gather", [scales, ids])
        if scales.dtype is not FLOAT:
            scale = self._cast(node, scale, FLOAT)
        product = self._add(node, "Mul", [numbers, scale])
        product.type, product.shape = old.type, old.shape
        ir.convenience.replace_all_uses_with(old, product, replace_graph_outputs=True)
        table, name = node.inputs[0], old.name
        self._graph.remove(node, safe=True)
        assert table is not None
        drop_constant(table)
        product.name = name
        return product

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

    def _cast(self, first: ir.Node, value: ir.Value, kind: ir.DataType) -> ir.Value:
        return self._add(first, "Cast", [value], {"to": kind})

    def _add(
        self, before: ir.Node, op: str, inputs: list[ir.Value], attributes: dict[str, ir.DataType] | None = None
    ) -> ir.Value:
        node = ir.node(op, inputs, attributes)
        self._graph.insert_before(before, node)
        node.outputs[0].name = next(self._names)
        return node.outputs[0]

    def _new(self, numbers: np.ndarray) -> ir.Value:
        return constant(self._graph, next(self._names), numbers)

    def _share(self, numbers: np.ndarray) -> ir.Value:
        """A small constant that is the same for many."""
        key = (str(numbers.dtype), numbers.tobytes(), numbers.shape)
        if key not in self._shared:
            self._shared[key] = self._new(numbers)
        return self._shared[key]
