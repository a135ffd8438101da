"""Inputs and outputs that stay on the device, so that what is timed is the device's work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from onnxopt.runtime.library import onnxruntime

WARM_UP = 3
"""Runs before the clock starts: cuDNN searches for algorithms in the first, and a CUDA graph is captured in the first
that is bound to fixed memory."""
GRAPH_ID, NO_GRAPH = "gpu_graph_id", "-1"
"""The option of a run, and its value that neither captures nor replays."""


def bound(
    session: Any, feeds: Mapping[str, np.ndarray], device: str, number: int = 0, *, warm_up: int = WARM_UP
) -> Callable[[], None]:
    """One run with inputs and outputs in fixed memory of a device, which returns when the device is done.

    A first run finds how large the outputs are; the memory it gave them is then theirs. What is no tensor stays on the
    CPU.

    Args:
        session: ONNX Runtime's InferenceSession, ``bindable``.
        feeds: its inputs; on the CPU they are not copied.
        device: ``cuda`` or ``cpu``.
        number: of the device.
        warm_up: runs before this returns.
    """
    binding, ort = session.io_binding(), onnxruntime()
    for name, array in feeds.items():
        value = ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), device, number)
        binding.bind_ortvalue_input(name, value)
    outputs = session.get_outputs()
    for output in outputs:
        binding.bind_output(output.name, *((device, number) if _on_device(output.type) else ("cpu", 0)))
    binding.synchronize_inputs()
    first = ort.RunOptions()
    first.add_run_config_entry(GRAPH_ID, NO_GRAPH)
    session.run_with_iobinding(binding, first)
    binding.synchronize_outputs()
    for output, value in zip(outputs, binding.get_outputs(), strict=True):
        if _on_device(output.type):
            binding.bind_ortvalue_output(output.name, value)

    def run() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    for _ in range(warm_up):
        run()
    return run


def bindable(session: Any) -> bool:
    """Whether all inputs can be bound: ONNX Runtime binds numbers only."""
    return all(_on_device(value.type) for value in session.get_inputs())


def _on_device(kind: str) -> bool:
    return kind.startswith("tensor(") and kind != "tensor(string)"
