"""What ONNX Runtime does not fold away when it loads a model.

A weight may be stored in a narrow form and decoded by nodes that depend on constants alone. ONNX Runtime computes them
once, while it loads the model, or else at every run, which makes it slower; which of them, only the graph that it
builds tells. A pass that writes such nodes asks here, and takes back what was left.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import onnx
import onnx_ir as ir

from onnxopt.runtime import built_graph
from onnxopt.target import Target


def unfolded(model: ir.Model, target: Target, names: Collection[str]) -> set[str]:
    """Those of the named values that nodes still give in the graph that ONNX Runtime builds, subgraphs included.

    A value that is not among them was computed while the model was loaded, or its node was fused into another (as
    DequantizeLinear is into MatMulNBits).

    Args:
        model: valid; not changed.
        target: where it will run.
        names: of values, each the output of a node.

    Raises:
        ModelError: if ONNX Runtime does not load the model.
        RuntimeMissing: if ONNX Runtime or the provider is not installed.
    """
    return set(names).intersection(_given(built_graph(model, target)))


def _given(graph: onnx.GraphProto) -> Iterator[str]:
    """The names of all values that nodes give."""
    for node in graph.node:
        yield from node.output
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _given(inner)
