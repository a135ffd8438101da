"""``onnxopt bench``. Nothing here asserts a time: measured models differ by factors of thousands."""

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import CliRunner, Result

from onnxopt import files
from onnxopt.cli.bench import _share
from onnxopt.cli.main import cli
from onnxopt.errors import BenchmarkFailed, UsageError
from onnxopt.speed import streams
from onnxopt.testing import parse

QUICK = ("--seconds", "0.05", "--fresh", "0")


@pytest.fixture(autouse=True)
def short_bursts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "BURST_SECONDS", 0.002)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return saved("g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }", tmp_path / "small.onnx")


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A thousand times the work on the same input."""
    text = """g (float[N,4] x) => (float[N,4] y) <float[4,400] a, float[400,400] b, float[400,4] c>
        { h = MatMul(x, a)  i = MatMul(h, b)  j = MatMul(i, b)  k = MatMul(j, b)  l = MatMul(k, b)
          y = MatMul(l, c) }"""
    return saved(text, tmp_path / "large.onnx")


def test_one_model(small: Path) -> None:
    text = run(small, "--seconds", "0.05", "--fresh", 1).stdout
    for words in ("p50 (us)", "p99 (us)", "memory (", "load (ms)", "sha256", "x 1x4 (random inputs", "cpu, 1 thread"):
        assert words in text


def test_several_against_the_first(small: Path, large: Path) -> None:
    lines = run(large, small, large, *QUICK, "--shape", "x=64x4").stdout.splitlines()
    assert lines[0].split()[:2] == ["latency", "p50"]
    assert [line.split()[0] for line in lines[1:4]] == ["large.onnx", "small.onnx", "large.onnx"]
    table = lines[lines.index("") + 1 :]
    assert table[0].split()[:3] == ["ratio", "ratio", "verdict"]
    assert table[1].split()[-4:] == ["faster", "lies", "above", "1.005"]
    assert "x 64x4" in "\n".join(lines)


def test_json(small: Path, large: Path) -> None:
    found = json.loads(run(large, small, *QUICK, "--shape", "x=64x4", "--json").stdout)
    assert found["version"] == 2
    first, second = found["measurements"]
    assert first["shapes"] == {"x": [64, 4]}
    assert (first["comparison"], first["fresh"]) == (None, None)
    assert second["comparison"]["verdict"] == "faster"
    assert second["comparison"]["ratio"] > 2
    assert found["environment"]["threads"] == 1


def test_json_of_one_model(small: Path) -> None:
    found = json.loads(run(small, "--seconds", "0.05", "--fresh", 1, "--json").stdout)
    (only,) = found["measurements"]
    assert only["latency"]["p50"]["value"] > 0
    assert only["fresh"]["load"]["median"] > 0


def test_every_combination_is_a_setting(small: Path) -> None:
    words = ("--batch", "1,8", "--threads", 1, "--threads", 2, "--streams", 2)
    text = run(small, *QUICK, *words).stdout
    for label in ("1 thread, batch 1", "1 thread, batch 8", "2 threads, batch 1", "2 threads, batch 8"):
        assert label in text
    assert "samples/s" in text


def test_the_same_name_again_is_one_more_setting(small: Path) -> None:
    words = ("--shape", "x=2x4", "--shape", "x=3x4", "--input-range", "x=5:5")
    found = json.loads(run(small, *QUICK, *words, "--json").stdout)
    assert [each["shapes"]["x"] for each in found["measurements"]] == [[2, 4], [3, 4]]
    assert "x 5" in found["data"]


def test_all_forms_are_written(small: Path, tmp_path: Path) -> None:
    words = [word for name in ("a.json", "a.md", "a.xml", "a.smaller.json") for word in ("--save", tmp_path / name)]
    assert run(small, *QUICK, *words).exit_code == 0
    assert json.loads((tmp_path / "a.json").read_text())["version"] == 2
    assert json.loads((tmp_path / "a.smaller.json").read_text())[0]["unit"] == "ms"
    assert ElementTree.parse(tmp_path / "a.xml").getroot().tag == "testsuites"
    assert "| p50 (us) |" in (tmp_path / "a.md").read_text()


def test_a_baseline_is_compared_with(small: Path, tmp_path: Path) -> None:
    run(small, *QUICK, "--save", tmp_path / "a.json")
    result = run(small, *QUICK, "--baseline", tmp_path / "a.json", "--min-ratio", 0.0001)
    assert result.exit_code == 0
    assert "against the stored times" in result.stdout or "stored earlier" in result.stdout
    assert isinstance(
        run(small, *QUICK, "--baseline", tmp_path / "a.json", "--min-ratio", 1000).exception, BenchmarkFailed
    )


def test_a_model_over_the_limit_fails(small: Path, large: Path, tmp_path: Path) -> None:
    words = (*QUICK, "--shape", "x=64x4", "--fail-if-slower", "3%", "--max-seconds", 5, "--save", tmp_path / "a.xml")
    assert run(large, small, *words).exit_code == 0
    result = run(small, large, *words)
    assert isinstance(result.exception, BenchmarkFailed)
    assert "is slower: +" in str(result.exception)
    assert ElementTree.parse(tmp_path / "a.xml").getroot().get("failures") == "1"


REFUSED = {
    "another provider": ("--provider", "tpu"),
    "no number": ("--threads", "1,x"),
    "no threads": ("--threads", "0"),
    "no share": ("--fail-if-slower", "fast"),
    "more than all": ("--fail-if-slower", "3"),
    "an unknown form": ("--save", "a.txt"),
    "a place that is not there": ("--save", "no/such/folder/a.json"),
    "no baseline": ("--baseline", "missing.json"),
    "no range": ("--input-range", "x=a:b"),
}


@pytest.mark.parametrize("words", REFUSED.values(), ids=REFUSED.keys())
def test_words_that_do_not_fit(words: tuple[str, ...], small: Path) -> None:
    assert isinstance(run(small, small, *QUICK, *words).exception, UsageError)


def test_a_model_is_not_written_over(small: Path) -> None:
    result = run(small, *QUICK, "--save", f"json:{small}")
    assert isinstance(result.exception, UsageError)
    assert "is read as input" in str(result.exception)


@pytest.mark.parametrize("words", ["3%", "0.03", " 3 %"])
def test_shares_and_percents(words: str) -> None:
    assert _share(words) == pytest.approx(0.03)


def test_a_slower_model_fails_not_slower(small: Path, large: Path) -> None:
    result = run(small, large, *QUICK, "--shape", "x=64x4", "--not-slower")
    assert isinstance(result.exception, BenchmarkFailed)
    assert "slower: 0." in str(result.exception)
    assert "slower" in result.stdout
    assert run(large, small, *QUICK, "--shape", "x=64x4", "--not-slower").exit_code == 0


def test_min_ratio_is_asked_of_every_model(small: Path, large: Path) -> None:
    assert run(large, small, *QUICK, "--shape", "x=64x4", "--min-ratio", 0.001).exit_code == 0
    result = run(large, large, small, *QUICK, "--shape", "x=64x4", "--min-ratio", 1000)
    assert isinstance(result.exception, BenchmarkFailed)
    assert "low end is under 1000" in str(result.exception)


def test_the_first_sample_of_the_data_is_timed(small: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.ones((5, 4), np.float32))
    assert "d.npz: 5 samples" in run(small, *QUICK, "--data", tmp_path / "d.npz").stdout


def test_states_start_at_zero(tmp_path: Path) -> None:
    text = "g (float[1,4] x, float[1,4] s) => (float[1,4] y) { y = Add(x, s) }"
    assert "s 1x4" in run(saved(text, tmp_path / "m.onnx"), *QUICK, "--state", "s=y").stdout


def test_another_input_is_refused(small: Path, tmp_path: Path) -> None:
    other = saved("g (float[N,4] z) => (float[N,4] y) { y = Relu(z) }", tmp_path / "other.onnx")
    result = run(small, other)
    assert isinstance(result.exception, UsageError)
    assert "there is no input 'x'" in str(result.exception)


@pytest.mark.parametrize("words", [["--min-ratio", 1.2], ["--not-slower"], ["--fail-if-slower", "3%"]])
def test_limits_need_two_models(words: list[object], small: Path) -> None:
    assert isinstance(run(small, *words).exception, UsageError)


def run(*words: object) -> Result:
    return CliRunner().invoke(cli, ["bench", *map(str, words)])


def saved(text: str, path: Path) -> Path:
    files.save(parse(text), path)
    return path
