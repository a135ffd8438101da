"""Time and memory of calibrating ResNet-50, against plain inference and ONNX Runtime's own calibrator.

    python benchmarks/calibration.py [--images 100] [--ort-images 16] [--rounds 3] [--json out.json]

Every run is a process of its own, on one thread, from the loaded model to the ranges; the sessions' start is in it.
Rounds alternate between the methods, and the median of their seconds is shown; memory is the process's peak.
Exit 1 if calibration takes more than 1.3 times the memory of plain inference, or more than 2 times its time for
min-max, 2.5 times for histograms. About ten minutes on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt import files
from onnxopt.calibrate import calibrate
from onnxopt.data import open_dataset
from onnxopt.optimize import peak_memory
from onnxopt.runtime import Session, input_specs
from onnxopt.samples import Samples, with_state
from onnxopt.target import Target

VERSION = 1
"""Of the JSON form. 1: first."""
TARGET = Target()
MEMORY = 1.3
"""Times the memory of plain inference, at most."""
TIME = {"min-max": 2.0, "moving-average": 2.0, "percentile": 2.5, "entropy": 2.5, "mse": 2.5, "auto": 2.5}
"""Times its seconds, at most."""
ORT_OPS = ["Conv", "Relu", "Add", "MaxPool", "ReduceMean", "Gemm"]


def main() -> int:
    """Print the table; 1 if a limit is passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--ort-images", type=int, default=16, help="for ONNX Runtime's calibrator; 0 leaves it out")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--methods", default="min-max,percentile,mse", help=f"of {', '.join(TIME)}")
    parser.add_argument("--model", type=Path, help="a model of one image input, instead of resnet50")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.child:
        method, model, data, images = words.child
        print(json.dumps(measured(method, Path(model), data, int(images))))
        return 0
    with tempfile.TemporaryDirectory(prefix="onnxopt-bench-") as folder:
        path = words.model or exported(Path(folder))
        data = Path(folder) / "images.npz"
        save_images(files.load(path), data, words.images)
        rows = table(path, data, words)
    if words.json:
        words.json.write_text(json.dumps({"version": VERSION, "images": words.images, "rows": rows}, indent=2) + "\n")
    return int(any(row["problems"] for row in rows))


def exported(folder: Path) -> Path:
    """ResNet-50 with initial weights."""
    path = folder / "resnet50.onnx"
    command = [sys.executable, "-m", "onnxopt.cli.main", "export", "resnet50", "-o", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    return path


def save_images(model: ir.Model, path: Path, count: int) -> None:
    """Random images for the model's input."""
    (spec,) = input_specs(model)
    shape = [dim for dim in (spec.shape or ())[1:] if isinstance(dim, int)]
    np.savez(path, **{spec.name: np.random.default_rng(0).standard_normal((count, *shape), np.float32)})


def table(model: Path, data: Path, words: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each method, printed as they come."""
    methods = ["plain", *words.methods.split(",")]
    runs: dict[str, list[dict[str, float]]] = {method: [] for method in methods}
    for _ in range(words.rounds):
        for method in methods:
            runs[method].append(process(method, model, data, words.images))
    rows = [row(method, runs[method], words.images, runs["plain"]) for method in methods]
    if count := min(words.ort_images, words.images):
        plain = [process("plain", model, data, count)]
        rows.append(row("ORT Percentile", [process("ort", model, data, count)], count, plain))
        if "percentile" in methods:
            rows.append(row("percentile", [process("percentile", model, data, count)], count, plain))
            rows[-1]["problems"] = []  # too few images for the limits: the sessions' start weighs more
    print(f"{'':<16}{'images':>7}{'s':>8}{'to plain':>9}{'MiB':>7}{'to plain':>9}")
    for one in rows:
        print(
            f"{one['method']:<16}{one['images']:>7}{one['seconds']:>8.1f}{one['time_ratio']:>9.2f}"
            f"{one['memory'] / 2**20:>7.0f}{one['memory_ratio']:>9.2f}  {'; '.join(one['problems'])}"
        )
    return rows


def row(method: str, runs: list[dict[str, float]], images: int, plain: list[dict[str, float]]) -> dict[str, Any]:
    """Median seconds and largest memory of the runs of one method, and both over those of plain inference."""
    seconds, memory = np.median([run["seconds"] for run in runs]), max(run["memory"] for run in runs)
    time_ratio = float(seconds / np.median([run["seconds"] for run in plain]))
    memory_ratio = memory / max(run["memory"] for run in plain)
    problems = [f"over {TIME[method]} times the seconds"] if time_ratio > TIME.get(method, np.inf) else []
    problems += [f"over {MEMORY} times the memory"] if method in TIME and memory_ratio > MEMORY else []
    return {
        "method": method,
        "images": images,
        "seconds": float(seconds),
        "all_seconds": [run["seconds"] for run in runs],
        "memory": memory,
        "time_ratio": time_ratio,
        "memory_ratio": memory_ratio,
        "problems": problems,
    }


def process(method: str, model: Path, data: Path, images: int) -> dict[str, float]:
    """One run in its own process."""
    command = [sys.executable, __file__, "--child", method, str(model), str(data), str(images)]
    environment = {**os.environ, "ONNXOPT_NO_CACHE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def measured(method: str, path: Path, data: str, images: int) -> dict[str, float]:
    """Seconds and peak memory of one method; what is imported and loaded before is in the memory alone."""
    model = files.load(path)
    samples = with_state(open_dataset(data, input_specs(model)).take(images), model, {})
    names = tapped(model)
    run = {"plain": lambda: infer(model, samples), "ort": lambda: by_onnxruntime(path, samples)}
    chosen: Callable[[], object] = run.get(method, lambda: calibrate(model, samples, names, TARGET, method))
    start = time.perf_counter()
    chosen()
    return {"seconds": time.perf_counter() - start, "memory": peak()}


def tapped(model: ir.Model) -> list[str]:
    """What ``quantize-int8`` asks for: all values that nodes read, but those that a Relu alone reads."""
    values = {value.name: value for node in model.graph for value in node.inputs if value and value.const_value is None}
    readers = {name: [use.node.op_type for use in value.uses()] for name, value in values.items()}
    return [name for name, ops in readers.items() if name and ops != ["Relu"]]


def infer(model: ir.Model, samples: Samples) -> None:
    """Plain inference."""
    for _ in samples.run(Session(model, TARGET)):
        pass


def by_onnxruntime(path: Path, samples: Samples) -> None:
    """ONNX Runtime's percentile calibrator, image by image as its documentation has it."""
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod  # noqa: TID251
    from onnxruntime.quantization.calibrate import create_calibrator  # noqa: TID251

    class Images(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches = samples.data.batches(1)

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.batches, None)
            return batch.feeds if batch else None

    with tempfile.TemporaryDirectory(prefix="onnxopt-bench-") as folder:
        augmented = str(Path(folder) / "augmented.onnx")
        calibrator = create_calibrator(path, ORT_OPS, augmented, calibrate_method=CalibrationMethod.Percentile)
        calibrator.set_execution_providers(["CPUExecutionProvider"])
        calibrator.collect_data(Images())
        calibrator.compute_data()


def peak() -> int:
    """Peak resident bytes of this process; on Linux without what it had as a copy of its parent."""
    status = Path("/proc/self/status")
    if not status.exists():
        return peak_memory()
    lines = status.read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    sys.exit(main())
