"""What an error in the outputs of a layer means at the outputs of the model.

Each layer alone is made to err by a little, and the model run. Errors of several layers add up, for they are
independent: what was predicted so of whole networks in few bits was off by 1.3 times at most up to a divergence of 0.04
(measured, facts/size_and_rank.md section 4).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from onnxopt import progress
from onnxopt.calibrate.divergence import Reference
from onnxopt.calibrate.hessian import Numbers
from onnxopt.calibrate.moments import Moment
from onnxopt.core import Context
from onnxopt.layers import Rows, Weight, changed
from onnxopt.macs import node_macs
from onnxopt.samples import Samples

PROBE = 0.01
"""Of its variance, the error of a layer's outputs that is tried."""
STEPS = 3
"""Rounding to so many steps on either side of zero makes the error: what rounding does to weights, only more of it."""
WORK = 1e12
"""Multiply-accumulates for all layers together, about."""
FEWEST, MOST = 16, 128
"""Samples."""


def output_error(weight: Weight, rows: Rows | Numbers, moment: Moment) -> float:
    """The mean squared error of a layer's outputs with other rows, as a share of their variance.

    Where its layers have biases these take up the mean of the error, so that of the inputs only the covariance counts.

    Args:
        weight: as it is.
        rows: ``[channels, products]``.
        moment: of what its layers read (``input_moments``).
    """
    spread = moment.covariance if weight.biased else moment.second
    own = weight.grouped.astype(np.float64)
    off = own - rows.reshape(own.shape)
    return float(((off @ spread) * off).sum() / max(((own @ spread) * own).sum(), 1e-30))


def shift(weight: Weight, rows: Rows | Numbers, moment: Moment) -> Rows | None:
    """What the biases of a weight's layers take up with other rows, ``[channels]``; None where one has no bias."""
    if not weight.biased:
        return None
    own = weight.grouped.astype(np.float64)
    found = (own - rows.reshape(own.shape)) @ moment.mean[:, :, None]
    return np.asarray(found.reshape(-1), np.float32)


def sensitivities(model: ir.Model, moments: Mapping[Weight, Moment], context: Context) -> dict[Weight, float]:
    """The divergence of the model's outputs over the error of each weight's outputs (``output_error``).

    Args:
        model: not changed.
        moments: of its weights.
        context: calibration samples, of which the first are run, and where.
    """
    assert context.calibration is not None
    reference = Reference(model, _few(model, len(moments), context), context.target)
    found = {}
    for count, (weight, moment) in enumerate(moments.items()):
        progress.detail(f"sensitivity of {count + 1} of {len(moments)} layers")
        rows = _erring(weight, moment)
        error = output_error(weight, rows, moment)
        one = changed(model, {weight.name: (rows, shift(weight, rows, moment))})
        found[weight] = reference.divergence(one) / error if error > 0 else 0.0
    return found


def _few(model: ir.Model, layers: int, context: Context) -> Samples:
    """As many samples as the work allows: the same number whatever the machine."""
    assert context.calibration is not None
    macs = sum(node_macs(model, context.calibration.first()))
    count = min(MOST, max(FEWEST, int(WORK / max(macs * layers, 1))))
    return context.calibration.take(min(len(context.calibration), count))


def _erring(weight: Weight, moment: Moment) -> Rows:
    """The rows, moved towards what a coarse grid makes of them until their outputs are off by ``PROBE``."""
    largest = np.abs(weight.rows).max(axis=1, keepdims=True, initial=0.0)
    step = np.where(largest > 0, largest, 1) / STEPS
    coarse = np.rint(weight.rows / step) * step
    error = output_error(weight, coarse, moment)
    share = min(1.0, (PROBE / error) ** 0.5) if error > 0 else 0.0
    return np.asarray(weight.rows + share * (coarse - weight.rows), np.float32)
