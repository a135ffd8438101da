"""Outputs, NaN and inf, sizes, metrics, forms."""

import json
import math
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from validation_nets import CHAIN, compared, edited, spoiled

from onnxopt.errors import UsageError
from onnxopt.testing import parse
from onnxopt.validation import VERSION, Options, Validation, forms
from onnxopt.validation.errors import Tally


def kinds(found: Validation) -> set[str]:
    return {problem.kind for problem in found.found}


def test_nan_that_appears_always_fails(tmp_path: Path) -> None:
    old = "g (float[n,4] x) => (float[n,4] y, float[n,4] z) { y = Abs(x)  z = Neg(x) }"
    new = old.replace("y = Abs(x)", "y = Sqrt(x)")
    data = tmp_path / "d.npz"
    np.savez(data, x=np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32))
    found = compared(old, new, tmp_path, Options(data=str(data), metric="agreement", metrics=("mse",)))
    assert "nan" in kinds(found)
    assert any("output 'y' has" in sentence and "NaN or inf where" in sentence for sentence in found.problems)
    (y, z) = found.outputs
    assert y.appeared == y.not_finite[1] > 0
    assert (z.appeared, z.not_finite) == (0, (0, 0))
    assert (found.verdict(y), found.verdict(z)) == ("NaN or inf", "ok")


def test_inf_that_the_reference_has_too_is_no_failure(tmp_path: Path) -> None:
    text = "g (float[n,4] x) => (float[n,4] y) <float zero = {0}> { y = Div(x, zero) }"
    found = compared(text, text, tmp_path)
    assert not found.problems
    assert found.outputs[0].not_finite[0] == found.outputs[0].not_finite[1] > 0


def test_nan_in_place_of_inf_has_appeared(tmp_path: Path) -> None:
    tally = Tally("y")
    tally.add(np.float32([np.inf, np.nan, 1, 2]), np.float32([np.nan, np.nan, np.inf, 2]))
    found = tally.result()
    assert (found.appeared, found.not_finite) == (2, (2, 3))


def test_errors_in_numbers() -> None:
    tally = Tally("y")
    tally.add(np.float32([[3, 4]]), np.float32([[3, 4.5]]))
    tally.add(np.float32([[0, 10]]), np.float32([[0, 10]]))
    found = tally.result()
    assert (found.dtype, found.shape, found.largest) == ("float32", "1x2", 0.5)
    assert found.relative == pytest.approx(0.5 / 4)
    assert found.sqnr == pytest.approx(10 * math.log10(125 / 0.25))
    expected = (9 + 4 * 4.5 + 100) / math.sqrt(125 * (9 + 4.5**2 + 100))
    assert found.cosine == pytest.approx(expected)


ODD = {
    "equal": ([1.0, 2.0], [1.0, 2.0], 150.0, 1.0),
    "zero for numbers": ([1.0, 2.0], [0.0, 0.0], 0.0, 0.0),
    "numbers for zero": ([0.0, 0.0], [1.0, 2.0], -150.0, 0.0),
    "zero for zero": ([0.0, 0.0], [0.0, 0.0], 150.0, 1.0),
    "nothing": ([], [], 150.0, 1.0),
}


@pytest.mark.parametrize(("before", "after", "sqnr", "cosine"), ODD.values(), ids=ODD.keys())
def test_odd_numbers(before: list[float], after: list[float], sqnr: float, cosine: float) -> None:
    tally = Tally("y")
    tally.add(np.float32(before), np.float32(after))
    found = tally.result()
    assert (found.sqnr, found.cosine) == pytest.approx((sqnr, cosine))
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))


def test_integers_and_sequences_and_strings() -> None:
    tally = Tally("y")
    tally.add([np.int64([1, 2])], [np.int64([1, 5])])
    assert (tally.result().relative, tally.result().largest, tally.result().sqnr) == (math.inf, 3.0, None)
    other = Tally("s")
    other.add(np.array(["a"], object), np.array(["a"], object))
    assert other.result().relative == 0
    longer = Tally("l")
    longer.add([np.zeros(1)], [np.zeros(1)] * 2)
    assert "a sequence of 2 instead of 1" in longer.result().clash


def test_min_sqnr_takes_the_place_of_the_tolerance(tmp_path: Path) -> None:
    old = parse(CHAIN)
    near = edited(old, "w5", lambda w: w * 1.01)  # 40 dB
    assert kinds(compared(old, near, tmp_path)) == {"rtol", "size"}
    assert not compared(old, near, tmp_path, Options(min_sqnr=39)).problems
    found = compared(old, near, tmp_path, Options(min_sqnr=41))
    assert "sqnr" in kinds(found)
    assert "an SQNR of 40.0 dB, under the 41 dB" in found.problems[0]
    assert kinds(compared(old, near, tmp_path, Options(min_sqnr=41, rtol=1e-3))) >= {"sqnr", "rtol"}


def test_all_that_failed_is_told(tmp_path: Path) -> None:
    old = parse(CHAIN)
    data = tmp_path / "d.npz"
    np.savez(data, x=np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32))
    found = compared(old, spoiled(old, "w5"), tmp_path, Options(data=str(data), min_sqnr=60))
    assert {"drop", "sqnr"} <= kinds(found)


def test_several_metrics_of_which_the_first_is_the_gate(tmp_path: Path) -> None:
    old = parse(CHAIN)
    data = tmp_path / "d.npz"
    np.savez(data, x=np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32))
    near = edited(old, "w5", lambda w: w * 1.01)
    found = compared(old, near, tmp_path, Options(data=str(data), metric="agreement", metrics=("mse", "sqnr")))
    assert [drop.metric for drop in found.drops] == ["agreement", "mse", "sqnr"]
    assert not found.problems  # sqnr falls by 110 dB, and is not asked of
    assert found.drop is found.drops[0]
    assert all(drop.low <= drop.drop <= drop.high for drop in found.drops)
    other = compared(old, near, tmp_path, Options(data=str(data), metric="sqnr", metrics=("agreement",)))
    assert kinds(other) == {"drop"}


def test_a_second_size_at_which_the_model_does_not_run(tmp_path: Path) -> None:
    old = "g (float[n,4] x) => (float[n,4] y) <int64[2] s = {-1, 4}> { y = Reshape(x, s) }"
    found = compared(old, old.replace("-1, 4", "1, 4"), tmp_path)
    (sentence,) = found.problems
    assert sentence.startswith("with n=2 the reference runs and the model does not: ")
    assert "Reshape" in sentence
    assert (found.sizes[0].dimension, found.sizes[0].size, found.sizes[0].usual) == ("n", 2, 1)


def test_a_second_size_with_another_shape(tmp_path: Path) -> None:
    old = "g (float[n,4] x) => (float[m,4] y) { y = Neg(x) }"
    new = "g (float[n,4] x) => (float[m,4] y) <int64[1] a = {0}, int64[1] b = {1}> { s = Slice(x, a, b) y = Neg(s) }"
    (sentence,) = compared(old, new, tmp_path).problems
    assert sentence == "with n=2, output 'y' is float32 of shape 1x4 instead of float32 of shape 2x4"


def test_a_second_size_that_the_reference_does_not_take_either_is_a_note(tmp_path: Path) -> None:
    text = "g (float[n,4] x) => (float[n,4] y) <int64[2] s = {1, 4}> { y = Reshape(x, s) }"
    found = compared(text, text, tmp_path)
    assert not found.problems
    assert any("the reference does not run with n=2 either" in note for note in found.notes)


def test_each_dynamic_dimension_is_tried_alone_and_those_of_one_name_together(tmp_path: Path) -> None:
    text = """g (float[batch,seq,4] x, float[batch,seq,4] m, float[batch,other] o) => (float[batch,seq,4] y)
        <float[4] w> { s = Mul(x, m)  r = ReduceMax<keepdims=0>(o)  t = Mul(s, w)  y = Add(t, r) }"""
    options = Options(data=str(tmp_path / "d.npz"), metric="mse")
    rng = np.random.default_rng(0)
    shapes = {"x": (6, 10, 4), "m": (6, 10, 4), "o": (6, 5)}
    np.savez(tmp_path / "d.npz", **{name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()})
    found = compared(text, text, tmp_path, options)
    assert [(one.dimension, one.usual, one.size) for one in found.sizes] == [
        ("batch", 1, 2), ("seq", 10, 5), ("other", 5, 2),
    ]  # fmt: skip
    assert not any(one.note for one in found.sizes)
    shape = {one.dimension: one.outputs[0].shape for one in found.sizes}
    assert shape == {"batch": "2x10x4", "seq": "1x5x4", "other": "1x10x4"}


def test_sums_of_dimensions_follow(tmp_path: Path) -> None:
    model = parse("""g (float[1,past] p, float[1,now] x, float[1,both] m) => (float[1,total] y)
        { c = Concat<axis=1>(p, x)  y = Mul(c, m) }""")
    model.graph.inputs[2].shape = ir.Shape([1, "past + now"])
    np.savez(
        tmp_path / "d.npz",
        **{name: np.ones((2, 1, size), np.float32) for name, size in (("p", 4), ("x", 2), ("m", 6))},
    )
    found = compared(model, model, tmp_path, Options(data=str(tmp_path / "d.npz"), metric="mse"))
    assert [(one.dimension, one.size, one.note) for one in found.sizes] == [("past", 2, ""), ("now", 1, "")]


def test_inputs_in_another_order_are_noted(tmp_path: Path) -> None:
    text = "g (float[2] a, float[2] b) => (float[2] y) { y = Sub(a, b) }"
    found = compared(text, text.replace("float[2] a, float[2] b", "float[2] b, float[2] a"), tmp_path)
    assert not found.problems
    assert "the inputs come in the order b, a; they are fed by name" in found.notes


def test_random_outputs_are_not_compared(tmp_path: Path) -> None:
    text = "g (float[n,4] x) => (float[n,4] y, float[n,4] r) { y = Neg(x)  r = RandomNormalLike(x) }"
    found = compared(text, text, tmp_path)
    assert not found.problems
    assert [error.name for error in found.outputs] == ["y"]
    assert "output 'r' is random and was not compared" in found.notes


def failed(folder: Path) -> Validation:
    old = parse(CHAIN)
    np.savez(folder / "d.npz", x=np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32))
    options = Options(data=str(folder / "d.npz"), metrics=("mse",), min_sqnr=60, layers=True, bisect=True)
    return compared(old, spoiled(old, "w3"), folder, options)


def test_json_holds_every_number_and_is_strict(tmp_path: Path) -> None:
    result = failed(tmp_path)
    forms.write(result, tmp_path / "r.json")
    found = json.loads((tmp_path / "r.json").read_text(), parse_constant=lambda word: pytest.fail(word))
    assert found["version"] == VERSION == 2
    assert found["passed"] is False
    assert [one["metric"] for one in found["metrics"]] == ["agreement", "mse"]
    assert found["accuracy"] == found["metrics"][0]
    assert found["outputs"][0]["verdict"] == "SQNR too low"
    assert found["outputs"][0]["sqnr"] < 60
    assert found["sizes"][0]["dimension"] == "n"
    assert len(found["layers"]["rows"]) == 9
    assert found["bisection"]["groups"][0][0]["values"] == ["h3"]
    assert found["asked"] == {"rtol": None, "min_sqnr": 60, "max_drop": 0.01, "of_interval": False}


def test_markdown_has_verdict_tables_and_the_layer(tmp_path: Path) -> None:
    result = failed(tmp_path)
    forms.write(result, tmp_path / "r.md")
    text = (tmp_path / "r.md").read_text()
    assert text.startswith("# onnxopt validate: failed\n")
    assert "| output | type | max abs | relative | dB | cosine | NaN/inf | verdict |" in text
    assert "- h3 (MatMul): weights 'w3' differ by up to 3" in text
    assert "| h3 | MatMul |" in text
    assert "<- worst" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in tables)


def test_a_name_with_a_bar_does_not_break_the_table(tmp_path: Path) -> None:
    assert forms._row(["a|b", "c\nd"]) == "| a\\|b | c d |"


def test_other_endings_are_refused() -> None:
    with pytest.raises(UsageError, match=r"\.json and \.md"):
        forms.check_form(Path("r.html"))
