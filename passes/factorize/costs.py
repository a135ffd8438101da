"""What a model costs with layers split: multiply-accumulates, bytes, or seconds."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxopt.calibrate.shapes import observed_shapes
from onnxopt.core import Context
from onnxopt.graph import weight_bytes
from onnxopt.layers import Layer, Weight
from onnxopt.macs import Shape as Sizes
from onnxopt.macs import node_macs
from onnxopt.passes.factorize.split import Shape, Split, places
from onnxopt.samples import Samples, random_samples

CostOf = Callable[[Weight, Split | None], float]


@dataclass(frozen=True)
class Costs:
    """Of a model.

    Attributes:
        total: with all layers as they are.
        of: a weight's layers, split or as they are.
    """

    total: float
    of: CostOf

    def share(self, weight: Weight, split: Split) -> float:
        """What a split costs, as a share of what the layers cost as they are."""
        return self.of(weight, split) / max(self.of(weight, None), 1e-30)


def samples_of(model: ir.Model, context: Context) -> Samples:
    """The calibration samples; random ones where there are none."""
    return context.calibration or random_samples(model, context.target, {}, seed=context.seed)


def read_shapes(model: ir.Model, weights: Sequence[Weight], context: Context) -> dict[Layer, Sizes]:
    """What each layer of the weights reads, on one sample."""
    layers = [layer for weight in weights for layer in weight.layers]
    names = {layer: value.name or "" for layer in layers if (value := layer.node.inputs[0]) is not None}
    found = observed_shapes(model, samples_of(model, context), list(names.values()), context.target)
    return {layer: found[name] for layer, name in names.items()}


def numbers(model: ir.Model) -> Costs:
    """Bytes of constants."""

    @functools.cache
    def shape(weight: Weight) -> Shape:
        return Shape.of(weight.layers[0])

    def of(weight: Weight, split: Split | None) -> float:
        return 4.0 * shape(weight).numbers(split)

    return Costs(weight_bytes(model), of)


def macs(model: ir.Model, shapes: Mapping[Layer, Sizes], context: Context) -> Costs:
    """Multiply-accumulates; nodes of unknown shape count nothing."""

    @functools.cache
    def known(weight: Weight) -> tuple[Shape, list[tuple[list[tuple[int, int]], int]]]:
        return Shape.of(weight.layers[0]), [places(layer, shapes[layer]) for layer in weight.layers]

    def of(weight: Weight, split: Split | None) -> float:
        shape, found = known(weight)
        return float(sum(shape.macs(split, *one) for one in found))

    return Costs(sum(node_macs(model, samples_of(model, context).first())), of)
