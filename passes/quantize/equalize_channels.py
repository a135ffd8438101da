"""Make the channels that layers read more alike, so that one scale suits them all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from onnxopt.calibrate import channel_statistics
from onnxopt.core import Change, Context, Exactness, Pass, Refusal, option
from onnxopt.graph import label
from onnxopt.passes.quantize.scaling.balance import axes, factors
from onnxopt.passes.quantize.scaling.rules import trace


@dataclass(frozen=True)
class EqualizeChannels(Pass):
    """Move factors between neighbouring layers until the channels between them are alike: cross-layer equalization.

    Before:
        ``y = Conv(Relu(Conv(x, V, b)), W)``
    After:
        ``y = Conv(Relu(Conv(x, V / f, b / f)), W * f)`` with one ``f = a^alpha / w^(1 - alpha)`` for each channel:
        ``a`` its greatest magnitude on calibration samples, ``w`` the greatest weight that reads it. All layers of a
        residual stream share their factors; pooling, Flatten, Reshape, Transpose, Slice, Split, Concat and padding are
        looked through, and a depthwise convolution has factors before and after it. Factors are rounded to powers of 2.
    Left alone:
        channels that something reads which is not homogeneous (Clip, Sigmoid, a graph output, a subgraph), or that a
        normalization makes (see smooth-activations); layers whose weight is read elsewhere, or can be overridden.
    Exact up to:
        nothing, while the numbers stay within the range of float32.
    Source:
        Nagel, van Baalen, Blankevoort, Welling, "Data-Free Quantization Through Weight Equalization and Bias
        Correction", ICCV 2019, section 4.1, with activations measured. Weights have a scale for each output channel
        here, so their own ranges, which the paper equalizes, say little: with them the outputs of a keyword spotter in
        int8 lost 3.3 dB, those of ResNet-56 2.8 dB. With activations, networks whose channels are fair already gain
        nothing significant: held-out accuracy lost in int8 without and with it was 0.0075 and 0.0030 for ResNet-56,
        -0.0050 and 0.0000 for MobileNetV2, 0 and 0 for SqueezeNet, -0.0012 twice for the keyword spotter; intervals
        overlap. Where the same function has channels of other sizes, it restores what they cost, as the tests show.
    """

    name: ClassVar[str] = "equalize-channels"
    exactness: ClassVar[Exactness] = Exactness.ROUNDING

    alpha: float = option(0.5, "0 makes the weights that read channels alike, 1 the channels", low=0.0, high=1.0)

    def run(self, model: ir.Model, context: Context) -> list[Change | Refusal]:
        """Scale every group of channels that only layers make and read."""
        if context.calibration is None:
            return [Refusal("", "needs calibration data (--data)")]
        scaling = trace(model)
        normalized = scaling.made_by("LayerNormalization", "Mul")
        groups = [group for group in scaling.groups() if normalized.isdisjoint(group.tolist())]
        readers = [reader for reader in scaling.readers if reader.classes.any()]
        known = channel_statistics(model, context.calibration, axes(readers), context.target)
        changed = scaling.apply(factors(scaling, groups, known, self.alpha))
        return [Change(label(node), f"channels of {node.op_type} scaled") for node in changed] + scaling.refusals
