"""What an error at the readers of a group means at the outputs of the model: measured on samples held out.

A group is pruned alone by a share, its readers refitted on the first samples, and the model run on the others. Judged
on the samples it was fitted on, a layer before a classifier looked nearly free (error 0.024 instead of 0.154), and a
network lost half its accuracy over it (measured on a MobileNetV2).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxopt.core import Context
from onnxopt.graph import label
from onnxopt.layers import Layer, layer
from onnxopt.passes.prune.elimination import PROBE, Eliminated, refitted
from onnxopt.passes.prune.reading import FITTED, Numbers, Reading
from onnxopt.runtime import Outputs, Session
from onnxopt.samples import Samples

SAMPLES = 64
"""Run for each group, at most."""


class Judge:
    """Runs changed models on the held-out samples, and says how far their outputs are off."""

    def __init__(self, model: ir.Model, context: Context) -> None:
        """Run the model once."""
        assert context.calibration is not None
        self._model, self._target, self._samples = model, context.target, held_out(context.calibration)
        self._expected = [dict(outputs) for outputs in self._run(model)]
        self._spread = {name: _spread([outputs[name] for outputs in self._expected]) for name in self._names()}

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
        return self.error(changed) / max(float(eliminated.loss[count - 1]), 1e-9)

    def error(self, model: ir.Model) -> float:
        """The squared error of the outputs, each as a share of its variance over the samples; their mean."""
        errors = dict.fromkeys(self._names(), 0.0)
        for outputs, expected in zip(self._run(model), self._expected, strict=True):
            for name in errors:
                errors[name] += float(((outputs[name] - expected[name]).astype(np.float64) ** 2).sum())
        return float(np.mean([error / self._spread[name] for name, error in errors.items()])) if errors else 0.0

    def _run(self, model: ir.Model) -> Iterator[Outputs]:
        return (outputs for _, outputs in self._samples.run(Session(model, self._target)))

    def _names(self) -> list[str]:
        """The outputs that are floats."""
        first: Mapping[str, np.ndarray] = self._expected[0] if self._expected else {}
        return [name for name, array in first.items() if np.issubdtype(np.asarray(array).dtype, np.floating)]


def held_out(samples: Samples) -> Samples:
    """Of the samples that no moments are fitted on, the first."""
    border = max(1, round(len(samples) * FITTED))
    index = samples.data.index[border : border + SAMPLES] if border < len(samples) else samples.data.index
    return dataclasses.replace(samples, data=dataclasses.replace(samples.data, index=index))


def _spread(outputs: Sequence[np.ndarray]) -> float:
    """The sum of squares about the mean of all samples; about 0 where there is one sample, or they have many shapes."""
    alike = len({array.shape[1:] for array in outputs}) == 1 and sum(map(len, outputs)) > 1
    joined = np.concatenate(outputs).astype(np.float64) if alike else np.concatenate([a.reshape(-1) for a in outputs])
    return max(float(((joined - joined.mean(0) if alike else joined) ** 2).sum()), 1e-30)


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
