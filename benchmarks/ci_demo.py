"""Three pull requests: a good model passes, one that is 10 % slower exits 6, one with a damaged weight exits 4.

    python benchmarks/ci_demo.py [FOLDER] [--slower 0.10] [--only-models]

Builds them from the network that comes with onnxopt, writes an onnxopt.toml for each, and runs ``onnxopt ci`` as a
process of its own. Exit 1 where an exit code is another than it should be, or another layer is blamed than the one
that was damaged. Two to three minutes.

The slower model computes the same and then some: a chain of Sin of the input, whose mean, times zero, is added to
the scores. Neither ONNX Runtime nor a pass may leave that out, since zero times infinity is no zero. How long the chain
must be is found by measuring.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile

import numpy as np
import onnx_ir as ir

from onnxopt import files
from onnxopt.benchmark import compare_loads
from onnxopt.models.demo import demo_files
from onnxopt.runtime import Session
from onnxopt.target import Target

DAMAGED = "stage2.0.conv2.weight"
"""Of whose first eight channels the sign is lost."""
FIRST_GUESS = 60
ATTEMPTS = 8
NEAR = 0.01
"""How far the measured slowdown may be from the one that is wanted."""
HEAD = """version = 1

[ci]
markdown = "out/summary.md"
json = "out/report.json"
junit = "out/junit.xml"
smaller = "out/digits.smaller.json"
"""
MODEL = """
[[model]]
name = "digits"
path = "models/digits.onnx"
baseline = "base/models/digits.onnx"
eval_data = "digits_eval.npz"
max_drop = 0.01
fail_if_slower = "5%"
"""
OPTIMIZE = """optimize = true
data = "digits_calibration.npz"
"""


@dataclass(frozen=True)
class Case:
    """A pull request: what becomes of the model, and what the gate must say."""

    name: str
    changed: Callable[[ir.Model, float], ir.Model]
    keys: str
    code: int
    blamed: str = ""


def main() -> int:
    """Build, run, print; 1 if an exit code is not what it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("out/ci-demo"))
    parser.add_argument("--slower", type=float, default=0.10, help="share of time that the slower model takes more")
    parser.add_argument("--only-models", action="store_true", help="write them and run nothing")
    words = parser.parse_args()
    wrong = 0
    for case in CASES:
        folder = words.folder / case.name
        write(case, folder, words.slower)
        if not words.only_models:
            code, layers = gate(folder)
            right = code == case.code and (case.blamed in layers if case.blamed else not layers)
            print(f"=> {case.name}: exit code {code}, {'as it should be' if right else 'NOT as it should be'}\n")
            wrong += not right
    return 1 if wrong else 0


def write(case: Case, folder: Path, slower: float) -> None:
    """What a checkout of the pull request and of its base branch would be."""
    demo = demo_files()
    for place in (folder / "models", folder / "base" / "models"):
        place.mkdir(parents=True, exist_ok=True)
    files.save(case.changed(files.load(demo.model), slower), folder / "models" / "digits.onnx")
    copyfile(demo.model, folder / "base" / "models" / "digits.onnx")
    for data in (demo.data, demo.eval_data):
        copyfile(data, folder / data.name)
    (folder / "onnxopt.toml").write_text(HEAD + MODEL + case.keys)


def gate(folder: Path) -> tuple[int, str]:
    """``onnxopt ci``, as a workflow runs it: its exit code, and the layers that it blames."""
    config = folder / "onnxopt.toml"
    print(f"$ onnxopt ci {config}", flush=True)
    code = subprocess.run([sys.executable, "-m", "onnxopt.cli.main", "ci", str(config)]).returncode
    report = json.loads((folder / "out" / "report.json").read_text())
    return code, "; ".join((report["models"][0]["accuracy"] or {}).get("layers", ()))


def unchanged(model: ir.Model, _: float) -> ir.Model:
    """The same: the gate then optimizes it."""
    return model


def damaged(model: ir.Model, _: float) -> ir.Model:
    """Some channels of one weight have the wrong sign."""
    value = model.graph.initializers[DAMAGED]
    assert value.const_value is not None
    weight = np.array(value.const_value.numpy())
    weight[:8] *= -1
    value.const_value = ir.tensor(weight, name=DAMAGED)
    return model


def slower(model: ir.Model, share: float) -> ir.Model:
    """The same scores in so much more time; prints what was measured."""
    count = FIRST_GUESS
    for _ in range(ATTEMPTS):
        candidate = with_more_work(model, count)
        measured = slowdown(model, candidate)
        print(f"{count} nodes more: {measured:+.1%}", flush=True)
        if abs(measured - share) <= NEAR:
            break
        count = max(1, round(count * min(4.0, share / max(measured, share / 4))))
    return candidate


def with_more_work(model: ir.Model, count: int) -> ir.Model:
    """Zero times the mean of a chain of Sin of the input, added to the scores."""
    model = model.clone()
    graph, image, scores = model.graph, model.graph.inputs[0], model.graph.outputs[0]
    chain = [ir.node("Sin", [image])]
    for _ in range(count - 1):
        chain.append(ir.node("Sin", chain[-1].outputs))
    mean = ir.node("ReduceMean", chain[-1].outputs, {"keepdims": 0})
    zero = ir.Value(name="zero", const_value=ir.tensor(np.float32(0), name="zero"))
    graph.register_initializer(zero)
    nothing = ir.node("Mul", [mean.outputs[0], zero])
    last = scores.producer()
    assert last is not None
    name, scores.name = scores.name, "scores_before"
    same = ir.node("Add", [scores, nothing.outputs[0]])
    same.outputs[0].name, same.outputs[0].shape, same.outputs[0].dtype = name, scores.shape, scores.dtype
    graph.insert_after(last, [*chain, mean, nothing, same])
    graph.outputs[0] = same.outputs[0]
    return model


def slowdown(model: ir.Model, other: ir.Model) -> float:
    """Share of the time of one image that the other takes more."""
    with np.load(demo_files().eval_data) as data:
        feeds = {"image": data["image"][:1]}

    found = compare_loads(lambda: Session(model, Target()).bound(feeds), lambda: Session(other, Target()).bound(feeds))
    return 1 / found.ratio - 1


CASES = (
    Case("good", unchanged, OPTIMIZE, 0),
    Case("slower", slower, "", 6),
    Case("damaged", damaged, "", 4, DAMAGED),
)

if __name__ == "__main__":
    sys.exit(main())
