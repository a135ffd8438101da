"""benchmarks/cuda_float16.py: weights that are drawn again, the arithmetic of its table, and a row on the CPU."""

import argparse
import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxopt import files, recipes
from onnxopt.testing import parse

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
cuda, cuda_models, cuda_variants = map(importlib.import_module, ("cuda_float16", "cuda_models", "cuda_variants"))
Weight = cuda_models.Weight

LINEAR, TIED = Weight("linear.weight", (96, 64), 0.1), Weight("tied.weight", (80, 64), 0.02)
TEXT = "g (float[n,64] x) => (float[n,96] y) <float[64,96] w, float[96] b> { h = MatMul(x, w)  y = Add(h, b) }"


def test_weights_are_the_same_numbers_each_time() -> None:
    numbers = LINEAR.numbers()
    np.testing.assert_array_equal(numbers, LINEAR.numbers())
    assert numbers.dtype == np.float32
    assert numbers.std() == pytest.approx(0.1, rel=0.05)
    assert not np.array_equal(numbers[:80], TIED.numbers() * 5)
    assert numbers[0, 0] == pytest.approx(0.10305, abs=5e-6)  # as it was on the machine that prepared the graphs


def model_with(weight: np.ndarray) -> onnx.ModelProto:
    model = files.to_proto(parse(TEXT, opset=20))
    (old,) = [one for one in model.graph.initializer if one.name == "w"]
    old.CopyFrom(numpy_helper.from_array(weight, "w"))
    return model


def test_a_graph_loses_its_weights_and_gets_them_back(tmp_path: Path) -> None:
    original = model_with(np.ascontiguousarray(LINEAR.numbers().T))
    stripped = onnx.ModelProto()
    stripped.CopyFrom(original)
    taken = cuda_models.strip(stripped, [TIED, LINEAR])
    assert taken == {"w": Weight("linear.weight", (96, 64), 0.1, transposed=True)}
    assert [one.name for one in stripped.graph.initializer] == ["b"]
    assert len(stripped.SerializeToString()) < len(original.SerializeToString()) / 10
    path = tmp_path / "net.onnx"
    onnx.save(stripped, path)
    words = {name: vars(weight) for name, weight in taken.items()}
    path.with_suffix(".json").write_text(json.dumps({"small": True, "weights": words}))
    filled = {one.name: numpy_helper.to_array(one) for one in cuda_models.filled(path).graph.initializer}
    for one in original.graph.initializer:
        np.testing.assert_array_equal(filled[one.name], numpy_helper.to_array(one))
    case = cuda_models.Case("Net", "net")
    assert cuda_models.prepared(case, tmp_path, small=True)
    assert not cuda_models.prepared(case, tmp_path, small=False)


def test_weights_that_are_not_known_stay() -> None:
    model = model_with(np.random.default_rng(0).normal(size=(64, 96)).astype(np.float32))
    assert cuda_models.strip(model, [TIED, LINEAR]) == {}
    assert [one.name for one in model.graph.initializer] == ["w", "b"]


def test_inputs_fit_the_small_networks() -> None:
    for case in cuda_models.CASES:
        given = cuda_models.feeds(case, 2, small=True)
        assert {len(array) for array in given.values()} == {2}
        if vocabulary := case.small.get("vocab"):
            assert given["input_ids"].max() < vocabulary
            assert given["attention_mask"].all()


def test_the_recipe_is_that_of_the_gpu_without_what_is_for_cpus() -> None:
    found = cuda_variants.words()
    assert "residual-sum" not in found
    assert found.index(f"{recipes.FUSED}:additions=yes") + 1 == found.index(recipes.HALF)


def test_the_cosine_is_the_smallest_of_outputs_and_samples() -> None:
    one = {"a": np.array([[1.0, 0.0], [0.0, 2.0]]), "b": np.array([[3.0], [1.0]])}
    other = {"a": np.array([[2.0, 0.0], [1.0, 1.0]]), "b": np.array([[6.0], [2.0]])}
    assert cuda.cosine(one, other) == pytest.approx(2**-0.5)
    assert cuda.cosine(one, one) == pytest.approx(1)


def row(**changes: Any) -> dict[str, Any]:
    base = {
        "network": "Net", "batch": 32, "must": True, "seconds": dict.fromkeys(cuda.LABELS, 0.002),
        "over_fp32": {label: [2.0, 1.9, 2.1] for label in cuda.LABELS[1:]}, "over_shipped": [0.99, 0.97, 1.01],
        "cosine": dict.fromkeys(cuda.LABELS[1:], 0.9995), "on_cpu": {"fp32": 0, "ours": 1, "shipped": 0},
    }  # fmt: skip
    return {**base, **changes}


REACHED: dict[str, tuple[dict[str, Any], list[bool]]] = {
    "all": ({}, [True, True, True]),
    "slower than the shipped one, beyond the interval": ({"over_shipped": [0.97, 0.95, 0.99]}, [False, True, True]),
    "float16 too slow": ({"over_fp32": {"ours": [1.4, 1.3, 1.6]}}, [True, False, True]),
    "float16 too slow where it need not be fast": (
        {"must": False, "over_fp32": {"ours": [1.4, 1.3, 1.6]}}, [True, True]
    ),
    "another result": ({"cosine": {"ours": 0.998}}, [True, True, False]),
    "it did not run": ({"error": "exit code -11"}, [False]),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "ok"), REACHED.values(), ids=REACHED.keys())
def test_what_must_be_reached(changes: dict[str, Any], ok: list[bool]) -> None:
    assert [one for one, _ in cuda.reached([row(**changes)])] == ok


def asked(tmp_path: Path, **words: Any) -> argparse.Namespace:
    base = {"folder": tmp_path, "provider": "cpu", "small": True, "json": None, "seconds": 0.01}
    return argparse.Namespace(**{**base, **words})


def test_a_try_writes_no_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cuda, "RESULTS", tmp_path / "results" / "cuda.md")
    assert cuda.finish([row(cosine={"ours": 0.5})], asked(tmp_path)) == 0
    assert cuda.finish([row(error="exit code -11")], asked(tmp_path)) == 1
    assert not cuda.RESULTS.exists()
    assert json.loads((tmp_path / "cuda.json").read_text())["machine"].keys() == {"processor", "ONNX Runtime"}
    assert cuda.NOTHING in capsys.readouterr().out


@pytest.mark.parametrize(("changes", "code"), [({}, 0), ({"cosine": {"ours": 0.5, "shipped": 1.0}}, 1)])
def test_a_run_writes_the_table(
    changes: dict[str, Any], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = SimpleNamespace(stdout="NVIDIA H100 80GB HBM3, 580.159.04\n")
    monkeypatch.setattr(cuda.subprocess, "run", lambda *words, **options: answer)
    monkeypatch.setattr(cuda, "RESULTS", tmp_path / "results" / "cuda.md")
    assert cuda.finish([row(**changes)], asked(tmp_path, provider="cuda", small=False)) == code
    text = cuda.RESULTS.read_text()
    assert "on: GPU NVIDIA H100 80GB HBM3, driver 580.159.04, " in text
    assert "| Net | 32 | 2 | 2.00x [1.90, 2.10] | " in text
    assert "fp32 0, ours 1, shipped 0 |" in text
    assert ("- NOT REACHED: " in text) is bool(code)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {len(cuda.COLUMNS) + 1}


def test_without_a_gpu_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path) -> None:
    monkeypatch.setattr(cuda, "missing_gpu", lambda: "no GPU here")
    monkeypatch.setattr(sys, "argv", ["cuda.py", "run", "--folder", str(tmp_path)])
    assert cuda.main() == 2
    assert capsys.readouterr().err == "no GPU here\n"


def test_one_row_on_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four contenders, one of them off by a little."""
    model = model_with(np.ascontiguousarray(LINEAR.numbers().T))
    paths = {label: tmp_path / f"{label}.onnx" for label in ("fp32", "ours", "shipped")}
    for path in paths.values():
        onnx.save(model, path)
    near = model_with(np.ascontiguousarray(LINEAR.numbers().T) + np.float32(0.01))
    onnx.save(near, paths["ours"])
    monkeypatch.setattr(cuda, "build", lambda *_, **__: dict(paths))
    monkeypatch.setattr(cuda, "feeds", lambda *_, **__: {"x": np.ones((32, 64), np.float32)})
    found = cuda.row(cuda_models.CASES[0], 32, asked(tmp_path))
    assert found["must"]
    assert found["seconds"].keys() == set(cuda.LABELS)
    assert found["cosine"]["tf32"] == pytest.approx(1)
    assert 0.5 < found["cosine"]["ours"] < 0.9999
    middle, low, high = found["over_shipped"]
    assert low <= middle <= high
    assert found["on_cpu"] == {"fp32": 0, "ours": 0, "shipped": 0}
    json.dumps(found)
