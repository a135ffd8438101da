"""One model out of two: the reference, in which chosen values are computed as the new model does."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from onnxopt.graph import walk
from onnxopt.validation.pair import Match, Pair, values_of

PREFIX = "onnxopt-new/"
"""Before all names of the new model."""
ADDED = "onnxopt-mix/"
"""Before all names of what is neither of the one nor of the other."""
FLOAT = ir.DataType.FLOAT


def compose(
    pair: Pair, chosen: Collection[str], taps: Sequence[Match] = (), keep: Collection[str] | None = None
) -> ir.Model:
    """The reference with the ``chosen`` matches (by their names in it) computed by the new model's nodes.

    Both graphs are laid side by side, and at every match all readers, of either graph, read the one that was chosen;
    then what nobody reads is removed. Dtypes are those of the reference at its own readers.

    Args:
        pair: the models.
        chosen: empty gives the reference, all of them the new model.
        taps: matches of which both values are returned, as float32 ``old/0``, ``new/0``, ...: that of the reference,
            and what the new model's nodes make of the values that were chosen before.
        keep: the graph outputs that stay; None keeps all.
    """
    model = _side_by_side(pair)
    graph, known = model.graph, values_of(model)
    wanted = [value.name or "" for value in graph.outputs if keep is None or value.name in keep]
    stated = {value.name or "": (value.type, value.shape) for value in graph.outputs}
    graph.outputs.clear()
    ends = {name: known[name] for name in wanted if name in known}
    ends |= {name: value for value in graph.inputs if (name := value.name or "") in wanted}
    tapped = []
    for match in pair.matches:
        old, new = known[match.old], known[f"{PREFIX}{match.new}"]
        readers = list(old.uses()), list(new.uses())
        cast = match.kinds[0] is not match.kinds[1]
        if match.old in chosen:
            old_side = _cast(graph, new, match.kinds[0]) if cast else new
            for use in readers[0]:
                use.node.replace_input_with(use.idx, old_side)
            if match.old in ends:
                ends[match.old] = old_side
        else:
            new_side = _cast(graph, old, match.kinds[1]) if cast else old
            for use in readers[1]:
                use.node.replace_input_with(use.idx, new_side)
        tapped.append((match, old, new))
    for name, value in ends.items():
        _returned(graph, value, name, *stated[name])
    places = {match.old: i for i, match in enumerate(taps)}
    for match, old, new in tapped:
        if match.old in places:
            for word, value in (("old", old), ("new", new)):
                floats = _cast(graph, value, FLOAT) if match.kinds[word == "new"] is not FLOAT else value
                _returned(graph, floats, f"tap/{word}/{places[match.old]}", ir.TensorType(FLOAT), None)
    RemoveUnusedNodesPass()(model)
    graph.sort()
    for node in walk(model):
        node.name = ""  # nobody asks, and two may have the same
    return model


def _side_by_side(pair: Pair) -> ir.Model:
    """Both graphs in one, the new one's names prefixed; it reads the inputs of the reference, and returns nothing."""
    model, other = pair.old.clone(), pair.new.clone()
    _rename(other)
    graph, added = model.graph, other.graph
    inputs = {value.name: value for value in graph.inputs}
    nodes, weights = list(added), list(added.initializers.values())
    sources = list(added.inputs)
    added.outputs.clear()
    added.initializers.clear()
    added.remove(nodes)
    added.inputs.clear()
    for value in sources:
        value.replace_all_uses_with(inputs[(value.name or "").removeprefix(PREFIX)])
    for weight in weights:
        graph.register_initializer(weight)
    graph.extend(nodes)
    for domain, version in other.opset_imports.items():
        graph.opset_imports[domain] = max(version, graph.opset_imports.get(domain, 0))
    model.ir_version = max(model.ir_version, other.ir_version)
    return model


def _rename(model: ir.Model) -> None:
    for graph in model.graphs():
        for value in list(graph.initializers.values()):
            value.name = f"{PREFIX}{value.name}"
        for value in graph.inputs:
            if not (value.name or "").startswith(PREFIX):
                value.name = f"{PREFIX}{value.name}"
    for node in walk(model):
        for value in node.outputs:
            if value.name:
                value.name = f"{PREFIX}{value.name}"


def _cast(graph: ir.Graph, value: ir.Value, kind: ir.DataType | None) -> ir.Value:
    node = ir.node("Cast", [value], {"to": kind or FLOAT})
    node.outputs[0].name = f"{ADDED}{graph.num_nodes()}"
    graph.append(node)
    return node.outputs[0]


def _returned(
    graph: ir.Graph, value: ir.Value, name: str, kind: ir.TypeProtocol | None, shape: ir.Shape | None
) -> None:
    """Make the value an output of this name, behind an Identity: it may be an input, a constant, or returned twice."""
    own = graph.initializers.get(name) or next((v for one in graph for v in one.outputs if v.name == name), None)
    if own is not None:
        own.name = f"{ADDED}{name}"
    node = ir.node("Identity", [value])
    output = node.outputs[0]
    output.name, output.type, output.shape = name, kind, shape
    graph.append(node)
    graph.outputs.append(output)
