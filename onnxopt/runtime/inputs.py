"""The inputs that a model asks for, and the states among them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt.core import suggestion
from onnxopt.data import InputSpec
from onnxopt.errors import ModelError, UsageError

Outputs = dict[str, Any]
"""Output name to array (or list, for sequence types)."""


def input_specs(model: ir.Model) -> tuple[InputSpec, ...]:
    """The inputs a caller must give: those without an initializer behind them.

    Raises:
        ModelError: for an input that is not a tensor.
    """
    return tuple(_spec(value) for value in model.graph.inputs if value.name not in model.graph.initializers)


def zero_state(specs: Iterable[InputSpec], state: Mapping[str, str]) -> Outputs:
    """Zeros for every state input, with 1 for each dynamic dimension.

    Raises:
        UsageError: if the model has no input of that name.
    """
    known = {spec.name: spec for spec in specs}
    for name in state:
        if name not in known:
            raise UsageError(f"--state {name}: the model has no input {name!r}{suggestion(name, known)}")
    return {
        name: np.zeros([d if isinstance(d, int) else 1 for d in known[name].shape or ()], known[name].dtype)
        for name in state
    }


def check_state(model: ir.Model, state: Mapping[str, str]) -> None:
    """Each state input must be an input, each state output an output.

    Raises:
        UsageError: if not.
    """
    zero_state(input_specs(model), state)
    outputs = [value.name or "" for value in model.graph.outputs]
    for name, source in state.items():
        if source not in outputs:
            raise UsageError(
                f"--state {name}={source}: the model has no output {source!r}{suggestion(source, outputs)}"
            )


def _spec(value: ir.Value) -> InputSpec:
    if not isinstance(value.type, ir.TensorType) or value.name is None:
        raise ModelError(f"input {value.name!r} is not a tensor; onnxopt feeds tensors only")
    dtype = np.dtype(object) if value.dtype is ir.DataType.STRING else np.dtype(value.type.dtype.numpy())
    if value.shape is None:
        return InputSpec(value.name, dtype, None)
    return InputSpec(value.name, dtype, tuple(d if isinstance(d, int) else d.value for d in value.shape))
