"""How much each channel of a group matters, by its weights or by its numbers on calibration samples.

Scores are divided by their mean over the group, so that layers compare: a channel of score 0.1 matters a tenth of what
its neighbours do.

=================  ==========================================================================================
l1, l2             norm of the weights that make a channel: Li et al., "Pruning Filters for Efficient ConvNets",
                   ICLR 2017
similarity         sum of distances to the other channels' weights, small where others could stand in: He et al.,
                   "Filter Pruning via Geometric Median", CVPR 2019
activation         mean absolute number
zeros              share of numbers that are not zero: Hu et al., "Network Trimming", 2016
variance           variance of its numbers
weight-activation  squared number times the squared weights that read it: the part of the readers' outputs that is
                   lost without repair, where channels are uncorrelated
=================  ==========================================================================================
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from onnxopt.calibrate.tap import Values
from onnxopt.core import Context
from onnxopt.graph import array
from onnxopt.passes.prune.groups import Group, Groups, channel_axis
from onnxopt.passes.prune.reading import Classes, Numbers, Reading
from onnxopt.runtime import Session

OF_WEIGHTS = ("l1", "l2", "similarity")
OF_NUMBERS = ("activation", "zeros", "variance")


def by_weights(kind: str, group: Group, groups: Groups) -> Numbers:
    """Of each class of a group, from the weights that make it.

    Args:
        kind: one of OF_WEIGHTS.
        group: of the model.
        groups: it is one of.
    """
    found = np.zeros(len(group))
    for role in group.writers:
        numbers, axis = array(role.value), groups.channels(role.value, role.axis)
        if numbers is None or axis is None:
            continue
        rows = np.moveaxis(numbers, role.axis, 0).reshape(len(axis), -1).astype(np.float64)
        found += _normal(_of_classes(_scores(kind, rows), axis, group.classes))
    return _normal(found)


def _scores(kind: str, rows: Numbers) -> Numbers:
    """One for each row."""
    squares: Numbers = (rows**2).sum(1)
    found: Numbers = np.abs(rows).sum(1)
    if kind == "l2":
        found = np.sqrt(squares)
    elif kind == "similarity":
        found = np.sqrt(np.maximum(squares[:, None] + squares - 2 * rows @ rows.T, 0)).sum(1)
    return found


def by_numbers(
    kind: str, model: ir.Model, chosen: Sequence[Group], groups: Groups, context: Context
) -> dict[str, Numbers]:
    """Of each class of each group, by the group's name, from the values that its readers read.

    Args:
        kind: one of OF_NUMBERS.
        model: not changed.
        chosen: groups whose scores are wanted.
        groups: they are of.
        context: calibration samples, and where to run.
    """
    assert context.calibration is not None
    sources = {one.name: list(_sources(one, groups)) for one in chosen}
    names = {value.name or "" for many in sources.values() for value, _ in many}
    tap = Values.of(model, names, context.calibration.state.values())
    sums: dict[tuple[str, int], Numbers] = {}
    for batch, outputs in context.calibration.run(Session(tap.model, context.target)):
        for value, axis in {pair for many in sources.values() for pair in many}:
            rows = np.moveaxis(outputs[tap.outputs[value.name or ""]], axis, 0)
            rows = rows.reshape(len(rows), -1).astype(np.float64)
            found = np.stack([np.abs(rows).mean(1), (rows != 0).mean(1), rows.mean(1), (rows**2).mean(1)])
            sums[value.name or "", axis] = sums.get((value.name or "", axis), 0) + batch.size * found
    total = len(context.calibration)
    scores = {}
    for one in chosen:
        score = np.zeros(len(one))
        for value, axis in sources[one.name]:
            classes = groups.channels(value, axis)
            assert classes is not None
            score += _normal(_of_classes(_statistic(kind, sums[value.name or "", axis] / total), classes, one.classes))
        scores[one.name] = _normal(score)
    return scores


def _statistic(kind: str, means: Numbers) -> Numbers:
    """From the means of absolute numbers, of those that are not zero, of numbers, and of squares."""
    absolute, active, mean, square = means
    found: Numbers = {"activation": absolute, "zeros": active, "variance": square - mean**2}[kind]
    return found


def _sources(group: Group, groups: Groups) -> Iterator[tuple[ir.Value, int]]:
    """The values that the readers of a group read, each with its channel axis."""
    seen = set()
    for role in group.readers:
        value = role.node.inputs[0]
        if value is not None and value not in seen and groups.read_by(role.node) is not None:
            seen.add(value)
            yield value, channel_axis(role.node)


def by_both(readings: Sequence[Reading], classes: Classes) -> Numbers:
    """Squared numbers times squared weights, summed over the readings, which are measured."""
    found = np.zeros(len(classes))
    for reading in readings:
        moments = (reading.fitted + reading.held).second(centred=False)
        energies = np.diagonal(moments) * (reading.weights() ** 2).sum(1)
        found += _of_classes(energies, reading.classes, classes) / max(float(energies.sum()), 1e-30)
    return _normal(found)


def _of_classes(scores: Numbers, axis: Classes, classes: Classes) -> Numbers:
    """Sums over the positions of each class."""
    most = max(int(axis.max(initial=0)), int(classes.max(initial=0)))
    sums: Numbers = np.bincount(axis, weights=scores, minlength=most + 1).astype(np.float64)
    return sums[classes]


def _normal(scores: Numbers) -> Numbers:
    """Over their mean."""
    mean = float(scores.mean()) if len(scores) else 0.0
    return scores / mean if mean > 0 else scores
