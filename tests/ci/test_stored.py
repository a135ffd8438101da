"""A baseline that an earlier run stored: compared with a warning, refused where it says nothing. Nothing is measured."""

import json
from pathlib import Path

import pytest

from onnxopt.ci import Choices, adapter, read, run, stored
from onnxopt.ci.results import FORM, Accuracy
from onnxopt.errors import InputError


def sentences(result) -> list[str]:
    return [finding.sentence for outcome in result.outcomes for finding in outcome.findings]


@pytest.fixture
def with_stored(config, fake, tmp_path: Path, monkeypatch):
    """A file whose baseline is what an earlier run stored, which took 1 ms; and how to change what was stored."""
    path = config("a")
    fake.speed = {"a": fake.takes(1.0)}
    earlier = run(read(path)).to_dict()
    path.write_text(path.read_text().replace("a-old.onnx", "stored.json"))
    alone = fake.accurate(0.0)
    monkeypatch.setattr(
        adapter, "scored", lambda entry, model: type(alone)("", "", score={**alone.score, "higher_is_better": True})
    )

    def change(**environment) -> Path:
        earlier["models"][0]["speed"][0]["environment"].update(environment)
        (tmp_path / "stored.json").write_text(json.dumps(earlier))
        return path

    change()
    return change


def test_a_stored_baseline_is_used_with_a_warning(with_stored, fake) -> None:
    fake.speed = {"a": fake.takes(1.0)}
    result = run(read(with_stored()))
    assert result.exit_code == 0
    (speed,) = result.outcomes[0].speed
    assert speed.stored
    assert "from an earlier run" in speed.warnings[0]
    fake.speed = {"a": fake.takes(1.2)}
    assert run(read(with_stored())).exit_code == 6


def test_a_stored_baseline_of_another_processor_is_refused_unless_forced(with_stored, fake) -> None:
    path = with_stored(processor="B")
    result = run(read(path))
    assert result.exit_code == 2
    assert "processor 'B' instead of 'A'" in sentences(result)[0]
    assert "--force-baseline" in sentences(result)[0]
    fake.speed = {"a": fake.takes(1.0)}
    forced = run(read(path), Choices(force_baseline=True))
    assert forced.exit_code == 0
    assert any("forced" in words for words in forced.outcomes[0].speed[0].warnings)
    path.write_text(path.read_text() + "force_baseline = true\n")
    assert run(read(path)).exit_code == 0


def test_a_stored_baseline_of_another_onnxruntime_has_a_warning(with_stored) -> None:
    result = run(read(with_stored(onnxruntime="1.20")))
    assert result.exit_code == 0
    assert "ONNX Runtime 1.20, this is 1.22" in result.outcomes[0].speed[0].warnings[-1]


def test_a_stored_score_is_compared(with_stored, fake, monkeypatch) -> None:

    score = {"metric": "top1", "after": 0.7, "samples": 100, "higher_is_better": True}
    monkeypatch.setattr(adapter, "scored", lambda entry, model: Accuracy("", "", score=score))
    result = run(read(with_stored()))
    assert result.exit_code == 4
    assert "top1 drops by 0.2000, more than 0.01" in sentences(result)[0]


def test_a_stored_score_of_other_data_is_not_compared(with_stored, fake, monkeypatch) -> None:

    score = {"metric": "top1", "after": 0.7, "samples": 99, "higher_is_better": True}
    monkeypatch.setattr(adapter, "scored", lambda entry, model: Accuracy("", "", score=score))
    result = run(read(with_stored()))
    assert result.exit_code == 0
    assert "the score was not compared" in result.outcomes[0].accuracy.notes[0]


def one(**time: object) -> str:
    """A stored run of one model with such a time."""
    speed = {"where": "w", "environment": {}, "after": time}
    return json.dumps({"form": FORM, "version": 1, "models": [{"name": "a", "accuracy": None, "speed": [speed]}]})


DAMAGED = {
    "no JSON": ("{", "is not JSON"),
    "something else": ("[]", "is not what onnxopt ci writes"),
    "another version": ('{"form": "onnxopt ci", "version": 9}', "has version 9"),
    "no such model": ('{"form": "onnxopt ci", "version": 1, "models": []}', "has no model 'a'; it has none"),
    "no models": ('{"form": "onnxopt ci", "version": 1}', "is damaged"),
    "no number": (one(median="x", low=1, high=1), "is damaged"),
    "an unknown number": (one(mean=1), "is damaged"),
    "zero": (one(median=0, low=0, high=1), "is damaged"),
    "nan": (one(median=float("nan"), low=1, high=1), "is damaged"),
    "another place": (one(median=1, low=1, high=1), "has no time for cpu, 1 thread"),
}


@pytest.mark.parametrize(("content", "sentence"), DAMAGED.values(), ids=DAMAGED.keys())
def test_a_stored_baseline_that_cannot_be_used(with_stored, tmp_path: Path, content: str, sentence: str) -> None:
    path = with_stored()
    (tmp_path / "stored.json").write_text(content)
    result = run(read(path))
    assert result.exit_code == 3
    assert sentence in sentences(result)[0]


def test_a_stored_baseline_that_is_too_large(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(stored, "LARGEST", 10)
    (tmp_path / "stored.json").write_text(" " * 11)
    with pytest.raises(InputError, match="is larger than 10 bytes"):
        stored.read(tmp_path / "stored.json", "a")
