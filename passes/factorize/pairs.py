"""Two linear layers in a row, with nothing between them but the bias of the first."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from onnxopt.graph import STANDARD_DOMAINS, array, only_read_by
from onnxopt.layers import Layer

Bias = np.ndarray | None
"""``[channels]``."""


def ahead(layer: Layer, known: Mapping[ir.Node, Layer]) -> Layer | None:
    """The layer whose outputs, with its bias, are read by this one alone; None where there is none.

    Args:
        layer: one of those known.
        known: the layers of the main graph.
    """
    value = layer.node.inputs[0]
    if value is None or not only_read_by(value, layer.node) or (node := value.producer()) is None:
        return None
    if node.op_type in ("Add", "Sum") and node.domain in STANDARD_DOMAINS:
        makers = [maker for one in node.inputs if one is not None and (maker := one.producer()) is not None]
        sources = [known[one] for one in makers if one in known]
        first = sources[0] if len(sources) == 1 and sources[0].added is not None else None
    else:
        first = known.get(node)
    alike = first is not None and (first.node.op_type == "Conv") == (layer.node.op_type == "Conv")
    return first if alike else None


def bias_of(layer: Layer) -> Bias:
    """Its bias, also that of a MatMul, which an Add behind it holds."""
    found = array(layer.bias if layer.bias is not None else layer.added)
    return None if found is None else found.reshape(-1)
