"""Questions and edits on onnx_ir graphs: every hazard of a rewrite is met here, once.

The hazards: a constant that a caller may override (an initializer that is also a graph
input), a value that the graph itself returns, a value with a second reader, a reader inside
a subgraph, a node in another graph than its feeder, names that are taken, and an output
whose type the checker needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
import onnx.shape_inference
import onnx_ir as ir

from onnxopt.core import Change

STANDARD_DOMAINS = ("", "ai.onnx")
RANDOM = ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
"""Operators that give other numbers at every run."""
LARGEST_SHAPE = 1024
"""Bytes of a constant that shape inference looks at; larger ones are no shapes."""
NUMERIC_CONSTANTS = {"value", "value_int", "value_ints", "value_float", "value_floats"}
"""The attributes of a Constant node that hold numbers."""


def walk(model: ir.Model) -> Iterator[ir.Node]:
    """All nodes of the graph and its subgraphs (not of functions: inline those first)."""
    return iter(ir.traversal.RecursiveGraphIterator(model.graph))


def nodes(model: ir.Model, *op_types: str) -> list[ir.Node]:
    """The standard-domain nodes of these types, as a list that stays good while the graph changes."""
    return [n for n in walk(model) if n.op_type in op_types and n.domain in STANDARD_DOMAINS]


def subgraphs(node: ir.Node) -> list[ir.Graph]:
    """The bodies of If, Loop, Scan and the like."""
    graph, graphs = ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS
    held = [a for a in node.attributes.values() if a.type in (graph, graphs) and not a.is_ref()]
    return [inner for a in held for inner in ([a.as_graph()] if a.type is graph else a.as_graphs())]


def opset(model: ir.Model) -> int:
    """The version of the standard operators; 0 where the model uses none."""
    return max((model.opset_imports.get(domain, 0) for domain in STANDARD_DOMAINS), default=0)


def label(node: ir.Node) -> str:
    """How reports name a node: its first output with a name, which is unique where node names are not."""
    return next((value.name for value in node.outputs if value.name), node.name or node.op_type)


def tensor(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The constant behind a value; None if there is none, or if a caller may override it."""
    if value is None or value.is_graph_input():
        return None
    node = value.producer()
    if value.const_value is None and node is not None and node.op_type == "Constant":
        attribute = node.attributes.get("value")
        if attribute is not None:  # get_const_tensor would rename the tensor, which clones of the model share
            return None if attribute.is_ref() else attribute.as_tensor()
        if "sparse_value" in node.attributes:
            return None
    return ir.convenience.get_const_tensor(value)


def array(value: ir.Value | None) -> np.ndarray | None:
    """The numbers of a constant value, or None (see ``tensor``)."""
    constant = tensor(value)
    return None if constant is None else constant.numpy()


def arrays(values: Sequence[ir.Value | None]) -> list[np.ndarray] | None:
    """The numbers of all the values, or None if one of them is absent or not constant."""
    found = [array(value) for value in values]
    return None if any(numbers is None for numbers in found) else [n for n in found if n is not None]


def scalar(value: ir.Value | None) -> float | None:
    """The number of a constant with one element, or None."""
    numbers = array(value)
    return float(numbers.reshape(-1)[0]) if numbers is not None and numbers.size == 1 else None


def rank(value: ir.Value | None) -> int | None:
    """The number of dimensions of a value, if known."""
    return None if value is None or value.shape is None else len(value.shape)


def given(node: ir.Node, index: int) -> ir.Value | None:
    """Input ``index`` of a node, or None where the optional input is left out."""
    return node.inputs[index] if index < len(node.inputs) else None


def only_read_by(value: ir.Value, node: ir.Node) -> bool:
    """Whether nothing but one input of ``node``, in the same graph, sees this value."""
    producer = value.producer()
    same_graph = producer is None or producer.graph is node.graph
    return same_graph and not value.is_graph_output() and len(value.uses()) == 1


def added_row(node: ir.Node) -> tuple[ir.Node, ir.Value] | None:
    """The Add or Sum that alone reads a node, and adds a constant of one dimension to it; and that constant."""
    uses = list(node.outputs[0].uses())
    if len(uses) != 1 or not only_read_by(node.outputs[0], uses[0].node):
        return None
    adder, index = uses[0]
    if adder.op_type not in ("Add", "Sum") or adder.domain not in STANDARD_DOMAINS or len(adder.inputs) != 2:
        return None
    other = adder.inputs[1 - index]
    contents = tensor(other)
    return (adder, other) if other is not None and contents is not None and len(contents.shape) == 1 else None


def replace(
    old: Sequence[ir.Node],
    op_type: str,
    inputs: Sequence[ir.Value | np.ndarray | None],
    attributes: Sequence[ir.Attr] = (),
) -> ir.Node:
    """Put one new node in the place of ``old`` (in graph order; the last one gives the output).

    Arrays become initializers under free names; the output keeps its name, type and shape.
    Initializers that nobody reads any more are dropped.
    """
    last = old[-1]
    graph = last.graph
    assert graph is not None
    out = last.outputs[0]
    values = [
        constant(graph, f"{out.name}/{op_type}/{i}", x) if isinstance(x, np.ndarray) else x
        for i, x in enumerate(inputs)
    ]
    new = ir.Node("", op_type, values, attributes, num_outputs=1, name=last.name)
    orphans = [value for node in old for value in node.inputs if value is not None and value.is_initializer()]
    ir.convenience.replace_nodes_and_values(graph, last, old, [new], [out], [new.outputs[0]])
    drop_unread(orphans)
    return new


def bypass(node: ir.Node, value: ir.Value) -> bool:
    """Let the readers of ``node``'s first output read ``value`` instead, and remove the node.

    False, with nothing changed, where the graph's own signature is in the way.
    """
    out, graph = node.outputs[0], node.graph
    assert graph is not None
    if out.is_graph_output():
        producer = value.producer()
        fixed = value.is_graph_input() or value.is_graph_output() or value.is_initializer()
        if fixed or producer is None or producer.graph is not graph:
            return False
    if value.type is None:
        value.type = out.type
    was_output, name = out.is_graph_output(), out.name
    ir.convenience.replace_all_uses_with(out, value, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    if was_output:
        value.name = name
        value.shape = value.shape if out.shape is None else out.shape
    return True


def constant(graph: ir.Graph, name: str, numbers: np.ndarray) -> ir.Value:
    """A new initializer of the graph, under a free name; a copy, for a view would keep a weight file open."""
    free, count = name, 1
    while free in graph.initializers:
        free, count = f"{name}.{count}", count + 1
    contents = ir.Tensor(np.array(numbers, order="C"), name=free)
    kind = ir.TensorType(contents.dtype)
    value = ir.Value(name=free, shape=contents.shape, type=kind, const_value=contents)
    graph.register_initializer(value)
    return value


def drop_unread(values: Sequence[ir.Value]) -> None:
    """Remove those initializers that no node reads and no graph gives or returns."""
    for value in values:
        graph = value.graph
        if graph is None or value.uses() or value.is_graph_input() or value.is_graph_output():
            continue
        if value.name is not None and graph.initializers.get(value.name) is value:
            del graph.initializers[value.name]


def drop_constant(value: ir.Value) -> None:
    """Remove a constant, and the nodes that only serve to give it, unless somebody reads it."""
    drop_unread([value])
    node = value.producer()
    if node is None or node.graph is None or value.uses() or value.is_graph_output():
        return
    inputs = [one for one in node.inputs if one is not None]
    node.graph.remove(node, safe=True)
    for one in inputs:
        drop_constant(one)


def rewrite(node: ir.Node, index: int, numbers: np.ndarray) -> None:
    """Let a node read new numbers: in place of the old constant, or beside it where others read that."""
    graph, old = node.graph, given(node, index)
    assert isinstance(graph, ir.Graph)
    node.resize_inputs(max(len(node.inputs), index + 1))
    own = old.name if old is not None and old.is_initializer() else None
    node.replace_input_with(index, None)
    if old is not None:
        drop_constant(old)
    node.replace_input_with(index, constant(graph, own or f"{label(node)}/{node.op_type}/{index}", numbers))


def initializers(model: ir.Model) -> Iterator[ir.Value]:
    """All initializers of the graph and its subgraphs."""
    for graph in model.graphs():
        yield from graph.initializers.values()


def attribute_tensors(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    """All tensors held by attributes (Constant nodes above all)."""
    for node in walk(model):
        for attribute in node.attributes.values():
            if attribute.type is ir.AttributeType.TENSOR and not attribute.is_ref():
                yield attribute.as_tensor()


def decodes(node: ir.Node) -> bool:
    """Whether a node does what unpacks weights that are stored in fewer bytes.

    That is a Cast or DequantizeLinear of 16 bits or fewer, and arithmetic that takes integers apart.
    """
    kind = node.inputs[0].dtype if node.inputs and node.inputs[0] is not None else None
    if kind is None or node.domain not in STANDARD_DOMAINS:
        return False
    if node.op_type in ("Cast", "DequantizeLinear"):
        return kind not in (ir.DataType.BOOL, ir.DataType.STRING, ir.DataType.UNDEFINED) and kind.bitwidth <= 16
    return node.op_type in ("BitShift", "Div", "Mod") and kind.is_integer()


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all constants, each tensor counted once however many values share it."""
    held = {id(v.const_value): v.const_value.nbytes for v in initializers(model) if v.const_value is not None}
    return sum(held.values()) + sum(t.nbytes for t in attribute_tensors(model))


def inferred(model: ir.Model, *, believe: bool = True) -> dict[ir.Value, ir.Value]:
    """Each value with its twin in a copy of the model whose types and shapes are inferred.

    The model itself stays as it is. What the file says of values inside the graph may be stale: it is
    believed only where nothing can be inferred, and only with ``believe``. Constants that a caller may override
    count as unknown. Never raises: where inference fails, the twin knows what the file says, or nothing.
    """
    twins: dict[ir.Value, ir.Value] = {}
    copy = model.clone()
    for graph, twin in zip(model.graphs(), copy.graphs(), strict=True):
        twins |= zip(graph.inputs, twin.inputs, strict=True)
        twins |= {value: twin.initializers[name] for name, value in graph.initializers.items()}
        for node, other in zip(graph, twin, strict=True):
            twins |= zip(node.outputs, other.outputs, strict=True)
    said = {}
    for value in twins.values():
        if value.is_graph_input():
            value.const_value = None
        if value.producer() is not None:
            said[value] = value.type, value.shape
            value.type, value.shape = None, None
    for graph, inferred_graph in zip(copy.graphs(), _with_inferred_shapes(copy).graphs(), strict=True):
        found = ir.convenience.create_value_mapping(inferred_graph)
        for name, value in ir.convenience.create_value_mapping(graph).items():
            if name in found and found[name].type is not None:
                value.type, value.shape = found[name].type, found[name].shape
    for value, (kind, shape) in said.items():
        value.type = kind if value.type is None else value.type
        value.shape = shape if value.shape is None and believe else value.shape
    return twins


def _with_inferred_shapes(model: ir.Model) -> ir.Model:
    """A copy without its larger weights, types and shapes inferred; the model itself where that fails."""
    light = model.clone()
    light.ir_version = max(light.ir_version, 4)  # before, an initializer that is no input is not seen
    for name, value in list(light.graph.initializers.items()):
        if value.const_value is None or value.const_value.nbytes > LARGEST_SHAPE:
            del light.graph.initializers[name]
            if not value.is_graph_input():
                light.graph.inputs.append(value)
    try:
        proto = ir.serde.serialize_model(light)
        proto = onnx.shape_inference.infer_shapes(proto, check_type=False, strict_mode=False, data_prop=True)
        return ir.serde.deserialize_model(proto)
    except Exception:
        return model


def adopt(model: ir.Model, other: ir.Model) -> None:
    """Make ``model`` hold what ``other`` holds: for rewrites that a library makes on a copy."""
    model.graph = other.graph
    model.ir_version = other.ir_version
    model.functions.clear()
    model.functions.update(other.functions)
    model.metadata_props.clear()
    model.metadata_props.update(other.metadata_props)


def signature(model: ir.Model) -> list[tuple[str | None, str, str]]:
    """Name, type and shape of every input and output: what no pass may change."""
    return [(v.name, str(v.type), str(v.shape)) for v in (*model.graph.inputs, *model.graph.outputs)]


def lift(node: ir.Node) -> ir.Value | None:
    """Turn a Constant node into an initializer; None, with nothing changed, where its graph returns it.

    Strings stay: onnx_ir reads them as ASCII.
    """
    (old,), graph = node.outputs, node.graph
    assert graph is not None
    if old.is_graph_output() or not NUMERIC_CONSTANTS.issuperset(node.attributes):
        return None
    contents = ir.convenience.get_const_tensor(old)
    if contents is None or contents.dtype is ir.DataType.STRING or old.name in graph.initializers:
        return None
    kind, shape = ir.TensorType(contents.dtype), ir.Shape(contents.shape.numpy())
    new = ir.Value(name=old.name, shape=shape, type=kind, const_value=contents)
    old.replace_all_uses_with(new)
    graph.remove(node, safe=True)
    graph.register_initializer(new)
    return new


def census(model: ir.Model) -> dict[str, str]:
    """What the model is made of, node label to operator: two of them say what a library's pass did.

    Branches may use the same names: the second node of a label is ``label#2``.
    """
    found: dict[str, str] = {}
    for node in walk(model):
        name, count = label(node), 1
        while name in found:
            name, count = f"{label(node)}#{count + 1}", count + 1
        found[name] = node.op_type
    return found


def changes_since(before: Mapping[str, str], model: ir.Model) -> list[Change]:
    """The nodes that went, came or became another operator since ``census`` was taken."""
    after = census(model)
    gone = [Change(name, f"{op} removed") for name, op in before.items() if name not in after]
    became = [
        Change(name, f"{before[name]} became {op}" if name in before else f"{op} added")
        for name, op in after.items()
        if before.get(name) != op
    ]
    return gone + became
