"""ShareSimilar, and the groups of rows it makes."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from onnxopt import files
from onnxopt.core import Change, Context, Refusal, Saved
from onnxopt.graph import array
from onnxopt.passes.share.clusters import _spread, nearest, within
from onnxopt.passes.share.share_similar import ShareSimilar
from onnxopt.runtime import Session
from onnxopt.target import Target
from onnxopt.testing import assert_refuses, assert_same_outputs, lines, parse, run_pass

RNG = np.random.default_rng(0)
CPU = Target()
THREE = """g (float[2,16] x) => (float[2,32] y) <float[16,32] u, float[16,32] v, float[16,32] w>
{ a = MatMul(x, u)  b = MatMul(x, v)  c = MatMul(x, w)  d = Add(a, b)  y = Add(d, c) }"""
LOOKUPS = """g (int64[3] i, int64[2,2] j) => (float[3,64] y, float[2,2,64] z) <float[90,64] w>
{ y = Gather(w, i)  z = Gather(w, j) }"""
WEIGHT = RNG.normal(size=(16, 32)).astype(np.float32)
NEAR = WEIGHT * np.float32(1.001)
FAR = RNG.normal(size=(16, 32)).astype(np.float32)
GROUPS = np.arange(90) % 30


def noisy_table(noise: float) -> np.ndarray:
    """90 rows in groups of three, which are equal but for noise."""
    rows = RNG.normal(size=(30, 64))[GROUPS]
    return (rows + noise * RNG.normal(size=(90, 64))).astype(np.float32)


def model_with(text: str, **weights: np.ndarray) -> ir.Model:
    model = parse(text)
    for name, numbers in weights.items():
        model.graph.initializers[name].const_value = ir.Tensor(numbers, name=name)
    return model


def share(model: ir.Model, rewrite: ShareSimilar) -> tuple[ir.Model, list[Change]]:
    """A copy in which weights are shared: valid, smaller by what was counted, and a second run changes nothing."""
    copy = model.clone()
    changes = run_pass(rewrite, copy)
    onnx.checker.check_model(files.to_proto(copy), full_check=True)
    contents = files.to_bytes(copy)
    counted = sum(change.saved.file for change in changes if change.saved)
    assert abs(len(files.to_bytes(model)) - len(contents) - counted) <= 4
    assert run_pass(rewrite, copy) == []
    assert files.to_bytes(copy) == contents
    return copy, changes


def test_near_weights_share_their_mean() -> None:
    model, (change,) = share(model_with(THREE, u=WEIGHT, v=FAR, w=NEAR), ShareSimilar())
    assert list(model.graph.initializers) == ["u", "v"]
    mean = (WEIGHT.astype(np.float64) + NEAR) / 2
    np.testing.assert_array_equal(array(model.graph.initializers["u"]), mean.astype(np.float32))
    np.testing.assert_array_equal(array(model.graph.initializers["v"]), FAR)
    assert model.graph[2].inputs[1] is model.graph.initializers["u"]
    assert change == Change("c", "'w' is 'u' now, relative error 5.0e-04", Saved(2063, 2048))


def test_the_mean_of_three_weighs_each_alike() -> None:
    model, changes = share(model_with(THREE, u=WEIGHT, v=WEIGHT * 1.002, w=WEIGHT * 1.004), ShareSimilar())
    assert [change.node for change in changes] == ["b", "c"]
    np.testing.assert_allclose(array(model.graph.initializers["u"]), WEIGHT * 1.002, rtol=1e-6)


def test_equal_weights_change_nothing() -> None:
    before = model_with(THREE, u=WEIGHT, v=WEIGHT, w=NEAR)
    model, changes = share(before, ShareSimilar(tolerance=0))
    assert [change.what for change in changes] == ["'v' is 'u' now, relative error 0.0e+00"]
    assert_same_outputs(before, model, rtol=0.0)


def test_clusters_are_at_most_so_many() -> None:
    model, changes = share(model_with(THREE, u=WEIGHT, v=FAR, w=NEAR), ShareSimilar(clusters=2))
    assert len(changes) == 1
    assert len(model.graph.initializers) == 2
    model, changes = share(model_with(THREE, u=WEIGHT, v=FAR, w=NEAR), ShareSimilar(clusters=1))
    assert list(model.graph.initializers) == ["u"]
    np.testing.assert_allclose(array(model.graph.initializers["u"]), (WEIGHT + FAR + NEAR) / 3, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", [{"tolerance": 0.05}, {"clusters": 30}], ids=["tolerance", "clusters"])
def test_near_rows_of_a_table_are_one(options: dict[str, float]) -> None:
    numbers = noisy_table(0.01)
    before = model_with(LOOKUPS, w=numbers)
    model, (change,) = share(before, ShareSimilar(by="row", **options))  # type: ignore[arg-type]
    assert lines(model) == [
        "Gather(const, i) -> y/row",
        "Gather(const, y/row) -> y",
        "Gather(const, j) -> z/row",
        "Gather(const, z/row) -> z",
    ]
    assert change.what.startswith("30 of 90 rows of 'w' stay")
    assert change.saved is not None
    assert change.saved.session == numbers.nbytes - 30 * 64 * 4 - 90 * 4
    ids = {"i": np.array([0, 89, -1]), "j": np.array([[1, 2], [-90, 5]])}
    wanted, got = (Session(one, CPU).run(ids) for one in (before, model))
    for name in wanted:
        np.testing.assert_allclose(got[name], wanted[name], atol=0.05)
    means = np.stack([numbers[group == GROUPS].astype(float).mean(axis=0) for group in range(30)])
    np.testing.assert_allclose(got["y"], means[[0, 29, 29]], rtol=1e-5, atol=1e-6)


def test_equal_rows_change_nothing() -> None:
    before = model_with(LOOKUPS, w=noisy_table(0))
    model, (change,) = share(before, ShareSimilar(tolerance=0, by="row"))
    assert change.what == "30 of 90 rows of 'w' stay, relative error 0.0e+00"
    assert_same_outputs(before, model, rtol=0.0)


def test_the_seed_decides_alone() -> None:
    """k-means depends on where it starts: the same seed gives the same bytes."""
    found = []
    for seed in (0, 0, 1):
        model = model_with(LOOKUPS, w=noisy_table(1.0) if not found else found[0][1])
        numbers = array(model.graph.initializers["w"])
        ShareSimilar(by="row", clusters=20).run(model, Context(CPU, seed=seed))
        found.append((files.to_bytes(model), numbers))
    assert found[0][0] == found[1][0] != found[2][0]


LEFT_ALONE = {
    "weights that differ": (ShareSimilar(), THREE, None),
    "weights of other shapes": (
        ShareSimilar(tolerance=1),
        "g (float[2,16] x) => (float[2,16] y) <float[16,32] u, float[32,16] v> { a = MatMul(x, u)  y = MatMul(a, v) }",
        None,
    ),
    "small weights": (
        ShareSimilar(tolerance=1),
        "g (float[4] x) => (float[4] y) <float[4] v, float[4] w> { a = Mul(x, v)  y = Add(a, w) }",
        None,
    ),
    "a weight that a caller may override": (
        ShareSimilar(tolerance=1),
        """g (float[2,16] x, float[16,32] v) => (float[2,32] y) <float[16,32] u, float[16,32] v>
        { a = MatMul(x, u)  b = MatMul(x, v)  y = Add(a, b) }""",
        "can be overridden",
    ),
    "a weight that is returned": (
        ShareSimilar(tolerance=1),
        """g (float[2,16] x) => (float[2,32] y, float[16,32] v) <float[16,32] u, float[16,32] v>
        { a = MatMul(x, u)  b = MatMul(x, v)  y = Add(a, b) }""",
        "is an output of the graph",
    ),
    "double weights": (
        ShareSimilar(tolerance=1),
        "g (double[2,16] x) => (double[2,32] y) <double[16,32] u> { y = MatMul(x, u) }",
        "is DOUBLE, not float32",
    ),
    "rows that differ": (ShareSimilar(by="row"), LOOKUPS, None),
    "weights where rows are wanted": (ShareSimilar(by="row", tolerance=1), THREE, None),
}


@pytest.mark.parametrize(("rewrite", "text", "why"), LEFT_ALONE.values(), ids=LEFT_ALONE.keys())
def test_leaves(rewrite: ShareSimilar, text: str, why: str | None) -> None:
    assert_refuses(rewrite, text, why)


def test_weights_that_are_not_finite_stay() -> None:
    masks = np.full((16, 32), -np.inf, np.float32)
    model = model_with(THREE, u=masks, v=masks, w=WEIGHT)
    said = ShareSimilar().run(model, Context(CPU))
    assert [item.why for item in said if isinstance(item, Refusal)] == ["'u' is not finite", "'v' is not finite"]
    assert len(said) == 2


def test_rows_that_save_less_than_their_index_stay() -> None:
    numbers = noisy_table(1.0)
    numbers[5] = numbers[4]
    model = model_with(LOOKUPS, w=numbers)
    before = files.to_bytes(model)
    (refusal,) = ShareSimilar(by="row").run(model, Context(CPU))
    assert refusal == Refusal("y", "only 1 rows of 'w' are near others")
    assert files.to_bytes(model) == before


EXAMPLES = settings(derandomize=True, deadline=None, max_examples=100, database=None)
SMALL = st.floats(-4, 4, width=16)


@EXAMPLES
@given(arrays(np.float32, st.tuples(st.integers(1, 20), st.integers(1, 3)), elements=SMALL), st.floats(0, 1))
def test_no_two_means_are_near(rows: np.ndarray, tolerance: float) -> None:
    means, labels = within(rows, tolerance)
    assert sorted(set(labels.tolist())) == list(range(len(means)))
    assert [labels.tolist().index(group) for group in range(len(means))] == sorted(
        labels.tolist().index(group) for group in range(len(means))
    )
    for group, mean in enumerate(means):
        np.testing.assert_allclose(mean, rows[labels == group].astype(float).mean(axis=0), rtol=1e-6, atol=1e-7)
    lengths = np.linalg.norm(means.astype(float), axis=1)
    distances = np.linalg.norm(means[:, None].astype(float) - means[None], axis=2)
    allowed = tolerance * np.minimum(lengths[:, None], lengths[None])
    apart = distances > allowed * (1 - 1e-9)
    assert (apart | np.eye(len(means), dtype=bool)).all()


@EXAMPLES
@given(arrays(np.float32, st.tuples(st.integers(1, 20), st.integers(1, 3)), elements=SMALL))
def test_without_tolerance_equal_rows_are_one_and_others_are_not(rows: np.ndarray) -> None:
    means, labels = within(rows, 0)
    np.testing.assert_array_equal(means[labels], rows)
    assert len(means) == len(np.unique(rows + 0.0, axis=0))


def test_groups_do_not_depend_on_how_many_rows_are_looked_at_at_once(monkeypatch) -> None:
    from onnxopt.passes.share import clusters

    rows = (RNG.normal(size=(200, 5))[RNG.integers(0, 200, 700)] + 1e-3 * RNG.normal(size=(700, 5))).astype(np.float32)
    wanted = within(rows, 0.01)
    assert 100 < len(wanted[0]) < 300
    monkeypatch.setattr(clusters, "CHUNK", 7)
    for one, other in zip(wanted, within(rows, 0.01), strict=True):
        np.testing.assert_array_equal(one, other)


def test_k_means_is_no_worse_than_where_it_starts() -> None:
    rows = RNG.normal(size=(300, 4)).astype(np.float32)
    means, labels = nearest(rows, 20, seed=0)
    start = np.square(rows[:, None] - _spread(rows, 20, seed=0)[None]).sum(axis=2).min(axis=1).sum()
    assert np.square(rows - means[labels]).sum() < 0.8 * start
    assert len(means) == 20
