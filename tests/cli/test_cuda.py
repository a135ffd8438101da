"""What the command line says of the GPU: options, what is missing, nodes that stay on the CPU."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from onnxopt import files
from onnxopt.cli.main import cli
from onnxopt.errors import OnnxoptError
from onnxopt.testing import parse

NET = """g (float[n,4] x) => (float[n,4] y) <float[4,4] w>
{ s = Shape(x)  h = MatMul(x, w)  i = Celu(h)  y = Reshape(i, s) }"""


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(files.save(parse(NET, opset=20), tmp_path / "net.onnx")[0])


Run = Callable[..., Result]


@pytest.fixture
def run() -> Run:
    return lambda *words: CliRunner().invoke(cli, words)


def refused(result: Result) -> str:
    """What a user reads, where the exit code is 2."""
    assert isinstance(result.exception, OnnxoptError)
    assert result.exception.exit_code == 2
    return str(result.exception)


WORDS = {
    "a misspelt option": (["--provider", "cuda", "--provider-option", "use_tf23=0"], "did you mean 'use_tf32'?"),
    "an option on the CPU": (
        ["--provider-option", "use_tf32=0"],
        "--provider-option is for the GPU: add --provider cuda",
    ),
    "another GPU on the CPU": (["--device-id", "1"], "--device-id is for the GPU: add --provider cuda"),
    "a graph on the CPU": (["--cuda-graph"], "--cuda-graph is for the GPU: add --provider cuda"),
    "the GPU required on the CPU": (["--require-gpu"], "--require-gpu is for the GPU: add --provider cuda"),
}


@pytest.mark.parametrize(("words", "said"), WORDS.values(), ids=WORDS.keys())
def test_words_that_do_not_fit(words: list[str], said: str, model: str, run: Run) -> None:
    for command in (["bench", model], ["validate", model, model], ["optimize", model]):
        assert said in refused(run(*command, *words))


def test_what_is_missing_is_one_sentence(model: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxopt.runtime.session.missing_gpu", lambda target: "--provider cuda: no GPU: buy one")
    assert refused(run("bench", model, "--provider", "cuda")) == "--provider cuda: no GPU: buy one"


def test_nodes_on_the_cpu_are_noted(made: list[Any], model: str, run: Run, tmp_path: Path) -> None:
    """On a GPU that is the CPU all are."""
    result = run("bench", model, "--provider", "cuda", "--seconds", "0.01", "--fresh", "0", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert {one["operator"]: one["deliberate"] for one in found["measurements"][0]["fallbacks"]} == {
        "MatMul": False, "Celu": False, "Reshape": False, "Shape": True,
    }  # fmt: skip
    assert any("3 nodes run on the CPU (" in warning for warning in found["warnings"])
    result = run("validate", model, model, "--provider", "cuda")
    assert result.exit_code == 0, result.output
    assert "note: 3 nodes run on the CPU (" in result.output
    result = run(
        "optimize", model, "-o", str(tmp_path / "o.onnx"), "--provider", "cuda", "--pass", "fuse-pad", "--json"
    )
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert any(note.startswith("3 nodes run on the CPU (") for note in report["notes"])
    assert report["settings"]["provider_options"] == {}


def test_a_required_gpu_is_an_error(made: list[Any], model: str, run: Run) -> None:
    for command in (["bench", model], ["validate", model, model], ["optimize", model]):
        said = refused(run(*command, "--provider", "cuda", "--require-gpu"))
        assert "--require-gpu: 3 nodes run on the CPU (MatMul 'h': " in said
