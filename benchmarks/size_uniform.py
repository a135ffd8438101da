"""Sixteen values for each weight, in four ways: what they do to the outputs of a model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from contenders import Given

from onnxopt import files
from onnxopt.calibrate.divergence import Reference
from onnxopt.calibrate.inputs import input_moments
from onnxopt.calibrate.sensitivity import shift
from onnxopt.core import Context
from onnxopt.data import open_dataset
from onnxopt.layers import changed, weights
from onnxopt.optimize import tidy
from onnxopt.passes.cluster.codebook import codebook, halved, nearest
from onnxopt.passes.cluster.found import Wanted
from onnxopt.passes.cluster.study import Study
from onnxopt.runtime import input_specs
from onnxopt.samples import Samples
from onnxopt.target import Target

LEVELS = 16
SHARES = np.linspace(0.5, 1.0, 26)
"""Of the largest weight of a channel, tried as the end of its grid."""


def uniform(given: Given) -> dict[str, float]:
    """The divergence of each way, with biases that take up the mean error, on calibration samples."""
    model, _ = tidy(files.load(given.model), Target())
    samples = Samples(open_dataset(str(given.calib), input_specs(model)))
    context = Context(Target(), samples)
    reference = Reference(model, samples, context.target)
    found = {}
    for name, how in (("nearest", rounded), ("k-means", clustered)):
        found[name] = reference.divergence(written(model, context, how))
    study = Study(model, context, Wanted(2, (), ()))
    layers = {weight.name for weight in weights(model)[0]}
    levels = {name: LEVELS if name in layers else 2**32 for name in study.units}
    found["apart"] = reference.divergence(study.apart(levels).model)
    found["ours"] = reference.divergence(study.in_step(levels).model)
    return found


def written(model: ir.Model, context: Context, how: Callable[[np.ndarray], np.ndarray]) -> ir.Model:
    """The model with all weights of layers replaced."""
    new = {}
    for weight, moment in input_moments(model, weights(model)[0], context):
        rows = how(weight.rows.astype(np.float64)).astype(np.float32)
        new[weight.name] = rows, shift(weight, rows, moment.mean)
    return changed(model, new)


def rounded(rows: np.ndarray) -> np.ndarray:
    """To the nearest of a grid from -8 to 7 steps, the step of each channel the one with the least squared error."""
    largest = np.maximum(np.abs(rows).max(axis=1, keepdims=True), 1e-12) / (LEVELS / 2 - 0.5)
    best, least = rows, np.full((len(rows), 1), np.inf)
    for share in SHARES:
        step = np.maximum(halved(largest * share), 1e-12)
        values = np.clip(np.rint(rows / step), -LEVELS // 2, LEVELS // 2 - 1) * step
        error = np.square(values - rows).sum(axis=1, keepdims=True)
        best, least = np.where(error < least, values, best), np.minimum(error, least)
    return best


def clustered(rows: np.ndarray) -> np.ndarray:
    """To the nearest of a table for the whole tensor."""
    table = halved(codebook(rows, np.ones_like(rows), LEVELS))
    return table[nearest(table, rows)]
