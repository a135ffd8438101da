"""The files that ``benchmarks/int8.py`` compares: a model and its data, ONNX Runtime's three forms of it, and ours.

Each is made in a process of its own, which may fail or take too long; files stay in the work folder.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from suite import SHARED

from onnxopt.export.inputs import draw
from onnxopt.gate import Limits
from onnxopt.models.zoo import ZOO

HERE = Path(__file__).parent
OTHERS, OURS = ("default", "good", "dynamic"), "ours"
HALF_POINT, POINT = Limits(0.005), Limits(0.01)
CALIBRATION, HELD_OUT = 16, 8
"""Random samples of networks with random weights."""


@dataclass(frozen=True)
class Case:
    """A row of the table.

    Attributes:
        name: in the zoo, or in the manifest of ../shared/data.
        gain: fp32's time over ours that is wanted; None for "never slower".
        against: the best other's time over ours that is wanted; None for "not slower".
        ours: what our result may lose.
        others: what another's may lose and still count as a rival.
        metric: None takes top-1 where there are labels, else agreement.
        real: from the manifest, with its data; else from the zoo, with random weights and data.
        length: calibration samples are padded with zeros to this sequence length; it is the one that is timed.
        quick: part of --quick.
        contrib: ours may use operators of com.microsoft: int8 LSTM has no standard form that is fast.
    """

    name: str
    gain: float | None = None
    against: float | None = None
    ours: Limits = HALF_POINT
    others: Limits = POINT
    metric: str | None = None
    real: bool = True
    length: int | None = None
    quick: bool = False
    contrib: bool = False


@dataclass(frozen=True)
class Settings:
    """How the table is made.

    Attributes:
        work: folder of all files, one in it for each model.
        reuse: the tools whose files are not made again where the work folder has them.
        seconds: time a model at least so long, and three times as long where an iteration takes over 50 ms.
        limit: seconds for each tool, and for timing and scoring.
        passes: for ``onnxopt optimize``, in place of its recipe.
    """

    work: Path = Path("out/int8")
    reuse: tuple[str, ...] = ()
    seconds: float = 3.0
    limit: float = 900.0
    passes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Given:
    """What all tools start from; states are fed back when ours is made and when all are scored."""

    model: Path
    calib: Path
    held_out: Path
    state: Mapping[str, str] = field(default_factory=dict)


def prepare(case: Case, settings: Settings) -> Given:
    """The model and its data, exported or drawn unless the work folder has them."""
    folder = settings.work / case.name
    folder.mkdir(parents=True, exist_ok=True)
    model, data, state = folder / "fp32.onnx", folder / "data", {}
    if case.real:
        entry = in_manifest(case.name)
        state = entry.get("state") or {}
        there = SHARED / entry["file"]
        model = there if there.exists() else model
    if not model.exists():
        make = [str(SHARED / entry["make"])] if case.real else ["-m", "onnxopt.cli.main", "export", case.name, "-o"]
        partial = folder / "partial.onnx"
        called([sys.executable, *make, str(partial)], settings.limit)
        partial.rename(model)
    if not data.exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            partial = Path(scratch) / "data"
            if case.real:
                save_real(case, partial, settings.limit)
            else:
                save_random(case.name, partial)
            partial.rename(data)
    return Given(model, data / "calib.npz", data / "eval.npz", state)


def in_manifest(name: str) -> dict[str, Any]:
    """What the manifest of ../shared/data says of a model.

    Raises:
        RuntimeError: if there is none, or it does not know the model.
    """
    manifest = SHARED / "manifest.json"
    models = json.loads(manifest.read_text())["models"] if manifest.exists() else []
    for entry in models:
        if entry["name"] == name:
            return dict(entry)
    raise RuntimeError(f"{manifest} does not name it (ONNXOPT_SHARED: the folder that holds data/)")


def save_real(case: Case, folder: Path, limit: float) -> None:
    """The samples of the manifest; those for calibration padded to the sequence length of the row."""
    called([sys.executable, str(SHARED / "load.py"), "export", case.name, "--out", str(folder)], limit)
    if case.length:
        with np.load(folder / "calib.npz") as arrays:
            padded = {name: padded_to(case.length, array) for name, array in arrays.items()}
        np.savez(folder / "calib.npz", **padded)


def padded_to(length: int, array: np.ndarray) -> np.ndarray:
    """Zeros behind each sequence, axis 1; labels have none."""
    return array if array.ndim < 2 else np.pad(array, [(0, 0), (0, length - array.shape[1])])


def save_random(network: str, folder: Path) -> None:
    """Random samples at the usual sizes of a network of the zoo."""
    folder.mkdir()
    for seed, (name, count) in enumerate((("calib", CALIBRATION), ("eval", HELD_OUT))):
        np.savez(folder / f"{name}.npz", **draw(ZOO[network].inputs, {"batch": count}, seed))


def commands(case: Case, given: Given, settings: Settings) -> Iterator[tuple[str, list[str]]]:
    """Each tool and its command, but for the path of the result, which is the last word."""
    for tool in OTHERS:
        yield tool, [str(HERE / "peers.py"), tool, str(given.model), str(given.calib)]
    words = ["--data", str(given.calib), "--eval-data", str(given.held_out), "--max-drop", str(case.ours.max_drop)]
    words += ["--min-score", str(case.ours.min_score)] if case.ours.min_score is not None else []
    words += ["--metric", case.metric] if case.metric else []
    words += [word for name, output in given.state.items() for word in ("--state", f"{name}={output}")]
    words += [word for one in settings.passes for word in ("--pass", one)]
    words += ["--allow-contrib"] if case.contrib else []
    yield OURS, ["-m", "onnxopt.cli.main", "optimize", str(given.model), *words, "--json", "-o"]


def made(tool: str, command: Sequence[str], case: Case, settings: Settings) -> dict[str, Any]:
    """Path, seconds of the whole process, what it said or why it failed; kept beside the file for --reuse."""
    path = settings.work / case.name / f"{tool}.onnx"
    record = path.with_suffix(".json")
    if tool in settings.reuse and record.exists():
        kept: dict[str, Any] = json.loads(record.read_text())
        return kept
    path.unlink(missing_ok=True)
    started, said, error = time.perf_counter(), None, None
    try:
        said = json.loads(called([sys.executable, *command, str(path)], settings.limit))
    except RuntimeError as failure:
        error = str(failure)
    found = {"path": str(path), "seconds": time.perf_counter() - started, "said": said, "error": error}
    record.write_text(json.dumps(found) + "\n")
    return found


def called(command: Sequence[str], limit: float, given: str | None = None) -> str:
    """What a process printed.

    Raises:
        RuntimeError: with its last words if it failed, or that it took too long.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, input=given)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"over {limit:g} s") from error
    if done.returncode:
        raise RuntimeError(last_line(done.stderr) or f"exit {done.returncode}")
    return done.stdout


def last_line(text: str, most: int = 200) -> str:
    """The last line that is not empty, cut."""
    return ([line for line in text.splitlines() if line.strip()] or [""])[-1].strip()[:most]
