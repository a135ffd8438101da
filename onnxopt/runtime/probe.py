"""One node as a model of its own, with types as they are or others: to ask ONNX Runtime what it has a kernel for."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from onnxopt.graph import tensor

FEW = 100
"""Numbers of a constant that stays one: it may be an axis or a shape, which a kernel wants to know."""

Types = Mapping[ir.Value, ir.Value]
"""Each value with its twin, of which type and shape are known (``graph.inferred``)."""

Swapped = Mapping[ir.DataType, ir.DataType]
"""Types that become others."""


def types_of(node: ir.Node, types: Types) -> tuple[ir.DataType, ...]:
    """The types of what a node reads and gives, each once, in order."""
    values = [value for value in (*node.inputs, *node.outputs) if value is not None]
    return tuple(dict.fromkeys(dtype for value in values if (dtype := _twin(value, types).dtype) is not None))


def alone(node: ir.Node, types: Types, swapped: Swapped) -> ir.Model:
    """A model of one node like this, that gets what it reads as inputs; the types of its outputs follow from them.

    Args:
        node: without graphs of its own.
        types: of its values.
        swapped: types that become others.
    """
    graph = ir.Graph([], [], nodes=[], opset_imports=_opsets(node), name="probe")
    inputs: list[ir.Value | None] = []
    known: dict[ir.Value, ir.Value] = {}
    for number, value in enumerate(node.inputs):
        if value is not None and value not in known:
            known[value] = _input(graph, f"x{number}", value, types, swapped)
        inputs.append(None if value is None else known[value])
    outputs = [ir.Value(name=f"y{number}" if value.name else "") for number, value in enumerate(node.outputs)]
    attributes = [*node.attributes.values()]
    graph.append(ir.Node(node.domain, node.op_type, inputs, attributes, overload=node.overload, outputs=outputs))
    graph.outputs.extend(value for value in outputs if value.name)
    return ir.Model(graph, ir_version=_version(node))


def _input(graph: ir.Graph, name: str, value: ir.Value, types: Types, swapped: Swapped) -> ir.Value:
    numbers, twin = tensor(value), _twin(value, types)
    kind = (
        ir.TensorType(swapped.get(twin.type.dtype, twin.type.dtype)) if isinstance(twin.type, ir.TensorType) else None
    )
    new = ir.Value(name=name, type=kind or twin.type, shape=twin.shape)
    if numbers is not None and numbers.size <= FEW and numbers.dtype not in swapped:
        new.type, new.shape = ir.TensorType(numbers.dtype), ir.Shape(numbers.shape.numpy())
        new.const_value = ir.Tensor(np.asarray(numbers.numpy()), dtype=numbers.dtype, name=name)
        graph.register_initializer(new)
    else:
        graph.inputs.append(new)
    return new


def _twin(value: ir.Value, types: Types) -> ir.Value:
    return types.get(value, value)


def _opsets(node: ir.Node) -> dict[str, int]:
    graph = node.graph
    return dict(graph.opset_imports) if graph is not None and graph.opset_imports else {"": 17}


def _version(node: ir.Node) -> int:
    return 10 if _opsets(node).get("", 0) >= 21 else 8
