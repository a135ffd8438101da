"""Quantize a model with one of ONNX Runtime's own tools: what ``benchmarks/int8.py`` and ``size.py`` compare with.

    python benchmarks/peers.py default|good|dynamic|float16 MODEL.onnx CALIB.npz OUT.onnx

Prints as JSON what was set or done beyond what the tool's name says. What the tools print goes to standard error.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx
from onnxruntime.quantization import (  # noqa: TID251
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process  # noqa: TID251

from onnxopt import files
from onnxopt.data import open_dataset
from onnxopt.runtime import Session, input_specs
from onnxopt.target import Target

SAMPLES = 300
"""Calibration samples at most, as many as onnxopt takes."""


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Complete feeds of one sample each, states as they were recorded."""

    def __init__(self, model: Path, data: str) -> None:
        """Open the data; nothing is read yet."""
        self.batches = open_dataset(data, input_specs(files.load(model))).take(SAMPLES).batches(1)

    def get_next(self) -> dict[str, Any] | None:
        """The next feed, or None at the end."""
        batch = next(self.batches, None)
        return batch.feeds if batch else None


def static_default(model: Path, data: str, out: Path) -> list[str]:
    """``quantize_static`` with nothing but what it asks for."""
    quantize_static(model, out, Reader(model, data))
    return []


def static_good(model: Path, data: str, out: Path) -> list[str]:
    """``quantize_static`` as its documentation says for x86: QDQ, uint8 activations, int8 weights per channel.

    The pre-processing is run first; where its symbolic shape inference fails, without that part.
    """
    saturates = Target().int8_saturates
    with tempfile.TemporaryDirectory(prefix="onnxopt-bench-") as folder:
        prepared = Path(folder) / "prepared.onnx"
        notes = ["reduce_range"] if saturates else []
        try:
            quant_pre_process(model, prepared)
        except Exception:
            quant_pre_process(model, prepared, skip_symbolic_shape=True)
            notes.append("skip_symbolic_shape")
        quantize_static(
            prepared,
            out,
            Reader(prepared, data),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=saturates,
        )
    return notes


def dynamic(model: Path, data: str, out: Path) -> list[str]:
    """``quantize_dynamic`` with its defaults; where it fails on what an exporter left in value_info, without that."""
    try:
        quantize_dynamic(model, out)
    except Exception:
        bare = onnx.load(model)
        del bare.graph.value_info[:]
        quantize_dynamic(bare, out)
        return ["value_info deleted"]
    return []


def half(model: Path, data: str, out: Path) -> list[str]:
    """ONNX Runtime's float16 converter, inputs and outputs as they are."""
    from onnxruntime.transformers.float16 import convert_float_to_float16  # noqa: TID251

    onnx.save(convert_float_to_float16(onnx.load(model), keep_io_types=True), out)
    return []


TOOLS: Mapping[str, Callable[[Path, str, Path], list[str]]] = {
    "default": static_default,
    "good": static_good,
    "dynamic": dynamic,
    "float16": half,
}


def main(tool: str, *words: str) -> None:
    """Run one tool, and its result once, so that a file that does not run counts as the tool's failure.

    The tools leave files in the working folder where they fail: it is a temporary one.
    """
    model, data, out = (Path(word).resolve() for word in words)
    with (
        tempfile.TemporaryDirectory(prefix="onnxopt-bench-") as folder,
        contextlib.chdir(folder),
        contextlib.redirect_stdout(sys.stderr),
    ):
        notes = TOOLS[tool](model, str(data), out)
    Session(out, Target()).run(Reader(model, str(data)).get_next() or {})
    print(json.dumps(notes))


if __name__ == "__main__":
    main(*sys.argv[1:])
