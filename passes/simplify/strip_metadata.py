"""Strip what is not computed with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from onnxopt.core import Change, Context, Exactness, Pass, option
from onnxopt.graph import inferred, walk


@dataclass(frozen=True)
class StripMetadata(Pass):
    """Strip doc strings and metadata of nodes, values and graphs, and put stale shapes right.

    Before:
        nodes with ``pkg.torch.onnx.stack_trace`` and the like: paths and source lines of the author's
        machine; a shape [1, 64] stated for a value that is [batch, 64]
    After:
        none; the shape as it follows from the inputs
    Left alone:
        doc strings of inputs and outputs; the model's own doc string and properties, which are the user's
        (labels, licence), unless ``model_properties`` is set; names.
    Exact up to:
        nothing.
    Source:
        ONNX IR specification, metadata_props and doc_string.
    """

    name: ClassVar[str] = "strip-metadata"
    exactness: ClassVar[Exactness] = Exactness.EXACT

    model_properties: bool = option(False, "also the model's own doc string and properties")

    def run(self, model: ir.Model, context: Context) -> list[Change]:
        """Strip everywhere; one change for each kind of place."""
        graphs = list(model.graphs())
        signature = {*model.graph.inputs, *model.graph.outputs}
        values = [v for graph in graphs for v in _values(graph)]
        documented = [v for v in values if v not in signature]
        counts = {
            "nodes": sum([_strip(node) for node in walk(model)]),
            "graphs": sum([_strip(graph) for graph in graphs]),
            "values": len([v for v in values if v.metadata_props] + [v for v in documented if v.doc_string]),
            "the model": int(self.model_properties and _strip(model)),
        }
        for value in values:
            value.metadata_props.clear()
        for value in documented:
            value.doc_string = None
        changes = [
            Change("model", f"doc strings and metadata of {count} {place} removed".replace(" 1 the", " the"))
            for place, count in counts.items()
            if count
        ]
        return changes + _correct_shapes(model)


def _strip(owner: ir.Model | ir.Graph | ir.Node) -> bool:
    """Remove doc string and metadata; whether there was something."""
    found = bool(owner.doc_string or owner.metadata_props)
    owner.doc_string = None
    owner.metadata_props.clear()
    return found


def _values(graph: ir.Graph) -> list[ir.Value]:
    made = (value for node in graph for value in node.outputs)
    return list(dict.fromkeys([*graph.inputs, *graph.outputs, *graph.initializers.values(), *made]))


def _correct_shapes(model: ir.Model) -> list[Change]:
    """Replace the stated shape of an inner value where inference from the inputs gives another."""
    dims = [dim for value in model.graph.inputs for dim in value.shape or ()]
    names = {str(dim) for dim in dims if not isinstance(dim, int)}
    changes = []
    for value, twin in inferred(model, believe=False).items():
        inner = value.producer() is not None and not value.is_graph_output()
        if inner and value.shape is not None and _contradicts(value.shape, twin.shape, names):
            changes.append(Change(value.name or "", f"stated shape {value.shape} is {twin.shape}"))
            value.shape = twin.shape
    return changes


def _contradicts(stated: ir.Shape, known: ir.Shape | None, names: set[str]) -> bool:
    """Whether a stated shape has another rank, another number, or a number where the size is dynamic."""
    if known is None:
        return False
    if len(stated) != len(known):
        return True
    return any(
        isinstance(said, int) and said != is_ and (isinstance(is_, int) or str(is_) in names)
        for said, is_ in zip(stated, known, strict=True)
    )
