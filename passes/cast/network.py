"""Where a model has float32 numbers: which node makes each value, which read it, and what they may turn into.

Every node that can compute in 16 bits is a *place* that takes one of two types; what stays in float32 is one place
together. Control flow (If, Loop, Scan) is a place, too: what its bodies take and give has the type that it has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from onnxopt.graph import given, opset, subgraphs, tensor, walk
from onnxopt.passes.cast.half import Half
from onnxopt.passes.cast.kinds import FLOAT, Kinds, is_float, is_odd
from onnxopt.passes.cast.slots import ALL_FIXED, FREE_INPUT, Slot, Slots, domain_of, slots
from onnxopt.sparse import SparseTensor

LOOPS = ("Loop", "Scan")
CONTROL = ("If", *LOOPS)


@dataclass(frozen=True, eq=False)
class Read:
    """A place where a value is read.

    Attributes:
        reader: the node whose type decides which type is wanted; None: float32.
        node: that reads it as input ``index``; None for an output of ``graph``, number ``index``.
        index: see there.
        graph: see there.
    """

    reader: ir.Node | None
    node: ir.Node | None
    index: int
    graph: ir.Graph | None = None


@dataclass
class Network:
    """The float32 numbers of a model.

    Attributes:
        flexible: nodes that can compute in 16 bits, with the slots of each.
        fixed: nodes that cannot, each with the reason.
        made: each value that is computed or given, with the node whose type it has; None: float32.
        reads: of each of them, where the type matters.
        constants: the same of constants.
        casts: value to a Cast that there is already, and gives it in 16 bits.
        signature: stands for the caller where inputs and outputs may change their type, all together; no real node.
        repeated: bodies that run many times.
    """

    flexible: dict[ir.Node, Slots] = field(default_factory=dict)
    fixed: dict[ir.Node, str] = field(default_factory=dict)
    made: dict[ir.Value, ir.Node | None] = field(default_factory=dict)
    reads: dict[ir.Value, list[Read]] = field(default_factory=dict)
    constants: dict[ir.Value, list[Read]] = field(default_factory=dict)
    casts: dict[ir.Value, ir.Node] = field(default_factory=dict)
    signature: ir.Node | None = None
    repeated: set[ir.Graph] = field(default_factory=set)


def network(model: ir.Model, known: Kinds, half: Half, *, keep_io: bool) -> Network:
    """Look at every node, value and graph of a model; nothing is changed."""
    net, owner, version = Network(), _owners(model), opset(model)
    if not keep_io:
        net.signature = ir.Node("", "signature", [], num_outputs=0)
    for node in walk(model):
        _enter(net, node, known, version, half)
        if node.op_type in LOOPS or node.graph in net.repeated:
            net.repeated.update(subgraphs(node))
    for graph in model.graphs():
        holder = owner.get(graph)
        _add_graph(net, graph, holder if holder in net.flexible else None if holder else net.signature, known)
    for node in walk(model):
        _add_node(net, node, known, half)
    return net


def constant(value: ir.Value) -> bool:
    """Whether a value is a constant that can be written in another type for each reader."""
    found = tensor(value)
    return found is not None and not isinstance(found, SparseTensor) and not value.is_graph_output()


def follows(net: Network, node: ir.Node, slot: Slot) -> ir.Node | None:
    """The node whose type decides, of an input or output with this slot; None: float32."""
    return node if slot is Slot.FOLLOWS and node in net.flexible else None


def float_inputs(net: Network, node: ir.Node, known: Kinds) -> list[ir.Value]:
    """What a node reads in the type that it computes in, constants too."""
    found = net.flexible[node]
    pairs = enumerate(node.inputs)
    return [v for i, v in pairs if v is not None and is_float(v, known) and found.input(i) is Slot.FOLLOWS]


def float_outputs(net: Network, node: ir.Node, known: Kinds) -> list[ir.Value]:
    """What a node gives in the type that it computes in."""
    found = net.flexible[node]
    return [v for i, v in enumerate(node.outputs) if is_float(v, known) and found.output(i) is Slot.FOLLOWS]


def _owners(model: ir.Model) -> Mapping[ir.Graph, ir.Node]:
    """Each body with the node that runs it."""
    return {body: node for node in walk(model) for body in subgraphs(node)}


def _enter(net: Network, node: ir.Node, known: Kinds, version: int, half: Half) -> None:
    """Find out whether a node can compute in 16 bits."""
    values = [*node.inputs, *node.outputs]
    bodies = [value for body in subgraphs(node) for value in (*body.inputs, *body.outputs)]
    if not any(is_float(value, known) or is_odd(value, known) for value in (*values, *bodies)):
        return
    if node.op_type == "Constant" and domain_of(node) == "":
        return
    odd = next((value for value in (*values, *bodies) if is_odd(value, known)), None)
    if odd is not None:
        what = "is of unknown type" if known.get(odd) is None else "is no plain tensor"
        net.fixed[node] = f"{odd.name!r} {what}"
        return
    found = slots(node, version, half)
    if isinstance(found, str):
        net.fixed[node] = found
    elif subgraphs(node) and (node.op_type not in CONTROL or (node.op_type == "Scan" and version < 9)):
        net.fixed[node] = f"{node.op_type} has a body"
    elif node.op_type == "DequantizeLinear" and node.attributes.get_int("output_dtype", 0) != 0:
        net.fixed[node] = "its attribute output_dtype says float32"
    elif node.op_type == "Cast" and is_float(node.inputs[0], known) and not _casts_elsewhere(node):
        net.flexible[node] = Slots((Slot.FOLLOWS,), (Slot.FOLLOWS,))
    elif _may_change(node, found, known) and not _casts_elsewhere(node):
        net.flexible[node] = found


def _may_change(node: ir.Node, found: Slots, known: Kinds) -> bool:
    """Whether a node reads or gives float32 numbers in the type that it computes in."""
    inputs = (is_float(v, known) and found.input(i) is Slot.FOLLOWS for i, v in enumerate(node.inputs))
    outputs = (is_float(v, known) and found.output(i) is Slot.FOLLOWS for i, v in enumerate(node.outputs))
    return any(inputs) or any(outputs)


def _casts_elsewhere(node: ir.Node) -> bool:
    """Whether a node is a Cast to something else than float32."""
    return node.op_type == "Cast" and domain_of(node) == "" and node.attributes.get_int("to", 0) != FLOAT


def _add_graph(net: Network, graph: ir.Graph, decides: ir.Node | None, known: Kinds) -> None:
    """Its inputs, what it holds that is computed by no node, and its outputs."""
    for value in graph.inputs:
        if is_float(value, known):
            net.made[value] = decides
    for value in graph.initializers.values():
        if is_float(value, known) and value not in net.made:
            if constant(value):
                net.constants[value] = []
            else:
                net.made[value] = None
    for index, value in enumerate(graph.outputs):
        if is_float(value, known):
            net.reads.setdefault(value, []).append(Read(decides, None, index, graph))


def _add_node(net: Network, node: ir.Node, known: Kinds, half: Half) -> None:
    """What it makes and reads."""
    standard = domain_of(node) == ""
    free = standard and node.op_type in FREE_INPUT
    found = net.flexible.get(node, Slots((Slot.FREE,), (Slot.FIXED,)) if free else ALL_FIXED)
    source = given(node, 0)
    narrows = standard and node.op_type == "Cast" and node.attributes.get_int("to", 0) == half.dtype
    if narrows and source is not None and is_float(source, known):
        net.casts.setdefault(source, node)
    for index, output in enumerate(node.outputs):
        if not is_float(output, known):
            continue
        if node.op_type == "Constant" and standard and constant(output):
            net.constants[output] = []
        else:
            net.made[output] = follows(net, node, found.output(index))
    for index, value in enumerate(node.inputs):
        if value is None or not is_float(value, known) or found.input(index) is Slot.FREE:
            continue
        read = Read(follows(net, node, found.input(index)), node, index)
        (net.constants if value in net.constants else net.reads).setdefault(value, []).append(read)
