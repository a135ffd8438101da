"""Time our float16 recipe on an NVIDIA GPU, beside float32, TF32 and the float16 converter that onnxruntime ships.

    python benchmarks/cuda_float16.py prepare  # needs PyTorch, no GPU: graphs without weights, a few MB
    python benchmarks/cuda_float16.py build    # needs neither: weights are drawn, float16 models made
    python benchmarks/cuda_float16.py run      # needs the GPU: times, writes JSON and benchmarks/results/cuda.md
    python benchmarks/cuda_float16.py all      # the three of them

    python benchmarks/cuda_float16.py all --provider cpu --small    # whether the script works; no numbers

``run`` exits 1 where something that must be reached was not. See docs/cuda.md for a bare machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cuda_models import CASES, Case, feeds, prepare, prepared
from cuda_variants import FLOAT, OURS, SHIPPED, build
from turns import ratio, take_turns

from onnxopt.runtime import Session, fallbacks, missing_gpu, onnxruntime, version
from onnxopt.target import Target, processor

TENSOR_FLOAT = "tf32"
LABELS = (FLOAT, TENSOR_FLOAT, OURS, SHIPPED)
RESULTS = Path(__file__).parent / "results" / "cuda.md"
FASTER, ALIKE, LARGE = 1.5, 0.999, 32
"""What float16 must reach: times as fast as float32 at this batch, and the cosine of its outputs to float32's."""
LOADS = 3
"""Times all models are loaded: where they lie in memory is part of their speed."""
NOTHING = "These numbers mean nothing: the CPU in a small try of the script."


def main() -> int:
    """Do what is asked; 1 where something was not reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("prepare", "build", "run", "all", "row"))
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(case.zoo for case in CASES)}")
    parser.add_argument("--folder", type=Path, default=Path("out/cuda"), help="where the models are")
    parser.add_argument("--provider", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny settings, to try the script")
    parser.add_argument("--batches", type=lambda word: tuple(map(int, word.split(","))), help="default 1,32")
    parser.add_argument("--seconds", type=float, help="least of timing for a network and a batch; default 6")
    parser.add_argument("--json", type=Path, help="default cuda.json in the folder")
    asked = parser.parse_args()
    cases = [case for case in CASES if case.zoo in (asked.names or [one.zoo for one in CASES])]
    if unknown := set(asked.names) - {case.zoo for case in CASES}:
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    asked.batches = asked.batches or ((1, 2) if asked.small else (1, LARGE))
    asked.seconds = asked.seconds or (0.2 if asked.small else 6.0)
    asked.folder.mkdir(parents=True, exist_ok=True)
    if asked.step in ("run", "all") and asked.provider == "cuda" and (missing := missing_gpu()):
        print(missing, file=sys.stderr)
        return 2
    if asked.step == "row":
        print(json.dumps(row(cases[0], asked.batches[0], asked)))
        return 0
    if asked.step in ("prepare", "all"):
        for case in cases:
            if asked.step == "all" and prepared(case, asked.folder, small=asked.small):
                continue
            path = prepare(case, asked.folder, small=asked.small)
            print(f"{path}: {path.stat().st_size / 1e6:.1f} MB", flush=True)
    if asked.step in ("build", "run", "all"):
        for case in cases:
            build(case, asked.folder, small=asked.small, anew=asked.step != "run")
    return finish(rows(cases, asked), asked) if asked.step in ("run", "all") else 0


def rows(cases: Sequence[Case], asked: argparse.Namespace) -> list[dict[str, Any]]:
    """Each network and batch in a process of its own: one that takes ONNX Runtime down takes one row with it."""
    found = []
    for case in cases:
        for batch in asked.batches:
            words = [sys.executable, __file__, "row", case.zoo, "--batches", str(batch), "--provider", asked.provider]
            words += ["--folder", str(asked.folder), "--seconds", str(asked.seconds), *(["--small"] * asked.small)]
            done = subprocess.run(words, capture_output=True, text=True)
            if done.returncode == 0:
                found.append(json.loads(done.stdout.splitlines()[-1]))
            else:
                last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
                found.append({"network": case.name, "batch": batch, "error": last})
            print(table_line(found[-1]), flush=True)
    return found


def row(case: Case, batch: int, asked: argparse.Namespace) -> dict[str, Any]:
    """One network at one batch: times, ratios to float32 and of the two float16, cosines, nodes on the CPU."""
    paths = build(case, asked.folder, small=asked.small)
    paths[TENSOR_FLOAT] = paths[FLOAT]
    given = feeds(case, batch, small=asked.small)
    targets = {label: _target(label, asked.provider) for label in LABELS}
    loads, limits = [], (30 / LOADS, asked.seconds / LOADS, asked.seconds / LOADS)
    for seed in range(LOADS):
        sessions = [Session(paths[label], targets[label]) for label in LABELS]
        loads.append(take_turns([one.bound(given) for one in sessions], limits, np.random.default_rng(seed)))
    outputs = {label: session.run(given) for label, session in zip(LABELS, sessions, strict=True)}
    del sessions
    place = {label: index for index, label in enumerate(LABELS)}
    medians = np.median(np.concatenate([load.reshape(-1, len(LABELS)) for load in loads]), axis=0)
    off = {label: fallbacks(paths[label], targets[label]) for label in LABELS if label != TENSOR_FLOAT}
    return {
        "network": case.name,
        "batch": batch,
        "must": case.must and batch == LARGE,
        "seconds": dict(zip(LABELS, medians.tolist(), strict=True)),
        "over_fp32": {label: ratio(loads, place[FLOAT], place[label]) for label in LABELS[1:]},
        "over_shipped": ratio(loads, place[SHIPPED], place[OURS]),
        "cosine": {label: cosine(outputs[FLOAT], outputs[label]) for label in LABELS[1:]},
        "on_cpu": {label: sum(not one.deliberate for one in found) for label, found in off.items()},
        "shapes_on_cpu": {label: sum(one.deliberate for one in found) for label, found in off.items()},
        "fallbacks": {label: [one.to_dict() for one in found if not one.deliberate] for label, found in off.items()},
    }


def _target(label: str, provider: str) -> Target:
    if provider == "cpu":
        return Target()
    return Target("cuda", provider_options={"use_tf32": str(int(label == TENSOR_FLOAT))})


def cosine(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> float:
    """The smallest over all outputs and samples."""
    found = []
    for name, reference in one.items():
        a, b = (np.asarray(x, np.float64).reshape(len(reference), -1) for x in (reference, other[name]))
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        found.append(float(((a * b).sum(axis=1) / np.maximum(norms, 1e-300)).min()))
    return min(found)


def reached(found: Iterable[Mapping[str, Any]]) -> list[tuple[bool, str]]:
    """What must be reached, and whether it was."""
    lines = []
    for one in found:
        where = f"{one['network']}, batch {one['batch']}"
        if "error" in one:
            lines.append((False, f"{where}: it ran ({one['error']})"))
            continue
        middle, low, high = one["over_shipped"]
        lines.append(
            (high >= 1, f"{where}: ours is not slower than the shipped converter: {_ratio(middle, low, high)}")
        )
        if one["must"]:
            middle, low, high = one["over_fp32"][OURS]
            words = f"{where}: float16 is {FASTER} times as fast as float32: {_ratio(middle, low, high)}"
            lines.append((middle >= FASTER, words))
        alike = one["cosine"][OURS]
        lines.append((alike >= ALIKE, f"{where}: the cosine to float32 is at least {ALIKE}: {alike:.6f}"))
    return lines


COLUMNS = (
    "network", "batch", "fp32 ms", "TF32", "ours", "shipped", "shipped / ours", "cosine ours", "cosine shipped",
    "nodes on CPU",
)  # fmt: skip


def table_line(one: Mapping[str, Any]) -> str:
    """A row of the table; ratios are those of float32's time to theirs, with their intervals."""
    if "error" in one:
        return f"| {one['network']} | {one['batch']} | failed: {one['error']} |"
    over = [_ratio(*one["over_fp32"][label]) for label in LABELS[1:]]
    cosines = [f"{one['cosine'][label]:.6f}" for label in (OURS, SHIPPED)]
    cells = [
        one["network"], str(one["batch"]), f"{1e3 * one['seconds'][FLOAT]:.3g}", *over, _ratio(*one["over_shipped"]),
        *cosines, ", ".join(f"{label} {count}" for label, count in one["on_cpu"].items()),
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _ratio(middle: float, low: float, high: float) -> str:
    return f"{middle:.2f}x [{low:.2f}, {high:.2f}]"


def machine(provider: str) -> dict[str, str]:
    """Where this was measured."""
    found = {"processor": processor(), "ONNX Runtime": version()}
    if provider == "cuda":
        found["CUDA of the wheel"] = str(getattr(onnxruntime(), "cuda_version", ""))
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader", "--id=0"]
        name, driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip().split(", ")
        found = {"GPU": name, "driver": driver, **found}
    return found


def finish(found: Sequence[Mapping[str, Any]], asked: argparse.Namespace) -> int:
    """Write and print what was found; 1 where something was not reached."""
    where, lines = machine(asked.provider), reached(found)
    words = [f"{'reached' if ok else 'NOT REACHED'}: {line}" for ok, line in lines]
    path = asked.json or asked.folder / "cuda.json"
    path.write_text(json.dumps({"machine": where, "rows": found, "reached": words}, indent=2) + "\n")
    print("\n".join(["", *words]))
    if asked.provider == "cpu" or asked.small:
        print(f"\n{NOTHING}")
        return int(any("error" in one for one in found))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(markdown(where, found, words))
    print(f"\nwritten: {path}, {RESULTS}")
    return int(not all(ok for ok, _ in lines))


def markdown(where: Mapping[str, str], found: Iterable[Mapping[str, Any]], words: Iterable[str]) -> str:
    """The page that is committed."""
    place = ", ".join(f"{name} {value}" for name, value in where.items())
    head = f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}"
    body, listed = "\n".join(map(table_line, found)), "\n".join(f"- {word}" for word in words)
    return f"""# float16 on a GPU

Measured by `make bench-cuda` on: {place}.

Random weights that give sane activations, inputs and outputs on the device (IO binding), one iteration of each model in
turn, {LOADS} loads. fp32 is ONNX Runtime with TF32 off; the other ratios are fp32's time over theirs, with the hull of
the 95 % intervals of the loads. "ours" is exact passes, fuse-transformer and cast-float16; "shipped" is
onnxruntime.transformers: its optimizer for transformers, and its float16 converter. Cosines are the smallest over
outputs and samples.

{head}
{body}

{listed}
"""


if __name__ == "__main__":
    sys.exit(main())
