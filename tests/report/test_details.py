"""What is found out for a report only: as much as the time allows, and never at the cost of the result."""

import dataclasses
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from onnxopt import fresh, passes
from onnxopt import optimize as road
from onnxopt.errors import ModelError
from onnxopt.optimize import Options, optimize
from onnxopt.report import details
from onnxopt.report.details import REPEATS, Details, Subject, collect
from onnxopt.target import Target

FEEDS = {"x": np.zeros((1, 3, 8, 8), np.float32)}


@pytest.fixture
def subject(conv_net: ir.Model, conv_net_file: Path) -> Subject:
    return Subject(conv_net, conv_net.clone(), conv_net_file, conv_net_file, FEEDS, Target())


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files whose memory was asked for; no process is started."""
    asked: list[Path] = []
    one = fresh.Fresh(*[fresh.Spread((1.0, 2.0, 3.0))] * 4)

    def measure(path: Path, *_: object, repeats: int) -> fresh.Fresh:
        assert repeats == REPEATS
        asked.append(path)
        return one

    monkeypatch.setattr(fresh, "measure", measure)
    return asked


def test_layers_and_memory_are_found_out(subject: Subject, measured: list[Path]) -> None:
    found = collect(subject, [], None)
    assert found.layers is not None
    assert len(measured) == 2
    memory = found.memory()
    assert memory is not None
    assert memory["before"]["resident"] == {"median": 2.0, "low": 1.0, "high": 3.0, "confidence": 0.75}
    assert found.notes == []


def test_an_original_that_is_the_result_is_measured_once(subject: Subject, measured: list[Path]) -> None:
    found = collect(dataclasses.replace(subject, result=subject.original), [], None)
    assert len(measured) == 1
    assert found.before == found.after


def test_without_time_nothing_is_found_out_and_a_note_says_so(subject: Subject) -> None:
    for left in (0.0, -5.0):
        found = collect(subject, [], left)
        assert (found.layers, found.memory()) == (None, None)
        assert "the time limit left no time" in found.notes[0]


def test_a_key_leaves_what_is_there(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fresh, "measure", interrupted)
    found = collect(subject, [], None)
    assert found.layers is not None
    assert found.memory() is None
    assert "interrupted" in found.notes[0]


def test_what_fails_is_noted_and_the_rest_found_out(subject: Subject, measured, monkeypatch) -> None:
    def broken(*_: object) -> None:
        raise ModelError("no such kernel")

    monkeypatch.setattr(details, "layers", broken)
    found = collect(subject, [], None)
    assert found.notes == ["the layers could not be measured: no such kernel"]
    assert found.memory() is not None


@pytest.mark.slow
def test_memory_is_that_of_fresh_processes(subject: Subject) -> None:
    memory = collect(subject, [], None).memory()
    assert memory is not None
    assert all(memory[end]["resident"]["low"] > 0 for end in ("before", "after"))


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch, timed) -> Options:
    monkeypatch.setattr(road, "compare_speed", lambda *_, **__: timed(2.0, 1.0))
    return Options(passes=(passes.parse_stage("fold-batch-norm"),), details=True)


def test_the_road_finds_them_out_only_where_they_are_asked_for(
    conv_net_file: Path, tmp_path: Path, options: Options, measured: list[Path]
) -> None:
    found = optimize(conv_net_file, tmp_path / "o.onnx", dataclasses.replace(options, details=False))
    assert found.details == Details()
    assert found.to_dict()["memory"] is None
    found = optimize(conv_net_file, tmp_path / "o.onnx", options)
    assert measured == [conv_net_file, tmp_path / "o.onnx"]
    rows = found.to_dict()["layers"]["rows"]
    assert any("BatchNormalization folded" in change for row in rows for change in row["changes"])


def test_an_original_that_is_replaced_is_measured_from_a_copy(
    conv_net_file: Path, options: Options, measured: list[Path]
) -> None:
    found = optimize(conv_net_file, conv_net_file, dataclasses.replace(options, force=True))
    assert measured[0] != conv_net_file
    assert measured[1] == conv_net_file
    assert not measured[0].exists()
    model, result = (next(f for f in found.origin.files if f.role == role) for role in ("model", "result"))
    assert model.sha256 != result.sha256


def test_a_run_that_was_interrupted_ends_at_once(
    conv_net_file: Path, tmp_path: Path, options: Options, measured: list[Path]
) -> None:
    def stop(_: object) -> None:
        raise KeyboardInterrupt

    found = optimize(conv_net_file, tmp_path / "o.onnx", options, on_step=stop)
    assert found.ended == "interrupted"
    assert (found.details, measured) == (Details(), [])
