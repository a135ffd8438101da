"""Which values of a graph become uint8: whole chains, for conversions at the ends cost more than one layer saves.

A value is *born* in int8 where an integer kernel gives it. Layers with weights start chains; operators that have an
integer kernel too (Add, Concat, pooling) go on where what they read was born in int8; operators that only move numbers
pass it on with the same scale; all others read and give floats. Which operators are which was probed on ONNX Runtime
1.31 (facts/ort_fusion.md).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from onnxopt.core import Refusal
from onnxopt.graph import STANDARD_DOMAINS, given, label, only_read_by, scalar, tensor
from onnxopt.layers import WEIGHTED, Twins
from onnxopt.passes.quantize.int8.layers import Int8Layer, layer

JOINS = ("Add", "Mul", "Concat", "Where", "AveragePool", "GlobalAveragePool", "Sigmoid", "LeakyRelu")
"""Operators with an integer kernel of their own."""
MOVES = (
    "MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split", "Gather", "Resize",
    "Expand", "Tile", "DepthToSpace",
)  # fmt: skip
"""Operators that run in 8 bits because ONNX Runtime drops the conversions around them; the scale stays."""
CLIPS = ("Relu", "Clip")
"""Operators that vanish into the range of what is before them."""
FLOAT_OUTPUT = ("Gemm", "MatMul")
"""Layers whose integer kernel can give floats; a Conv cannot."""


@dataclass
class Chains:
    """What is quantized.

    Attributes:
        layers: Conv, Gemm and MatMul in int8, by node.
        members: other nodes that compute in int8.
        clips: activations that vanish into the range of the node before them.
        born: values that integer kernels give.
        read: values that integer kernels read, born or not.
        ties: values that must have the same scale.
        wishes: values that had better have the same scale: what only a Concat reads, and what that gives.
        images: those of ``born`` that convolutions began.
        refusals: layers that stay in float, and why.
    """

    layers: dict[ir.Node, Int8Layer] = field(default_factory=dict)
    members: set[ir.Node] = field(default_factory=set)
    clips: set[ir.Node] = field(default_factory=set)
    born: set[ir.Value] = field(default_factory=set)
    images: set[ir.Value] = field(default_factory=set)
    read: set[ir.Value] = field(default_factory=set)
    ties: list[tuple[ir.Value, ir.Value]] = field(default_factory=list)
    wishes: list[tuple[ir.Value, ir.Value]] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)

    @property
    def values(self) -> list[ir.Value]:
        """All that is converted, in an order that does not depend on addresses."""
        return sorted(self.born | self.read, key=lambda value: value.name or "")


def find(
    graph: ir.Graph, twins: Twins, ops: Collection[str] = WEIGHTED, *, leave: Collection[str] = (), whole: bool = True
) -> Chains:
    """The chains of a graph.

    Args:
        graph: sorted; nodes in subgraphs stay in float.
        twins: of its values, with inferred types and shapes.
        ops: types of layers to quantize.
        leave: labels of nodes that must stay in float.
        whole: whether operators without weights go on with a chain.
    """
    chains = Chains()
    for node in graph:
        if node.domain not in STANDARD_DOMAINS or label(node) in leave:
            continue
        if node.op_type in ops or (node.op_type not in WEIGHTED and (whole or node.op_type in CLIPS)):
            _grow(chains, node, twins)
    while _trim(chains):
        pass
    _tie(chains)
    return chains


def _grow(chains: Chains, node: ir.Node, twins: Twins) -> None:
    """Take the node into a chain if it can be."""
    if node.op_type in WEIGHTED:
        _start(chains, node, twins)
    elif node.op_type in CLIPS and _vanishes(chains, node):
        chains.clips.add(node)
        chains.born.remove(node.inputs[0])  # type: ignore[arg-type]
        _bear(chains, node)
    elif (node.op_type in MOVES and node.inputs[0] in chains.born and _float(node.outputs, twins)) or (
        node.op_type in JOINS and _joins(chains, node, twins)
    ):
        chains.members.add(node)
        _bear(chains, node)


def _bear(chains: Chains, node: ir.Node) -> None:
    """Note that the node gives integers."""
    chains.born.update(node.outputs)
    if node.op_type == "Conv" or any(value in chains.images for value in node.inputs):
        chains.images.update(node.outputs)


def _start(chains: Chains, node: ir.Node, twins: Twins) -> None:
    found = layer(node, twins)
    if isinstance(found, Int8Layer) and not _float([node.inputs[0]], twins):
        found = "it does not compute in float32"
    if isinstance(found, Int8Layer):
        chains.layers[node] = found
        _bear(chains, node)
    elif node.op_type == "Conv" or "not constant" not in found:
        chains.refusals.append(Refusal(label(node), f"{node.op_type} stays in float: {found}"))


def _vanishes(chains: Chains, node: ir.Node) -> bool:
    """Whether a Relu or Clip is the only reader of a node whose output range can do its work."""
    source = node.inputs[0]
    producer = source.producer() if source is not None else None
    if source is None or producer is None or source not in chains.born or not only_read_by(source, node):
        return False
    if producer.op_type in MOVES or producer in chains.clips:
        return False
    return node.op_type == "Relu" or all(
        bound is None or scalar(bound) is not None for bound in (given(node, 1), given(node, 2))
    )


def _joins(chains: Chains, node: ir.Node, twins: Twins) -> bool:
    """Whether all that the node reads was born in int8, or some of it in a convolution.

    Among images the other input, a shortcut or a gate, is worth its conversion: what comes after stays in int8. Among
    the sums of a transformer it is not.
    """
    inputs = [value for index in data_inputs(node) if (value := node.inputs[index]) is not None]
    if not _float([*inputs, *node.outputs], twins) or any(tensor(value) is not None for value in inputs):
        return False
    return all(value in chains.born for value in inputs) or any(value in chains.images for value in inputs)


def _float(values: Iterable[ir.Value | None], twins: Twins) -> bool:
    return all(value is not None and twins[value].dtype is ir.DataType.FLOAT for value in values)


def _trim(chains: Chains) -> bool:
    """Cut off ends that gain nothing; whether something was cut.

    An operator that only moves numbers, at the end of a chain, may as well move floats. A Gemm or MatMul gives floats
    itself unless all its readers compute in int8.
    """
    integer = {*chains.layers, *chains.members}
    for node in list(chains.members):
        if node.op_type in MOVES and not any(_readers(value) & integer for value in node.outputs):
            chains.members.remove(node)
            chains.born.difference_update(node.outputs)
            return True
    for node in chains.layers:
        out = result(chains, node)
        if node.op_type not in FLOAT_OUTPUT or out not in chains.born:
            continue
        if out.is_graph_output() or not _readers(out) or not _readers(out) <= integer:
            chains.born.remove(out)
            chains.clips.discard(out.producer())
            return _without_orphans(chains)
    return False


def _without_orphans(chains: Chains) -> bool:
    """Nodes that were members because of a value that is no longer born go back to float; always True."""
    changed = True
    while changed:
        changed = False
        for node in list(chains.members):
            fed = [value for value in node.inputs if value in chains.born]
            moves = node.op_type in MOVES and node.inputs[0] not in chains.born
            if (
                moves
                or not fed
                or (len(fed) < len([v for v in node.inputs if v is not None]) and node.op_type == "Concat")
            ):
                out = result(chains, node)
                chains.members.remove(node)
                chains.born.difference_update({*node.outputs, out})
                chains.clips.discard(out.producer())
                changed = True
    return True


def result(chains: Chains, node: ir.Node) -> ir.Value:
    """What a node gives, after the Relu or Clip that vanishes into it."""
    out = node.outputs[0]
    reader = next(iter(_readers(out)), None)
    return reader.outputs[0] if reader is not None and reader in chains.clips else out


def _readers(value: ir.Value) -> set[ir.Node]:
    return {use.node for use in value.uses()}


def _tie(chains: Chains) -> None:
    """Find what is read, and which scales must be equal."""
    for node in chains.layers:
        if node.inputs[0] is not None:
            chains.read.add(node.inputs[0])
    for node in chains.members:
        data = [value for index in data_inputs(node) if (value := node.inputs[index]) is not None]
        chains.read.update(data)
        if node.op_type in MOVES:
            chains.ties += [(data[0], out) for out in node.outputs]
        elif node.op_type == "Concat":
            chains.wishes += [(value, node.outputs[0]) for value in data if only_read_by(value, node)]


def data_inputs(node: ir.Node) -> range:
    """The inputs with which a node computes; a Reshape reads its shape, a layer its weights, too."""
    if node.op_type == "Where":
        return range(1, 3)
    return range(len(node.inputs) if node.op_type in ("Add", "Mul", "Concat") else 1)


def united(chains: Chains, bounds: Mapping[str, tuple[float, float]]) -> dict[ir.Value, tuple[float, float]]:
    """The range of each value, that of all it is tied to.

    A wish is not granted where it would move a range that begins at 0: a Relu vanishes only into a grid whose zero
    point is 0, and with it the layer before it would stay in float.

    Args:
        chains: what is quantized.
        bounds: value name to its range; a value that is always empty has none.
    """
    known = {value: bounds.get(value.name or "", (0.0, 0.0)) for value in chains.values}
    granted = [(one, other) for one, other in chains.wishes if (known[one][0] < 0) == (known[other][0] < 0)]
    groups: dict[ir.Value, set[ir.Value]] = {value: {value} for value in chains.values}
    for one, other in (*chains.ties, *granted):
        if groups[one] is not groups[other]:
            groups[one] |= groups[other]
            groups |= dict.fromkeys(groups[other], groups[one])
    return {v: (min(known[m][0] for m in group), max(known[m][1] for m in group)) for v, group in groups.items()}
