"""What is kept of layers, and used again."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from onnxopt import cache, files
from onnxopt.core import Context
from onnxopt.data import open_dataset
from onnxopt.layers import weights
from onnxopt.passes.factorize import search, store
from onnxopt.passes.factorize.candidates import Ways
from onnxopt.passes.factorize.factorize import Factorize
from onnxopt.passes.factorize.split import Split
from onnxopt.runtime import input_specs
from onnxopt.samples import with_state
from onnxopt.target import Target
from onnxopt.testing import parse

NET = """g (float[n,20] x) => (float[n,8] y) <float[20,30] v, float[30] b, float[30,8] w>
{ h = Gemm(x, v, b)  i = Relu(h)  y = MatMul(i, w) }"""


@pytest.fixture
def model() -> ir.Model:
    return parse(NET)


@pytest.fixture
def context(model: ir.Model, save_npz: Callable[..., Path]) -> Context:
    x = np.random.default_rng(0).normal(size=(40, 20)).astype(np.float32)
    return Context(Target(), with_state(open_dataset(str(save_npz(x=x)), input_specs(model)), model, {}))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cache, "folder", lambda name: tmp_path / name)
    return tmp_path / "factorize"


def judged(model: ir.Model) -> store.Judged:
    splits = {Split(((), ()), (3,)): 0.25, Split(((), (0, 1), ()), (2, 4)): 0.5}
    return [(Ways(weight, splits, [3, 7]), 1.5) for weight in weights(model)[0]]


def test_what_was_kept_is_found_again(model: ir.Model, tmp_path: Path) -> None:
    path, found = tmp_path / "folder" / "a.json", judged(model)
    store.keep(path, found)
    assert store.load(path, weights(model)[0]) != found  # other objects, of the same model
    again = store.load(path, [one.weight for one, _ in found])
    assert again == found


DAMAGED = {
    "nothing": "",
    "other layers": "{}",
    "no numbers": '{"h": 3, "y": 3}',
    "a list": "[]",
    "ranks that do not fit": '{"h": {"gain": 1, "falls": [], "losses": [[[[], []], [3, 4], 0.1]]}, "y": {}}',
    "axes that are none": '{"h": {"gain": 1, "falls": [], "losses": [[3, [3], 0.1]]}, "y": {}}',
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED.keys())
def test_what_is_damaged_is_not_used(model: ir.Model, content: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content)
    assert store.load(tmp_path / "a.json", weights(model)[0]) is None
    assert store.load(tmp_path / "none.json", weights(model)[0]) is None
    assert store.load(None, weights(model)[0]) is None


def test_a_folder_that_cannot_be_written_is_no_error(model: ir.Model, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store.keep(tmp_path / "file" / "a.json", judged(model))
    store.keep(None, judged(model))


def test_another_amount_of_the_same_kind_needs_no_search(
    model: ir.Model, context: Context, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched: list[str] = []
    ways = search.Search.ways
    monkeypatch.setattr(
        search.Search, "ways", lambda self, weight, *rest: searched.append(weight.name) or ways(self, weight, *rest)
    )
    results = {}
    for macs, names in ((0.8, ["h", "y"]), (0.6, []), (0.8, [])):
        searched.clear()
        copy = model.clone()
        Factorize(macs=macs).run(copy, context)
        assert searched == names
        assert results.setdefault(macs, files.to_bytes(copy)) == files.to_bytes(copy)
    (kept,) = folder.glob("*.json")
    assert set(json.loads(kept.read_text())) == {"h", "y"}
    for other in (
        Factorize(bytes=0.8),
        Factorize(error=0.1),
        Factorize(macs=0.8, whiten=False),
        Factorize(macs=0.8, limit=0.5),
    ):
        searched.clear()
        other.run(model.clone(), context)
        assert searched == ["h", "y"]


def test_without_data_nothing_is_kept(model: ir.Model, folder: Path) -> None:
    Factorize(macs=0.8).run(model, Context(Target()))
    assert not folder.exists()
