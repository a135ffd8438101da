"""Samples for a model, and no cache but where it is tested."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from onnxopt import cache
from onnxopt.data import open_dataset
from onnxopt.runtime import input_specs
from onnxopt.samples import Samples, with_state


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.OFF, "1")


@pytest.fixture
def sampled(save_npz: Callable[..., Path]) -> Callable[..., Samples]:
    """Samples of these arrays, input name to array; ``state`` as of ``with_state``."""

    def make(model: ir.Model, state: Mapping[str, str] | None = None, **arrays: np.ndarray) -> Samples:
        data = open_dataset(str(save_npz(**arrays)), input_specs(model), optional=state or {})
        return with_state(data, model, state or {})

    return make
