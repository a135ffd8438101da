"""``action.yml`` and the example workflow: they parse, their scripts are safe, and the main one runs as a runner would."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from onnxopt import files
from onnxopt.testing import parse

ROOT = Path(__file__).resolve().parents[2]
WORKFLOW = ROOT / "docs" / "examples" / "onnxopt-ci.yml"
spec = importlib.util.spec_from_file_location("yaml_subset", Path(__file__).with_name("yaml_subset.py"))
yaml_subset = importlib.util.module_from_spec(spec)
sys.modules["yaml_subset"] = yaml_subset
spec.loader.exec_module(yaml_subset)

ACTION = yaml_subset.load((ROOT / "action.yml").read_text())
STEPS = ACTION["runs"]["steps"]
JOB_STEPS = [step for job in yaml_subset.load(WORKFLOW.read_text())["jobs"].values() for step in job["steps"]]
SCRIPTS = {step["name"]: step["run"] for step in [*STEPS, *JOB_STEPS] if "run" in step}
RUNNER = ["bash", "--noprofile", "--norc", "-eo", "pipefail"]


def step(name: str) -> dict:
    return next(each for each in STEPS if each["name"] == name)


@pytest.mark.parametrize("path", [ROOT / "action.yml", WORKFLOW], ids=lambda path: path.name)
def test_the_subset_is_yaml(path: Path) -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML, which would read the files, too, is not installed")
    wanted = yaml.safe_load(path.read_text())
    wanted = {"on" if key is True else key: value for key, value in wanted.items()}  # YAML 1.1 reads on as true
    assert yaml_subset.load(path.read_text()) == wanted


@pytest.mark.parametrize(
    "text", ["a: 1\na: 2", "a:\n\tb: 1", "a: {b: 1}", "a: b: c", "a:\n  b: 1\n c: 2", 'a: "b', "a"]
)
def test_the_subset_is_strict(text: str) -> None:
    with pytest.raises(yaml_subset.NotYaml):
        yaml_subset.load(text)


def test_the_subset_reads_what_yaml_means() -> None:
    text = "a:\n  - b: 1 # one\n    c: 'd''e'\n  - [\"f\", 2]\ng: |\n  h\n    i\n\n  j\nk: true\n"
    assert yaml_subset.load(text) == {"a": [{"b": 1, "c": "d'e"}, ["f", 2]], "g": "h\n  i\n\nj\n", "k": True}


def test_the_action_is_composite_and_documented() -> None:
    assert ACTION["runs"]["using"] == "composite"
    assert all(each["description"] for each in [*ACTION["inputs"].values(), *ACTION["outputs"].values()])
    assert {"config", "version", "extras", "python-version", "fail-if-slower", "summary"} <= ACTION["inputs"].keys()
    assert {"passed", "report", "summary"} <= ACTION["outputs"].keys()


def test_every_input_is_used_and_known() -> None:
    used = set(re.findall(r"inputs\.([\w-]+)", (ROOT / "action.yml").read_text()))
    assert used == set(ACTION["inputs"])


def test_every_output_is_written() -> None:
    written = set(re.findall(r'echo "([\w-]+)=', step("Optimize, compare, time")["run"]))
    read = {re.search(r"outputs\.([\w-]+)", each["value"])[1] for each in ACTION["outputs"].values()}
    assert read <= written


def test_what_is_used_has_a_pinned_major_version() -> None:
    used = [each["uses"] for each in [*STEPS, *JOB_STEPS] if "uses" in each]
    foreign = [name for name in used if not name.startswith("OWNER/onnxopt@")]
    assert len(used) - len(foreign) == 1
    assert foreign
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", name) for name in foreign)


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_hold_no_expressions_and_are_bash(name: str) -> None:
    assert "${{" not in SCRIPTS[name], "an input in a script is a command; pass it in env"
    subprocess.run(["bash", "-n"], input=SCRIPTS[name], text=True, check=True)


def test_every_run_of_the_action_names_its_shell() -> None:
    assert all(each.get("shell") == "bash" for each in STEPS if "run" in each)


# --- the scripts, run as a runner would ---


@pytest.fixture
def runner(tmp_path: Path):
    """A folder as a runner has it; runs a step with the values of its env, and returns process and outputs."""
    repository, temporary, tools = (tmp_path / name for name in ("repository", "temp", "bin"))
    for folder in (repository, temporary, tools):
        folder.mkdir()
    (tools / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (tools / "python").chmod(0o755)

    def run(name: str, **values: str) -> tuple[subprocess.CompletedProcess, dict[str, str]]:
        assert values.keys() == step(name)["env"].keys()
        out, script = tmp_path / "output", tmp_path / "script.sh"
        out.write_text("")
        script.write_text(step(name)["run"])
        environment = {
            **os.environ, **values, "PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT),
            "GITHUB_ACTIONS": "true", "GITHUB_WORKSPACE": str(repository), "GITHUB_OUTPUT": str(out),
            "GITHUB_STEP_SUMMARY": str(tmp_path / "summary"), "RUNNER_TEMP": str(temporary),
        }  # fmt: skip
        done = subprocess.run([*RUNNER, script], cwd=repository, env=environment, capture_output=True, text=True)
        return done, dict(line.split("=", 1) for line in out.read_text().splitlines())

    run.repository, run.summary, run.tools = repository, tmp_path / "summary", tools
    return run


GATE = "Optimize, compare, time"
WORDS = {"CONFIG": "onnxopt.toml", "FAIL_IF_SLOWER": "", "FORCE_BASELINE": "false", "SUMMARY": "true"}


@pytest.fixture
def models(runner) -> Path:
    """A small model, and one whose outputs are others, in the repository."""
    for name, value in (("a", 1.0), ("b", 2.0)):
        model = parse("g (float[n,4] x) => (float[n,4] y) <float[4] w> { y = Mul(x, w) }")
        model.graph.initializers["w"].const_value = ir.tensor(np.full(4, value, np.float32), name="w")
        files.save(model, runner.repository / f"{name}.onnx")
    (runner.repository / "onnxopt.toml").write_text(
        "version = 1\n[defaults]\nseconds = 0.02\nfail_if_slower = 'off'\n"
        "[[model]]\nname = 'net'\npath = 'a.onnx'\nbaseline = 'a.onnx'\n"
    )
    return runner.repository / "onnxopt.toml"


def test_the_gate_passes(runner, models: Path) -> None:
    done, outputs = runner(GATE, **WORDS)
    assert done.returncode == 0, done.stderr
    assert (outputs["passed"], outputs["exit-code"]) == ("true", "0")
    assert json.loads(Path(outputs["report"]).read_text())["passed"]
    assert Path(outputs["summary"]).read_text() == runner.summary.read_text()
    assert all(Path(outputs[name]).is_file() for name in ("junit", "smaller"))


def test_the_gate_fails_in_its_last_step(runner, models: Path) -> None:
    models.write_text(models.read_text().replace("path = 'a.onnx'", "path = 'b.onnx'"))
    done, outputs = runner(GATE, **{**WORDS, "SUMMARY": "false", "FORCE_BASELINE": "true"})
    assert done.returncode == 0
    assert (outputs["passed"], outputs["exit-code"]) == ("false", "4")
    assert "::error file=onnxopt.toml,line=5,title=onnxopt accuracy%3A net::net:" in done.stdout
    assert not runner.summary.exists()
    assert runner("Verdict", CODE=outputs["exit-code"])[0].returncode == 4


def test_a_file_that_is_missing(runner) -> None:
    done, outputs = runner(GATE, **{**WORDS, "CONFIG": "other.toml"})
    assert (outputs["passed"], outputs["exit-code"]) == ("false", "2")
    assert "::error file=other.toml" in done.stdout + done.stderr


def test_inputs_are_words_and_not_commands(runner) -> None:
    done, outputs = runner(
        GATE, **{**WORDS, "CONFIG": '"; touch owned; $(touch owned) `touch owned`', "FAIL_IF_SLOWER": "$(touch owned)"}
    )
    assert outputs["exit-code"] == "2"
    assert "owned" in done.stderr
    assert not list(runner.repository.iterdir())


@pytest.mark.parametrize(
    ("version", "extras", "what"),
    [("", "cpu", "HERE[cpu]"), ("", "", "HERE"), ("0.1.0", "cpu,torch", "onnxopt[cpu,torch]==0.1.0")],
)
def test_what_is_installed(runner, version: str, extras: str, what: str) -> None:
    (runner.tools / "python").write_text('#!/bin/sh\necho "$@"\n')
    done, _ = runner("Install onnxopt", VERSION=version, EXTRAS=extras, ACTION_PATH="HERE")
    assert done.stdout.split() == ["-m", "pip", "install", "--disable-pip-version-check", what]


@pytest.mark.parametrize("words", [{"EXTRAS": "cpu] --index-url http://x"}, {"VERSION": "1 --index-url x"}])
def test_what_is_no_version_is_not_installed(runner, words: dict[str, str]) -> None:
    (runner.tools / "python").write_text('#!/bin/sh\necho "$@"\n')
    done, _ = runner("Install onnxopt", **{"VERSION": "", "EXTRAS": "cpu", "ACTION_PATH": "HERE", **words})
    assert done.returncode == 2
    assert "pip" not in done.stdout
    assert "::error::" in done.stdout
