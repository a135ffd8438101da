"""What each node of a chain costs in float and in int8 on this machine, measured on nodes of the same shape alone."""

from __future__ import annotations

import contextlib
import enum
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxopt.benchmark import LOAD_LIMIT
from onnxopt.errors import OnnxoptError
from onnxopt.graph import added_row, array, constant, inferred, label, tensor
from onnxopt.load import ForeignLoad
from onnxopt.macs import Shape
from onnxopt.parts import Store
from onnxopt.passes.quantize.grids.grid import AMX_PRODUCTS, Grid
from onnxopt.passes.quantize.int8.chains import Chains, data_inputs, result
from onnxopt.passes.quantize.int8.layers import Int8Layer, layer
from onnxopt.passes.quantize.int8.writer import Writer
from onnxopt.stopwatch import ASIDE, Cost, part_costs
from onnxopt.target import Target

LARGEST = 64 * 2**20
"""Bytes of weights and inputs that are timed together."""
SMALL = 1024
"""Bytes of a constant whose numbers decide what is computed (a shape, an axis)."""
GRID = Grid(np.float32(0.03), np.uint8(128))
"""Of all activations: the time does not depend on it."""


class Form(enum.Enum):
    """How a node computes."""

    FLOAT = "float"
    INT8 = "int8"
    TILES = "int8 with weight zero point 1"
    """ONNX Runtime then takes convolutions to its matrix product, which runs on AMX tiles where there are any."""


Costs = Mapping[Form, Cost]


@dataclass(frozen=True)
class _Node:
    """A node to be timed: all with the same key cost the same."""

    node: ir.Node
    key: str
    shapes: Mapping[str, Shape]
    bias: ir.Value | None


def kernel_costs(
    chains: Chains, shapes: Mapping[str, Shape], opset: int, target: Target, seconds: float
) -> dict[ir.Node, Costs]:
    """Costs of the layers and members of chains whose shapes are known, in the forms that each can take.

    What was measured on this machine before, in a run of any model, is not measured again; but what was measured
    while others used it is not kept.

    Args:
        chains: in float still.
        shapes: of all their values, by name.
        opset: of the model.
        target: this machine.
        seconds: for all measurements together; each takes a few runs in any case.
    """
    nodes = (*chains.layers, *sorted(chains.members, key=label))
    asked = [one for node in nodes if (one := _described(node, chains, shapes))]
    store = Store(target)
    new = {one.key: one for one in asked if not _known(store, opset, one)}
    groups, load = list(_groups(list(new.values()))), ForeignLoad()
    found: dict[str, Cost] = {}
    for group in groups:
        with contextlib.suppress(OnnxoptError):  # what does not run by itself has no known cost
            found |= _measured(group, chains, opset, target, seconds / len(groups))
    store.add(found, quiet=load.share() <= LOAD_LIMIT)
    return {one.node: costs for one in asked if (costs := _known(store, opset, one))}


def _known(store: Store, opset: int, one: _Node) -> Costs:
    """The costs of a node in all its forms; none where it was not measured."""
    keys = {form: _key(opset, form, one) for form in Form}
    found = {form: store.known[key] for form, key in keys.items() if key in store.known}
    return found if {Form.FLOAT, Form.INT8} <= found.keys() else {}


def _key(opset: int, form: Form, one: _Node) -> str:
    return f"{form.value} opset {opset} {one.key}"


def assumed_costs(chains: Chains, work: Mapping[ir.Node, int], target: Target) -> dict[ir.Node, Costs]:
    """What layers cost by rule, where kernels cannot be timed: in units of their own, with conversions for nothing.

    On AMX tiles a convolution wins where many products are summed and outputs are not many more (measured on ONNX
    Runtime 1.31; facts/ort_cpu_limits.md, section 1).

    Args:
        chains: whose layers are meant.
        work: MACs of each layer.
        target: another machine.
    """
    costs: dict[ir.Node, Costs] = {}
    for node, found in chains.layers.items():
        outputs, products = found.rows().shape
        tiles = target.has_amx and found.node.op_type == "Conv" and not found.depthwise
        suited = tiles and products >= AMX_PRODUCTS and outputs <= products
        shares = {Form.FLOAT: 1.0, Form.INT8: 1 / 3} | ({Form.TILES: 1 / 6} if suited else {})
        costs[node] = {form: Cost(0.0, share * max(work[node], 1), 0.0) for form, share in shares.items()}
    return costs


def _described(node: ir.Node, chains: Chains, shapes: Mapping[str, Shape]) -> _Node | None:
    """The node with the text of all that decides its time; None where a shape is not known, or a size is computed."""
    data = [node.inputs[index] for index in data_inputs(node)]
    words: list[object] = [node.op_type, sorted((a.name, str(a.value)) for a in node.attributes.values())]
    for value in node.inputs:
        contents = tensor(value)
        if value is None:
            words.append(None)
        elif value in data:
            if not (shape := shapes.get(value.name or "")) or 0 in shape:
                return None
            words.append(shape)
        elif contents is None and node not in chains.layers:
            return None
        elif contents is not None and contents.nbytes <= SMALL and contents.dtype is not ir.DataType.FLOAT:
            words.append(contents.numpy().tolist())
        else:
            words.append(shapes.get(value.name or ""))
    added = added_row(node) if node.op_type == "MatMul" else None
    bias = added and added[1]  # ONNX Runtime fuses the two in float, not in int8
    words += [bias is not None, node in chains.layers and result(chains, node) in chains.born]
    return _Node(node, repr(words), shapes, bias)


def _groups(found: Sequence[_Node]) -> Iterator[list[_Node]]:
    """Nodes that are timed in one session, so that their numbers do not fill the memory."""
    group: list[_Node] = []
    size = 0
    for one in found:
        own = sum(t.nbytes for value in one.node.inputs if (t := tensor(value)) is not None)
        data = (one.node.inputs[index] for index in data_inputs(one.node))
        own += sum(4 * math.prod(one.shapes[value.name or ""]) for value in data if value is not None)
        if group and size + own > LARGEST:
            yield group
            group, size = [], 0
        group.append(one)
        size += own
    if group:
        yield group


def _measured(group: Sequence[_Node], chains: Chains, opset: int, target: Target, seconds: float) -> dict[str, Cost]:
    """The costs of nodes in their forms, by key: each is a part of one small model, written in every form."""
    models = [_parts(group, chains, opset, form) for form in Form]
    costs: dict[str, Cost] = {}
    for form, found in zip(Form, part_costs(models, target, seconds), strict=True):
        for place, one in enumerate(group):
            if form is not Form.TILES or (one.node.op_type == "Conv" and not chains.layers[one.node].depthwise):
                costs[_key(opset, form, one)] = found[f"y{place}"]
    return costs


def _parts(group: Sequence[_Node], chains: Chains, opset: int, form: Form) -> ir.Model:
    """A model in which each node of the group stands alone."""
    graph = ir.Graph([], [], nodes=[], opset_imports={"": opset}, name="parts")
    copies = [_copy(graph, one, chains, place) for place, one in enumerate(group)]
    model = ir.Model(graph, ir_version=10)
    if form is not Form.FLOAT:
        _write(model, copies, [one.node for one in group], chains, form)
    for place, node in enumerate(graph):
        node.name = node.name if (node.name or "").startswith(ASIDE) else f"{node.op_type}_{place}"
    return model


def _copy(graph: ir.Graph, one: _Node, chains: Chains, place: int) -> ir.Node:
    """The node with inputs of its own and the same constants; its outputs are outputs of the graph."""
    kind = ir.TensorType(ir.DataType.FLOAT)
    data, copies = {one.node.inputs[index] for index in data_inputs(one.node)}, {}
    for index, value in enumerate(one.node.inputs):
        if value is None or value in copies:
            continue
        if value in data:
            shape = ir.Shape(one.shapes[value.name or ""])
            copies[value] = ir.Value(name=f"x{place}_{index}", type=kind, shape=shape)
            graph.inputs.append(copies[value])
            if value in chains.images and one.node in chains.members and len(shape) == 4:
                copies[value] = _convolved(graph, copies[value])
        else:
            copies[value] = _constant(graph, f"c{place}_{index}", value, chains.layers.get(one.node))
    inputs = [None if value is None else copies[value] for value in one.node.inputs]
    node = ir.Node("", one.node.op_type, inputs, [*one.node.attributes.values()], num_outputs=len(one.node.outputs))
    graph.append(node)
    last = node
    if one.bias is not None:
        last = ir.node("Add", [node.outputs[0], _constant(graph, f"b{place}", one.bias, None)])
        node.outputs[0].name = f"m{place}"
        graph.append(last)
    for index, value in enumerate(last.outputs):
        value.name, value.type = f"y{place}" if index == 0 else f"y{place}_{index}", kind
        graph.outputs.append(value)
    return node


def _convolved(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """The image after a convolution that does nothing: ONNX Runtime's layout of images begins at convolutions."""
    assert value.shape is not None
    channels = int(value.shape.numpy()[1])
    weight = constant(graph, f"{value.name}/ones", np.ones((channels, 1, 1, 1), np.float32))
    node = ir.node("Conv", [value, weight], {"group": channels})
    node.name = f"{ASIDE}/{value.name}"
    out = node.outputs[0]
    out.name, out.type, out.shape = f"{ASIDE}/{value.name}/y", value.type, value.shape
    graph.append(node)
    return out


def _constant(graph: ir.Graph, name: str, value: ir.Value, found: Int8Layer | None) -> ir.Value:
    """A copy of the constant in this graph; a weight that is read through a Transpose as what that gives."""
    contents = array(value)
    if contents is None:
        assert found is not None
        contents = found.numbers()
    return constant(graph, name, contents)


def _write(model: ir.Model, copies: Sequence[ir.Node], nodes: Sequence[ir.Node], chains: Chains, form: Form) -> None:
    """Write every part in int8, with floats at its ends."""
    twins, parts = inferred(model), Chains()
    for copy, node in zip(copies, nodes, strict=True):
        parts.read.update(v for index in data_inputs(copy) if (v := copy.inputs[index]) is not None)
        if node in chains.layers:
            found = layer(copy, twins)
            assert isinstance(found, Int8Layer)
            parts.layers[copy] = found
        else:
            parts.members.add(copy)
        if node in chains.members or result(chains, node) in chains.born:
            parts.born.update(copy.outputs)
    for node in [node for node in model.graph if (node.name or "").startswith(ASIDE)]:
        found = layer(node, twins)
        assert isinstance(found, Int8Layer)
        parts.layers[node] = found
        parts.read.update(value for value in node.inputs[:1] if value is not None)
        parts.born.update(node.outputs)
    tiles = [copy for copy in copies if form is Form.TILES]
    Writer(model.graph, parts, dict.fromkeys(parts.values, GRID), {}, pairs=False, tiles=tiles).write()
