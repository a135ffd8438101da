"""What an error in the outputs of a layer means at the outputs of the model.

Each layer alone is made to err by a little, and the model run. Errors of several layers add up, for they are
independent: what was predicted so of whole networks in few bits was off by 1.3 times at most up to a divergence of 0.04
(measured, facts/size_and_rank.md section 4).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from onnxopt import progress
from onnxopt.calibrate.divergence import Reference
from onnxopt.calibrate.hessian import Numbers
from onnxopt.calibrate.moments import Moment
from onnxopt.core import Context
from onnxopt.layers import Rows, Weight, changed
from onnxopt.macs import node_macs

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


def shift(weight: Weight, rows: Rows | Numbers, mean: Numbers) -> Rows | None:
    """What the biases of a weight's layers take up with other rows, ``[channels]``; None where one has no bias.

    Args:
        weight: as it is.
        rows: ``[channels, products]``.
        mean: of what its layers read, ``[groups, products]``.
    """
    if not weight.biased:
        return None
    own = weight.grouped.astype(np.float64)
    found = (own - rows.reshape(own.shape)) @ mean[:, :, None]
    return np.asarray(found.reshape(-1), np.float32)


class Prober:
    """Runs models in which one thing errs.

    Args:
        model: the original.
        count: of the things that will be tried: as many samples are run as the work allows, the same number whatever
            the machine.
        context: calibration samples, of which the first are run, and where.
    """

    def __init__(self, model: ir.Model, count: int, context: Context) -> None:
        """Run the original."""
        assert context.calibration is not None
        macs = sum(node_macs(model, context.calibration.first()))
        samples = min(MOST, max(FEWEST, int(WORK / max(macs * count, 1))), len(context.calibration))
        self._reference = Reference(model, context.calibration.take(samples), context.target)
        self._count, self._done = count, 0

    def sensitivity(self, model: ir.Model, error: float) -> float:
        """The divergence of the outputs over an error that was made."""
        self._done += 1
        progress.count("sensitivity", self._done, self._count)
        return self._reference.divergence(model) / error if error > 0 else 0.0


def sensitivities(model: ir.Model, moments: Mapping[Weight, Moment], context: Context) -> dict[Weight, float]:
    """The divergence of the model's outputs over the error of each weight's outputs (``output_error``).

    Args:
        model: not changed.
        moments: of its weights.
        context: calibration samples, and where to run.
    """
    prober, found = Prober(model, len(moments), context), {}
    for weight, moment in moments.items():
        rows = erring(weight.rows, lambda rows: output_error(weight, rows, moment))  # noqa: B023
        one = changed(model, {weight.name: (rows, shift(weight, rows, moment.mean))})
        found[weight] = prober.sensitivity(one, output_error(weight, rows, moment))
    return found


def erring(rows: Rows, error: Callable[[Rows], float]) -> Rows:
    """The rows, moved towards what a coarse grid makes of them until they err by ``PROBE``, as ``error`` has it."""
    largest = np.abs(rows).max(axis=1, keepdims=True, initial=0.0)
    step = np.where(largest > 0, largest, 1) / STEPS
    coarse = np.asarray(np.rint(rows / step) * step, np.float32)
    whole = error(coarse)
    share = min(1.0, (PROBE / whole) ** 0.5) if whole > 0 else 0.0
    return np.asarray(rows + share * (coarse - rows), np.float32)
