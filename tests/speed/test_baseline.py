"""Stored times."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from onnxopt.benchmark import Verdict
from onnxopt.errors import UsageError
from onnxopt.speed import Gates, Speed, against, judged, stored, write


@pytest.fixture
def file(result: Speed, tmp_path: Path) -> Path:
    write(result, "json", tmp_path / "old.json")
    return tmp_path / "old.json"


@pytest.fixture
def changed(file: Path) -> Callable[[Callable[[Any], None]], Path]:
    def change(edit: Callable[[Any], None]) -> Path:
        words = json.loads(file.read_text())
        edit(words)
        file.write_text(json.dumps(words))
        return file

    return change


def test_a_result_against_itself(result: Speed, file: Path) -> None:
    found = against(result, stored(file))
    assert found.baseline is not None
    assert [(ratio.model, ratio.setting) for ratio in found.baseline.ratios] == [
        (each.model, each.setting.label) for each in result.measurements
    ]
    for ratio, each in zip(found.baseline.ratios, result.measurements, strict=True):
        _, low, high = each.percentiles[50]
        assert (ratio.ratio, ratio.low, ratio.high) == (1.0, low / high, high / low)  # wider than either
        assert ratio.verdict is Verdict.NOT_SIGNIFICANT
    assert any("stored earlier and did not alternate" in warning for warning in found.warnings)
    assert json.loads(json.dumps(found.to_dict()))["baseline"]["ratios"][0]["verdict"] == "not significant"


def test_a_slower_model_misses_the_limit(result: Speed, changed: Callable[..., Path]) -> None:
    def halve(words: Any) -> None:
        for each in words["measurements"]:
            each["latency"]["p50"] = {end: each["latency"]["p50"][end] / 2 for end in ("value", "low", "high")}

    found = judged(against(result, stored(changed(halve))), Gates(max_slowdown=0.03))
    sentences = [failure.sentence for failure in found.failures if "stored time" in failure.sentence]
    assert len(sentences) == 4
    assert "some/a.onnx against its stored time (cpu, 1 thread, batch 1): is slower: +100.0%" in sentences[0]


def test_another_processor_is_refused_unless_forced(result: Speed, changed: Callable[..., Path]) -> None:
    path = changed(lambda words: words["environment"].update(processor="Z80"))
    with pytest.raises(UsageError, match="was measured on Z80, this is"):
        stored(path)
    found = against(result, stored(path, force=True), force=True)
    assert any("another processor (Z80)" in warning for warning in found.warnings)


def test_another_gpu_is_refused_unless_forced(result: Speed, changed: Callable[..., Path]) -> None:
    path = changed(lambda words: words["environment"].update(gpu="Voodoo 2"))
    with pytest.raises(UsageError, match="was measured on Voodoo 2, this on no GPU"):
        against(result, stored(path))
    assert against(result, stored(path), force=True).baseline


def test_another_onnx_runtime_is_told(result: Speed, changed: Callable[..., Path]) -> None:
    path = changed(lambda words: words["environment"].update(onnxruntime="0.1"))
    assert any("with ONNX Runtime 0.1, now" in warning for warning in against(result, stored(path)).warnings)


def test_another_provider_is_another_setting(result: Speed, changed: Callable[..., Path]) -> None:
    def elsewhere(words: Any) -> None:
        for each in words["measurements"]:
            each["setting"] = each["setting"].replace("cpu", "cuda")

    with pytest.raises(UsageError, match="holds none of these models in these settings; it has: a"):
        against(result, stored(changed(elsewhere)))


def test_a_model_is_found_by_its_file_name(result: Speed, changed: Callable[..., Path]) -> None:
    def moved(words: Any) -> None:
        for each in words["measurements"]:
            each["model"] = each["model"].replace("some/", "other/")

    found = against(result, stored(changed(moved))).baseline
    assert found is not None
    assert [ratio.ratio for ratio in found.ratios] == [1.0] * 4


BROKEN = {
    "another version": lambda words: words.update(version=1),
    "no measurements": lambda words: words.pop("measurements"),
    "no number": lambda words: words["measurements"][0]["latency"]["p50"].update(value="fast"),
    "no interval": lambda words: words["measurements"][0]["latency"]["p50"].update(low=9.0),
    "measurements that are none": lambda words: words.update(measurements=3),
}


@pytest.mark.parametrize("edit", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_file_is_refused(edit: Callable[[Any], None], changed: Callable[..., Path]) -> None:
    with pytest.raises(UsageError, match=r"old\.json"):
        stored(changed(edit))


@pytest.mark.parametrize("text", ["", "[]", "not json", "3"])
def test_what_is_no_file_of_times(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UsageError, match="is no file that onnxopt bench"):
        stored(tmp_path / "x.json")
    with pytest.raises(UsageError, match="cannot be read"):
        stored(tmp_path / "missing.json")
