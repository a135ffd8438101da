"""What an error of a layer's outputs means at the outputs of the model, measured on samples held out.

Each layer alone is split, and the model run. Errors of several layers add up, as far as they are small. The error that
a split makes is no noise: it lies in the directions in which the outputs vary least. Measured on MiniLM with 65 % of
its weights left and no repair: a divergence of 0.43, with ranks by noise as rounding makes it
(``calibrate.sensitivity``) of 0.49.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from onnxopt.calibrate.divergence import Reference
from onnxopt.calibrate.moments import Moment
from onnxopt.calibrate.sensitivity import shift
from onnxopt.core import Context
from onnxopt.layers import changed
from onnxopt.macs import node_macs
from onnxopt.passes.factorize.candidates import Ways
from onnxopt.passes.factorize.fit import fitted
from onnxopt.passes.factorize.split import Split

COST = 0.6
"""Of the layer as it is: about what the split that is tried costs."""
WORK = 1e12
"""Multiply-accumulates for all layers together, about."""
FEWEST, MOST = 16, 128
"""Samples."""
LEAST = 1e-9
"""Share of variance that is taken to be lost at least."""


class Judge:
    """Runs models with one layer split, and says how far their outputs are off."""

    def __init__(self, model: ir.Model, layers: int, held: Context) -> None:
        """Run the model once.

        Args:
            model: not changed.
            layers: how many will be tried.
            held: samples that nothing is fitted on.
        """
        assert held.calibration is not None
        macs = sum(node_macs(model, held.calibration.first()))
        count = min(MOST, max(FEWEST, int(WORK / max(macs * layers, 1))))
        samples = held.calibration.take(min(len(held.calibration), count))
        self._model, self._reference = model, Reference(model, samples, held.target)

    def gain(self, found: Ways, share: Callable[[Split], float], moments: Sequence[Moment], *, whiten: bool) -> float:
        """The divergence of the model's outputs over the share of variance that a layer loses.

        Args:
            found: of its weight; at least one.
            share: what a split costs, as a share of what the layer costs as it is.
            moments: of what it reads; the first, if there are any, is fitted on.
            whiten: whether splits are fitted to them.
        """
        weight, moment = found.weight, moments[0] if moments else None
        split = min(found.losses, key=lambda one: (abs(share(one) - COST), one.axes, one.between))
        rows = fitted(weight, split, moment if whiten else None).rows
        moved = None if moment is None else shift(weight, rows, moment.mean)
        return self._reference.divergence(changed(self._model, {weight.name: (rows, moved)})) / max(
            found.losses[split], LEAST
        )
