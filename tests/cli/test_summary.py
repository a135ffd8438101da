"""What optimize says at the end, as a terminal of 80 columns shows it; and what is said meanwhile."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from onnxopt.cli import printing, summary
from onnxopt.core import Change, Exactness, Refusal
from onnxopt.optimize import Options, optimize
from onnxopt.pipeline import Outcome, Step
from onnxopt.report import Report

LONG = "a reason that goes on and on, and says far more than any line of eighty columns can hold, " * 2


@pytest.fixture
def result(conv_net_file: Path, tmp_path: Path) -> Report:
    return optimize(conv_net_file, tmp_path / "out.onnx", Options())


def shown(
    result: Report, monkeypatch: pytest.MonkeyPatch, *, verbose: bool = False, terminal: bool = True
) -> list[str]:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=80 if terminal else 10_000, color_system=None)
    monkeypatch.setattr(summary, "console", lambda: console)
    summary.print_summary(result, verbose=verbose)
    return out.getvalue().splitlines()


def many(outcome: Outcome, count: int, exactness: Exactness = Exactness.LOSSY) -> list[Step]:
    return [Step(f"a-pass-with-a-long-name:option={i},other={i}", exactness, outcome, LONG, 1.0) for i in range(count)]


def test_at_most_25_lines_of_80_columns(result: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [*many(Outcome.KEPT, 12), *many(Outcome.REFUSED, 30), *many(Outcome.NOTHING, 30), *many(Outcome.FAILED, 3)]
    crowded = replace(result, steps=tuple(steps), notes=(LONG, "another note"), data=LONG, output="out.onnx")
    lines = shown(crowded, monkeypatch)
    assert len(lines) <= summary.LINES
    assert max(map(len, lines)) <= 80
    assert any("30 had nothing to do" in line for line in lines)


def test_what_was_kept_comes_before_what_was_refused(result: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [*many(Outcome.REFUSED, 30), replace(many(Outcome.KEPT, 1)[0], words="kept-one")]
    lines = shown(replace(result, steps=tuple(steps)), monkeypatch)
    assert any(line.startswith("kept-one") for line in lines)
    hidden = next(line for line in lines if "more were refused" in line)
    rows = [line for line in lines if line.startswith("a-pass")]
    assert f"{30 - len(rows)} more were refused" in hidden


def test_verbose_shows_all_of_it(result: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Step(
        "some-pass", Exactness.EXACT, Outcome.NOTHING, "x", 1.0, (Change("n", "[red]did"),), (Refusal("", "why"),)
    )
    lines = shown(replace(result, steps=(step,)), monkeypatch, verbose=True, terminal=False)
    assert any("n: [red]did" in line for line in lines)
    assert any("model: why" in line for line in lines)


def test_piped_lines_of_steps_are_whole(result: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown(replace(result, steps=tuple(many(Outcome.KEPT, 1))), monkeypatch, terminal=False)
    assert any(LONG.strip() in line for line in lines)


def test_quiet_prints_nothing_and_json_is_json(conv_net_file: Path) -> None:
    words = [sys.executable, "-m", "onnxopt.cli.main", "optimize", str(conv_net_file)]
    quiet = subprocess.run([*words, "--quiet"], capture_output=True, text=True, check=True)
    assert (quiet.stdout, quiet.stderr) == ("", "")
    both = subprocess.run([*words, "-q", "--json"], capture_output=True, text=True, check=True)
    assert both.stdout.startswith("{")
    assert both.stderr == ""


def test_a_terminal_is_told_what_is_being_done() -> None:
    leader, follower = pty.openpty()
    code = (
        "import time; from onnxopt import progress; from onnxopt.cli.printing import working\n"
        "with working('reading'):\n"
        "    progress.stage('quantize-int8', 2, 7); progress.count('layer', 3, 9); time.sleep(0.3)"
    )
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "NO_COLOR": "1"}
    subprocess.run([sys.executable, "-c", code], stderr=follower, check=True, env=environment)
    os.close(follower)
    told = os.read(leader, 65536).decode()
    os.close(leader)
    assert "[2/7] quantize-int8: layer 3 of 9" in told


def test_where_nothing_listens_nothing_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with printing.working("something") as lines:
        lines.print("a line")
    assert capsys.readouterr() == ("", "")
