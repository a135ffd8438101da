"""``onnxopt validate``."""

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner, Result

from onnxopt import files
from onnxopt.cli import printing
from onnxopt.cli.main import cli
from onnxopt.errors import DataError, GateRefused, UsageError
from onnxopt.testing import parse

TEXT = "g (float[N,4] x) => (float[N,3] y) <float[4,3] w> { y = MatMul(x, w) }"


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    return saved(TEXT, tmp_path / "reference.onnx")


def test_the_model_itself_passes(reference: Path) -> None:
    result = run(reference, reference)
    assert result.exit_code == 0
    assert "signature  the same" in result.stdout
    assert "ok" in result.stdout


@pytest.mark.parametrize(("factor", "rtol", "passes"), [(1.0001, 1e-3, True), (1.01, 1e-3, False), (1.01, 0.1, True)])
def test_outputs_are_compared_with_a_tolerance(
    factor: float, rtol: float, passes: bool, reference: Path, tmp_path: Path
) -> None:
    result = run(reference, scaled(factor, tmp_path), "--rtol", rtol, "--json")
    found = json.loads(result.stdout)
    assert found["passed"] is passes
    assert found["outputs"][0]["relative"] == pytest.approx(factor - 1, rel=1e-2)
    assert isinstance(result.exception, GateRefused) is not passes
    assert passes or "'y' is off by 0.01" in str(result.exception)


OTHERS = {
    "no output 'y'": TEXT.replace("y", "z"),
    "output 'y' is float32[N,2]": TEXT.replace("[N,3]", "[N,2]").replace("[4,3]", "[4,2]"),
    "another input 'x2'": TEXT.replace(") =>", ", float[1] x2) =>"),
    "input 'x' is float64[N,4]": TEXT.replace("float", "double"),
    "input 'x' is float32[1,N,4]": TEXT.replace("[N,4]", "[1,N,4]").replace("[N,3]", "[N,M,3]"),
}


@pytest.mark.parametrize(("words", "text"), OTHERS.items(), ids=OTHERS.keys())
def test_another_signature_is_refused(words: str, text: str, reference: Path, tmp_path: Path) -> None:
    result = run(reference, saved(text, tmp_path / "new.onnx"))
    assert isinstance(result.exception, GateRefused)
    assert words in str(result.exception)


def test_outputs_in_another_order_are_refused(tmp_path: Path) -> None:
    text = "g (float[2] x) => (float[2] a, float[2] b) { a = Neg(x)  b = Abs(x) }"
    other = text.replace("float[2] a, float[2] b", "float[2] b, float[2] a")
    result = run(saved(text, tmp_path / "a.onnx"), saved(other, tmp_path / "b.onnx"))
    assert isinstance(result.exception, GateRefused)
    assert "in the order b, a" in str(result.exception)


def test_a_dimension_that_became_fixed_is_noted_and_used(reference: Path, tmp_path: Path) -> None:
    text = TEXT.replace("[N,4]", "[7,4]").replace("[N,3]", "[7,3]")
    result = run(reference, saved(text, tmp_path / "new.onnx"))
    assert result.exit_code == 0
    assert "note: input 'x' was float32[N,4] and is float32[7,4]" in result.stdout


def test_accuracy_on_all_of_the_data(reference: Path, tmp_path: Path) -> None:
    data = labelled(reference, tmp_path)
    result = run(reference, scaled(2.0, tmp_path), "--data", data)
    assert result.exit_code == 0
    assert "top1 1.0000 -> 1.0000, drop +0.0000 [+0.0000, +0.0000] on 50 samples" in result.stdout


def test_an_accuracy_drop_is_refused(reference: Path, tmp_path: Path) -> None:
    data, worse = labelled(reference, tmp_path), scaled(-1.0, tmp_path)
    result = run(reference, worse, "--data", data, "--json")
    assert isinstance(result.exception, GateRefused)
    assert "top1 drops by 1.0000 [1.0000, 1.0000]" in str(result.exception)
    assert json.loads(result.stdout)["accuracy"]["samples"] == 50
    assert run(reference, worse, "--data", data, "--max-drop", 1).exit_code == 0


def test_states_are_fed_back(tmp_path: Path) -> None:
    text = """g (float[1,4] x, float[1,4] s) => (float[1,4] y, float[1,4] next)
        { next = Add(x, s)  y = Neg(next) }"""
    model = saved(text, tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", x=np.ones((5, 4), np.float32))
    result = run(model, model, "--data", tmp_path / "d.npz", "--state", "s=next", "--metric", "agreement")
    assert result.exit_code == 0


WRONG = {
    "--metric needs data": ["--metric", "top1"],
    "--max-drop needs data": ["--max-drop", "0.1"],
    "--rtol is for random inputs": ["--rtol", "0.1", "--data", "d.npz"],
}


@pytest.mark.parametrize(("words", "given"), WRONG.items(), ids=WRONG.keys())
def test_words_that_would_be_ignored_are_refused(words: str, given: list[str], reference: Path) -> None:
    result = run(reference, reference, *given)
    assert isinstance(result.exception, UsageError)
    assert words in str(result.exception)


def test_data_that_do_not_fit(reference: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.ones((5, 9), np.float32))
    assert isinstance(run(reference, reference, "--data", tmp_path / "d.npz").exception, DataError)


def test_a_damaged_weight_fails_and_bisect_names_the_layer(tmp_path: Path) -> None:
    old, new = damaged(tmp_path)
    result = run(old, new, "--bisect")
    assert isinstance(result.exception, GateRefused)
    assert result.exception.exit_code == 4
    assert "h2 (MatMul): weights 'w2' differ by up to 3" in result.stdout
    assert "without this change the model passes" in result.stdout


def test_layers_are_shown(tmp_path: Path) -> None:
    old, new = damaged(tmp_path)
    lines = run(old, new, "--layers").stdout.splitlines()
    assert any(line.startswith("h2") and "<- worst" in line for line in lines)
    assert any(line.startswith("h1") and "exact" in line for line in lines)
    assert not any(line.startswith("bisection") for line in lines)


def test_several_metrics_and_saved_files(reference: Path, tmp_path: Path) -> None:
    data, saved_to = labelled(reference, tmp_path), (tmp_path / "r.md", tmp_path / "r.json")
    words = ["--metric", "top1", "--metric", "cosine", "--save", saved_to[0], "--save", saved_to[1]]
    result = run(reference, scaled(2.0, tmp_path), "--data", data, *words, "--min-sqnr", 20)
    assert isinstance(result.exception, GateRefused)
    assert "SQNR of 0.0 dB, under the 20 dB" in str(result.exception)
    assert "also       cosine 1.0000 -> 1.0000" in result.stdout
    assert json.loads(saved_to[1].read_text())["metrics"][1]["metric"] == "cosine"
    assert "| cosine | 1.0000 | 1.0000 |" in saved_to[0].read_text()


def test_json_is_all_that_is_printed(tmp_path: Path) -> None:
    found = json.loads(run(*damaged(tmp_path), "--bisect", "--layers", "--json").stdout)
    assert found["version"] == 2
    assert found["bisection"]["runs"] >= 2
    assert [row["value"] for row in found["layers"]["rows"] if row["worst"]] == ["h2"]


def test_80_columns_are_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(printing, "PIPED_WIDTH", 80)
    old, new = damaged(tmp_path)
    lines = run(old, new, "--bisect", "--layers").stdout.splitlines()
    assert max(len(line) for line in lines) <= 80
    assert any("too far" in line for line in lines)
    assert any("<- worst" in line for line in lines)


def test_a_result_is_not_written_over_a_model(reference: Path, tmp_path: Path) -> None:
    other = tmp_path / "m.json"
    other.write_bytes(reference.read_bytes())
    result = run(reference, other, "--save", other)
    assert isinstance(result.exception, UsageError)
    assert other.read_bytes() == reference.read_bytes()


def damaged(folder: Path) -> tuple[Path, Path]:
    """Three products, and the same with one number of the second far off."""
    text = """g (float[n,8] x) => (float[n,4] y) <float[8,8] w1, float[8,8] w2, float[8,4] w3>
        { h1 = MatMul(x, w1)  h2 = MatMul(h1, w2)  y = MatMul(h2, w3) }"""
    model = parse(text)
    weight = model.graph.initializers["w2"]
    assert weight.const_value is not None
    numbers = weight.const_value.numpy().copy()
    numbers[3, 3] += 3
    weight.const_value = ir.tensor(numbers, name="w2")
    new = folder / "damaged.onnx"
    files.save(model, new)
    return saved(text, folder / "three.onnx"), new


def run(*words: object) -> Result:
    return CliRunner().invoke(cli, ["validate", *map(str, words)])


def saved(text: str, path: Path) -> Path:
    files.save(parse(text), path)
    return path


def scaled(factor: float, folder: Path) -> Path:
    """The reference with its weight times ``factor``."""
    model = parse(TEXT)
    weight = model.graph.initializers["w"]
    assert weight.const_value is not None
    weight.const_value = ir.tensor(weight.const_value.numpy() * np.float32(factor), name="w")
    path = folder / "scaled.onnx"
    files.save(model, path)
    return path


def labelled(reference: Path, folder: Path) -> Path:
    """50 samples whose labels are what the reference answers."""
    x = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    weight = files.load(reference).graph.initializers["w"].const_value
    assert weight is not None
    np.savez(folder / "d.npz", x=x, labels=(x @ weight.numpy()).argmax(axis=1))
    return folder / "d.npz"
