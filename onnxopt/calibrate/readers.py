"""How strongly the layers that read a value feel a bias of it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from onnxopt.calibrate.histogram import Array
from onnxopt.graph import array, given


def bias_weights(model: ir.Model, names: Iterable[str]) -> dict[str, float]:
    """For each named value, ``sum over outputs of (sum of weights)^2 / sum of weights^2`` of the layers that read it.

    What it is for stands in ``estimators.automatic``. The layers are all Conv, Gemm and MatMul that read the value as
    their first input and have constant weights; 1 where there are none. It lies between 0 (the weights of each
    output cancel) and their number per output (all are alike).
    """
    graph = model.graph
    values = {value.name: value for value in graph.inputs}
    values |= {value.name: value for node in graph for value in node.outputs}
    return {name: _bias_weight(values[name]) if name in values else 1.0 for name in names}


def _bias_weight(value: ir.Value) -> float:
    biased = squared = 0.0
    for node, place in value.uses():
        layer = _weights(node) if place == 0 else None
        if layer is not None:
            weights, axes = layer
            biased += float(np.square(weights.sum(axes, dtype=np.float64)).sum())
            squared += float(np.square(weights).sum(dtype=np.float64))
    return biased / squared if squared else 1.0


def _weights(node: ir.Node) -> tuple[Array, tuple[int, ...]] | None:
    """The constant weights of a linear layer and the axes that one output sums over."""
    if node.domain != "" or node.op_type not in ("Conv", "Gemm", "MatMul"):
        return None
    weights = array(given(node, 1))
    if weights is None or not weights.size:
        return None
    weights = np.asarray(weights, np.float32)
    if node.op_type == "Conv":  # [outputs, inputs of the group, ...]
        return weights, tuple(range(1, weights.ndim))
    if node.op_type == "Gemm" and node.attributes.get_int("transB", 0) == 1:
        return weights, (1,)
    return weights, (max(weights.ndim - 2, 0),)
