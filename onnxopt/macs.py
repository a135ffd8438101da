"""Multiply-accumulates (MACs) of each node, from the shapes of its values.

``prod`` being the product of a shape:

==========================  =====================================================================
Conv and its kin            prod(output) * prod(weight[1:]), weight [C_out, C_in/g, kernel...]
ConvTranspose               prod(input) * prod(weight[1:]), weight [C_in, C_out/g, kernel...]
Gemm, MatMul and its kin    prod(output) * K, K being the length that is summed over
LSTM, GRU, RNN              steps * batch * (prod(W) + prod(R)); peepholes and biases are left out
==========================  =====================================================================

Every other standard operator counts 0: it has no weights to multiply with. Padding counts as if it were
data, and the body of a Loop, Scan or If counts once.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from onnxopt.dimensions import dimension
from onnxopt.graph import STANDARD_DOMAINS, inferred

Shape = tuple[int, ...]


class UnknownShape(Exception):
    """A formula needs a dimension that is not known."""


ShapeOf = Callable[[ir.Value | None], Shape]
_Formula = Callable[[ir.Node, ShapeOf], int]


def _conv(weight: int) -> _Formula:
    """Convolution with its weight, [C_out, C_in/g, kernel...], as input number ``weight``."""
    return lambda node, shape: math.prod(shape(node.outputs[0])) * math.prod(shape(node.inputs[weight])[1:])


def _conv_transpose(node: ir.Node, shape: ShapeOf) -> int:
    return math.prod(shape(node.inputs[0])) * math.prod(shape(node.inputs[1])[1:])


def _gemm(node: ir.Node, shape: ShapeOf) -> int:
    summed = 0 if node.attributes.get_int("transA", 0) else 1
    return math.prod(shape(node.outputs[0])) * shape(node.inputs[0])[summed]


def _matmul(node: ir.Node, shape: ShapeOf) -> int:
    return math.prod(shape(node.outputs[0])) * shape(node.inputs[0])[-1]


def _recurrent(node: ir.Node, shape: ShapeOf) -> int:
    """X [steps, batch, in] (or batch first), W [directions, gates * H, in], R [directions, gates * H, H]."""
    x, w, r = (shape(value) for value in node.inputs[:3])
    return math.prod(x[:2]) * (math.prod(w) + math.prod(r))


FORMULAS: Mapping[str, _Formula] = {
    "Conv": _conv(1),
    "ConvInteger": _conv(1),
    "DeformConv": _conv(1),
    "QLinearConv": _conv(3),
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "QLinearMatMul": _matmul,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
}
_NO_FORMULA = ("Einsum", "Attention")
"""Standard operators that multiply, and whose MACs are not counted."""


def count(node: ir.Node, shape: ShapeOf) -> int | None:
    """MACs of a node; None where they are not known."""
    op = operator(node)
    if op not in FORMULAS:
        return None if node.domain not in STANDARD_DOMAINS or op in _NO_FORMULA else 0
    try:
        return FORMULAS[op](node, shape)
    except (UnknownShape, IndexError, ValueError):  # the last two: a node that its operator does not allow
        return None


def node_macs(model: ir.Model, feeds: Mapping[str, np.ndarray]) -> list[int]:
    """MACs of each node of the main graph, on inputs of these shapes; 0 where they are not known."""
    copy = model.clone()
    for value in copy.graph.inputs:
        if (fed := feeds.get(value.name or "")) is not None:
            value.shape = ir.Shape(fed.shape)
    shapes = KnownShapes(copy, {})
    return [count(node, shapes) or 0 for node in copy.graph]


class KnownShapes:
    """The shapes of values: inferred, and where that ends, inferred after constants are folded on a copy.

    Folding is what it takes where a shape is computed by Range, ConstantOfShape or Slice.
    """

    def __init__(self, model: ir.Model, sizes: Mapping[str, int]) -> None:
        """Infer the shapes; ``sizes`` gives named dimensions their size."""
        self._model, self._sizes = model, sizes
        self._twins = inferred(model)

    def __call__(self, value: ir.Value | None) -> Shape:
        """The shape of a value, or UnknownShape is raised."""
        if value is None:
            raise UnknownShape
        found = known_dims(self._twins[value].shape, self._sizes)
        found = found if found is not None else self._folded.get(value.name or "")
        if found is None:
            raise UnknownShape
        return found

    @functools.cached_property
    def _folded(self) -> dict[str, Shape]:
        """Value name to shape, where all values of that name (branches may share one) have the same."""
        from onnxscript.optimizer import fold_constants

        copy = self._model.clone()
        try:
            fold_constants(copy, onnx_shape_inference=True, should_fold=_makes_shapes)
        except Exception:  # a library's trouble with an odd model: what was inferred must do
            return {}
        found: dict[str, set[Shape | None]] = {}
        for twin in inferred(copy).values():
            found.setdefault(twin.name or "", set()).add(known_dims(twin.shape, self._sizes))
        alone = {name: next(iter(shapes)) for name, shapes in found.items() if len(shapes) == 1}
        return {name: shape for name, shape in alone.items() if shape is not None}


def _makes_shapes(node: ir.Node) -> bool | None:
    """Fold ConstantOfShape too, which onnxscript keeps by default; None leaves the choice to it."""
    return True if node.op_type == "ConstantOfShape" else None


def known_dims(shape: ir.Shape | None, sizes: Mapping[str, int]) -> Shape | None:
    """All dimensions as numbers, or None."""
    if shape is None:
        return None
    dims = [dim if isinstance(dim, int) else dimension(dim.value or "", sizes) for dim in shape]
    known = [dim for dim in dims if dim is not None]
    return tuple(known) if len(known) == len(dims) else None


def operator(node: ir.Node) -> str:
    """The operator, with its domain where that is not the standard one."""
    return node.op_type if node.domain in STANDARD_DOMAINS else f"{node.domain}.{node.op_type}"
