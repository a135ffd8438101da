"""What it costs to load a model file and run it once, measured in processes that have done nothing else.

A process that has already loaded a model cannot say it: its allocators hold memory, its libraries are warm. So each
measurement is a process of its own, ``python -m onnxopt.fresh FOLDER``. What it is asked lies in the folder as JSON
and npz (no pickle); it answers with one line of JSON.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxopt import progress
from onnxopt.errors import ModelError, OnnxoptError
from onnxopt.target import Target

REPEATS = 5
QUESTION, INPUTS = "question.json", "inputs.npz"
HIGH_WATER, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
"""Where Linux tells the most memory that a process has held, and where it is told to forget that."""


@dataclass(frozen=True)
class Spread:
    """A median, with the smallest and the largest of a few values as its interval."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median."""
        return float(np.median(self.values))

    @property
    def low(self) -> float:
        """The smallest."""
        return min(self.values)

    @property
    def high(self) -> float:
        """The largest."""
        return max(self.values)

    @property
    def confidence(self) -> float:
        """With which the interval holds the true median: n values all lie on one side of it once in 2^(n-1)."""
        return float(1 - 0.5 ** (len(self.values) - 1))

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"median": self.median, "low": self.low, "high": self.high, "confidence": self.confidence}


@dataclass(frozen=True)
class Fresh:
    """Loading a model file in a fresh process, and its first run.

    Memory is what the process holds above what it held before, when it had imported ONNX Runtime and read the
    inputs; that of a GPU does not count.

    Attributes:
        load: seconds until the session is there; the file is in the system's cache.
        first_run: seconds of the first run.
        peak: bytes held at most, while loading or running.
        resident: bytes held after the first run, its outputs included.
    """

    load: Spread
    first_run: Spread
    peak: Spread
    resident: Spread

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON: seconds and bytes."""
        return {field.name: getattr(self, field.name).to_dict() for field in dataclasses.fields(self)}


def measure(path: Path, target: Target, feeds: Mapping[str, np.ndarray], *, repeats: int = REPEATS) -> Fresh:
    """Load a model file and run it once, in ``repeats`` processes one after the other.

    One more process goes ahead and does not count: it brings the files into the system's cache.

    Args:
        path: of the model; its external data are read from beside it.
        target: provider and threads.
        feeds: inputs of one run, states included.
        repeats: processes that count.

    Raises:
        ModelError: if the process cannot load or run the model, or the system ends it (for its memory).
    """
    with tempfile.TemporaryDirectory(prefix="onnxopt-") as folder:
        _ask(Path(folder), path, target, feeds)
        answers = []
        for repeat in range(repeats + 1):
            progress.count("loaded in fresh process", repeat, repeats + 1)
            answers.append(_answer(Path(folder), path))
    return Fresh(**{name: Spread(tuple(answer[name] for answer in answers[1:])) for name in answers[0]})


def _ask(folder: Path, path: Path, target: Target, feeds: Mapping[str, np.ndarray]) -> None:
    words = {field.name: _plain(getattr(target, field.name)) for field in dataclasses.fields(target)}
    question = {"model": str(path.absolute()), "target": words, "inputs": list(feeds)}
    (folder / QUESTION).write_text(json.dumps(question))
    arrays = [array.astype(str) if array.dtype == object else array for array in map(np.asarray, feeds.values())]
    np.savez(folder / INPUTS, *arrays)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    return sorted(value) if isinstance(value, frozenset) else value


def _answer(folder: Path, path: Path) -> dict[str, float]:
    """What one process finds. However this is left, that process has ended."""
    here = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))}
    words = [sys.executable, "-P", "-m", "onnxopt.fresh", str(folder)]  # -P: nothing is imported from where one stands
    done = subprocess.run(words, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise ModelError(f"{path}: the process that loaded it was ended by {name}; perhaps memory ran out")
    last = (done.stdout.strip() or "{}").splitlines()[-1]
    found: dict[str, Any] = json.loads(last) if done.returncode == 0 else {}
    if not found:
        said = (done.stderr.strip() or "nothing was said").splitlines()[-1]
        raise ModelError(f"{path}: the process that loaded it failed: {said}")
    if "error" in found:
        raise ModelError(f"{path}: {found['error']}")
    return found


def main(arguments: Sequence[str]) -> None:
    """The fresh process: answer what lies in the folder."""
    folder = Path(arguments[0])
    question = json.loads((folder / QUESTION).read_text())
    with np.load(folder / INPUTS, allow_pickle=False) as arrays:
        feeds = dict(zip(question["inputs"], (_fed(arrays[name]) for name in arrays.files), strict=True))
    try:
        answer: dict[str, Any] = _load_and_run(question["model"], _target(question["target"]), feeds)
    except OnnxoptError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer))


def _load_and_run(model: str, target: Target, feeds: Mapping[str, np.ndarray]) -> dict[str, float]:
    from onnxopt.runtime import Session, onnxruntime

    onnxruntime()
    before = _forget_peak()
    started = time.perf_counter()
    session = Session(Path(model), target, spinning=target.threads == 1)
    loaded = time.perf_counter()
    outputs = session.run(feeds)
    ran = time.perf_counter()
    held, peak = _held() - before, _peak() - before
    del outputs  # until here, for they count
    return {"load": loaded - started, "first_run": ran - loaded, "peak": max(peak, held, 0), "resident": max(held, 0)}


def _target(words: Mapping[str, Any]) -> Target:
    """What JSON made of a target, made good: lists back to tuples, and the features to a set."""
    mappings = {
        name: dict(zip(held, map(tuple, held.values()), strict=True))
        for name, held in words.items()
        if name in ("shapes", "ranges")
    }
    features = None if words["features"] is None else frozenset(words["features"])
    return Target(**{**words, **mappings, "features": features})


def _fed(array: np.ndarray) -> np.ndarray:
    return array.astype(object) if array.dtype.kind == "U" else array


def _held() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)


def _forget_peak() -> int:
    """Let the peak begin anew, where the system can; return what is held now."""
    if RESET.exists():
        RESET.write_text("5")
    return _held()


def _peak() -> int:
    """Bytes held at most. Linux's ``getrusage`` would begin with those of the process that started this one."""
    if HIGH_WATER.exists():
        lines = (line.split() for line in HIGH_WATER.read_text().splitlines())
        return next((int(words[1]) * 1024 for words in lines if words[0] == "VmHWM:"), 0)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main(sys.argv[1:])
