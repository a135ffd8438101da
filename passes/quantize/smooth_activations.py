"""Take outlier channels out of the activations that matrix products read, into their weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxopt.calibrate import Channels, channel_statistics
from onnxopt.core import Change, Context, Exactness, Pass, Refusal, option
from onnxopt.graph import constant, label
from onnxopt.passes.quantize.scaling.balance import axes, factors, noise
from onnxopt.passes.quantize.scaling.rules import trace
from onnxopt.passes.quantize.scaling.scaling import Parameter, Reader, Scaling

PRODUCTS = ("Gemm", "MatMul")
WORTH = 4.0
"""How many times less noise pays for a Mul: 6 dB, one bit."""


@dataclass(frozen=True)
class SmoothActivations(Pass):
    """Divide outlier channels that matrix products read, where they are made, and multiply the weights: SmoothQuant.

    Before:
        ``y = MatMul(LayerNormalization(x, scale, bias), W)``
    After:
        ``y = MatMul(LayerNormalization(x, scale / f, bias / f), W * f)`` with one ``f = a^alpha / w^(1 - alpha)`` for
        each channel: ``a`` its greatest magnitude on calibration samples, ``w`` the greatest weight that reads it. A
        Mul and Add written out, and a layer, whose values reach the product through an attention's sum, take factors
        as well. With ``insert``, where nothing can: ``y = MatMul(Mul(x, 1 / f), W * f)``, one Mul for all products of
        the value, if the estimated noise falls by 6 dB.
    Left alone:
        activations that something else reads, too, as the residual stream of BERT (but see ``insert``); layers whose
        weight is read elsewhere, or can be overridden.
    Exact up to:
        nothing, while the numbers stay within the range of float32.
    Source:
        Xiao, Lin, Seznec, Wu, Demouth, Han, "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large
        Language Models", ICML 2023, section 4; factors are rounded to powers of 2. MiniLM in int8, Spearman's
        correlation on held-out pairs (0.9257 in float): 0.9238 without and with it, 0.9252 with ``insert``, 0.9248 with
        ``insert`` and alpha 0.75; intervals overlap, and with ``insert`` tokens are 7 to 10 dB less exact.
    """

    name: ClassVar[str] = "smooth-activations"
    exactness: ClassVar[Exactness] = Exactness.ROUNDING

    alpha: float = option(0.5, "0 makes the weights that read channels alike, 1 the channels", low=0.0, high=1.0)
    insert: bool = option(False, "insert a Mul where what makes an activation cannot take the factors")

    def run(self, model: ir.Model, context: Context) -> list[Change | Refusal]:
        """Scale what only matrix products read."""
        if context.calibration is None:
            return [Refusal("", "needs calibration data (--data)")]
        scaling = trace(model)
        products = [reader for reader in scaling.readers if reader.node.op_type in PRODUCTS]
        wanted = [reader for reader in products if self.insert or reader.classes.any()]
        known = channel_statistics(model, context.calibration, axes(wanted), context.target)
        others = {one for reader in scaling.readers if reader not in products for one in reader.classes.tolist()}
        groups = [group for group in scaling.groups() if others.isdisjoint(group.tolist())]
        changed = scaling.apply(factors(scaling, groups, known, self.alpha))
        changes = [Change(label(node), f"channels of {node.op_type} scaled") for node in changed]
        for value, readers in _fixed(wanted).items():
            if value.name in known:
                changes += _insert(value, readers, known[value.name], self.alpha)
        return [*changes, *scaling.refusals]


def _fixed(readers: Sequence[Reader]) -> Mapping[ir.Value, list[Reader]]:
    """What cannot be scaled where it is made, with the layers that read it."""
    found: dict[ir.Value, list[Reader]] = {}
    for reader in readers:
        source = reader.node.inputs[0]
        if source is not None and not reader.classes.any():
            found.setdefault(source, []).append(reader)
    return found


def _insert(value: ir.Value, readers: Sequence[Reader], channels: Channels, alpha: float) -> list[Change]:
    """Let all readers read the value through one Mul, if that pays."""
    size, first = len(channels.low), readers[0].node
    classes = np.arange(1, size + 1)
    scaling = Scaling(size + 1, readers=[Reader(r.node, classes, r.places, r.by_rows) for r in readers])
    chosen = factors(scaling, [classes], {value.name or "": channels}, alpha)
    before, after = (noise(readers, channels, divided) for divided in (np.ones(size), chosen[1:].astype(np.float64)))
    if before <= WORTH * after:
        return []
    assert first.graph is not None
    ones = constant(first.graph, f"{value.name}/smoothed/factor", np.ones(size, np.float32))
    mul = ir.node("Mul", [value, ones])
    smoothed = mul.outputs[0]
    smoothed.name, smoothed.type, smoothed.shape = f"{value.name}/smoothed", value.type, value.shape
    first.graph.insert_before(first, mul)
    scaling.parameters.append(Parameter(mul, 1, over=classes))
    for reader in readers:
        reader.node.replace_input_with(0, smoothed)
        scaling.parameters.append(Parameter(reader.node, 1, times=classes if reader.by_rows else classes[:, None]))
    scaling.apply(chosen)
    return [Change(label(mul), f"a Mul takes the outlier channels of {len(readers)} products")]
