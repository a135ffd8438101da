"""Ranges kept from run to run."""

from pathlib import Path

import numpy as np
import pytest

from onnxopt import cache
from onnxopt.calibrate import Ranges, calibrate, observe, store
from onnxopt.errors import DataError
from onnxopt.target import Target
from onnxopt.testing import parse

CPU = Target()
TEXT = "g (float[n,3] x) => (float[n,3] y) <float[3] w> { h = Mul(x, w)  y = Relu(h) }"
NUMBERS = np.random.default_rng(0).standard_normal((40, 3)).astype(np.float32)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The store, switched on and empty."""
    monkeypatch.delenv(cache.OFF, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "onnxopt" / "ranges"


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """One entry for each session that calibration starts."""
    started: list[object] = []
    session = observe.Session
    monkeypatch.setattr(observe, "Session", lambda *words: started.append(words) or session(*words))
    return started


@pytest.mark.parametrize("method", ["min-max", "auto"])
def test_the_second_time_nothing_runs(sampled, sessions, folder: Path, method: str) -> None:
    model = parse(TEXT)
    first, second = (calibrate(model, sampled(model, x=NUMBERS), ["h", "y"], CPU, method) for _ in range(2))
    assert first == second
    assert len(sessions) == 1
    assert len(list(folder.iterdir())) == 1


def changed(row: int) -> np.ndarray:
    numbers = NUMBERS.copy()
    numbers[row, 1] += 0.5
    return numbers


@pytest.mark.parametrize("row", range(0, 40, 3))
def test_other_data_are_learned_anew(sampled, sessions, row: int) -> None:
    """Whichever sample differs."""
    model = parse(TEXT)
    for numbers in (NUMBERS, changed(row)):
        calibrate(model, sampled(model, x=numbers), ["h"], CPU)
    assert len(sessions) == 2


def test_other_models_methods_names_and_views_are_learned_anew(sampled, sessions) -> None:
    model, other = parse(TEXT), parse(TEXT.replace("Relu", "Neg"))
    data = sampled(model, x=NUMBERS)
    for words in (
        (model, data, ["h"], CPU),
        (other, data, ["h"], CPU),
        (model, data, ["h"], CPU, "mse"),
        (model, data, ["h"], CPU, "percentile:99"),
        (model, data, ["h"], CPU, "percentile:99.9"),
        (model, data, ["h", "y"], CPU),
        (model, data.take(39), ["h"], CPU),
    ):
        calibrate(*words)
    assert len(sessions) == 7


def test_other_states_are_learned_anew(sampled, sessions) -> None:
    model = parse("g (float[1,3] x, float[1,3] h) => (float[1,3] y, float[1,3] z) { y = Add(x, h)  z = Neg(y) }")
    ranges = [calibrate(model, sampled(model, {"h": feed}, x=NUMBERS), ["y"], CPU) for feed in ("y", "z")]
    assert len(sessions) == 2
    assert ranges[0] != ranges[1]


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"version": 99}', '{"version": 1, "bounds": {"h": [1, 0]}}'])
def test_a_damaged_file_is_learned_anew(sampled, sessions, folder: Path, text: str) -> None:
    model = parse(TEXT)
    first = calibrate(model, sampled(model, x=NUMBERS), ["h"], CPU)
    (path,) = folder.iterdir()
    path.write_text(text)
    assert calibrate(model, sampled(model, x=NUMBERS), ["h"], CPU) == first
    assert len(sessions) == 2
    assert Ranges.load(path) == first


def test_the_environment_switches_it_off(sampled, sessions, folder: Path, monkeypatch) -> None:
    monkeypatch.setenv(cache.OFF, "1")
    model = parse(TEXT)
    for _ in range(2):
        calibrate(model, sampled(model, x=NUMBERS), ["h"], CPU)
    assert len(sessions) == 2
    assert not folder.exists()


def test_a_folder_that_cannot_be_made_is_no_error(sampled, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    model = parse(TEXT)
    assert calibrate(model, sampled(model, x=NUMBERS), ["h"], CPU).samples == 40


def test_errors_are_not_kept(sampled, folder: Path) -> None:
    model = parse("g (float[n,3] x) => (float[n,3] y) { y = Sqrt(x) }")
    for _ in range(2):
        with pytest.raises(DataError, match="becomes NaN"):
            calibrate(model, sampled(model, x=NUMBERS), ["y"], CPU)
    assert not folder.exists()


def test_the_oldest_go(sampled, folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(store, "KEPT", 3)
    model = parse(TEXT)
    for count in range(1, 7):
        calibrate(model, sampled(model, x=NUMBERS).take(count), ["h"], CPU)
    assert sorted(Ranges.load(path).samples for path in folder.iterdir()) == [4, 5, 6]


def test_strings_are_told_apart(sampled) -> None:
    model = parse("g (string[n,1] x, float[n,1] f) => (string[n,1] z, float[n,1] y) { z = Identity(x)  y = Neg(f) }")
    keys = {
        store.key(model, sampled(model, x=np.array([[word]]), f=np.ones((1, 1), np.float32)), ["y"], CPU, "min-max")
        for word in ("a", "b")
    }
    assert len(keys) == 2


def test_files_read_back_the_same_bits(tmp_path: Path) -> None:
    ranges = Ranges({"a": (-0.1, 1e-45), "b": (0.0, 3.4e38)}, 7, "auto", {"a": "mse"})
    ranges.save(tmp_path / "ranges.json")
    assert Ranges.load(tmp_path / "ranges.json") == ranges


@pytest.mark.parametrize(
    "text", ["{}", '{"version": 1, "samples": 1, "method": "", "bounds": {"a": [0, NaN]}, "chosen": {}}']
)
def test_what_is_not_ranges_is_an_error_that_names_the_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(DataError, match=r"r\.json: these are not ranges that onnxopt wrote"):
        Ranges.load(tmp_path / "r.json")
    with pytest.raises(DataError, match=r"none\.json cannot be read"):
        Ranges.load(tmp_path / "none.json")
