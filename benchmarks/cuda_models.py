"""The networks of cuda_float16.py: graphs without their weights, which are drawn again where they are needed.

A folder of graphs is a few MB and travels to a machine with a GPU that has no PyTorch; the weights are NumPy's random
numbers, the same there as here, and the statistics of the batch norms are those of the network with these weights.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from onnxopt.export.inputs import Input, draw, example_sizes
from onnxopt.models.zoo import IMAGES_SEEN, SEEN, ZOO, Network

LEAST = 4096
"""Numbers of a weight that is drawn again; smaller ones stay in the graph."""


@dataclass(frozen=True)
class Case:
    """A network of the benchmark.

    Attributes:
        name: as the table calls it.
        zoo: as ``onnxopt export`` does.
        kind: what onnxruntime.transformers takes it for; None for a convolutional network.
        must: whether float16 has to be 1.5 times as fast as float32 at batch 32.
        small: arguments of the network where only the script is tried.
    """

    name: str
    zoo: str
    kind: str | None = None
    must: bool = True
    small: Mapping[str, int] = field(default_factory=dict)

    def network(self, *, small: bool) -> Network:
        """With images and sequences as in the zoo, or such as a processor gets through."""
        network = ZOO[self.zoo]
        if not small:
            return network
        # a vision transformer takes images of one size only
        length = 16 if self.kind in ("bert", "gpt2") else 64 if self.kind is None else 224
        inputs = [replace(one, shape=tuple(min(size, length) for size in one.shape)) for one in network.inputs]
        return replace(network, inputs=tuple(inputs))


CASES = (
    Case("ResNet-50", "resnet50"),
    Case("MobileNetV2", "mobilenet_v2", must=False),
    Case("ViT-S", "vit_small_patch16", "vit"),
    Case("BERT-base", "bert_base", "bert", small={"layers": 2, "vocab": 1000}),
    Case("GPT-2", "gpt2", "gpt2", must=False, small={"layers": 2, "vocab": 1000}),
)


@dataclass(frozen=True)
class Weight:
    """How a weight of a graph is drawn.

    Attributes:
        name: of the parameter; it is the seed.
        shape: of the parameter.
        std: of its numbers.
        transposed: whether the graph holds the transpose.
    """

    name: str
    shape: tuple[int, ...]
    std: float
    transposed: bool = False

    def numbers(self) -> np.ndarray:
        """The same numbers everywhere."""
        random = np.random.default_rng(zlib.crc32(self.name.encode()))
        found = random.standard_normal(self.shape, np.float32) * np.float32(self.std)
        return np.ascontiguousarray(found.T) if self.transposed else found


def prepare(case: Case, folder: Path, *, small: bool) -> Path:
    """Export a network with weights that can be drawn again, and write its graph without them; needs PyTorch."""
    import torch

    from onnxopt.export.export import Settings, export, tensors
    from onnxopt.models.initialise import initialise

    network, arguments = case.network(small=small), case.small if small else {}
    module, inputs = network.build(arguments), inputs_of(case, small=small)
    seen = tensors(inputs, SEEN | {"batch": IMAGES_SEEN} if case.kind in (None, "vit") else SEEN, 0)
    initialise(module, seen)
    weights = [
        Weight(name, tuple(parameter.shape), float(parameter.detach().std()))
        for name, parameter in module.named_parameters()
        if parameter.numel() >= LEAST
    ]
    with torch.no_grad():
        for weight in weights:
            module.get_parameter(weight.name).copy_(torch.from_numpy(weight.numbers()))
        _measure(module, seen)
    path = folder / f"{case.zoo}.onnx"
    path.unlink(missing_ok=True)
    export(module, path, inputs, Settings(outputs=network.outputs, keep_layers=True))
    model = onnx.load(path)
    taken = strip(model, weights)
    onnx.save(model, path)
    recipe = {"small": small, "weights": {name: asdict(weight) for name, weight in taken.items()}}
    path.with_suffix(".json").write_text(json.dumps(recipe, indent=1) + "\n")
    return path


def prepared(case: Case, folder: Path, *, small: bool) -> bool:
    """Whether the graph is there."""
    recipe = folder / f"{case.zoo}.json"
    return recipe.exists() and json.loads(recipe.read_text())["small"] is small


def _measure(module: Any, seen: Mapping[str, Any]) -> None:
    """The statistics of the batch norms with the weights as they are now."""
    from torch.nn.modules.batchnorm import _BatchNorm

    norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    if norms:
        module(*seen.values())
    module.eval()


def strip(model: onnx.ModelProto, weights: Sequence[Weight]) -> dict[str, Weight]:
    """Take the weights that can be drawn out of a graph; how, by their names in it."""
    taken: dict[str, Weight] = {}
    for tensor in [one for one in model.graph.initializer if math.prod(one.dims) >= LEAST]:
        numbers = numpy_helper.to_array(tensor)
        for weight in _forms(weights, numbers.shape):
            if np.array_equal(weight.numbers(), numbers):
                taken[tensor.name] = weight
                model.graph.initializer.remove(tensor)
                break
    return taken


def _forms(weights: Sequence[Weight], shape: tuple[int, ...]) -> Iterator[Weight]:
    for weight in weights:
        if weight.shape == shape:
            yield weight
        if len(shape) == 2 and weight.shape == shape[::-1]:
            yield replace(weight, transposed=True)


def filled(graph: Path) -> onnx.ModelProto:
    """A prepared graph with its weights."""
    model, recipe = onnx.load(graph), json.loads(graph.with_suffix(".json").read_text())
    for name, words in recipe["weights"].items():
        weight = Weight(**{**words, "shape": tuple(words["shape"])})
        model.graph.initializer.append(numpy_helper.from_array(weight.numbers(), name))
    onnx.checker.check_model(model)
    return model


def inputs_of(case: Case, *, small: bool) -> tuple[Input, ...]:
    """The inputs, with token numbers that a small vocabulary has."""
    most = case.small.get("vocab") if small else None
    inputs = case.network(small=small).inputs
    return tuple(replace(one, high=min(one.high, most - 1)) if most and one.high else one for one in inputs)


def feeds(case: Case, batch: int, *, small: bool) -> dict[str, np.ndarray]:
    """Random inputs of a batch."""
    inputs = inputs_of(case, small=small)
    return draw(inputs, {**example_sizes(inputs), "batch": batch}, 0)
