"""Compute at once what does not depend on the inputs."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from onnxopt.core import Change, Context, Exactness, Pass, Refusal, option
from onnxopt.graph import (
    RANDOM,
    adopt,
    census,
    changes_since,
    decodes,
    drop_unread,
    inferred,
    initializers,
    lift,
    nodes,
    opset,
    signature,
)
from onnxopt.sparse import SparseTensor

NEVER = {
    *RANDOM,
    *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"),
}
SLOW = {"AveragePool", "Conv", "ConvTranspose", "DFT", "Einsum", "GRU", "LSTM", "MaxPool", "RNN", "Resize"}
"""Reference implementations that take minutes where a runtime takes milliseconds."""
SMALL = 8192
"""Elements."""
ROUNDS = 8
"""What a branch of a constant If holds is folded in the next round."""
CAST = 1024
"""Bytes a Cast may add."""
DECODED = 0
"""The same for a node that decodes weights: what is stored small on purpose stays so."""


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Compute what depends on constants and static shapes only, and keep the result as an initializer.

    Before:
        ``s = Shape(x)``, ``n = Gather(s, 1)``, ``w = Transpose(v)`` with a constant v and a static shape of x
    After:
        initializers ``n`` and ``w``
    Left alone:
        random operators; QuantizeLinear and DequantizeLinear (int8 weights would become float); nodes that
        decode weights which are stored small; sparse weights; what a caller may override; results more than
        ``growth_bytes`` larger than the constants they replace; strings.
    Exact up to:
        float rounding: numpy computes what the runtime would have.
    Source:
        onnxscript.optimizer. Shapes are inferred anew first: those that files state may be stale. The limit
        of growth is low because ONNX Runtime computes the rest when it loads the model.
    """

    name: ClassVar[str] = "fold-constants"
    exactness: ClassVar[Exactness] = Exactness.ROUNDING

    growth_bytes: int = option(1 << 14, "bytes a result may be larger than the constants it replaces", low=0)

    def run(self, model: ir.Model, context: Context) -> list[Change | Refusal]:
        """Fold in a copy; take it over if something came of it and the inputs and outputs are the same."""
        if opset(model) < 18 and nodes(model, "SplitToSequence", "ConcatFromSequence"):
            return [Refusal("model", "onnxscript rewrites sequences for opset 18 and above only")]
        copy = model.clone()
        _forget_stale_shapes(copy)
        defaults = {value.name: value.const_value for value in copy.graph.inputs}
        for value in copy.graph.inputs:  # a caller may override it
            value.const_value = None
        functions = dict(copy.functions)
        copy.functions.clear()
        try:
            for _ in range(ROUNDS):
                before = census(copy)
                copy = _folded(copy, self.growth_bytes)
                if census(copy) == before:
                    break
        except RuntimeError as error:  # onnxscript 0.7 on SplitToSequence with a computed split
            return [Refusal("model", f"onnxscript cannot fold it: {error}")]
        copy.functions.update(functions)
        for value in copy.graph.inputs:
            value.const_value = defaults[value.name]
        for old, new in zip(model.graph.outputs, copy.graph.outputs, strict=False):
            new.type, new.shape = old.type, old.shape
        if signature(copy) != signature(model):
            return [Refusal("model", "folding would rename an input or output of the model")]
        changes = changes_since(census(model), copy)
        if changes:
            adopt(model, copy)
        return list(changes)


def _folded(model: ir.Model, growth_bytes: int) -> ir.Model:
    """Run onnxscript's folder, quietly, and tidy up after it."""
    from onnxscript.optimizer import _constant_folding

    logger = logging.getLogger(_constant_folding.__name__)
    was_disabled, logger.disabled = logger.disabled, True
    try:
        _constant_folding.fold_constants(
            model,
            onnx_shape_inference=True,
            input_size_limit=SMALL,
            output_size_limit=1 << 62,
            should_fold=lambda node: _worthwhile(node, growth_bytes),
        )
    finally:
        logger.disabled = was_disabled
    for value in (value for graph in model.graphs() for value in _values(graph)):
        value.metadata_props.pop(_constant_folding.FOLDED_FROM_KEY, None)
    for value in initializers(model):
        if type(value.const_value) is ir.Tensor:  # it may be a view, and keep a weight file open
            numbers, dtype = np.array(value.const_value.numpy(), order="C"), value.const_value.dtype
            value.const_value = ir.Tensor(numbers, dtype=dtype, name=value.name)
    for node in nodes(model, "Constant"):  # onnxscript writes value_ints, which opset 11 does not know
        lift(node)
    copy = model.clone()  # without the branches not taken, which would still read weights
    common.RemoveUnusedNodesPass()(copy)
    drop_unread(list(initializers(copy)))
    return copy


def _worthwhile(node: ir.Node, growth_bytes: int) -> bool:
    """Whether to compute a node whose inputs are all constant."""
    inputs = [value for value in node.inputs if value is not None and value.const_value is not None]
    if node.op_type in NEVER or any(isinstance(value.const_value, SparseTensor) for value in inputs):
        return False
    elements = sum(value.const_value.size for value in inputs if value.const_value is not None)
    if node.op_type in SLOW and elements > SMALL:
        return False
    replaced = sum(v.const_value.nbytes for v in inputs if v.const_value is not None and len(v.uses()) == 1)
    return all(_nbytes(value) - replaced <= _limit(node, growth_bytes) for value in node.outputs)


def _limit(node: ir.Node, growth_bytes: int) -> int:
    """Bytes that the result of a node may be larger than what it is computed from."""
    if decodes(node):
        return min(growth_bytes, DECODED)
    return min(growth_bytes, CAST) if node.op_type == "Cast" else growth_bytes


def _nbytes(value: ir.Value) -> float:
    """Bytes of a value; infinite where its shape is not known."""
    if value.shape is None or value.dtype is None or value.dtype is ir.DataType.STRING:
        return math.inf
    dims = [dim for dim in value.shape if isinstance(dim, int)]
    return math.prod(dims) * value.dtype.itemsize if len(dims) == len(value.shape) else math.inf


def _forget_stale_shapes(model: ir.Model) -> None:
    """Believe only shapes that follow from the inputs and weights."""
    for value, twin in inferred(model, believe=False).items():
        if value.producer() is not None:
            value.type, value.shape = twin.type or value.type, twin.shape


def _values(graph: ir.Graph) -> list[ir.Value]:
    return [*graph.initializers.values(), *(value for node in graph for value in node.outputs)]
