"""Bounds behind layers that multiply with constant weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxopt.graph import given
from onnxopt.passes.prune.dead.analysis import Intervals, Unknown, bounds, numbers_of
from onnxopt.passes.prune.dead.interval import ZERO, Interval, weighted

PORTION = 2**22
"""Weights that are looked at together, for the memory they take in float64."""


def padded(node: ir.Node) -> bool:
    """Whether a convolution or pooling reads zeros around its input."""
    match node.attributes.get_string("auto_pad", "NOTSET"):
        case "NOTSET":
            return any(node.attributes.get_ints("pads", []))
        case "VALID":
            return False
        case _:
            return True


@bounds("Conv")
def conv(known: Intervals, node: ir.Node) -> Sequence[Interval]:
    """X [N, C, ...], W [M, C / group, ...] to [N, M, ...]."""
    weight, group = numbers_of(node.inputs[1]), node.attributes.get_int("group", 1)
    taps = weight.reshape(group, -1, *weight.shape[1:2], int(np.prod(weight.shape[2:])))
    x = known.of(node.inputs[0]).along(1).spread([group * taps.shape[2]]).reshaped([group, -1])
    found = _sums(x | ZERO if padded(node) else x, taps)
    return [_biased(known, node, found.reshaped([1, -1, *[1] * (weight.ndim - 2)]))]


@bounds("ConvTranspose")
def conv_transpose(known: Intervals, node: ir.Node) -> Sequence[Interval]:
    """X [N, C, ...], W [C, M / group, ...] to [N, M, ...]; which taps meet a position differs, as with zeros around."""
    weight, group = numbers_of(node.inputs[1]), node.attributes.get_int("group", 1)
    taps = weight.reshape(group, -1, weight.shape[1], int(np.prod(weight.shape[2:]))).swapaxes(1, 2)
    x = known.of(node.inputs[0]).along(1).spread([len(weight)]).reshaped([group, -1])
    return [_biased(known, node, _sums(x | ZERO, taps).reshaped([1, -1, *[1] * (weight.ndim - 2)]))]


@bounds("Gemm")
def gemm(known: Intervals, node: ir.Node) -> Sequence[Interval]:
    """A [M, K], B [K, N] or its transpose, C broadcasts to [M, N]."""
    weight = numbers_of(node.inputs[1])
    rows = weight if node.attributes.get_int("transB", 0) == 1 else weight.T
    if node.attributes.get_int("transA", 0) == 1:
        raise Unknown
    found = _rows(known.of(node.inputs[0]), rows) * _number(node.attributes.get_float("alpha", 1.0))
    if given(node, 2) is not None:
        found = found + known.of(node.inputs[2]) * _number(node.attributes.get_float("beta", 1.0))
    return [found]


@bounds("MatMul")
def matmul(known: Intervals, node: ir.Node) -> Sequence[Interval]:
    """A [..., K], B [K, N] to [..., N]."""
    weight = numbers_of(node.inputs[1])
    if weight.ndim != 2:
        raise Unknown
    return [_rows(known.of(node.inputs[0]), weight.T)]


def _rows(x: Interval, rows: np.ndarray) -> Interval:
    """``[..., K]`` times rows ``[N, K]``."""
    found = _sums(x.along(-1).spread(rows.shape[1:]).reshaped([1, -1]), rows[None, ..., None])
    return found.reshaped([*[1] * (len(x.shape) - 1), -1])


def _sums(x: Interval, taps: np.ndarray) -> Interval:
    """Inputs ``[groups, inputs]`` times weights ``[groups, outputs, inputs, taps]``."""
    if _without_end(x, taps):
        return Interval.unknown(2)
    parts = np.array_split(taps, -(-taps.size // PORTION), axis=1)
    found = [_portion(x, part) for part in parts]
    return Interval(*(np.concatenate(sides, axis=1) for sides in ([i.low for i in found], [i.high for i in found])))


def _without_end(x: Interval, taps: np.ndarray) -> bool:
    """Whether it is plain that no sum has a bound: no input has one on some side, and all sums have weights for it."""
    above, below = bool(np.all(x.high == np.inf)), bool(np.all(x.low == -np.inf))
    if not above and not below:
        return False
    positive, negative = taps.max((-2, -1)) > 0, taps.min((-2, -1)) < 0
    return bool(np.all((positive & above | negative & below) & (positive & below | negative & above)))


def _portion(x: Interval, taps: np.ndarray) -> Interval:
    taps = taps if taps.dtype in (np.float32, np.float64) else taps.astype(np.float32)
    positive, negative = (part(taps, 0).sum(-1, dtype=np.float64) for part in (np.maximum, np.minimum))
    if not (np.isfinite(positive).all() and np.isfinite(negative).all()):
        raise Unknown
    return weighted(x, positive, negative, taps[0, 0].size)


def _biased(known: Intervals, node: ir.Node, found: Interval) -> Interval:
    if given(node, 2) is None:
        return found
    return found + known.of(node.inputs[2]).reshaped([1, -1, *[1] * (len(found.shape) - 2)])


def _number(number: float) -> Interval:
    return Interval.constant(np.array(number))
