"""Where the error grows."""

from pathlib import Path

import numpy as np
import pytest
from validation_nets import CHAIN, compared, edited, spoiled

from onnxopt.testing import parse
from onnxopt.validation import Options, layers
from onnxopt.validation.layers import Layer, Layers

LAYERS = Options(layers=True, min_sqnr=-150)


def rows(found: Layers | None) -> dict[str, Layer]:
    assert found is not None
    return {row.value: row for row in found.rows}


def test_the_error_grows_exactly_at_the_damaged_layer(tmp_path: Path) -> None:
    old = parse(CHAIN)
    found = rows(compared(old, spoiled(old, "w3"), tmp_path, LAYERS).layers)
    assert list(found) == ["h1", "a1", "h2", "a2", "h3", "a3", "h4", "a4", "y"]
    assert [name for name, row in found.items() if row.worst] == ["h3"]
    assert [name for name, row in found.items() if row.own != 150] == ["h3"]
    assert all(found[name].sqnr == 150 for name in ("h1", "a1", "h2", "a2"))
    assert all((found[name].sqnr or 0) < 60 for name in ("h3", "a3", "h4", "a4", "y"))
    assert found["h3"].sqnr == found["h3"].own
    assert found["h3"].grows == 150 - (found["h3"].sqnr or 0)


def test_what_a_layer_adds_is_told_apart_from_what_it_inherits(tmp_path: Path) -> None:
    old = parse(CHAIN)
    new = edited(spoiled(old, "w2"), "w5", lambda w: w * 1.001)
    found = rows(compared(old, new, tmp_path, LAYERS).layers)
    assert found["y"].own == pytest.approx(60, abs=0.1)  # 20 log10(1000)
    assert (found["y"].sqnr or 0) < 40
    assert (found["y"].grows or 0) < 10
    assert found["h4"].own == 150


def test_nan_inside_is_told(tmp_path: Path) -> None:
    old = "g (float[4,4] x) => (float[4,4] y) { a = Abs(x)  s = Sqrt(a)  y = Neg(s) }"
    found = compared(old, old.replace("Abs(x)", "Identity(x)"), tmp_path, LAYERS)
    row = rows(found.layers)["s"]
    assert row.appeared > 0
    assert any(problem.kind == "nan" for problem in found.found)


def test_groups_that_fit_in_memory_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = parse(CHAIN)
    new = spoiled(old, "w2", "w4")
    whole = rows(compared(old, new, tmp_path, LAYERS).layers)
    sizes = []
    measured = layers._measured

    def spy(pair, group, *rest):
        sizes.append(len(group))
        return measured(pair, group, *rest)

    monkeypatch.setattr(layers, "_measured", spy)
    monkeypatch.setattr(layers, "GROUP_BYTES", 200)
    parts = rows(compared(old, new, tmp_path, LAYERS).layers)
    assert max(sizes) < len(whole)
    assert {name: row.sqnr for name, row in parts.items()} == pytest.approx({n: r.sqnr for n, r in whole.items()})


def test_states_are_fed_back(tmp_path: Path) -> None:
    text = """g (float[1,4] x, float[1,4] s) => (float[1,4] y, float[1,4] next) <float[4,4] w>
        { m = MatMul(x, w)  a = Add(m, s)  next = Tanh(a)  y = Neg(next) }"""
    np.savez(tmp_path / "d.npz", x=np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32))
    old = parse(text)
    options = Options(data=str(tmp_path / "d.npz"), metric="mse", state={"s": "next"}, layers=True)
    found = compared(old, spoiled(old, "w"), tmp_path, options)
    assert [row.value for row in found.layers.rows if row.worst] == ["m"]


def test_values_of_another_shape_are_no_match(tmp_path: Path) -> None:
    old = "g (float[3,4] x) => (float[3,2] y) <float[4,6] w, float[6,2] v> { h = MatMul(x, w)  y = MatMul(h, v) }"
    new = "g (float[3,4] x) => (float[3,2] y) <float[4,5] w, float[5,2] v> { h = MatMul(x, w)  y = MatMul(h, v) }"
    assert list(rows(compared(old, new, tmp_path, LAYERS).layers)) == ["y"]


def test_names_that_were_given_to_other_values(tmp_path: Path) -> None:
    """As a new export does that numbers its values: most names are there, and mean something else."""
    old = "g (float[4,4] x) => (float[4,4] y) { a = Abs(x)  b = Sqrt(a)  c = Exp(b)  y = Neg(c) }"
    new = "g (float[4,4] x) => (float[4,4] y) { c = Abs(x)  a = Sqrt(c)  b = Exp(a)  y = Neg(b) }"
    found = compared(old, new, tmp_path, LAYERS)
    assert [row.sqnr for row in found.layers.rows] == [150, 150, 150, 150]
    assert found.layers.how == "names and the order of operators"
