"""``docs/ci.md``: every block runs, or is read by what will read it."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from onnxopt.ci import read
from onnxopt.ci.config import FILES, KEYS, ONE, SOURCES, SUMMARIES
from onnxopt.cli.main import cli

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "ci.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.S)
COMMANDS = [line[2:] for kind, block in BLOCKS if kind == "console" for line in block.splitlines()]
DEMO = "python benchmarks/ci_demo.py"
spec = importlib.util.spec_from_file_location("yaml_subset", Path(__file__).with_name("yaml_subset.py"))
yaml_subset = importlib.util.module_from_spec(spec)
sys.modules["yaml_subset"] = yaml_subset
spec.loader.exec_module(yaml_subset)


def blocks(kind: str) -> list[str]:
    return [block for each, block in BLOCKS if each == kind]


def test_every_kind_of_block_is_known_to_a_test() -> None:
    assert {kind for kind, _ in BLOCKS} == {"python", "toml", "console", "text", "yaml"}
    assert all(line.startswith("$ ") for block in blocks("console") for line in block.splitlines())


@pytest.mark.parametrize("block", blocks("toml"))
def test_toml_is_read(block: str, tmp_path: Path) -> None:
    (tmp_path / "onnxopt.toml").write_text(block)
    assert read(tmp_path / "onnxopt.toml").models[0].name == "digits"


@pytest.mark.parametrize("block", blocks("yaml"))
def test_yaml_is_read(block: str) -> None:
    assert yaml_subset.load(block)


def test_the_workflow_is_the_example() -> None:
    assert (ROOT / "docs" / "examples" / "onnxopt-ci.yml").read_text() in blocks("yaml")


def test_the_workflow_names_inputs_and_outputs_of_the_action() -> None:
    action = yaml_subset.load((ROOT / "action.yml").read_text())
    (steps,) = [job["steps"] for job in yaml_subset.load(blocks("yaml")[0])["jobs"].values()]
    (used,) = [step for step in steps if step.get("uses", "").startswith("OWNER/onnxopt")]
    assert used["with"].keys() <= action["inputs"].keys()
    assert set(re.findall(r"steps\.onnxopt\.outputs\.([\w-]+)", PAGE)) <= action["outputs"].keys()
    listed = PAGE[PAGE.index("Inputs of the action") :].split("\n\n")[0]
    assert {*action["inputs"], *action["outputs"]} <= set(re.findall(r"`([\w-]+)`", listed))


@pytest.mark.parametrize("words", [words for words in COMMANDS if words.startswith("onnxopt ")])
def test_commands_are_known_with_these_options(words: str) -> None:
    arguments = shlex.split(words, comments=True)[1:]
    context = cli.make_context("onnxopt", arguments)
    name, command, rest = cli.resolve_command(context, [*context._protected_args, *context.args])
    command.make_context(name, rest)


def test_every_key_is_explained() -> None:
    rows = [re.findall(r"`(\w+)`", line.split("|")[1]) for line in PAGE.splitlines() if line.startswith("| `")]
    explained = {key for row in rows for key in row}
    assert {*KEYS, *SOURCES, *FILES, *ONE, "name", *SUMMARIES, "out", "stop_at_first_failure"} <= explained


def test_links_lead_somewhere() -> None:
    assert all(
        (ROOT / path).exists() for path in ("action.yml", "docs/examples/onnxopt-ci.yml", "benchmarks/ci_demo.py")
    )


@pytest.fixture
def shell(tmp_path: Path):
    """Runs a line in an empty folder, where ``onnxopt`` and ``python`` are this one; returns the exit code."""
    tools, folder = tmp_path / "bin", tmp_path / "folder"
    for place in (tools, folder):
        place.mkdir()
    for name, words in (("python", ""), ("onnxopt", "-m onnxopt.cli.main")):
        (tools / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n')
        (tools / name).chmod(0o755)
    (folder / "benchmarks").symlink_to(ROOT / "benchmarks")
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        environment.pop(name, None)

    def run(words: str) -> int:
        done = subprocess.run(["bash", "-c", words], cwd=folder, env=environment, capture_output=True, text=True)
        print(f"$ {words}\n{done.stdout}{done.stderr}")
        return done.returncode

    run.folder = folder
    return run


def wanted(words: str) -> int:
    found = re.search(r"# exit code (\d+)", words)
    return int(found[1]) if found else 0


@pytest.mark.slow
def test_the_blocks_run_one_after_the_other(shell) -> None:
    """All but the demo. The models that are timed differ by a factor of three, or have no limit."""
    for kind, block in BLOCKS:
        name = re.match(r"# (\w+\.toml)\n", block)
        if kind == "python":
            (shell.folder / "block.py").write_text(block)
            assert shell("python block.py") == 0
        elif kind == "toml" and name:
            (shell.folder / name[1]).write_text(block)
        elif kind == "console":
            for line in block.splitlines():
                if not line.startswith(f"$ {DEMO}"):
                    assert shell(line[2:]) == wanted(line), line
    assert {path.name for path in (shell.folder / "out").iterdir()} >= {"summary.md", "junit.xml", "report.json"}


@pytest.mark.slow
def test_the_three_outcomes(shell) -> None:
    """Passed, exit code 6, exit code 4 with the layer: the script exits 1 where one is another."""
    (line,) = [words for words in COMMANDS if words.startswith(DEMO)]
    assert shell(line) == wanted(line)
