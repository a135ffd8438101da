"""The report: the ledger of bytes, in every form."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner

from onnxopt import files, fresh, passes
from onnxopt import optimize as road
from onnxopt.cli.main import cli
from onnxopt.core import Change, Saved
from onnxopt.optimize import Options, optimize
from onnxopt.report import Report, write
from onnxopt.testing import parse

TEXT = """g (float[16,32] x) => (float[16,32] y) <float[16,32] u, float[16,32] v, float[1,512] w, int64[2] s = {16, 32}>
{ r = Reshape(w, s)  a = Add(x, u)  b = Mul(a, v)  y = Sub(b, r) }"""


@pytest.fixture
def source(tmp_path: Path, monkeypatch, timed) -> Path:
    """A model with three times the same numbers, once in another shape; nothing is timed."""
    monkeypatch.setattr(road, "compare_speed", lambda *_, **__: timed(1.0, 1.0))
    model = parse(TEXT)
    numbers = np.random.default_rng(0).normal(size=(16, 32)).astype(np.float32)
    for name in "uvw":
        value = model.graph.initializers[name]
        value.const_value = ir.tensor(numbers.reshape(1, -1) if name == "w" else numbers, name=name)
    return files.save(model, tmp_path / "m.onnx")[0]


@pytest.fixture
def report(source: Path, tmp_path: Path) -> Report:
    return optimize(source, tmp_path / "out.onnx", Options(passes=(passes.parse_stage("share-initializers"),)))


def test_the_ledger_has_the_bytes_by_cause(report: Report) -> None:
    assert list(report.ledger) == ["share-initializers"]
    saved = report.ledger["share-initializers"]
    assert abs(report.before.size - report.after.size - saved.file) <= 8  # lengths of what holds them
    assert saved.session == 2048  # of the one that is read as it is; a Reshape is computed into memory of its own


def test_the_ledger_is_in_json_and_markdown(report: Report, tmp_path: Path) -> None:
    for name in ("r.json", "r.md"):
        write(report, tmp_path / name)
    found = json.loads((tmp_path / "r.json").read_text())
    saved = report.ledger["share-initializers"]
    assert found["version"] == 3
    assert found["ledger"] == {"share-initializers": {"file": saved.file, "session": 2048}}
    assert found["steps"][0]["changes"][0]["saved"]["session"] == 2048
    assert f"| `share-initializers` | {saved.file:,} | 2,048 |" in (tmp_path / "r.md").read_text()


def test_the_command_prints_it(source: Path, tmp_path: Path) -> None:
    words = ["optimize", str(source), "-o", str(tmp_path / "out.onnx"), "--pass", "share-initializers", "-v"]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 0, result.output
    assert "v: equal to 'u' (saves 2,063 bytes of the file, 2,048 of memory)" in result.output
    assert "of memory, by share-initializers" in " ".join(result.output.split())


def test_a_change_without_a_count_is_as_before() -> None:
    assert Change("y", "folded").to_dict() == {"node": "y", "what": "folded"}
    assert Change("y", "shared", Saved(3, -1)).to_dict()["saved"] == {"file": 3, "session": -1}
    assert str(Saved(3, -1) + Saved(4000, 1)) == "4,003 bytes of the file, 0 of memory"


def test_only_a_page_needs_what_draws_and_fills_it(report: Report, tmp_path: Path) -> None:
    write(report, tmp_path / "r.json")
    code = (
        "import sys; from pathlib import Path; from onnxopt.report.stored import read; from onnxopt.report import write_content\n"
        "content = read(Path('r.json')); write_content(content, Path('r.md'))\n"
        "print(sorted({'matplotlib', 'jinja2'} & set(sys.modules)))\n"
        "write_content(content, Path('r.html')); print(sorted({'matplotlib', 'jinja2'} & set(sys.modules)))"
    )
    here = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=here, capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[:2] == ["[]", "['jinja2', 'matplotlib']"]


def test_the_command_writes_every_form(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = fresh.Fresh(*[fresh.Spread((1.0, 2.0, 3.0))] * 4)
    monkeypatch.setattr(fresh, "measure", lambda *_, **__: one)  # no process is started here
    names = [tmp_path / name for name in ("r.html", "r.md", "r.json")]
    words = [word for name in names for word in ("--report", str(name))]
    line = ["optimize", str(source), "-o", str(tmp_path / "out.onnx"), "--pass", "share-initializers", *words]
    result = CliRunner().invoke(cli, line)
    assert result.exit_code == 0, result.output
    content = json.loads(names[2].read_text())
    assert content["layers"]["rows"]
    assert content["memory"]["after"]["resident"]["median"] == 2.0
    assert "sha256" in names[1].read_text()
    assert "<!doctype html>" in names[0].read_text()
