"""What the tests of stored weights share: the numbers behind them, and the bytes that were counted."""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from onnxopt import files, recipes
from onnxopt.core import Change, Context, Pass, Refusal
from onnxopt.data import random_dataset
from onnxopt.graph import initializers, weight_bytes
from onnxopt.passes.simplify.simplify import Simplify
from onnxopt.pipeline import Goal
from onnxopt.runtime import Session, input_specs
from onnxopt.target import Target
from onnxopt.testing import parse

CPU = Target()
LENGTH = 4
"""Bytes by which the length of the graph, which the model holds, may be longer."""


def model_with(text: str, opset: int = 20, **weights: np.ndarray) -> ir.Model:
    """A model with these numbers as its weights."""
    model = parse(text, opset=opset)
    for name, numbers in weights.items():
        value = model.graph.initializers[name]
        value.const_value = ir.Tensor(numbers, name=name)
        value.shape = value.const_value.shape
    return model


def store(model: ir.Model, rewrite: Pass, *, contrib: bool = False) -> tuple[ir.Model, list[Change], list[Refusal]]:
    """A copy with stored weights, and what was said; the bytes are those that were counted, a second run does nothing."""
    copy, context = model.clone(), Context(CPU, allow_contrib=contrib)
    said = list(rewrite.run(copy, context))
    changes = [item for item in said if isinstance(item, Change)]
    contents = files.to_bytes(copy)
    counted = sum(change.saved.file for change in changes if change.saved)
    if copy.opset_imports == model.opset_imports and copy.ir_version == model.ir_version:
        assert abs(len(files.to_bytes(model)) - len(contents) - counted) <= LENGTH
    assert not [item for item in rewrite.run(copy, context) if isinstance(item, Change)], (
        "a second run changed something"
    )
    assert files.to_bytes(copy) == contents
    return copy, changes, [item for item in said if isinstance(item, Refusal)]


def numbers(model: ir.Model, name: str) -> np.ndarray:
    """A value inside the main graph, as ONNX Runtime computes it from the file as it is."""
    copy = model.clone()
    inner = [*copy.graph.initializers.values(), *(value for node in copy.graph for value in node.outputs)]
    value = next(value for value in inner if value.name == name)
    if not value.is_graph_output():
        copy.graph.outputs.append(value)
    found: np.ndarray = Session(copy, CPU, optimize=False).run(feeds(model))[name]
    return found


def feeds(model: ir.Model) -> Mapping[str, np.ndarray]:
    """One set of random inputs."""
    return next(iter(random_dataset(input_specs(model), {}, count=1, seed=0, fill=3, high=3).batches(1))).feeds


def assert_stays(model: ir.Model) -> None:
    """The default recipe without data does not decode what is stored."""
    again = model.clone()
    for rewrite in recipes.default(model, Goal.LATENCY, CPU, has_data=False):
        if not isinstance(rewrite, Simplify):  # a process of its own: its test says that it does not
            rewrite.run(again, Context(CPU))  # type: ignore[union-attr]
    assert narrow_bytes(again) == narrow_bytes(model) > 0
    assert weight_bytes(again) <= weight_bytes(model)


def narrow_bytes(model: ir.Model) -> int:
    """Bytes of what is stored in fewer than 32 bits."""
    held = [value.const_value for value in initializers(model) if value.const_value is not None]
    return sum(contents.nbytes for contents in held if contents.dtype.bitwidth <= 16)
