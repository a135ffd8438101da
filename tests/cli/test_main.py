"""The command line as a process: what help imports, exit codes, tracebacks, suggestions."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from onnxopt import files
from onnxopt.cli.main import COMMANDS
from onnxopt.testing import parse

HEAVY = ("onnx", "onnx_ir", "onnxruntime", "onnxsim", "onnxscript", "torch", "scipy", "rich", "numpy", "zstandard")
HELP = f"""
import sys
from onnxopt.cli.main import main
sys.argv = ["onnxopt", "--help"]
try:
    main()
finally:
    print("HEAVY:", *(name for name in {HEAVY} if name in sys.modules))
"""


def test_help_imports_nothing_heavy() -> None:
    result = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=True)
    assert "Commands:" in result.stdout
    assert result.stdout.splitlines()[-1].strip() == "HEAVY:"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    result = onnxopt(name, "--help")
    assert result.returncode == 0
    assert "--json" in result.stdout


def test_an_unknown_command_has_a_suggestion() -> None:
    result = onnxopt("inspct")
    assert result.returncode == 2
    assert "did you mean 'inspect'?" in result.stderr


def test_an_unknown_option_is_a_usage_error() -> None:
    result = onnxopt("inspect", "--layer-table")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (2, ["validate", "m.onnx", "m.onnx", "--metric", "top1"]),
        (3, ["inspect", "missing.onnx"]),
        (3, ["inspect", "text.onnx"]),
        (3, ["validate", "m.onnx", "m.onnx", "--data", "d.npz"]),
        (4, ["validate", "m.onnx", "other.onnx"]),
        (6, ["bench", "m.onnx", "m.onnx", "--seconds", "0.05", "--min-ratio", "50"]),
    ],
)
def test_errors_are_a_sentence_and_an_exit_code(code: int, words: list[str], folder: Path) -> None:
    result = onnxopt(*words, folder=folder)
    assert result.returncode == code
    assert result.stderr.startswith("onnxopt: ")
    assert len(result.stderr.splitlines()) == 1


def test_the_goal_of_size_without_data_takes_names(tmp_path: Path) -> None:
    source = "g (float[1,4] x) => (float[1,4] y) { a_long_name_that_nobody_needs = Exp(x)  y = Neg(a_long_name_that_nobody_needs) }"
    files.save(parse(source), tmp_path / "m.onnx")
    result = onnxopt("optimize", "m.onnx", "--goal", "size", "--max-slowdown", "1.2", "-o", "s.onnx", folder=tmp_path)
    assert result.returncode == 0
    assert "strip-names" in result.stdout
    assert (tmp_path / "s.onnx").stat().st_size < (tmp_path / "m.onnx").stat().st_size
    assert onnxopt("optimize", "m.onnx", "--max-slowdown", "0", folder=tmp_path).returncode == 2


def test_debug_adds_the_traceback(folder: Path) -> None:
    result = onnxopt("inspect", "missing.onnx", "--debug", folder=folder)
    assert result.returncode == 3
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1] == f"onnxopt: there is no file {folder / 'missing.onnx'}"


def test_version() -> None:
    result = onnxopt("--version")
    assert result.returncode == 0
    assert result.stdout.startswith("onnxopt, version ")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two models that differ, data that fit neither, and a file that is no model."""
    text = "g (float[1,4] x) => (float[1,4] y) {{ y = {}(x) }}"
    for name, op in (("m.onnx", "Relu"), ("other.onnx", "Abs")):
        files.save(parse(text.format(op)), tmp_path / name)
    np.savez(tmp_path / "d.npz", z=np.ones((5, 4), np.float32))
    (tmp_path / "text.onnx").write_text("this is not a model")
    return tmp_path


def onnxopt(*words: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "onnxopt.cli.main", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
