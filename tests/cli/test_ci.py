"""``onnxopt ci``: what is printed where, and exit codes. Nothing is measured."""

import json
import os
import signal
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from onnxopt.ci import adapter
from onnxopt.ci.results import Accuracy, Median, Speed
from onnxopt.cli.main import cli
from onnxopt.errors import UsageError

FILE = """version = 1
[ci]
markdown = "out/ci.md"
[[model]]
name = "a"
path = "a.onnx"
baseline = "b.onnx"
"""
TIME = Median(1e-3, 1e-3, 1e-3)


@pytest.fixture
def takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list:
    """A file with one model, as slow as the ratio in the list says; what is called there is called."""
    ratio: list = [1.0]

    def timed(*_):
        if callable(ratio[0]):
            ratio[0]()
        return Speed("cpu, 1 thread", "b.onnx", TIME, TIME, ratio[0], ratio[0], ratio[0])

    monkeypatch.setattr(adapter, "timed", timed)
    monkeypatch.setattr(adapter, "compared", lambda *_: Accuracy("b.onnx", "same"))
    monkeypatch.setattr(adapter, "size", lambda path: 1000)
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", "GITHUB_WORKSPACE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b.onnx").touch()
    (tmp_path / "onnxopt.toml").write_text(FILE)
    return ratio


def run(*words: str) -> Result:
    return CliRunner().invoke(cli, ["ci", *words], standalone_mode=False)


def test_the_file_of_the_folder_is_read(takes: list, tmp_path: Path) -> None:
    result = run()
    assert result.return_value == 0
    assert "exit code 0: 1 of 1 passed" in result.stdout
    assert (tmp_path / "out" / "ci.md").read_text().startswith("## onnxopt: passed")


def test_a_slower_model(takes: list) -> None:
    takes[0] = 0.9
    result = run()
    assert result.return_value == 6
    assert "slower" in result.stdout
    assert "::error" not in result.stdout
    assert run("--fail-if-slower", "20%").return_value == 0


def test_in_github_actions(takes: list, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary"))
    takes[0] = 0.9
    result = run()
    assert "::error file=onnxopt.toml,line=4,title=onnxopt speed%3A a::a: cpu, 1 thread: slower" in result.stdout
    assert (tmp_path / "summary").read_text() == (tmp_path / "out" / "ci.md").read_text()


def test_a_file_that_cannot_be_read_is_an_annotation(takes: list, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    (tmp_path / "onnxopt.toml").write_text(FILE + "max_dorp = 1\n")
    result = run()
    assert isinstance(result.exception, UsageError)
    assert result.stderr.startswith(
        "::error file=onnxopt.toml,title=onnxopt::onnxopt.toml: [[model]] 'a': there is no key"
    )


def test_json_is_clean(takes: list, monkeypatch) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    takes[0] = 0.9
    result = run("--json")
    assert json.loads(result.stdout)["exit_code"] == result.return_value == 6
    assert "::error" in result.stderr


def test_quiet_says_only_what_failed(takes: list) -> None:
    assert run("--quiet").output == ""
    takes[0] = 0.9
    result = run("-q")
    assert result.stdout == ""
    assert "slower" in result.stderr


def test_the_command_line_says_where_files_go(takes: list, tmp_path: Path) -> None:
    names = ("a.json", "a.md", "a.xml", "a.smaller.json")
    assert run(*(word for name in names for word in ("--save", f"r/{name}"))).return_value == 0
    assert {path.name for path in (tmp_path / "r").iterdir()} == {*names}
    assert not (tmp_path / "out").exists()


def test_a_workflow_that_is_cancelled(takes: list, tmp_path: Path) -> None:
    """SIGTERM is what a runner sends: the summary is there."""
    before = signal.getsignal(signal.SIGTERM)
    takes[0] = lambda: os.kill(os.getpid(), signal.SIGTERM)
    result = run()
    assert result.return_value == 130
    assert "interrupted" in result.stdout
    assert "interrupted" in (tmp_path / "out" / "ci.md").read_text()
    assert signal.getsignal(signal.SIGTERM) is before


def test_debug_shows_the_trace_of_a_bug(takes: list, monkeypatch) -> None:
    def broken() -> None:
        raise ZeroDivisionError("oh")

    takes[0] = broken
    assert "Traceback" not in run().output
    monkeypatch.setattr("sys.argv", ["onnxopt", "ci", "--debug"])
    result = run("--debug")
    assert result.return_value == 1
    assert "in broken" in result.stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("other.toml",), "there is no file other.toml"),
        (("--fail-if-slower", "3"), "--fail-if-slower 3: give a share"),
        (("--model", "aa"), "no model 'aa'; did you mean 'a'"),
        (("--save", "json:."), "is a folder"),
        (("--save", "report.html"), "the ending says the form"),
    ],
)
def test_usage(takes: list, words: tuple[str, ...], sentence: str) -> None:
    error = run(*words).exception
    assert isinstance(error, UsageError)
    assert sentence in str(error)
