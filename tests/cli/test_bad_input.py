"""Bad input ends in one sentence, an exit code, and a folder that is as it was."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxopt import files, fresh, passes
from onnxopt import optimize as road
from onnxopt.cli import main as program
from onnxopt.core import Change, Context, Exactness, Pass
from onnxopt.errors import ModelError
from onnxopt.runtime import Session, onnxruntime
from onnxopt.target import Target
from onnxopt.testing import parse

MODEL = """g (float[n,4] x, float[n,4] h) => (float[n,4] y, float[n,4] z) <float[4,600] w, float[600,4] v>
{ a = MatMul(x, w)  b = MatMul(a, v)  y = Add(b, h)  i = Identity(y)  z = Relu(i) }"""
ROWS = np.ones((8, 4), np.float32)
GOOD: dict[str, Any] = {"x": ROWS, "h": ROWS}

Make = Callable[[Path, pytest.MonkeyPatch], str]
"""Prepares a folder with a good ``m.onnx`` and ``d.npz``, and gives the words after ``optimize``."""


def model(change: Callable[[bytes], bytes]) -> Make:
    """The bytes of the model file, changed."""

    def make(folder: Path, _: pytest.MonkeyPatch) -> str:
        path = folder / "m.onnx"
        path.write_bytes(change(path.read_bytes()))
        return "m.onnx"

    return make


def proto(change: Callable[[onnx.ModelProto], Any]) -> Make:
    """The model, changed as protobuf."""

    def changed(contents: bytes) -> bytes:
        message = onnx.load_from_string(contents)
        change(message)
        return bytes(message.SerializeToString())

    return model(changed)


def external(change: Callable[[Path], Any] = lambda _: None, *, location: str | None = None) -> Make:
    """The model with its weights in ``w.data``; the data file changed, or the place that the model says."""

    def make(folder: Path, _: pytest.MonkeyPatch) -> str:
        path = folder / "m.onnx"
        onnx.save(onnx.load(path), path, save_as_external_data=True, location="w.data", size_threshold=0)
        message = onnx.load(path, load_external_data=False)
        for tensor in message.graph.initializer if location else ():
            next(entry for entry in tensor.external_data if entry.key == "location").value = location
        path.write_bytes(message.SerializeToString())
        change(folder / "w.data")
        return "m.onnx"

    return make


def data(words: str = "", **arrays: Any) -> Make:
    """Other samples."""

    def make(folder: Path, _: pytest.MonkeyPatch) -> str:
        np.savez(folder / "d.npz", **arrays)
        return f"m.onnx --data d.npz {words}"

    return make


def words(line: str, **written: str) -> Make:
    """Other words, with text files beside the model."""

    def make(folder: Path, _: pytest.MonkeyPatch) -> str:
        for name, text in written.items():
            (folder / name.replace("_", ".")).write_text(text)
        return line

    return make


def linked(folder: Path, _: pytest.MonkeyPatch) -> str:
    (folder / "link.onnx").symlink_to("m.onnx")
    return "m.onnx -o link.onnx"


def moved_out(data_file: Path) -> None:
    (data_file.parent.parent / "secret.data").write_bytes(data_file.read_bytes())
    data_file.unlink()
    data_file.symlink_to("../secret.data")


def fails(name: str, number: int) -> Make:
    """The disk fails in the middle of writing."""

    def make(_: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        def broken(*_: Any) -> None:
            raise OSError(number, os.strerror(number))

        class Broken:
            def __init__(self, handle: int, mode: str) -> None:
                self.file = real(handle, mode)

            def __enter__(self) -> Broken:
                return self

            def __exit__(self, *_: Any) -> None:
                self.file.close()

            def write(self, contents: bytes) -> None:
                self.file.write(contents[: len(contents) // 2])
                broken()

        real = os.fdopen
        monkeypatch.setattr(os, name, Broken if name == "fdopen" else broken)
        return "m.onnx --pass fuse-pad"

    return make


def without_runtime(_: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    return "m.onnx"


def without_cuda(_: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(onnxruntime(), "get_available_providers", lambda: ["CPUExecutionProvider"])
    return "m.onnx --provider cuda"


def nan_at(row: int, value: float) -> np.ndarray:
    rows = ROWS.copy()
    rows[row, 2] = value
    return rows


def set_dims(*dims: int) -> Callable[[onnx.ModelProto], None]:
    def change(message: onnx.ModelProto) -> None:
        message.graph.initializer[0].dims[:] = dims

    return change


def set_opset(message: onnx.ModelProto) -> None:
    message.opset_import[0].version = 99


def set_domain(message: onnx.ModelProto) -> None:
    message.graph.node[4].domain = "my.domain"
    message.opset_import.add(domain="my.domain", version=1)


def set_input(message: onnx.ModelProto) -> None:
    message.graph.node[4].input[0] = "nobody"


ZIP = b"PK\x03\x04" + 60 * b"\0"
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + 60 * b"\0"
RECIPE = 'version = 1\n[[pass]]\nname = "{}"'

BAD: dict[str, tuple[Make, int, tuple[str, ...]]] = {
    # the model
    "the model is missing": (words("nothing.onnx"), 3, ("there is no file", "nothing.onnx")),
    "the model is a folder": (words("."), 3, ("is a folder", "give the .onnx file")),
    "the model is empty": (model(lambda _: b""), 3, ("m.onnx is empty", "copy it again")),
    "the model is cut off": (model(lambda b: b[:-100]), 3, ("is cut off", "copy it again")),
    "the model is text": (model(lambda _: b"hello, this is text\n"), 3, ("is not an ONNX model",)),
    "the model is an image": (model(lambda _: PNG), 3, ("is not an ONNX model",)),
    "the model is a zip": (model(lambda _: ZIP), 3, ("is not an ONNX model",)),
    "the model is a device": (words("/dev/zero"), 3, ("not a regular file",)),
    "the opset is unknown": (proto(set_opset), 3, ("asks for opset 99", "export it with a lower opset")),
    "the domain is unknown": (proto(set_domain), 3, ("operators of my.domain", "export it with standard")),
    "a value that nothing makes": (proto(set_input), 3, ("'nobody' is read, but nothing makes it",)),
    "a weight larger than the file": (proto(set_dims(10**6, 10**6)), 3, ("'w' should have", "damaged")),
    "a weight of negative size": (proto(set_dims(-4, 600)), 3, ("negative dimension",)),
    # external data
    "external data are missing": (external(Path.unlink), 3, ("w.data is missing", "copy it beside")),
    "external data are short": (
        external(lambda f: f.write_bytes(f.read_bytes()[:100])), 3, ("needs 9600 bytes", "cut off")
    ),
    "external data in the parent folder": (external(location="../w.data"), 3, ("outside the model's folder",)),
    "external data at an absolute path": (external(location="/etc/passwd"), 3, ("outside the model's folder",)),
    "external data behind a link": (external(moved_out), 3, ("outside the model's folder", "copy the file")),
    "external data with a NUL in the path": (external(location="w\0.data"), 3, ("outside the model's folder",)),
    # the output
    "the output is the input": (words("m.onnx -o m.onnx"), 2, ("is the input itself", "--force")),
    "the output is the input, spelled otherwise": (words("m.onnx -o ./sub/../m.onnx"), 2, ("is the input itself",)),
    "the output is a link to the input": (linked, 2, ("is the input itself",)),
    "the output is the data": (words("m.onnx --data d.npz -o d.npz --force"), 2, ("would be lost",)),
    "the output is the model's external data": (
        lambda f, m: external()(f, m) + " -o w.data --force", 2, ("would be lost",)
    ),
    "the output is a folder": (words("m.onnx -o sub"), 2, ("sub is a folder",)),
    "the output folder is missing": (words("m.onnx -o no/out.onnx"), 2, ("there is no folder", "make it first")),
    "the output folder cannot be written": (words("m.onnx -o /proc/out.onnx"), 2, ("cannot be written",)),
    "the output name is too long": (words(f"m.onnx -o {'o' * 300}.onnx"), 2, ("File name too long",)),
    "model and output are both missing": (words("nothing.onnx -o out.onnx"), 3, ("there is no file",)),
    "disk full in write": (fails("fdopen", errno.ENOSPC), 2, ("the disk is full", "nothing was changed")),
    "disk full in fsync": (fails("fsync", errno.ENOSPC), 2, ("the disk is full",)),
    "disk full in replace": (fails("replace", errno.ENOSPC), 2, ("the disk is full",)),
    "quota": (fails("fsync", errno.EDQUOT), 2, ("the disk is full",)),
    "disk broken": (fails("fsync", errno.EIO), 2, ("cannot be written: ",)),
    # the data
    "data are missing": (words("m.onnx --data no.npz"), 3, ("no.npz does not exist", "give")),
    "data are text": (words("m.onnx --data d.npz", d_npz="text"), 3, ("not a readable .npz", "numpy.savez")),
    "an input is not in the data": (data(x=ROWS), 3, ("no array for the input 'h'", "add it")),
    "data for an input that is not there": (data(**GOOD, xx=ROWS), 3, ("no input 'xx'", "did you mean 'x'")),
    "data of another rank": (data(x=ROWS[0], h=ROWS), 3, ("array 'x' has shape (4,)", "samples on axis 0")),
    "data of another size": (data(x=ROWS[:, :3], h=ROWS), 3, ("has 3 on axis 1", "it must be 4")),
    "data of another dtype": (data(x=ROWS.astype(int), h=ROWS), 3, ("is int64", "astype(np.float32)")),
    "data of different lengths": (data(x=ROWS[:5], h=ROWS), 3, ("different numbers of samples", "'x' 5, 'h' 8")),
    "data with NaN": (data(x=nan_at(7, np.nan), h=ROWS), 3, ("has NaN or inf at sample 7", "leave out")),
    "data with inf": (data(x=nan_at(0, np.inf), h=ROWS), 3, ("has NaN or inf at sample 0",)),
    "data without samples": (data(x=ROWS[:0], h=ROWS[:0]), 3, ("has no samples", "at least one")),
    "data with one sample": (data(x=ROWS[:1], h=ROWS[:1]), 3, ("too few", "give at least 2")),
    "data of Python objects": (data(x=ROWS.astype(object), h=ROWS), 3, ("never unpickled",)),
    "the metric needs labels": (data("--metric top1", **GOOD), 3, ("top1 needs labels", "add an array 'labels'")),
    # words
    "a metric that does not exist": (data("--metric top2", **GOOD), 2, ("'top2'", "did you mean 'top")),
    "a metric without data": (words("m.onnx --metric top1"), 2, ("--metric needs data",)),
    "a pass that does not exist": (
        words("m.onnx --pass fold-batchnorm"), 2, ("no pass 'fold-batchnorm'", "did you mean 'fold-batch-norm'?")
    ),
    "an option that does not exist": (
        words("m.onnx --pass quantize-int8:wholechains=true"), 2, ("no option 'wholechains'", "mean 'whole-chains'?")
    ),
    "an option without a value": (words("m.onnx --pass quantize-int8:ops"), 2, ("write ops=value",)),
    "an option with a wrong value": (
        words("m.onnx --pass quantize-int8:whole-chains=perhaps"), 2, ("'perhaps' is not true or false",)
    ),
    "an option with a value not allowed": (
        words("m.onnx --pass quantize-int8:ops=Convv"), 2, ("'Convv' is not one of", "Conv")
    ),
    "passes and a recipe": (words("m.onnx --pass fuse-pad --recipe r.toml"), 2, ("give one of them",)),
    "the recipe is missing": (words("m.onnx --recipe no.toml"), 2, ("no.toml cannot be read",)),
    "the recipe is not TOML": (words("m.onnx --recipe r.toml", r_toml="{json: 1}"), 2, ("r.toml is not TOML",)),
    "the recipe is of another version": (words("m.onnx --recipe r.toml", r_toml="version = 7"), 2, ("version 7",)),
    "the recipe is empty": (words("m.onnx --recipe r.toml", r_toml="version = 1"), 2, ("no [[pass]] entries",)),
    "the recipe names no pass": (
        words("m.onnx --recipe r.toml", r_toml=RECIPE.format("fuse-pat")), 2, ("'fuse-pat'", "did you mean 'fuse-pad'?")
    ),
    "a shape without a name": (words("m.onnx --shape 1x4"), 2, ("write --shape name=1x3x224x224",)),
    "a shape without numbers": (words("m.onnx --shape x=1xn"), 2, ("write --shape name=1x3x224x224",)),
    "a shape of an input that is not there": (words("m.onnx --shape xx=1x4"), 2, ("no input 'xx'", "mean 'x'?")),
    "a shape that does not fit": (words("m.onnx --shape x=1x5"), 2, ("does not fit the input 'x'",)),
    "a state without an output": (words("m.onnx --state h"), 2, ("write --state name=value",)),
    "a state input that is not there": (words("m.onnx --state hh=y"), 2, ("no input 'hh'", "did you mean 'h'?")),
    "a state output that is not there": (words("m.onnx --state h=yy"), 2, ("no output 'yy'", "did you mean 'y'?")),
    "a report of unknown form": (words("m.onnx --report r.pdf"), 2, (".json, .md and .html",)),
    "a report in a missing folder": (words("m.onnx --report no/r.md"), 2, ("there is no folder",)),
    "a recipe saved in a missing folder": (words("m.onnx --save-recipe no/r.toml"), 2, ("there is no folder",)),
    "a recipe saved over the model": (words("m.onnx --save-recipe m.onnx"), 2, ("would be lost",)),
    # the runtime
    "cuda without a CUDA build": (without_cuda, 2, ("--provider cuda", "pip install 'onnxopt[gpu]'")),
    "ONNX Runtime is not installed": (without_runtime, 2, ("'onnxopt[cpu]'", "'onnxopt[gpu]'")),
}  # fmt: skip


@dataclass
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The whole program in this process, its own error handling included."""

    def run(*words: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["onnxopt", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            program.main()
        captured = capsys.readouterr()
        return Done(int(ended.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a good model and good data, and an older result."""
    here = tmp_path / "here"
    (here / "sub").mkdir(parents=True)
    monkeypatch.chdir(here)
    files.save(parse(MODEL), here / "m.onnx")
    np.savez(here / "d.npz", **GOOD)
    (here / "out.onnx").write_bytes(b"old")
    return here


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file in the folder, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize(("make", "code", "said"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_sentence_and_nothing_is_written(
    make: Make, code: int, said: tuple[str, ...], folder: Path, run: Run
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        line = make(folder, monkeypatch).split()
        before = contents(folder)
        done = run("optimize", *line, *([] if "-o" in line else ["-o", "out.onnx"]))
    assert len(done.err.splitlines()) == 1, done.err
    assert done.err.startswith("onnxopt: ")
    assert [text for text in said if text not in done.err] == [], done.err
    assert "bug" not in done.err
    assert done.code == code
    assert done.out == ""
    assert contents(folder) == before


def test_debug_shows_where(folder: Path, run: Run) -> None:
    done = run("optimize", "nothing.onnx", "--debug")
    assert done.code == 3
    assert "Traceback" in done.err
    assert done.err.splitlines()[-1].startswith("onnxopt: there is no file")


REALLY_FULL = """
import resource, sys
from onnxopt.cli.main import main
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
sys.argv = ["onnxopt", "optimize", "m.onnx", "-o", "out.onnx", "--pass", "fuse-pad"]
main()
"""


def test_a_file_that_really_cannot_grow(folder: Path) -> None:
    before = contents(folder)
    done = subprocess.run([sys.executable, "-c", REALLY_FULL], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines() == ["onnxopt: out.onnx cannot be written: File too large; nothing was changed"]
    assert contents(folder) == before


def test_the_program_as_a_process(folder: Path) -> None:
    before = contents(folder)
    command = [sys.executable, "-m", "onnxopt.cli.main", "optimize", "m.onnx", "--data", "no.npz"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("onnxopt: no.npz does not exist; give")
    assert contents(folder) == before


# --- passes that misbehave ---


@dataclass(frozen=True)
class Sleeps(Pass):
    """Never ends."""

    name: ClassVar[str] = "sleeps"

    def run(self, model: ir.Model, context: Context) -> list[Change]:
        import time

        time.sleep(60)
        return []


@dataclass(frozen=True)
class Interrupts(Pass):
    """As if Ctrl-C were pressed."""

    name: ClassVar[str] = "interrupts"

    def run(self, model: ir.Model, context: Context) -> list[Change]:
        raise KeyboardInterrupt


@dataclass(frozen=True)
class Raises(Pass):
    """Breaks half-way."""

    name: ClassVar[str] = "raises"

    def run(self, model: ir.Model, context: Context) -> list[Change]:
        model.graph.outputs.pop()
        raise ZeroDivisionError("division by zero")


@dataclass(frozen=True)
class Negates(Pass):
    """Computes something else."""

    name: ClassVar[str] = "negates"
    exactness: ClassVar[Exactness] = Exactness.EXACT

    def run(self, model: ir.Model, context: Context) -> list[Change]:
        node = next(node for node in model.graph if node.op_type == "Add")
        node.op_type = "Sub"
        return [Change("y", "Add became Sub")]


@dataclass(frozen=True)
class Rounds(Negates):
    """The same, declared as another kind."""

    name: ClassVar[str] = "rounds"
    exactness: ClassVar[Exactness] = Exactness.ROUNDING


@dataclass(frozen=True)
class Loses(Negates):
    """The same, declared lossy."""

    name: ClassVar[str] = "loses"
    exactness: ClassVar[Exactness] = Exactness.LOSSY


@pytest.fixture
def strange_passes(monkeypatch: pytest.MonkeyPatch, timed: Any) -> None:
    """The passes above are known; the clock says that the result is faster."""
    monkeypatch.setattr(passes, "PASSES", (*passes.PASSES, Sleeps, Interrupts, Raises, Negates, Rounds, Loses))
    monkeypatch.setattr(road, "compare_speed", lambda *_, **__: timed(2.0, 1.0))
    one = fresh.Fresh(*[fresh.Spread((1.0,))] * 4)
    monkeypatch.setattr(fresh, "measure", lambda *_, **__: one)  # a report asks for memory; no process is started


def asked(*names: str) -> list[str]:
    line = ["optimize", "m.onnx", "-o", "out.onnx", "--report", "r.json"]
    return [*line, *(word for name in names for word in ("--pass", name))]


def operators(path: Path) -> list[str]:
    return [node.op_type for node in files.load(path).graph]


BEST = ["MatMul", "MatMul", "Add", "Relu"]


@pytest.mark.usefixtures("strange_passes")
@pytest.mark.parametrize(
    ("name", "more", "ended"),
    [("interrupts", [], "interrupted"), ("sleeps", ["--time-limit", "1.5"], "time limit")],
)
def test_a_run_cut_short_writes_the_best_model_so_far(
    name: str, more: list[str], ended: str, folder: Path, run: Run
) -> None:
    done = run(*asked("remove-identities", name, "fuse-pad"), *more)
    assert (done.code, done.err) == (0, "")
    assert operators(folder / "out.onnx") == BEST
    report = json.loads((folder / "r.json").read_text())
    assert report["ended"] == ended
    assert [step["pass"] for step in report["steps"]] == ["remove-identities"]
    assert any("the best model so far" in note for note in report["notes"])


@pytest.mark.usefixtures("strange_passes")
@pytest.mark.parametrize(
    ("name", "outcome", "why"),
    [
        ("raises", "failed", "ZeroDivisionError: division by zero"),
        ("negates", "undone", "negates changed the results: value 'y'"),
        ("rounds", "undone", "rounds changed the results: value 'y'"),
    ],
)
def test_a_broken_pass_is_undone_and_the_run_goes_on(name: str, outcome: str, why: str, folder: Path, run: Run) -> None:
    done = run(*asked(name, "remove-identities"))
    assert (done.code, done.err) == (0, "")
    assert operators(folder / "out.onnx") == BEST
    broken, kept = json.loads((folder / "r.json").read_text())["steps"]
    assert broken["outcome"] == outcome
    assert why in broken["why"]
    assert kept["outcome"] == "kept"

    strict = run(*asked(name, "remove-identities"), "--strict")
    assert strict.code == 5
    assert strict.err.startswith(f"onnxopt: {name}: ")
    assert "holds the best model without it" in strict.err
    assert operators(folder / "out.onnx") == BEST


@pytest.mark.usefixtures("strange_passes")
def test_the_gate_refuses_and_strict_says_so(folder: Path, run: Run) -> None:
    random = np.random.default_rng(0)
    rows: dict[str, Any] = {name: random.normal(size=(40, 4)).astype(np.float32) for name in GOOD}
    np.savez(folder / "d.npz", **rows)
    line = [*asked("remove-identities", "loses"), "--data", "d.npz", "--metric", "max-abs-error"]
    assert run(*line).code == 0
    done = run(*line, "--strict")
    assert done.code == 4
    assert done.err.startswith("onnxopt: the accuracy gate refused")
    assert operators(folder / "out.onnx") == BEST


@pytest.mark.usefixtures("strange_passes")
def test_nothing_is_written_if_the_result_does_not_load(
    folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def session(model: ir.Model, target: Target) -> Session:
        if len(list(model.graph)) < 5:
            raise ModelError("ONNX Runtime does not load the model: no kernel")
        return Session(model, target)

    monkeypatch.setattr(road, "Session", session)
    before = contents(folder)
    done = run(*asked("remove-identities"))
    assert done.code == 5
    assert "no kernel" in done.err
    assert len(done.err.splitlines()) == 1
    assert contents(folder) == before


def test_interrupted_before_there_is_anything(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(_: Path) -> ir.Model:
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "load", load)
    before = contents(folder)
    done = run("optimize", "m.onnx", "-o", "out.onnx")
    assert (done.code, done.err.strip()) == (130, "onnxopt: interrupted; nothing was written")
    assert contents(folder) == before
