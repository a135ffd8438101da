"""``onnxopt bench``. Nothing here asserts a time: measured models differ by factors of thousands."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from onnxopt import files
from onnxopt.cli.main import cli
from onnxopt.errors import BenchmarkFailed, UsageError
from onnxopt.testing import parse

QUICK = ("--seconds", "0.05")


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
    text = run(small, *QUICK).stdout
    for words in ("median", "p5 .. p95", "memory", "x 1x4 (random inputs", "1 thread"):
        assert words in text


def test_several_against_the_first(small: Path, large: Path) -> None:
    lines = run(large, small, large, *QUICK, "--shape", "x=64x4").stdout.splitlines()
    assert lines[0].split()[:2] == ["model", "median"]
    assert "1.00x" in lines[1]
    assert lines[2].rstrip().endswith("faster")
    assert "x 64x4" in "\n".join(lines)


def test_json(small: Path, large: Path) -> None:
    found = json.loads(run(large, small, *QUICK, "--shape", "x=64x4", "--json").stdout)
    assert found["version"] == 1
    assert found["shapes"] == {"x": [64, 4]}
    assert found["comparisons"][0]["verdict"] == "faster"
    assert found["comparisons"][0]["ratio"] > 2
    assert found["environment"]["threads"] == 1
    assert found["memory"] is None


def test_json_of_one_model(small: Path) -> None:
    found = json.loads(run(small, *QUICK, "--json").stdout)
    assert found["timing"]["median"] > 0
    assert found["memory"]["after"] > 0
    assert found["comparisons"] == []


def test_a_slower_model_fails_not_slower(small: Path, large: Path) -> None:
    result = run(small, large, *QUICK, "--shape", "x=64x4", "--not-slower")
    assert isinstance(result.exception, BenchmarkFailed)
    assert "slower: 0." in str(result.exception)
    assert "slower" in result.stdout
    assert run(large, small, *QUICK, "--shape", "x=64x4", "--not-slower").exit_code == 0


def test_min_ratio_is_asked_of_every_model(small: Path, large: Path) -> None:
    assert run(large, small, *QUICK, "--shape", "x=64x4", "--min-ratio", 1.2).exit_code == 0
    result = run(large, large, small, *QUICK, "--shape", "x=64x4", "--min-ratio", 1.2)
    assert isinstance(result.exception, BenchmarkFailed)
    assert "low end is under 1.2" in str(result.exception)


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


@pytest.mark.parametrize("words", [["--min-ratio", 1.2], ["--not-slower"]])
def test_limits_need_two_models(words: list[object], small: Path) -> None:
    assert isinstance(run(small, *words).exception, UsageError)


def run(*words: object) -> Result:
    return CliRunner().invoke(cli, ["bench", *map(str, words)])


def saved(text: str, path: Path) -> Path:
    files.save(parse(text), path)
    return path
