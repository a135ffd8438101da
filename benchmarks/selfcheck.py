"""Check the clock: what it says of a model against itself, of 3 % more time, and of two models 30 % apart.

    python benchmarks/selfcheck.py [--comparisons 200] [--json out.json]

Exit 1 if more than 5 % of the short comparisons of models with themselves say faster or slower (of one model 8 %: of
200, a true share of 5 % lies under that in 97.5 % of cases), if 3 % of waiting are found in fewer than 90 % of
comparisons of at most 10 s, or if a ratio is 3 % off that of a long run. About 35 minutes.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx.numpy_helper
import onnx.parser
import onnx_ir as ir

from onnxopt import files
from onnxopt.benchmark import Comparison, Verdict, compare_loads
from onnxopt.runtime import Session
from onnxopt.target import Target

ALLOWED, OF_ONE = 0.05, 0.08
WAIT, FOUND, WITHIN = 0.03, 0.9, 10.0
OFF = 0.03
LONGER = {"MLP 10x320": "MLP 8x320", "conv 8x32": "conv 6x32", "conv 6x64": "conv 5x64", "MLP 5x2048": "MLP 4x2048"}
"""Networks that take about 30 % longer than others."""
HEAD = '<ir_version: 10, opset_import: ["" : 18]>'


@dataclass(frozen=True)
class Row:
    """What is said of one model (or pair) by many comparisons.

    Attributes:
        milliseconds: of one iteration, median.
        comparisons: how many.
        faster, slower: shares of them that said so.
        rms, worst: of the distance of the logarithm of the ratio from what it should be.
        width: half of the interval, median.
        seconds: that a comparison took, loading counted: the longest.
        load: share of a CPU that others used, median.
        reached: whether it is as it must be.
    """

    model: str
    milliseconds: float
    comparisons: int
    faster: float
    slower: float
    rms: float
    worst: float
    width: float
    seconds: float
    load: float
    reached: bool


def main() -> int:
    """Print three tables; 1 if something of the above is not reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=200, help="of each model with itself, short ones")
    parser.add_argument("--seconds", type=float, default=0.3, help="of each of them, loading not counted")
    parser.add_argument("--power", type=int, default=20, help="comparisons with 3 %% of waiting")
    parser.add_argument("--long", type=float, default=40.0, help="seconds of the long run of two models 30 %% apart")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    words = parser.parse_args()
    target = Target(threads=words.threads)
    with tempfile.TemporaryDirectory() as folder:
        written = {name: saved(model, Path(folder) / f"{place}.onnx") for place, (name, model) in enumerate(models())}
        tables = compared(written, target, words)
    if words.json:
        rows = {key: [dataclasses.asdict(row) for row in table] for key, table in tables.items()}
        words.json.write_text(json.dumps({"version": 2, **rows}, indent=2) + "\n")
    called = float(np.mean([row.faster + row.slower for row in tables["self"]]))
    print(f"\nof all comparisons of a model with itself {called:.1%} were called faster or slower")
    return int(called > ALLOWED or not all(row.reached for rows in tables.values() for row in rows))


def compared(subjects: Mapping[str, Subject], target: Target, words: argparse.Namespace) -> dict[str, list[Row]]:
    """The three tables."""
    short = {"min_seconds": words.seconds, "patience": 1.0}
    some = {name: subject for name, subject in subjects.items() if name not in LONGER}
    pairs = {f"{long} and {name}": (subjects[long], subjects[name]) for long, name in LONGER.items()}
    return {
        "self": table("self", (alike(*each, target, words.comparisons, **short) for each in some.items())),
        "waiting": table("waiting", (waiting(*each, target, words.power) for each in some.items())),
        "apart": table("apart", (apart(name, *pair, target, words.long) for name, pair in pairs.items())),
    }


@dataclass(frozen=True)
class Subject:
    """A model's file, and its input."""

    path: Path
    feeds: Mapping[str, np.ndarray]

    def load(self, target: Target, wait: float = 0.0) -> Callable[[], object]:
        """One iteration of a session of its own, and then so many seconds of waiting."""
        run = Session(self.path, target, spinning=target.threads == 1).bound(self.feeds)

        def slow() -> None:
            run()
            until = time.perf_counter() + wait
            while time.perf_counter() < until:
                pass

        return slow if wait else run


def saved(model: ir.Model, path: Path) -> Subject:
    """A model with random numbers for its input."""
    shape = model.graph.inputs[0].shape
    assert shape is not None
    feeds = {"x": np.random.default_rng(1).standard_normal(shape.numpy()).astype(np.float32)}
    return Subject(files.save(model, path)[0], feeds)


def alike(name: str, model: Subject, target: Target, comparisons: int, **limits: Any) -> Row:
    """A model against itself, often and shortly."""
    found = [timed(model, model, target, **limits) for _ in range(comparisons)]
    row = summarized(name, found, 0.0)
    return dataclasses.replace(row, reached=row.faster + row.slower <= OF_ONE)


def waiting(name: str, model: Subject, target: Target, comparisons: int) -> Row:
    """A model against itself, the first waits for 3 % of the time that one iteration takes."""
    extra = WAIT * typical(model.load(target))
    found = [timed(model, model, target, wait=extra) for _ in range(comparisons)]
    row = summarized(name, found, WAIT)
    return dataclasses.replace(row, reached=row.faster >= FOUND and row.seconds <= WITHIN)


def apart(name: str, a: Subject, b: Subject, target: Target, seconds: float) -> Row:
    """Two models: ten comparisons as users make them against a long one."""
    long, _ = timed(a, b, target, min_seconds=seconds, patience=2 * seconds)
    found = [timed(a, b, target) for _ in range(10)]
    row = summarized(f"{name}: {long.ratio:.3f}x", found, math.log(long.ratio))
    return dataclasses.replace(row, reached=row.worst <= OFF)


Timed = tuple[Comparison, float]


def timed(a: Subject, b: Subject, target: Target, *, wait: float = 0.0, **limits: Any) -> Timed:
    """A comparison, and how long it took."""
    start = time.perf_counter()
    first, second = functools.partial(a.load, target, wait), functools.partial(b.load, target)
    return compare_loads(first, second, threads=target.threads, **limits), time.perf_counter() - start


def summarized(name: str, results: Sequence[Timed], truth: float) -> Row:
    """One row of many comparisons."""
    comparisons = [found for found, _ in results]
    off = np.log([found.ratio for found in comparisons]) - truth
    verdicts = [found.verdict for found in comparisons]
    return Row(
        model=name,
        milliseconds=1e3 * float(np.median([found.b.median for found in comparisons])),
        comparisons=len(comparisons),
        faster=verdicts.count(Verdict.FASTER) / len(comparisons),
        slower=verdicts.count(Verdict.SLOWER) / len(comparisons),
        rms=math.sqrt(float(np.mean(off**2))),
        worst=float(np.abs(off).max()),
        width=float(np.median([(found.high - found.low) / 2 for found in comparisons])),
        seconds=max(seconds for _, seconds in results),
        load=float(np.median([found.environment.foreign_load for found in comparisons])),
        reached=False,
    )


def table(name: str, rows: Iterable[Row]) -> list[Row]:
    """Print each row as soon as it is there."""
    words = {
        "self": f"a model against itself: at most {ALLOWED:.0%} of all may be called, {OF_ONE:.0%} of one",
        "waiting": f"the first waits for {WAIT:.0%} of the time: {FOUND:.0%} must be called faster, in {WITHIN:g} s",
        "apart": f"two models about 30 % apart: the worst may be {OFF:.0%} off the ratio of a long run",
    }
    print(f"\n{words[name]}")
    head = ("ms", "runs", "faster", "slower", "RMS", "worst", "+-", "s", "load")
    print(f"{'':<28}{''.join(f'{word:>8}' for word in head)}")
    shown = []
    for row in rows:
        shown.append(row)
        shares = (row.faster, row.slower, row.rms, row.worst, row.width)
        print(
            f"{row.model:<28}{row.milliseconds:>8.3f}{row.comparisons:>8}"
            f"{''.join(f'{share:>8.2%}' for share in shares)}{row.seconds:>8.1f}{row.load:>8.2f}"
            f"{'' if row.reached else '  MISSED'}",
            flush=True,
        )
    return shown


def typical(run: Callable[[], object]) -> float:
    """Seconds of one call, after warming up."""
    return float(np.median([elapsed(run) for _ in range(200)][100:]))


def elapsed(run: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def models() -> Iterator[tuple[str, ir.Model]]:
    """Networks by name; the weights of the MLPs of 2048 do not fit into the caches."""
    yield from ((f"MLP {layers}x320", perceptron(320, layers)) for layers in (8, 10))
    yield from ((f"conv {layers}x32", convolutions(32, layers, 28)) for layers in (6, 8))
    yield from ((f"conv {layers}x64", convolutions(64, layers, 40)) for layers in (5, 6))
    yield from ((f"MLP {layers}x2048", perceptron(2048, layers)) for layers in (4, 5))


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
