"""Compute in 16-bit floats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from onnxopt.core import Change, Context, Exactness, Pass, Refusal, option
from onnxopt.graph import label
from onnxopt.passes.cast.half import HALVES
from onnxopt.passes.cast.kinds import kinds
from onnxopt.passes.cast.least_casts import least_casts
from onnxopt.passes.cast.network import network
from onnxopt.passes.cast.staying import staying, unmatched
from onnxopt.passes.cast.writing import Writer

CHEAPER = "between nodes in float32: its Casts would cost more than {} saves"


@dataclass(frozen=True)
class CastFloat16(Pass):
    """Compute in float16 or bfloat16, and in float32 what needs it.

    Before:
        ``y = MatMul(x, w)``, float32
    After:
        ``h = Cast(x)``, ``g = MatMul(h, w16)``, ``y = Cast(g)``
    Left alone:
        operators without such a kernel on CUDA; numbers near the end of float16, or too small for it, on the samples;
        without samples squares, exponents and long sums; whole numbers, angles and what is divided by what would become
        zero; quantized activations; sequences; local functions (inline-functions first); what ``block`` names; what
        would need more Casts than it is worth.
    Exact up to:
        lossy; the gate decides. float16 rounds to 11 bits, bfloat16 to 8. Masks like -3.4e38 become -32752 where only a
        Softmax comes to see them.
    Source:
        IEEE 754 binary16; Micikevicius et al., "Mixed Precision Training", 2018. The Casts are a minimum cut of the
        graph. Faster on GPUs; on processors ONNX Runtime has no such kernels for layers, and casts back and forth.
    """

    name: ClassVar[str] = "cast-float16"
    exactness: ClassVar[Exactness] = Exactness.LOSSY

    dtype: str = option("float16", "to compute in", choices=tuple(HALVES))
    keep_io_types: bool = option(True, "inputs and outputs stay float32; if not, the model can only be run elsewhere")
    block: tuple[str, ...] = option((), "operators and node names (with * and ?) that stay in float32")
    headroom: float = option(4.0, "so many times the largest number on the samples must fit into float16", low=1)

    def run(self, model: ir.Model, context: Context) -> list[Change | Refusal]:
        """Choose in a model that stays as it is, then write."""
        half = HALVES[self.dtype]
        why = half.missing(model)
        if why is None and not self.keep_io_types and context.calibration is not None:
            why = (
                f"inputs would become {half.name}, and the samples are float32: neither accuracy nor time could be "
                "measured; run the pass from Python, without samples"
            )
        if why is not None:
            return [Refusal("", why)]
        known = kinds(model)
        net = network(model, known, half, keep_io=self.keep_io_types)
        found = staying(model, net, known, half, context, self.block, self.headroom)
        chosen = least_casts(net, found.reasons, known, half)
        refusals = [Refusal("", f"block: no node is {word!r}") for word in unmatched(net, self.block)]
        refusals += [Refusal(label(node), why) for node, why in {**found.reasons, **net.fixed}.items()]
        left = [n for n in net.flexible if n not in chosen and n not in found.reasons and n.op_type != "Cast"]
        refusals += [Refusal(label(node), CHEAPER.format(half.name)) for node in left]
        return [*Writer(model, net, known, half, chosen).write(), *refusals]
