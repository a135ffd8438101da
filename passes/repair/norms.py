"""BatchNormalization in a pruned network: its mean and variance, estimated again.

With the mean m and variance v of what it reads in the original (index 0) and now, it gives outputs of the same mean and
variance as before if

    var' + epsilon = (var + epsilon) v / v0,    mean' = m - (m0 - mean) sqrt(v / v0),

scale and shift as they are. Source, for why that helps: Jordan, Sedghi, Saukh, Entezari, Neyshabur,
"REPAIR: REnormalizing Permuted Activations for Interpolation Repair", ICLR 2023.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxopt.core import Change, Refusal
from onnxopt.graph import arrays, label, rewrite
from onnxopt.passes.repair.lockstep import Lockstep

Numbers = npt.NDArray[np.float64]
MEAN, VARIANCE = 3, 4
"""Inputs of the node."""
STILL = 1e-12
"""A variance below which a channel counts as constant."""


@dataclass(frozen=True)
class Norm:
    """A BatchNormalization whose input has changed.

    Attributes:
        place: of its node in the original graph.
        before: in the original model.
        after: in the pruned one.
        kept: which of the original's channels it still has.
    """

    place: int
    before: ir.Node
    after: ir.Node
    kept: npt.NDArray[np.int64]


def is_norm(node: ir.Node) -> bool:
    """Whether it is a BatchNormalization with constants for mean and variance."""
    training = node.attributes.get_int("training_mode", 0)
    return node.op_type == "BatchNormalization" and not training and arrays(node.inputs[1:]) is not None


def estimate(norm: Norm, walk: Lockstep) -> Change | Refusal:
    """Write a mean and a variance of the node's own into the pruned model."""
    value = norm.before.inputs[0]
    name = (value.name or "") if value is not None else ""
    old_mean, old = _moments([walk.original(name, batch) for batch in range(walk.batches)])
    new_mean, new = _moments([walk.pruned(name, batch) for batch in range(walk.batches)])
    old_mean, old = old_mean[norm.kept], old[norm.kept]
    constants = arrays(norm.after.inputs[MEAN : VARIANCE + 1])
    assert constants is not None
    mean, variance = (numbers.astype(np.float64) for numbers in constants)
    epsilon = norm.after.attributes.get_float("epsilon", 1e-5)
    ratio = np.where((old > STILL) & (new > STILL), new / np.maximum(old, STILL), 1.0)
    rewrite(norm.after, MEAN, (new_mean - (old_mean - mean) * np.sqrt(ratio)).astype(constants[0].dtype))
    rewrite(norm.after, VARIANCE, np.maximum((variance + epsilon) * ratio - epsilon, 0.0).astype(constants[1].dtype))
    return Change(label(norm.after), f"mean and variance estimated again: {np.median(ratio):.2g} times the variance")


def _moments(batches: list[np.ndarray]) -> tuple[Numbers, Numbers]:
    """Mean and variance of each channel."""
    images = [numbers.reshape(*numbers.shape[:2], -1) for numbers in batches]
    count = sum(len(image) * image.shape[2] for image in images)
    mean = sum(image.sum((0, 2), dtype=np.float64) for image in images) / count
    square = sum(np.square(image - mean[:, None].astype(image.dtype)).sum((0, 2), dtype=np.float64) for image in images)
    return mean, square / count
