"""Constants in 16 bits: which nodes must stay in float32 because theirs do not fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxopt.calibrate.rounding import Magnitude
from onnxopt.graph import given, tensor
from onnxopt.passes.cast.half import Half, rounded
from onnxopt.passes.cast.masks import Masks, filling
from onnxopt.passes.cast.network import Network
from onnxopt.passes.cast.slots import domain_of

COARSE = 0.01
"""Relative error from which numbers are too small for the format."""
KEEPS_SMALL = ("Expand", "Identity", "Max", "Pow", "Sqrt", "Squeeze", "Unsqueeze", "Where")
"""Operators that a divisor passes through between what keeps it from zero and the division."""
TERMS = ("Add", "Clip", "Max", "Sub", "Sum", "Where")
"""Operators in which a small number adds little to what is there."""
ADDED = {
    **dict.fromkeys(("Conv", "ConvTranspose", "Gemm", "InstanceNormalization", "LayerNormalization"), (2,)),
    **dict.fromkeys(("GRU", "LSTM", "RNN", "MultiHeadAttention"), (3,)),
    **dict.fromkeys(("Attention", "BatchNormalization"), (2,)),
    "BiasGelu": (1,),
    "FastGelu": (1,),
    "EmbedLayerNormalization": (6,),
    "SkipLayerNormalization": (3, 4),
}
"""Inputs that layers add to their results."""
DIVISORS = {"Div": (1,), "Reciprocal": (0,), "Log": (0,), "BatchNormalization": (4,)}
"""Inputs that numbers are divided by, or whose logarithm is taken."""


@dataclass(frozen=True)
class Fit:
    """How a constant fits into 16 bits: see ``half.Rounded``."""

    zeros: int
    capped: int
    error: float
    largest: float
    dust: float
    """The largest difference."""


def fits(net: Network, half: Half) -> dict[ir.Value, Fit]:
    """How each constant fits; also what a ConstantOfShape gives."""
    found = {value: _fit(contents.numpy(), half) for value in net.constants if (contents := tensor(value)) is not None}
    filled = [node for node in net.flexible if node.op_type == "ConstantOfShape"]
    return found | {node.outputs[0]: _fit(filling(node), half) for node in filled}


def unfit(
    net: Network, fitting: Mapping[ir.Value, Fit], masks: Masks, half: Half, seen: Mapping[str, Magnitude]
) -> dict[ir.Node, str]:
    """The nodes that stay because of their constants, each with the reason."""
    found: dict[ir.Node, str] = {}
    for value, fit in fitting.items():
        nodes = [read.reader for read in net.constants.get(value, ()) if read.reader is not None]
        if value not in net.constants:
            nodes = [node for node in [value.producer()] if node is not None]
        for node in nodes:
            why = None if value in masks.sources else _why(node, value, fit, half, seen)
            if why is not None:
                found.setdefault(node, why)
                for reader in _divisions(node):
                    found.setdefault(reader, f"it divides by what {why}")
    return {node: why for node, why in found.items() if node in net.flexible}


def _fit(numbers: np.ndarray, half: Half) -> Fit:
    one = rounded(numbers, half)
    finite = np.abs(numbers[np.isfinite(numbers)])
    back = np.where(np.isfinite(numbers), one.numbers.astype(np.float32), 0)
    dust = np.abs(np.where(np.isfinite(numbers), numbers, 0) - back).max(initial=0)
    return Fit(one.zeros, one.capped, one.error, float(finite.max(initial=0)), float(dust))


def _why(node: ir.Node, value: ir.Value, fit: Fit, half: Half, seen: Mapping[str, Magnitude]) -> str | None:
    if fit.capped:
        return f"its constant {value.name!r} reaches {fit.largest:.3g}, and {half.name} ends at {half.largest:.6g}"
    divisor = any(given(node, index) is value for index in DIVISORS.get(node.op_type, ())) and not domain_of(node)
    if fit.error <= COARSE and not (divisor and fit.zeros):
        return None
    if _is_term(node, value) and (not _divisions(node) or node.op_type in ADDED):
        if fit.dust <= half.step:  # the result is rounded by as much
            return None
    elif _is_term(node, value) and _is_dust(node, fit, half, seen):
        return None
    return f"its constant {value.name!r} is too small for {half.name} (at most {fit.largest:.3g})"


def _is_term(node: ir.Node, value: ir.Value) -> bool:
    """Whether a constant is added."""
    added = any(given(node, index) is value for index in ADDED.get(node.op_type, ()))
    return added or (node.op_type in TERMS and not domain_of(node))


def _is_dust(node: ir.Node, fit: Fit, half: Half, seen: Mapping[str, Magnitude]) -> bool:
    """Whether what rounding takes from the constant is less than what it takes from the result, on the samples."""
    result = seen.get(node.outputs[0].name or "")
    return result is not None and fit.dust <= half.unit * result.least


def _divisions(node: ir.Node) -> list[ir.Node]:
    """The nodes that divide by the result of a node, and those between."""
    found: list[ir.Node] = []
    waiting = list(node.outputs)
    while waiting:
        value = waiting.pop()
        for reader, index in value.uses():
            divides = index in DIVISORS.get(reader.op_type, ())
            if domain_of(reader) or reader in found or not (divides or reader.op_type in KEEPS_SMALL):
                continue
            found.append(reader)
            if not divides:
                waiting += reader.outputs
    return found
