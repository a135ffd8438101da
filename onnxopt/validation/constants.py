"""What a model computes from its constants alone: weights that are stored in fewer bytes, above all."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from onnxopt.errors import ModelError
from onnxopt.graph import RANDOM, tensor, weight_bytes
from onnxopt.metrics.base import Array
from onnxopt.runtime import Session
from onnxopt.target import Target

LARGEST = 2**31
"""Bytes of weights up to which constants are decoded: all are held at once."""


def decoded(model: ir.Model) -> Mapping[str, Array]:
    """The values of the main graph that depend on constants alone and are read by a node that does not, by name.

    Empty where ONNX Runtime cannot compute them: they serve to say how far weights are apart, and no more.
    """
    if weight_bytes(model) > LARGEST:
        return {}
    names = _frontier(model)
    if not names:
        return {}
    copy = model.clone()
    copy.graph.outputs.clear()
    copy.graph.outputs.extend(v for node in copy.graph for v in node.outputs if v.name in names)
    RemoveUnusedNodesPass()(copy)
    copy.graph.inputs.clear()
    try:
        return {name: np.asarray(got) for name, got in Session(copy, Target(), optimize=False).run({}).items()}
    except ModelError:
        return {}


def numbers(value: ir.Value, known: Mapping[str, Array]) -> Array | None:
    """The numbers of a constant, or of what is computed from constants alone; None of anything else."""
    name = value.name or ""
    if value.producer() is not None and name in known:
        return known[name]
    contents = tensor(value)
    return None if contents is None else contents.numpy()


def _frontier(model: ir.Model) -> set[str]:
    from onnxopt.validation.pair import reads

    constant = {id(value) for value in model.graph.initializers.values()}
    found: set[str] = set()
    for node in model.graph:
        inputs = list(reads(node))
        if inputs and node.op_type not in RANDOM and all(id(value) in constant for value in inputs):
            constant |= {id(value) for value in node.outputs}
        else:
            found |= {v.name for v in inputs if id(v) in constant and v.producer() is not None and v.name}
    return found
