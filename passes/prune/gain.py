"""What an error at the readers of a group means at the outputs of the model: measured on samples held out.

A group is pruned alone by a share, its readers refitted on the first samples, and the model run on the others. Judged
on the samples it was fitted on, a layer before a classifier looked nearly free (error 0.024 instead of 0.154), and a
network lost half its accuracy over it (measured on a MobileNetV2).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxopt.calibrate.divergence import Reference
from onnxopt.core import Context
from onnxopt.graph import label
from onnxopt.layers import Layer, layer
from onnxopt.passes.prune.elimination import PROBE, Eliminated, refitted
from onnxopt.passes.prune.reading import FITTED, Numbers, Reading
from onnxopt.samples import Samples

SAMPLES = 64
"""Run for each group, at most."""


class Judge:
    """Runs changed models on the held-out samples, and says how far their outputs are off."""

    def __init__(self, model: ir.Model, context: Context) -> None:
        """Run the model once."""
        assert context.calibration is not None
        self._model = model
        self._reference = Reference(model, held_out(context.calibration), context.target, errors=True)

    def gain(self, readings: Sequence[Reading], eliminated: Eliminated, classes: int) -> float:
        """The error of the outputs over that of the readers, with a share of the classes gone.

        Args:
            readings: of the group, measured.
            eliminated: in which order its channels go.
            classes: how many it has.
        """
        count = max(1, min(round(classes * PROBE), len(eliminated.order)))
        gone, changed = eliminated.order[:count], self._model.clone()
        nodes = {label(node): node for node in changed.graph}
        for reading, ridge in zip(readings, eliminated.ridges, strict=True):
            weights = refitted(reading, gone, ridge)
            _write(nodes[label(reading.layer.node)], reading, weights)
        return self._reference.divergence(changed) / max(float(eliminated.loss[count - 1]), 1e-9)


def held_out(samples: Samples) -> Samples:
    """Of the samples that no moments are fitted on, the first."""
    border = max(1, round(len(samples) * FITTED))
    index = samples.data.index[border : border + SAMPLES] if border < len(samples) else samples.data.index
    return dataclasses.replace(samples, data=dataclasses.replace(samples.data, index=index))


def _write(node: ir.Node, reading: Reading, weights: Numbers) -> None:
    """Put refitted weights into the group of a layer that the reading is of, with the bias that keeps its mean."""
    twins = {value: value for value in node.inputs if value is not None}
    found = layer(node, twins)
    assert isinstance(found, Layer)
    rows, own = found.rows(), reading.weights()
    parts = rows.reshape(found.group, -1, rows.shape[1])
    parts[reading.group] = weights.T
    bias = found.bias_numbers()
    bias = None if bias is None else bias.copy()
    if reading.layer.bias is not None and bias is not None:
        mean = reading.fitted.total / max(reading.fitted.count, 1)
        bias.reshape(found.group, -1)[reading.group] += (mean @ (own - weights)).astype(np.float32)
    found.write(rows, bias)
