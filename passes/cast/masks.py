"""Masks: numbers like -3.4e38 that serve to make a Softmax give zero.

They may be beyond float16, but any number that is far below the others serves as well. So they may become a smaller
one, and be rounded as coarsely as it takes, where nothing but a Softmax comes to see them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxopt.graph import tensor, walk
from onnxopt.passes.cast.kinds import Kinds, is_float
from onnxopt.passes.cast.network import Network
from onnxopt.passes.cast.slots import domain_of

PASSES_ON = frozenset(
    ("Add", "Cast", "Concat", "Expand", "Gather", "Identity", "Max", "Min", "Mul", "Reshape", "ScatterND", "Slice")
) | {"Squeeze", "Sub", "Sum", "Tile", "Transpose", "Trilu", "Unsqueeze", "Where", "ConstantOfShape"}
"""Operators that leave a number that is far below the others far below them, or make it an ordinary one."""
ENDS = {
    ("", "Softmax"): (0,),
    ("", "LogSoftmax"): (0,),
    ("", "Attention"): (3,),
    ("com.microsoft", "Attention"): (5,),
    ("com.microsoft", "MultiHeadAttention"): (5,),
    ("com.microsoft", "GroupQueryAttention"): (10,),
    ("com.microsoft", "BiasSoftmax"): (0, 1),
}
"""Where masks end: the inputs of Softmax, and those that are added before it."""
SCORES = 3
"""The output of an attention that shows what Softmax was taken of."""
VAST = 1000.0
"""The numbers of a mask are at least so large, or zero."""


@dataclass(frozen=True)
class Masks:
    """What belongs to masks.

    Attributes:
        sources: constants, and what a ConstantOfShape gives, whose numbers may be made smaller.
        values: all that is computed from them, up to a Softmax.
    """

    sources: frozenset[ir.Value]
    values: frozenset[ir.Value]


def masks(model: ir.Model, net: Network, known: Kinds) -> Masks:
    """Find them; a number that comes to anything but a Softmax is no mask."""
    filled = [n.outputs[0] for n in walk(model) if n.op_type == "ConstantOfShape" and is_float(n.outputs[0], known)]
    sources, values = set(), set()
    for value in [*net.constants, *filled]:
        if _is_vast(value):
            reached = _reached(value)
            if reached is not None:
                sources.add(value)
                values |= reached
    return Masks(frozenset(sources), frozenset(values))


def filling(node: ir.Node) -> np.ndarray:
    """The number of a ConstantOfShape, [1]; zero where none is given."""
    attribute = node.attributes.get("value")
    return np.zeros(1, np.float32) if attribute is None else np.asarray(attribute.as_tensor().numpy())


def _is_vast(value: ir.Value) -> bool:
    node, contents = value.producer(), tensor(value)
    numbers = contents.numpy() if contents is not None else filling(node) if node is not None else np.zeros(1)
    large = np.abs(numbers) >= VAST
    return bool(large.any() and (large | (numbers == 0)).all())


def _reached(value: ir.Value) -> set[ir.Value] | None:
    """All that is computed from a value, up to a Softmax; None if it comes to something else."""
    found, waiting = {value}, [value]
    while waiting:
        one = waiting.pop()
        if one.is_graph_output():
            return None
        for node, index in one.uses():
            if index in ENDS.get((domain_of(node), node.op_type), ()) and not any(
                v.name for v in node.outputs[SCORES:]
            ):
                continue
            if domain_of(node) or node.op_type not in PASSES_ON or _casts_elsewhere(node):
                return None
            new = [output for output in node.outputs if output not in found]
            found.update(new)
            waiting += new
    return found


def _casts_elsewhere(node: ir.Node) -> bool:
    return node.op_type == "Cast" and node.attributes.get_int("to", 0) not in _FLOATS


_FLOATS: Iterable[int] = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
