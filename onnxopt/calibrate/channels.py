"""What each channel of a value looks like: its smallest and largest number, and its mean square."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxopt.calibrate import tap
from onnxopt.calibrate.histogram import Array
from onnxopt.calibrate.observe import watched
from onnxopt.graph import constant, inferred
from onnxopt.runtime import Outputs, Session
from onnxopt.samples import Samples
from onnxopt.target import Target

AXES_ARE_INPUTS = 18
"""The opset from which all reductions take their axes as an input."""
WHAT = ("low", "high", "squares")


@dataclass(frozen=True)
class Channels:
    """Of the C channels of a value, over all samples and positions.

    Attributes:
        low: the smallest number of each, float64[C].
        high: the largest.
        square: E[x^2].
    """

    low: Array
    high: Array
    square: Array


def channel_statistics(
    model: ir.Model, samples: Samples, axes: Mapping[str, int], target: Target
) -> dict[str, Channels]:
    """The channels of the named float values of the main graph, in one streamed pass; nothing else leaves the session.

    Args:
        model: not changed.
        samples: run once, in order, and read as they are needed; states are fed back.
        axes: value name to its channel axis: 1 for what a Conv reads, -1 for what a matrix product reads. Those of
            unknown rank are left out.
        target: where to run.

    Raises:
        DataError: if a value is NaN or infinite.
        ModelError: if there is no value of a name, or it is not float.
    """
    tapped, values = tap.found(model, axes, samples.state.values())
    known = inferred(tapped)
    ranks = {name: len(shape) for name, value in values.items() if (shape := known[value].shape)}
    for name in reversed(ranks):  # why reversed: see tap.Extremes.of
        _add(tapped.graph, values[name], ranks[name], axes[name] % ranks[name])
    seen: dict[str, list[Array]] = {}
    counts = dict.fromkeys(ranks, 0)
    runs = watched(samples, Session(tapped, target), _Reading(tuple(ranks))) if ranks else ()
    for outputs, _ in runs:
        for name in ranks:
            low, high, squares = (outputs[_output(name, what)].astype(np.float64) for what in WHAT)
            before = seen.setdefault(name, [low, high, np.zeros_like(squares)])
            seen[name] = [np.minimum(before[0], low), np.maximum(before[1], high), before[2] + squares]
            counts[name] += int(outputs[_output(name, "size")]) // max(1, len(squares))
    return {name: Channels(low, high, total / max(counts[name], 1)) for name, (low, high, total) in seen.items()}


@dataclass(frozen=True)
class _Reading:
    """Reads the outputs that ``_add`` made."""

    names: tuple[str, ...]

    def read(self, outputs: Outputs) -> tap.Ends:
        """Smallest and largest sum of squares: not finite where the value is not."""
        sums = {name: outputs[_output(name, "squares")] for name in self.names}
        return {name: (float(array.min()), float(array.max())) for name, array in sums.items() if array.size}


def _add(graph: ir.Graph, value: ir.Value, rank: int, axis: int) -> None:
    """Return the extremes and the sum of squares of each channel, and the number of numbers."""
    name, source = value.name or "", tap.as_float(graph, value)
    others = [place for place in range(rank) if place != axis]
    old = graph.opset_imports.get("", 0) < AXES_ARE_INPUTS
    inputs, attributes = [source], [ir.AttrInt64("keepdims", 0)]
    if old:
        attributes.append(ir.AttrInt64s("axes", others))
    else:
        inputs.append(constant(graph, _output(name, "axes"), np.array(others, np.int64)))
    for op, what in zip(("ReduceMin", "ReduceMax", "ReduceSumSquare"), WHAT, strict=True):
        graph.outputs.append(tap.add(graph, op, inputs, attributes, _output(name, what)))
    graph.outputs.append(tap.add(graph, "Size", [source], [], _output(name, "size"), ir.DataType.INT64))


def _output(name: str, what: str) -> str:
    return f"onnxopt/channels/{what}/{name}"
