"""Fuse a Pad of zeros into the convolution after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from onnxopt.core import Change, Context, Exactness, Pass, Refusal
from onnxopt.graph import (
    STANDARD_DOMAINS,
    array,
    given,
    label,
    nodes,
    only_read_by,
    opset,
    rank,
    replace,
    scalar,
)

OLDEST = 2
"""Before opset 2, Pad's attribute had another name."""


@dataclass(frozen=True)
class FusePad(Pass):
    """Fuse a Pad of zeros along the spatial axes into the Conv that alone reads it.

    Before:
        ``y = Conv<pads=p>(Pad(x, q), W)``
    After:
        ``y = Conv<pads=p + q>(x, W)``
    Left alone:
        other modes and other values than zero; pads of the batch or channel axis, negative ones
        and ones that are not constant; Conv with ``auto_pad`` SAME_*; Pad with another reader or in
        another graph. Pooling: MaxPool pads with -inf, AveragePool may not count its padding.
    Exact up to:
        float rounding, where the kernel treats its own padding in another order.
    Source:
        ONNX Pad 2 to 25, Conv; the same rewrite is in ONNX Runtime (pad_fusion) and onnxscript.
    """

    name: ClassVar[str] = "fuse-pad"
    exactness: ClassVar[Exactness] = Exactness.ROUNDING

    def run(self, model: ir.Model, context: Context) -> list[Change | Refusal]:
        """Fuse every pair; a chain of Pads is fused from its end."""
        if opset(model) < OLDEST:
            return []
        return [item for conv in nodes(model, "Conv") for item in _fuse_all(conv)]


def _fuse_all(conv: ir.Node) -> list[Change | Refusal]:
    """Fuse the Pads before one Conv, one after the other."""
    done: list[Change | Refusal] = []
    while (pad := _pad_before(conv)) is not None:
        pads = _why_not(pad, conv) or _spatial_pads(pad, conv)
        if isinstance(pads, str):
            return [*done, Refusal(label(pad), pads)]
        done.append(Change(label(pad), "Pad fused into Conv"))
        own = conv.attributes.get_ints("pads", [0] * len(pads))
        kept = [a for a in conv.attributes.values() if a.name not in ("pads", "auto_pad")]
        total = ir.AttrInt64s("pads", [a + b for a, b in zip(own, pads, strict=True)])
        conv = replace([pad, conv], "Conv", [pad.inputs[0], *conv.inputs[1:]], [*kept, total])
    return done


def _pad_before(conv: ir.Node) -> ir.Node | None:
    pad = conv.inputs[0].producer() if conv.inputs[0] is not None else None
    return pad if pad is not None and pad.op_type == "Pad" and pad.domain in STANDARD_DOMAINS else None


def _why_not(pad: ir.Node, conv: ir.Node) -> str | None:
    """What keeps the pair apart, its numbers aside."""
    if not only_read_by(pad.outputs[0], conv):
        return "its output is read elsewhere too, or by another graph"
    if pad.attributes.get_string("mode", "constant") != "constant":
        return f"its mode is {pad.attributes.get_string('mode')}"
    if conv.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return f"the padding of Conv is {conv.attributes.get_string('auto_pad')}"
    value = given(pad, 2)
    number = pad.attributes.get_float("value", 0.0) if value is None else scalar(value)
    return None if number == 0.0 else "it does not pad with a constant zero"


def _spatial_pads(pad: ir.Node, conv: ir.Node) -> list[int] | str:
    """The pads of the spatial axes, begins then ends, or why they are not Conv's."""
    sizes = pad.attributes.get_ints("pads") or _ints(given(pad, 1))
    if sizes is None:
        return "its pads are not constant"
    half = len(sizes) // 2
    dims, axes = half, list(range(half))
    if given(pad, 3) is not None:
        chosen, known = _ints(given(pad, 3)), _conv_rank(pad, conv)
        if chosen is None or known is None:
            return "its axes, or the rank of its input, are not known"
        dims, axes = known, [axis % known for axis in chosen]
    begins, ends = [0] * dims, [0] * dims
    for axis, begin, end in zip(axes, sizes[:half], sizes[half:], strict=True):
        begins[axis], ends[axis] = begin, end
    if any([*begins[:2], *ends[:2]]):
        return "it pads the batch or channel axis"
    if min(sizes, default=0) < 0:
        return "it crops"
    return begins[2:] + ends[2:]


def _ints(value: ir.Value | None) -> list[int] | None:
    numbers = array(value)
    return None if numbers is None else [int(n) for n in numbers.reshape(-1)]


def _conv_rank(pad: ir.Node, conv: ir.Node) -> int | None:
    kernel = conv.attributes.get_ints("kernel_shape")
    return rank(conv.inputs[1]) or rank(pad.inputs[0]) or (len(kernel) + 2 if kernel else None)
