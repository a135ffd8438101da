"""The README is true: its Python runs, its commands parse, its files are there."""

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from onnxopt.cli.main import cli

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
GUIDES = {name: (ROOT / "docs" / f"{name}.md").read_text() for name in ("bench", "validate")}
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.S)
PAGES = re.findall(r"```(\w+)\n(.*?)```", "\n".join((README, *GUIDES.values())), re.S)
COMMANDS = [
    line.split("#")[0].removeprefix("$ ").strip()
    for kind, block in PAGES
    if kind in ("bash", "console")
    for line in block.splitlines()
    if line.removeprefix("$ ").startswith("onnxopt ")
]


@pytest.mark.slow
def test_python_blocks_run(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = [block for kind, block in BLOCKS if kind == "python"]
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {"__name__": "readme"})
    assert "held-out samples" in capsys.readouterr().out
    assert (tmp_path / "fast.onnx").exists()


SAID = {"bench": "x [", "validate": "b (MatMul): weights 'w2' differ by up to 1 "}


@pytest.mark.parametrize("name", GUIDES)
def test_python_blocks_of_the_guides_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for block in re.findall(r"```python\n(.*?)```", GUIDES[name], re.S):
        exec(compile(block, f"{name}.md", "exec"), {"__name__": name})
    assert SAID[name] in capsys.readouterr().out


@pytest.mark.parametrize("words", COMMANDS)
def test_commands_are_known_with_these_options(words: str) -> None:
    """Each command of the README is parsed as it stands; a word it does not know is exit code 2 from click."""
    arguments = shlex.split(words)[1:]
    if "--help" in arguments:
        assert CliRunner().invoke(cli, arguments).exit_code == 0
        return
    context = cli.make_context("onnxopt", list(arguments))
    name, command, rest = cli.resolve_command(context, [*context._protected_args, *context.args])
    assert command is not None
    command.make_context(name, rest)


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#:]+)\)", README + (ROOT / "CONTRIBUTING.md").read_text()))
def test_linked_files_exist(link: str) -> None:
    assert (ROOT / link).exists()
