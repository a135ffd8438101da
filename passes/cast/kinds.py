"""The type of every value, also behind operators that only ONNX Runtime knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx.defs
import onnx_ir as ir

from onnxopt.graph import inferred, opset, walk
from onnxopt.passes.cast.kernels import CONTRIB, KERNELS
from onnxopt.passes.cast.slots import FIXED_OUTPUTS, OWN_SCHEMAS, domain_of

FLOAT = ir.DataType.FLOAT


@dataclass(frozen=True)
class Kinds:
    """What is known of values.

    Attributes:
        types: value to type; None where it is not known.
        shapes: value to shape, likewise.
    """

    types: Mapping[ir.Value, ir.TypeProtocol | None]
    shapes: Mapping[ir.Value, ir.Shape | None]

    def get(self, value: ir.Value) -> ir.TypeProtocol | None:
        """The type of a value."""
        return self.types.get(value)

    def dtype(self, value: ir.Value | None) -> ir.DataType | None:
        """The type of the numbers of a tensor; None for other values."""
        kind = None if value is None else self.types.get(value)
        return kind.dtype if isinstance(kind, ir.TensorType) else None

    def dims(self, value: ir.Value | None, unknown: int = 1) -> tuple[int, ...]:
        """The shape with a number for unknown dimensions; empty where the rank is not known."""
        shape = None if value is None else self.shapes.get(value)
        return () if shape is None else tuple(dim if isinstance(dim, int) else unknown for dim in shape)


def kinds(model: ir.Model) -> Kinds:
    """Each value's type and shape: inferred, else as the file says; the type, else, by the operator."""
    twins = inferred(model)
    types: dict[ir.Value, ir.TypeProtocol | None] = {value: twin.type for value, twin in twins.items()}
    found = Kinds(types, {value: twin.shape for value, twin in twins.items()})
    for node in walk(model):
        for index, output in enumerate(node.outputs):
            if types.get(output) is None:
                dtype = _given_by(node, index, found, opset(model))
                types[output] = None if dtype is None else ir.TensorType(dtype)
    return found


def is_float(value: ir.Value | None, known: Kinds) -> bool:
    """Whether a value is a tensor of float32."""
    return known.dtype(value) is FLOAT


def is_odd(value: ir.Value | None, known: Kinds) -> bool:
    """Whether a value may hold float32 numbers that are in no plain tensor: a sequence, or of unknown type."""
    if value is None or value.name == "":
        return False
    kind = known.get(value)
    return kind is None or (not isinstance(kind, ir.TensorType) and kind.dtype is FLOAT)


def _given_by(node: ir.Node, index: int, known: Kinds, version: int) -> ir.DataType | None:
    """The type of an output that onnx does not infer."""
    domain = domain_of(node)
    if domain == CONTRIB or (domain == "" and node.op_type in OWN_SCHEMAS):
        listed = any(node.op_type in one.get(domain, ()) for one in KERNELS.values())
        if not listed:
            return None
        return FLOAT if index in FIXED_OUTPUTS.get((domain, node.op_type), ()) else _first_float(node, known)
    if domain != "":
        return None
    if node.op_type == "Cast":
        return ir.DataType(node.attributes.get_int("to", 0)) if "to" in node.attributes else None
    return _bound(node, index, known, version)


def _bound(node: ir.Node, index: int, known: Kinds, version: int) -> ir.DataType | None:
    """The type of an input that the specification says is that of the output."""
    try:
        schema = onnx.defs.get_schema(node.op_type, version, "")
    except onnx.defs.SchemaError:
        return None
    if not schema.inputs or not schema.outputs:
        return None
    wanted = schema.outputs[min(index, len(schema.outputs) - 1)].type_str
    for place, value in enumerate(node.inputs):
        formal = schema.inputs[min(place, len(schema.inputs) - 1)]
        if formal.type_str == wanted and known.dtype(value) is not None:
            return known.dtype(value)
    return None


def _first_float(node: ir.Node, known: Kinds) -> ir.DataType | None:
    """The type of the first input of floats."""
    for value in node.inputs:
        dtype = known.dtype(value)
        if dtype is not None and dtype.is_floating_point():
            return dtype
    return None
