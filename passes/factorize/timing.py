"""How long layers take, split and as they are: measured for some ranks of each shape, and interpolated between."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import onnx_ir as ir

from onnxopt import files
from onnxopt.benchmark import LOAD_LIMIT
from onnxopt.core import Context
from onnxopt.errors import ModelError
from onnxopt.graph import opset
from onnxopt.layers import Layer, Weight, weights
from onnxopt.load import ForeignLoad
from onnxopt.macs import Shape as Sizes
from onnxopt.parts import Store, costs
from onnxopt.passes.factorize.candidates import Ways, some
from onnxopt.passes.factorize.costs import Costs, samples_of
from onnxopt.passes.factorize.split import Axes, Shape, Split
from onnxopt.passes.factorize.writing import BIASLESS_GEMM, write
from onnxopt.stopwatch import Cost, run_seconds

SECONDS = 5.0
"""For the kernels of all layers together."""
WHOLE_SECONDS = 2.0
"""For the model."""
POINTS = {1: 4, 2: 3}
"""Ranks that are timed for a shape and a form, by how many ranks that has: of two, all pairs."""

Ranks = tuple[int, ...]


def seconds(model: ir.Model, ways: Sequence[Ways], shapes: Mapping[Layer, Sizes], context: Context) -> Costs:
    """Time of one run; of layers, that of their kernels alone, so that a split counts with what it saves of it.

    Args:
        model: not changed.
        ways: of its weights: the splits that are to be known.
        shapes: of what their layers read.
        context: where to run, and on what.
    """
    known: dict[str, float] = {}
    tables: dict[Weight, _Table] = {}
    for one in ways:
        places = [_Place(layer, shapes[layer], opset(model)) for layer in one.weight.layers]
        tables[one.weight] = _Table(places, _grids(one.losses), known)
        parts = {key: part for place in places for key, part in place.parts(tables[one.weight].timed(), known)}
        known |= {key: cost.kernel for key, cost in costs(parts, context.target, SECONDS / len(ways)).items()}
    return Costs(_whole(model, context), lambda weight, split: tables[weight].time(split))


@dataclass(frozen=True)
class _Place:
    """A layer, and what it reads."""

    layer: Layer
    read: Sizes
    opset: int

    def key(self, split: Split | None) -> str:
        """All that decides the time."""
        attributes = sorted((one.name, str(one.value)) for one in self.layer.node.attributes.values())
        ways = (split.axes, split.between) if split else None
        words = (self.layer.node.op_type, attributes, self.layer.numbers().shape, self.read, ways, self.opset)
        return f"split {words!r}"

    def parts(self, splits: Sequence[Split | None], known: Mapping[str, float]) -> list[tuple[str, ir.Model]]:
        """What is not known yet."""
        keys = {self.key(split): split for split in splits}
        return [(key, self._part(split)) for key, split in keys.items() if key not in known]

    def _part(self, split: Split | None) -> ir.Model:
        """The layer alone, without its bias and with zeros for weights, which take as long as others."""
        node, shape = self.layer.node, Shape.of(self.layer)
        op = "MatMul" if node.op_type == "Gemm" and self.opset < BIASLESS_GEMM else node.op_type
        sizes = (shape.outputs, shape.inputs, *shape.kernel) if op == "Conv" else (shape.inputs, shape.outputs)
        kind, zeros = ir.TensorType(ir.DataType.FLOAT), ir.Tensor(np.zeros(sizes, np.float32), name="w")
        x, y = ir.Value(name="x", type=kind, shape=ir.Shape(self.read)), ir.Value(name="y", type=kind)
        w = ir.Value(name="w", type=kind, shape=zeros.shape, const_value=zeros)
        attributes = [] if op == "MatMul" else [one for one in node.attributes.values() if one.name != "transB"]
        made = ir.Node("", op, [x, w], attributes, outputs=[y], name="y")
        graph = ir.Graph([x], [y], nodes=[made], initializers=[w], opset_imports={"": self.opset}, name="part")
        model = ir.Model(graph, ir_version=8)
        if split is not None:
            (weight,) = weights(model)[0]
            write(model, weight, split, [np.zeros(one, np.float32) for one in shape.weights(split)])
        return model


@dataclass(frozen=True)
class _Table:
    """Times of a weight's layers.

    Attributes:
        places: of its layers.
        grids: of each form, by its axes, the ranks that are timed.
        known: seconds by key; grows.
    """

    places: Sequence[_Place]
    grids: Mapping[Axes, tuple[Ranks, ...]]
    known: Mapping[str, float]

    def timed(self) -> list[Split | None]:
        """What is measured."""
        return [None, *(Split(axes, ranks) for axes, grid in self.grids.items() for ranks in product(*grid))]

    def time(self, split: Split | None) -> float:
        """Of all layers; of a split that does not run by itself, infinity."""
        if split is None:
            return sum(self.known.get(place.key(None), 0.0) for place in self.places)

        def measured(ranks: Ranks) -> float:
            other = Split(split.axes, ranks)
            return sum(self.known.get(place.key(other), math.inf) for place in self.places)

        return _interpolated(self.grids[split.axes], split.between, measured)


def _interpolated(grid: Sequence[Ranks], at: Ranks, measured: Callable[[Ranks], float], ranks: Ranks = ()) -> float:
    """Linearly between the ranks of a grid, one after the other."""
    if len(ranks) == len(grid):
        return measured(ranks)
    points = grid[len(ranks)]
    return float(
        np.interp(at[len(ranks)], points, [_interpolated(grid, at, measured, (*ranks, one)) for one in points])
    )


def _grids(splits: Mapping[Split, float]) -> dict[Axes, tuple[Ranks, ...]]:
    """Of each form, some of the ranks that there are, the least and the greatest among them."""
    found: dict[Axes, tuple[Ranks, ...]] = {}
    for axes in dict.fromkeys(split.axes for split in splits):
        all_ = [sorted(set(ranks)) for ranks in zip(*(one.between for one in splits if one.axes == axes), strict=True)]
        found[axes] = tuple(tuple(some(ranks, POINTS[len(all_)])) for ranks in all_)
    return found


def _whole(model: ir.Model, context: Context) -> float:
    """Seconds of one run of the model; kept, for what is decided by it is decided alike the next time."""
    feeds, store = samples_of(model, context).first(), Store(context.target)
    key = _digest(model, {name: np.shape(array) for name, array in feeds.items()})
    if key in store.known:
        return store.known[key].kernel
    load = ForeignLoad()
    found = run_seconds(model, feeds, context.target, WHOLE_SECONDS)
    if key:
        store.add({key: Cost(0.0, found, 0.0)}, quiet=load.share() <= LOAD_LIMIT)
    return found


def _digest(model: ir.Model, shapes: Mapping[str, Sizes]) -> str:
    """A key for the model and its inputs; empty where it is too large to be hashed."""
    try:
        content = hashlib.sha256(files.to_bytes(model))
    except ModelError:
        return ""
    content.update(repr(sorted(shapes.items())).encode())
    return f"model {content.hexdigest()}"
