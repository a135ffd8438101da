"""Write the mean over all positions as GlobalAveragePool."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from onnxopt.core import Change, Context, Exactness, Pass, Refusal
from onnxopt.graph import array, given, inferred, label, nodes, replace

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
"""What both ONNX Runtime's kernels and the first GlobalAveragePool take."""


@dataclass(frozen=True)
class MeanToGlobalPool(Pass):
    """Write ReduceMean over all spatial axes as GlobalAveragePool, which has an int8 kernel.

    Before:
        ``y = ReduceMean<axes=[2, 3], keepdims=1>(x)`` with x of shape [N, C, H, W]
    After:
        ``y = GlobalAveragePool(x)``; with ``keepdims=0``: ``y = Flatten<axis=1>(GlobalAveragePool(x))``
    Left alone:
        means over other axes, or axes that are not constant; integers, double (ONNX Runtime has no
        GlobalAveragePool for it) and bfloat16; inputs of unknown rank or type; the mean and the variance of a
        normalization that is written out, in which ONNX Runtime looks for ReduceMean (BERT of opset 14: 0 of 5
        LayerNormalization fused with GlobalAveragePool, 5 without).
    Exact up to:
        float rounding: the sum is taken in another order.
    Source:
        ONNX GlobalAveragePool; ONNX Runtime has QLinearGlobalAveragePool and no quantized ReduceMean.
    """

    name: ClassVar[str] = "mean-to-global-pool"
    exactness: ClassVar[Exactness] = Exactness.ROUNDING

    def run(self, model: ir.Model, context: Context) -> list[Change | Refusal]:
        """Rewrite every mean."""
        means = nodes(model, "ReduceMean")
        known = inferred(model) if means else {}
        found = [_rewrite(mean, known) for mean in reversed(means)]  # readers first: known holds what they read
        return [item for item in reversed(found) if item is not None]


def _rewrite(mean: ir.Node, known: Mapping[ir.Value, ir.Value]) -> Change | Refusal | None:
    """Rewrite one mean, or leave the graph untouched."""
    x = mean.inputs[0]
    if x is None:
        return None
    twin = known.get(x, x)
    if twin.shape is None or twin.dtype is None:
        return Refusal(label(mean), f"the rank or type of {x.name!r} is not known")
    axes = _axes(mean)
    if axes is None:
        return Refusal(label(mean), "its axes are not constant")
    dims = len(twin.shape)
    if dims < 3 or sorted(axis % dims for axis in axes) != list(range(2, dims)):
        return None
    if twin.dtype not in FLOATS:
        return Refusal(label(mean), f"there is no GlobalAveragePool kernel for {twin.dtype.name.lower()}")
    if _normalises(mean, x):
        return Refusal(label(mean), "it is part of a normalization, which ONNX Runtime fuses as it is")
    _replace(mean, x)
    return Change(label(mean), "ReduceMean became GlobalAveragePool")


def _normalises(mean: ir.Node, x: ir.Value) -> bool:
    """Whether the mean is taken off what it is the mean of, or is one of squares."""
    readers = [reader for reader, _ in mean.outputs[0].uses()]
    maker = x.producer()
    squares = maker is not None and (
        maker.op_type == "Pow" or (maker.op_type == "Mul" and maker.inputs[0] is maker.inputs[1])
    )
    return squares or any(reader.op_type == "Sub" and x in reader.inputs for reader in readers)


def _axes(mean: ir.Node) -> list[int] | None:
    """The axes, as attribute or (from opset 18) as input; [] for all; None where they are not constant."""
    if given(mean, 1) is None:
        return list(mean.attributes.get_ints("axes", []))
    numbers = array(given(mean, 1))
    return None if numbers is None else [int(axis) for axis in numbers]


def _replace(mean: ir.Node, x: ir.Value) -> None:
    """Put GlobalAveragePool in place of the mean, and Flatten where the axes are not kept."""
    if mean.attributes.get_int("keepdims", 1) == 1:
        replace([mean], "GlobalAveragePool", [x])
        return
    assert mean.graph is not None
    pooled = ir.Value(name=f"{mean.outputs[0].name}/GlobalAveragePool", type=mean.outputs[0].type)
    pool = ir.Node("", "GlobalAveragePool", [x], outputs=[pooled])
    mean.graph.insert_before(mean, pool)
    replace([mean], "Flatten", [pooled], [ir.AttrInt64("axis", 1)])
