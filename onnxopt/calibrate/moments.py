"""Second moments of values, E[x x^T] over a channel axis: for the passes that fit weights to their inputs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from onnxopt.calibrate import tap
from onnxopt.calibrate.histogram import Array
from onnxopt.calibrate.observe import watched
from onnxopt.graph import constant, inferred
from onnxopt.runtime import Outputs, Session
from onnxopt.samples import Samples
from onnxopt.target import Target

BUDGET = 256 * 2**20
"""Bytes of all moments together."""
BYTES = 12
"""Of one number: a float64 sum, and the float32 that one run adds to it."""


@dataclass(frozen=True)
class Moment:
    """Moments of one value x, taken as vectors of C channels: one vector per sample and position.

    Those of what a layer reads (``inputs.input_moments``) are by group: their arrays have an axis more in front.

    Attributes:
        vectors: how many there were.
        mean: E[x], float64[C].
        second: E[x x^T], float64[C, C]; its diagonal E[x^2], float64[C], where that was asked for.
    """

    vectors: int
    mean: Array
    second: Array

    @property
    def covariance(self) -> Array:
        """E[(x - mean)(x - mean)^T], or the variances, shaped as ``second``."""
        diagonal = self.second.ndim == self.mean.ndim
        squared: Array = self.mean**2 if diagonal else self.mean[..., :, None] * self.mean[..., None, :]
        return self.second - squared


@dataclass(frozen=True)
class Moments:
    """What was learned.

    Attributes:
        known: value name to its moments.
        refused: value name to the reason why it has none.
    """

    known: Mapping[str, Moment]
    refused: Mapping[str, str] = field(default_factory=dict)


def second_moments(
    model: ir.Model,
    samples: Samples,
    axes: Mapping[str, int],
    target: Target,
    *,
    diagonal: bool = False,
    budget: int = BUDGET,
) -> Moments:
    """Moments of the named float values of the main graph, in one streamed pass.

    Each run's sum of x x^T is a matrix product inside the graph, in float32; runs are added in float64.

    Args:
        model: not changed.
        samples: run once, in order, and read as they are needed; states are fed back.
        axes: value name to its channel axis: 1 for what a Conv reads, -1 for what a matrix product reads.
        target: where to run.
        diagonal: E[x^2] alone: C numbers instead of C x C.
        budget: bytes of all moments together. The first that fit are taken, in the order of ``axes``.

    Raises:
        DataError: if a value is NaN or infinite.
        ModelError: if there is no value of a name, or it is not float.
    """
    tapped, values = tap.found(model, axes, samples.state.values())
    known = inferred(tapped)
    shapes = {name: known[values[name]].shape for name in axes}
    sizes, refused = _affordable(shapes, axes, diagonal, budget)
    chosen = {name: value for name, value in values.items() if name in sizes}
    for name, value in reversed(chosen.items()):  # why reversed: see tap.Extremes.of
        _add(tapped.graph, value, len(shapes[name] or ()), axes[name], sizes[name], diagonal)
    if not chosen:
        return Moments({}, refused)
    return Moments(_summed(tapped, samples, {name: sizes[name] for name in chosen}, target, diagonal), refused)


def _affordable(
    shapes: Mapping[str, ir.Shape | None], axes: Mapping[str, int], diagonal: bool, budget: int
) -> tuple[dict[str, int], dict[str, str]]:
    """The number of channels of each value whose moments fit into the budget, and why the others' do not."""
    sizes, refused, left = {}, {}, budget
    for name, axis in axes.items():
        size = _channels(shapes[name], axis)
        need = BYTES * (1 if size is None else size if diagonal else size**2)
        if size is None:
            refused[name] = f"its axis {axis} has no fixed size"
        elif need > left:
            refused[name] = f"{size} channels need {need:,} bytes, and {left:,} of the budget are left"
        else:
            sizes[name], left = size, left - need
    return sizes, refused


@dataclass(frozen=True)
class _Sums:
    """Reads the outputs that ``_add`` made."""

    names: Collection[str]

    def read(self, outputs: Outputs) -> tap.Ends:
        """Smallest and largest sum of products: not finite where the value is not."""
        sums = ((name, outputs[_output(name, "products")]) for name in self.names)
        return {name: (float(array.min()), float(array.max())) for name, array in sums}


def _add(graph: ir.Graph, value: ir.Value, rank: int, axis: int, size: int, diagonal: bool) -> None:
    """Return the sum of x, the sum of x x^T (or of x^2), and the number of vectors, over all samples and positions."""
    name = value.name or ""
    order = [place for place in range(rank) if place != axis % rank] + [axis % rank]
    moved = tap.add(
        graph, "Transpose", [tap.as_float(graph, value)], [ir.AttrInt64s("perm", order)], _output(name, "moved")
    )
    shape = constant(graph, _output(name, "shape"), np.array([-1, size], np.int64))
    x = tap.add(graph, "Reshape", [moved, shape], [], _output(name, "vectors"))  # [vectors, C]
    op, how = ("Einsum", ir.AttrString("equation", "vc,vc->c")) if diagonal else ("Gemm", ir.AttrInt64("transA", 1))
    added = [
        tap.add(graph, op, [x, x], [how], _output(name, "products")),
        tap.add(graph, "Einsum", [x], [ir.AttrString("equation", "vc->c")], _output(name, "sum")),
        tap.add(graph, "Size", [x], [], _output(name, "size"), ir.DataType.INT64),
    ]
    graph.outputs.extend(added)


def _summed(
    tapped: ir.Model, samples: Samples, sizes: Mapping[str, int], target: Target, diagonal: bool
) -> dict[str, Moment]:
    """The moments of all values, over all runs."""
    vectors = dict.fromkeys(sizes, 0)
    sums = {name: np.zeros(size) for name, size in sizes.items()}
    products = {name: np.zeros(size if diagonal else (size, size)) for name, size in sizes.items()}
    for outputs, _ in watched(samples, Session(tapped, target), _Sums(sizes)):
        for name, size in sizes.items():
            vectors[name] += int(outputs[_output(name, "size")]) // size
            sums[name] += outputs[_output(name, "sum")]
            products[name] += outputs[_output(name, "products")]
    for name, count in vectors.items():
        sums[name] /= max(count, 1)
        products[name] /= max(count, 1)
    return {name: Moment(vectors[name], sums[name], products[name]) for name in sizes}


def _channels(shape: ir.Shape | None, axis: int) -> int | None:
    """The size of the channel axis, if it is known."""
    if shape is None or not -len(shape) <= axis < len(shape):
        return None
    size = shape[axis]
    return size if isinstance(size, int) and size > 0 else None


def _output(name: str, what: str) -> str:
    return f"onnxopt/{what}/{name}"
