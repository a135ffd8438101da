"""What a model file costs to load, in processes of their own."""

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxopt import files, fresh
from onnxopt.errors import ModelError
from onnxopt.fresh import Spread
from onnxopt.target import Target
from onnxopt.testing import parse

WEIGHTS = 8_000_000 * 4
FEEDS = {"x": np.ones((1, 2000), np.float32)}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """32 MB of weights."""
    text = "g (float[N,2000] x) => (float[N,4000] y) <float[2000,4000] w> { y = MatMul(x, w) }"
    return files.save(parse(text), tmp_path / "m.onnx")[0]


def test_a_real_process(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (model.parent / "numpy.py").write_text("raise SystemExit('imported from where one stands')")
    monkeypatch.chdir(model.parent)
    target = Target(shapes={"x": (1, 2000)}, features=frozenset({"avx2"}))
    found = fresh.measure(Path(model.name), target, FEEDS, repeats=1)
    assert 0 < found.load.median < 60
    assert 0 < found.first_run.median < 60
    assert 0.9 * WEIGHTS < found.resident.median < 4 * WEIGHTS
    assert found.resident.median <= found.peak.median < 8 * WEIGHTS
    assert found.to_dict()["peak"]["median"] == found.peak.median


def test_an_error_of_the_process_is_told_in_its_words(model: Path) -> None:
    with pytest.raises(ModelError, match=r"m\.onnx: ONNX Runtime cannot run the model on these inputs"):
        fresh.measure(model, Target(), {"x": np.ones((1, 3), np.float32)}, repeats=1)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "ended by SIGKILL; perhaps memory ran out"),
        ("raise OSError('no disk')", "failed: OSError: no disk"),
        ("pass", "failed: nothing was said"),
    ],
)
def test_a_process_that_does_not_answer(code: str, words: str, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda words, **rest: run([words[0], "-c", code], **rest))
    with pytest.raises(ModelError, match=words):
        fresh.measure(model, Target(), FEEDS, repeats=1)


def test_the_first_process_does_not_count(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([9.0, 3.0, 1.0, 2.0])

    def answer(*_: Any) -> dict[str, float]:
        return dict.fromkeys(("load", "first_run", "peak", "resident"), next(answers))

    monkeypatch.setattr(fresh, "_answer", answer)
    found = fresh.measure(model, Target(), FEEDS, repeats=3)
    assert found.load.to_dict() == {"median": 2, "low": 1, "high": 3, "confidence": 0.75}


def test_the_range_of_few_values_says_how_sure_it_is() -> None:
    random = np.random.default_rng(0)
    spreads = [Spread(tuple(random.exponential(1, 5))) for _ in range(2000)]
    held = np.mean([spread.low <= np.log(2) <= spread.high for spread in spreads])
    assert held == pytest.approx(spreads[0].confidence, abs=0.02)


def test_an_interrupt_ends_the_process(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[str]] = []

    class Interrupted(subprocess.Popen):  # type: ignore[type-arg]
        def communicate(self, *_: Any, **__: Any) -> Any:
            started.append(self)
            raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        fresh.measure(model, Target(), FEEDS, repeats=1)
    assert started[0].returncode is not None


def test_strings_arrive(tmp_path: Path) -> None:
    text = "g (string[2] s, float[1] t) => (string[2] y, float[1] u) { y = Identity(s)  u = Neg(t) }"
    model = files.save(parse(text), tmp_path / "m.onnx")[0]
    feeds = {"s": np.array(["a", "bcd"], object), "t": np.ones(1, np.float32)}
    assert fresh.measure(model, Target(), feeds, repeats=1).load.median > 0
