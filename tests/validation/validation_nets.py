"""Small models for the tests of validation, and how they are damaged."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxopt import files
from onnxopt.testing import parse
from onnxopt.validation import Options, Validation, validate

CHAIN = """g (float[n,8] x) => (float[n,4] y)
<float[8,8] w1, float[8,8] w2, float[8,8] w3, float[8,8] w4, float[8,4] w5>
{ h1 = MatMul(x, w1)  a1 = Relu(h1)
  h2 = MatMul(a1, w2) a2 = Relu(h2)
  h3 = MatMul(a2, w3) a3 = Add(h3, a1)
  h4 = MatMul(a3, w4) a4 = Tanh(h4)
  y = MatMul(a4, w5) }"""


def edited(model: ir.Model, name: str, change: Callable[[np.ndarray], np.ndarray]) -> ir.Model:
    """A copy with other numbers in one initializer."""
    copy = model.clone()
    value = copy.graph.initializers[name]
    assert value.const_value is not None
    numbers = value.const_value.numpy()
    value.const_value = ir.tensor(np.asarray(change(numbers.copy())).astype(numbers.dtype), name=name)
    return copy


def spoiled(model: ir.Model, *names: str) -> ir.Model:
    """A copy in which one number of each of these weights is far off."""

    def spoil(numbers: np.ndarray) -> np.ndarray:
        numbers.flat[numbers.size // 2] += 3
        return numbers

    for name in names:
        model = edited(model, name, spoil)
    return model


def compared(old: ir.Model | str, new: ir.Model | str, folder: Path, options: Options | None = None) -> Validation:
    """Validate two models in memory."""
    paths = [folder / "old.onnx", folder / "new.onnx"]
    for model, path in zip((old, new), paths, strict=True):
        files.save(parse(model) if isinstance(model, str) else model, path)
    return validate(*paths, options)
