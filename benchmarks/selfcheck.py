"""Check the clock: a model against itself must not be called faster or slower, 10 % must be.

    python benchmarks/selfcheck.py [--comparisons 200] [--json out.json]

Each comparison loads the model anew: the doubt that more iterations cannot remove arises there. Exit 1
if more than 5 % of the comparisons of a model with itself say faster or slower. About twenty minutes.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx.numpy_helper
import onnx.parser
import onnx_ir as ir

from onnxopt.benchmark import Comparison, Verdict, compare_loads
from onnxopt.runtime import Session
from onnxopt.target import Target

ALLOWED = 0.05
GAIN = 0.10
HEAD = '<ir_version: 10, opset_import: ["" : 18]>'


@dataclass(frozen=True)
class Row:
    """What is said of one model."""

    model: str
    milliseconds: float
    comparisons: int
    faster: float
    slower: float
    rms_log_ratio: float
    worst_log_ratio: float
    median_width: float
    foreign_load: float


def main() -> int:
    """Print both tables; 1 if a model is too often called faster or slower than itself."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=200, help="of each model with itself")
    parser.add_argument("--seconds", type=float, default=0.4, help="of each of them")
    parser.add_argument("--power", type=int, default=10, help="comparisons of full length with a real 10 %%")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    words = parser.parse_args()
    target = Target(threads=words.threads)
    short = {"min_seconds": words.seconds, "slow_seconds": words.seconds}

    selves, gains = [], []
    print(f"{'model against itself':<24}{HEADINGS}")
    for name, model in models().items():
        loaders = [functools.partial(alike, model, target)] * words.comparisons
        selves.append(judged(name, loaders, target, **short))
    print(f"{'against 10 % more time':<24}{HEADINGS}")
    for name, model in models().items():
        loaders = [functools.partial(slowed, model, target)] * words.power
        gains.append(judged(name, loaders, target))
    if words.json:
        tables = {"self": selves, "gain": gains}
        rows = {key: [dataclasses.asdict(row) for row in table if row] for key, table in tables.items()}
        words.json.write_text(json.dumps({"version": 1, **rows}, indent=2) + "\n")
    return int(any(row and row.faster + row.slower > ALLOWED for row in selves))


Runs = tuple[Callable[[], object], Callable[[], object]]
HEADINGS = f"{'ms':>8}{'runs':>6}{'faster':>8}{'slower':>8}{'RMS':>8}{'worst':>8}{'width':>8}{'load':>7}"


def judged(name: str, loaders: Sequence[Callable[[], Runs]], target: Target, **limits: Any) -> Row | None:
    """Compare as often as there are loaders, and print the line."""
    results = [compare_loads(load, threads=target.threads, seed=seed, **limits) for seed, load in enumerate(loaders)]
    if not results:
        return None
    row = summarized(name, results)
    print(
        f"{name:<24}{row.milliseconds:>8.3f}{row.comparisons:>6}{row.faster:>8.1%}{row.slower:>8.1%}"
        f"{row.rms_log_ratio:>8.2%}{row.worst_log_ratio:>8.2%}{row.median_width:>8.2%}{row.foreign_load:>7.2f}",
        flush=True,
    )
    return row


def summarized(name: str, results: list[Comparison]) -> Row:
    """One row of many comparisons; ``width`` and ``load`` are medians."""
    logs = np.log([result.ratio for result in results])
    verdicts = [result.verdict for result in results]
    return Row(
        model=name,
        milliseconds=1e3 * float(np.median([result.b.median for result in results])),
        comparisons=len(results),
        faster=verdicts.count(Verdict.FASTER) / len(results),
        slower=verdicts.count(Verdict.SLOWER) / len(results),
        rms_log_ratio=math.sqrt(float(np.mean(logs**2))),
        worst_log_ratio=float(np.abs(logs).max()),
        median_width=float(np.median([result.high - result.low for result in results])),
        foreign_load=float(np.median([result.environment.foreign_load for result in results])),
    )


def alike(model: ir.Model, target: Target) -> Runs:
    """Two sessions of one model, each with its own input."""
    return runner(model, target), runner(model, target)


def runner(model: ir.Model, target: Target) -> Callable[[], object]:
    """One iteration of a session of its own."""
    session = Session(model, target, spinning=target.threads == 1)
    shape = model.graph.inputs[0].shape
    assert shape is not None
    feeds = {"x": np.random.default_rng(1).standard_normal(shape.numpy()).astype(np.float32)}
    return functools.partial(session.run, feeds)


def slowed(model: ir.Model, target: Target) -> Runs:
    """The first of two sessions waits after each iteration for 10 % of the time that one takes."""
    first, second = alike(model, target)
    extra = GAIN * float(np.median([elapsed(first) for _ in range(50)][10:]))

    def slow() -> None:
        first()
        until = time.perf_counter() + extra
        while time.perf_counter() < until:
            pass

    return slow, second


def elapsed(run: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def models() -> dict[str, ir.Model]:
    """Networks by name; the weights of the last do not fit into the caches."""
    return {
        "MLP 8x320": perceptron(320, 8),
        "conv 6x32, 28x28": convolutions(32, 6, 28),
        "conv 5x64, 40x40": convolutions(64, 5, 40),
        "MLP 4x2048, 64 MB": perceptron(2048, 4),
    }


def perceptron(width: int, layers: int) -> ir.Model:
    """Square matrix products with Relu, batch 1."""
    return network(f"1,{width}", [(width, width)] * layers, "MatMul({x}, {w})")


def convolutions(channels: int, layers: int, side: int) -> ir.Model:
    """3x3 convolutions with Relu on an image of three channels."""
    weights = [(channels, 3 if layer == 0 else channels, 3, 3) for layer in range(layers)]
    return network(f"1,3,{side},{side}", weights, "Conv<pads=[1,1,1,1]>({x}, {w})")


def network(shape: str, weights: Sequence[tuple[int, ...]], operator: str) -> ir.Model:
    """One operator and Relu for every weight, one after the other."""
    random = np.random.default_rng(0)
    lines, tensors, x = [], [], "x"
    for layer, sizes in enumerate(weights):
        values = random.standard_normal(sizes) / math.sqrt(math.prod(sizes[1:]))
        tensors.append(onnx.numpy_helper.from_array(values.astype(np.float32), f"w{layer}"))
        lines.append(f"h{layer} = {operator.format(x=x, w=f'w{layer}')} r{layer} = Relu(h{layer})")
        x = f"r{layer}"
    output = shape.replace("1,3,", f"1,{weights[0][0]},", 1)
    text = f"{HEAD} g (float[{shape}] x) => (float[{output}] {x}) {{ {' '.join(lines)} }}"
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(tensors)
    built: ir.Model = ir.from_proto(model)
    return built


if __name__ == "__main__":
    sys.exit(main())
