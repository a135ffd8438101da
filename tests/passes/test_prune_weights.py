"""PruneWeights."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxopt import files
from onnxopt.calibrate import inputs
from onnxopt.core import Change, Context, Refusal
from onnxopt.data import open_dataset
from onnxopt.errors import DataError, UsageError
from onnxopt.gate import Drop
from onnxopt.graph import array
from onnxopt.passes import parse as parse_pass
from onnxopt.passes.prune.prune_weights import PruneWeights
from onnxopt.passes.prune.weights.patterns import Pattern, lowest, share_of
from onnxopt.passes.prune.weights.sparsegpt import sparsegpt
from onnxopt.pipeline import Goal, Outcome, Pipeline
from onnxopt.runtime import Session, input_specs
from onnxopt.samples import Samples, random_samples, with_state
from onnxopt.target import Target
from onnxopt.testing import assert_refuses, parse

CPU = Target()
COUNT = 24
LAYERS = {
    "convolution": ("8,9,7", "6,8,3,3", "Conv<pads=[1,0,2,1], strides=[2,1]>(x, w)"),
    "one dimension": ("4,9", "6,4,3", "Conv<pads=[1,1]>(x, w)"),
    "groups": ("16,8,8", "4,8,3,3", "Conv<group=2>(x, w)"),
    "depthwise": ("6,8,8", "6,1,3,3", "Conv<group=6, pads=[1,1,1,1]>(x, w)"),
    "Gemm": ("20", "20,8", "Gemm(x, w)"),
    "Gemm with transB": ("20", "8,20", "Gemm<transB=1>(x, w)"),
    "MatMul": ("3,20", "20,8", "MatMul(x, w)"),
    "tied to a Transpose": ("3,20", "8,20", "MatMul(x, v)"),
}
IMPORTANCES = ("magnitude", "wanda", "second-order")
every_layer = pytest.mark.parametrize("parts", LAYERS.values(), ids=LAYERS.keys())
every_importance = pytest.mark.parametrize("importance", IMPORTANCES)


def net(shape: str, weight: str, call: str) -> ir.Model:
    """One layer."""
    sizes = ",".join("abc"[: shape.count(",") + 1])
    tied = "v = Transpose<perm=[1,0]>(w)" if "v)" in call else ""
    return parse(f"g (float[n,{shape}] x) => (float[n,{sizes}] y) <float[{weight}] w> {{ {tied} y = {call} }}")


def smooth(shape: str) -> np.ndarray:
    """Inputs whose channels have something to do with each other."""
    rng, sizes = np.random.default_rng(0), [int(size) for size in shape.split(",")]
    common = rng.normal(size=(COUNT, *[1] * len(sizes)))
    loud = rng.uniform(0.1, 2, (1, sizes[0], *[1] * (len(sizes) - 1)))
    return (loud * (common + 0.5 * rng.normal(size=(COUNT, *sizes)))).astype(np.float32)


@pytest.fixture
def learn(save_npz: Callable[..., Path]) -> Callable[..., Samples]:
    """Samples with these inputs."""

    def learn(model: ir.Model, x: np.ndarray) -> Samples:
        return with_state(open_dataset(str(save_npz(x=x)), input_specs(model)), model, {})

    return learn


def prune(model: ir.Model, samples: Samples | None = None, **options: object) -> list[Change | Refusal]:
    return PruneWeights(**options).run(model, Context(CPU, samples))


def weight(model: ir.Model, name: str = "w") -> np.ndarray:
    found = array(model.graph.initializers[name])
    assert found is not None
    return found


def by_channel(model: ir.Model, parts: tuple[str, str, str]) -> np.ndarray:
    """The weight with output channels first and input channels last."""
    numbers = weight(model)
    if "Conv" in parts[2]:
        return np.moveaxis(numbers, 1, -1)
    return numbers if parts[1].startswith("8") else numbers.T


def gives(model: ir.Model, x: np.ndarray) -> np.ndarray:
    return np.asarray(Session(model, CPU, optimize=False).run({"x": x})["y"])


def changes(said: list[Change | Refusal]) -> list[Change]:
    return [item for item in said if isinstance(item, Change)]


def reasons(said: list[Change | Refusal]) -> list[str]:
    return [item.why for item in said if isinstance(item, Refusal)]


# --- which go ---


@settings(derandomize=True, deadline=None, database=None, max_examples=40)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30), st.integers(0, 30))
def test_the_lowest_are_chosen_and_of_equal_ones_the_first(scores: list[int], count: int) -> None:
    count = min(count, len(scores))
    chosen = lowest(np.array([scores, scores[::-1]], np.float32), count)
    for row, mask in zip((scores, scores[::-1]), chosen, strict=True):
        expected = np.argsort(np.array(row), kind="stable")[:count]
        np.testing.assert_array_equal(np.flatnonzero(mask), np.sort(expected))


@pytest.mark.parametrize(("ratio", "total", "count"), [(0.29, 100, 29), (0.7, 10, 7), (0.5, 9, 4), (0.0, 5, 0)])
def test_shares_are_rounded_down(ratio: float, total: int, count: int) -> None:
    assert share_of(ratio, total) == count


@every_layer
@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.9])
def test_the_smallest_magnitudes_go_and_all_others_stay(parts: tuple[str, str, str], ratio: float) -> None:
    model = net(*parts)
    before = weight(model).copy()
    (change,) = prune(model, ratio=ratio)
    after, count = weight(model), int(ratio * before.size)
    limit = np.sort(np.abs(before), axis=None)[count]
    np.testing.assert_array_equal(after, np.where(np.abs(before) < limit, 0, before))
    assert change == Change("y", f"{count} of {before.size} weights are zero")
    onnx.checker.check_model(files.to_proto(model), full_check=True)


@pytest.mark.parametrize("name", ["convolution", "groups", "tied to a Transpose"])
@pytest.mark.parametrize(("keep", "of"), [(2, 4), (1, 4)])
@every_importance
def test_n_of_m_input_channels_stay(
    learn: Callable[..., Samples], name: str, keep: int, of: int, importance: str
) -> None:
    parts = LAYERS[name]
    model = net(*parts)
    before = np.abs(by_channel(model, parts)).reshape(-1, of)
    assert changes(prune(model, learn(model, smooth(parts[0])), pattern=f"{keep}:{of}", importance=importance))
    after = by_channel(model, parts).reshape(-1, of)
    np.testing.assert_array_equal((after != 0).sum(axis=1), keep)
    if importance == "magnitude":
        np.testing.assert_array_equal(np.abs(after).max(axis=1), before.max(axis=1))


@pytest.mark.parametrize(("height", "width"), [(2, 1), (2, 4)])
@pytest.mark.parametrize("name", ["convolution", "groups", "tied to a Transpose"])
@every_importance
def test_blocks_go_whole(learn: Callable[..., Samples], name: str, height: int, width: int, importance: str) -> None:
    parts = LAYERS[name]
    model = net(*parts)

    def blocks() -> np.ndarray:
        rows = by_channel(model, parts)
        rows = rows.reshape(len(rows), -1)
        cut = rows.reshape(len(rows) // height, height, -1, width)
        return np.sqrt(np.square(cut.astype(float)).sum(axis=(1, 3)))

    before = blocks()
    prune(model, learn(model, smooth(parts[0])), pattern=f"{height}x{width}", importance=importance, ratio=0.4)
    after, count = blocks(), int(0.4 * before.size)
    assert (by_channel(model, parts) == 0).sum() == (after == 0).sum() * height * width
    if importance == "wanda":
        np.testing.assert_array_equal((after == 0).sum(axis=1), int(0.4 * before.shape[1]))
    else:
        assert (after == 0).sum() == count
    if importance == "magnitude":
        np.testing.assert_array_equal(after == 0, before < np.sort(before, axis=None)[count])


def test_thresholds_are_absolute_or_relative() -> None:
    for options, limit in (({}, 0.6), ({"relative": True}, 0.6 * np.abs(weight(net(*LAYERS["Gemm"]))).max())):
        model = net(*LAYERS["Gemm"])
        before = weight(model).copy()
        prune(model, threshold=0.6, ratio=0.1, scope="global", **options)
        np.testing.assert_array_equal(weight(model), np.where(np.abs(before) < limit, 0, before))


def test_a_block_below_the_threshold_goes() -> None:
    model = net(*LAYERS["Gemm with transB"])
    blocks = weight(model).astype(float).reshape(4, 2, 20)
    prune(model, threshold=0.8, pattern="2x1")
    below = np.sqrt(np.square(blocks).mean(axis=1)) < 0.8
    assert 0 < below.sum() < below.size
    np.testing.assert_array_equal((weight(model).reshape(4, 2, 20) == 0).all(axis=1), below)


def test_wanda_weighs_with_the_norm_of_what_is_read(learn: Callable[..., Samples]) -> None:
    parts = ("4,6,5", "6,4,3,3", "Conv<pads=[1,1,1,1]>(x, w)")
    model, x = net(*parts), smooth(parts[0])
    before, padded = weight(model).copy(), np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)])
    norms = np.array(
        [[np.square(padded[:, :, i : i + 6, j : j + 5]).sum(axis=(0, 2, 3)) for j in range(3)] for i in range(3)]
    )
    scores = (np.abs(before) * np.sqrt(norms.transpose(2, 0, 1))).reshape(6, -1)
    prune(model, learn(model, x), importance="wanda", ratio=0.5)
    limits = np.sort(scores, axis=1)[:, 18, None]
    np.testing.assert_array_equal(weight(model).reshape(6, -1), np.where(scores < limits, 0, before.reshape(6, -1)))


@every_layer
def test_second_order_loses_less_than_magnitude(learn: Callable[..., Samples], parts: tuple[str, str, str]) -> None:
    x, errors = smooth(parts[0]), {}
    for importance in ("magnitude", "second-order"):
        model = net(*parts)
        wanted = gives(model, x)
        prune(model, learn(model, x), importance=importance)
        errors[importance] = float(np.square(gives(model, x) - wanted).sum())
        assert (weight(model) == 0).sum() == weight(model).size // 2
    assert errors["second-order"] < 0.85 * errors["magnitude"]


def reference(weights: np.ndarray, hessian: np.ndarray, ratio: float, step: int) -> np.ndarray:
    """SparseGPT as the paper's own code has it, with the inverse of the Hessian."""
    w, products = weights.copy(), len(hessian)
    damped = hessian + 0.01 * np.diagonal(hessian).mean() * np.eye(products)
    inverse = np.linalg.cholesky(np.linalg.inv(damped)).T
    for start in range(0, products, step):
        stop = min(start + step, products)
        scores = np.square(w[:, start:stop] / np.diagonal(inverse)[start:stop])
        goes = scores < np.sort(scores, axis=None)[int(ratio * scores.size)]
        for j in range(start, stop):
            kept = np.where(goes[:, j - start], 0, w[:, j])
            w[:, j:] -= np.outer((w[:, j] - kept) / inverse[j, j], inverse[j, j:])
            w[:, j] = kept
    return w


def correlated(products: int) -> np.ndarray:
    """A Hessian of inputs that a few hidden causes decide."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 4)) @ rng.normal(size=(4, products)) + 0.3 * rng.normal(size=(500, products))
    return x.T @ x / 500


def test_second_order_is_sparsegpt() -> None:
    weights, hessian = np.random.default_rng(1).normal(size=(6, 300)), correlated(300)
    got = sparsegpt(weights[None], hessian[None], Pattern(), 900)[0]
    np.testing.assert_allclose(got, reference(weights, hessian, 0.5, 128), atol=1e-8)


def test_second_order_by_groups_of_neighbours_is_sparsegpt() -> None:
    weights, hessian = np.random.default_rng(1).normal(size=(1, 40)), correlated(40)
    got = sparsegpt(weights[None], hessian[None], Pattern.parse("2:4"), 0)[0]
    np.testing.assert_allclose(got, reference(weights, hessian, 0.5, 4), atol=1e-8)


def test_weights_that_are_zero_count_and_stay() -> None:
    weights = np.random.default_rng(1).normal(size=(1, 6, 300))
    weights[:, :, 140:200] = 0
    got = sparsegpt(weights, correlated(300)[None], Pattern(), 900)
    assert (got == 0).sum() == 900
    assert (got[:, :, 140:200] == 0).all()
    new = (got[:, :, :140] == 0).sum(), (got[:, :, 200:] == 0).sum()
    assert abs(new[0] / 140 - new[1] / 100) < 0.05


# --- several layers ---

TWO = """g (float[n,8,6,6] x) => (float[n,4,5,5] y) <float[16,8,3,3] a, float[4,16,2,2] b>
{ h = Conv<pads=[1,1,1,1]>(x, a) i = Relu(h) y = Conv(i, b) }"""


@every_importance
def test_global_spares_the_smaller_layer(learn: Callable[..., Samples], importance: str) -> None:
    model = parse(TWO)
    said = prune(model, learn(model, smooth("8,6,6")), scope="global", importance=importance)
    first, second = ((weight(model, name) == 0) for name in "ab")
    assert first.sum() + second.sum() == (first.size + second.size) // 2
    assert second.mean() < 0.45 < 0.5 < first.mean()
    assert [change.node for change in changes(said)] == ["h", "y"]


@every_importance
def test_what_global_leaves_does_not_depend_on_the_scale_of_a_layer(
    learn: Callable[..., Samples], importance: str
) -> None:
    masks = []
    for factor in (1, 64):
        model = parse(TWO)
        model.graph.initializers["b"].const_value = ir.tensor(weight(model, "b") * np.float32(factor))
        prune(model, learn(model, smooth("8,6,6")), scope="global", importance=importance)
        masks.append([weight(model, name) == 0 for name in "ab"])
    for one, other in zip(*masks, strict=True):
        np.testing.assert_array_equal(one, other)


FORMS = [{}, {"scope": "global"}, {"pattern": "2:4"}, {"pattern": "2x2"}, {"pattern": "2x2", "scope": "global"}]


@pytest.mark.parametrize("options", FORMS, ids=str)
@every_importance
def test_a_second_run_changes_nothing_and_another_gives_the_same_bytes(
    learn: Callable[..., Samples], importance: str, options: dict[str, str]
) -> None:
    original = parse(TWO)
    samples = learn(original, smooth("8,6,6"))
    found = []
    for _ in range(2):
        model = original.clone()
        assert len(changes(prune(model, samples, importance=importance, **options))) == 2
        found.append(files.to_bytes(model))
    assert found[0] == found[1]
    assert changes(prune(model, samples, importance=importance, **options)) == []
    assert files.to_bytes(model) == found[0]


def test_inputs_that_are_never_read_do_not_undo_the_zeros(learn: Callable[..., Samples]) -> None:
    """Weights that nothing reaches have no importance, but those that are zero already come first."""
    model, x = net(*LAYERS["Gemm"]), smooth("20")
    x[:, :6] = 0
    samples = learn(model, x)
    prune(model, samples, importance="magnitude")
    zero = weight(model) == 0
    prune(model, samples, importance="wanda", scope="global")
    np.testing.assert_array_equal(weight(model) == 0, zero)


def test_the_hessians_at_one_time_are_bounded(learn: Callable[..., Samples], monkeypatch: pytest.MonkeyPatch) -> None:
    original = parse(TWO)
    samples, results = learn(original, smooth("8,6,6")), {}
    for budget in (inputs.BUDGET, 8 * 72 * 72, 8 * 64 * 64):
        monkeypatch.setattr(inputs, "BUDGET", budget)
        model = original.clone()
        said = prune(model, samples, importance="second-order")
        results[budget] = files.to_bytes(model)
    assert len(set(results.values())) == 2
    assert results[8 * 72 * 72] == results[512 * 2**20]
    assert [change.node for change in changes(said)] == ["y"]
    assert reasons(said) == ["72 products for each output are too many for importance=second-order"]


def test_a_shared_weight_is_pruned_once_for_all(learn: Callable[..., Samples]) -> None:
    text = "g (float[n,20] x) => (float[n,20] y) <float[20,20] w> { h = Gemm(x, w) i = Relu(h) y = MatMul(i, w) }"
    for importance in IMPORTANCES:
        model = parse(text)
        said = prune(model, learn(model, smooth("20")), importance=importance)
        assert said == [Change("h", "200 of 400 weights are zero")]
        assert list(model.graph.initializers) == ["w"]
        assert (weight(model) == 0).sum() == 200


def test_a_constant_node_becomes_an_initializer() -> None:
    constant = "w = Constant<value=float[2,2,1] {1,-4,3,-2}>()"
    model = parse(f"g (float[n,2,5] x) => (float[n,2,5] y) {{ {constant} y = Conv(x, w) }}")
    assert prune(model) == [Change("y", "2 of 4 weights are zero")]
    np.testing.assert_array_equal(weight(model)[..., 0], [[0, -4], [3, 0]])
    onnx.checker.check_model(files.to_proto(model), full_check=True)


def test_clones_keep_their_weights() -> None:
    original = net(*LAYERS["Gemm"])
    before = files.to_bytes(original)
    prune(original.clone())
    assert files.to_bytes(original) == before


# --- what is left ---

LEFT = {
    "an embedding": (
        """g (int64[n] i) => (float[n,40] y) <float[40,64] e>
        { x = Gather(e, i) t = Transpose<perm=[1,0]>(e) y = MatMul(x, t) }""",
        "its weight is also read by Gather 'x'",
    ),
    "an output": (
        "g (float[n,4] x) => (float[n,4] y, float[4,4] t) <float[4,4] w> { t = Transpose<perm=[1,0]>(w) y = MatMul(x, t) }",
        "its weight is also read by the graph as an output",
    ),
    "its own input": (
        "g (float[4,4] x) => (float[4,4] y) <float[4,4] w> { y = MatMul(w, w) }",
        "its weight is also read by MatMul 'y'",
    ),
    "computed": ("g (float[n,4] x, float[4,4] w) => (float[n,4] y) { y = MatMul(x, w) }", "its weight is not constant"),
    "half precision": (
        "g (float16[n,4] x) => (float16[n,4] y) <float16[4,4] w> { y = MatMul(x, w) }",
        "its weight is FLOAT16, not float32",
    ),
    "quantized": (
        "g (float[n,4] x) => (float[n,4] y) <int8[4,4] q, float s = {0.1}> { w = DequantizeLinear(q, s) y = MatMul(x, w) }",
        "its weight is not constant",
    ),
}


@pytest.mark.parametrize(("text", "why"), LEFT.values(), ids=LEFT.keys())
def test_leaves_a_weight_that_is(text: str, why: str) -> None:
    assert_refuses(PruneWeights(), text, why)


def test_leaves_a_weight_that_is_read_both_ways() -> None:
    model = parse(
        "g (float[n,4] x) => (float[n,4] y) <float[4,4] w> { h = MatMul(x, w) t = Transpose<perm=[1,0]>(w) y = MatMul(h, t) }"
    )
    assert prune(model) == [Refusal(name, "its weight is read in several ways") for name in ("h", "y")]


def test_channels_that_the_pattern_does_not_divide() -> None:
    deep, wide = net(*LAYERS["depthwise"]), net(*LAYERS["convolution"])
    assert reasons(prune(deep, pattern="2:4")) == ["its 1 input channels are no multiple of 4"]
    assert reasons(prune(deep, pattern="2x1")) == ["its 1 output channels are no multiple of 2"]
    assert reasons(prune(wide, pattern="4x1")) == ["its 6 output channels are no multiple of 4"]


CHOSEN = {
    "all": ({}, ["h", "y"], []),
    "only": ({"only": ("h",)}, ["h"], ["is to be left"]),
    "only, a pattern": (
        {"only": ("[h-x]", "q*")},
        ["h"],
        ["is to be left", "no layer that can be pruned is named 'q*'"],
    ),
    "leave": ({"leave": ("y*",)}, ["h"], ["is to be left"]),
    "size": ({"size": 300}, ["h"], ["256 weights are fewer than 300"]),
    "none": ({"size": 2000}, [], ["1152 weights are fewer than 2000", "256 weights are fewer than 2000"]),
}


@pytest.mark.parametrize(("options", "names", "why"), CHOSEN.values(), ids=CHOSEN.keys())
@every_importance
def test_layers_are_chosen_by(
    learn: Callable[..., Samples], options: dict[str, object], names: list[str], why: list[str], importance: str
) -> None:
    model = parse(TWO)
    said = prune(model, learn(model, smooth("8,6,6")), importance=importance, **options)
    assert ([change.node for change in changes(said)], reasons(said)) == (names, why)


def test_nothing_to_prune() -> None:
    assert prune(parse("g (float[n,4] x) => (float[n,4] y) { y = Relu(x) }")) == []


@pytest.mark.parametrize("importance", IMPORTANCES[1:])
def test_data_are_needed_and_finite(learn: Callable[..., Samples], importance: str) -> None:
    model = parse("g (float[n,4] x) => (float[n,3] y) <float[4,3] w> { h = Log(x) y = Gemm(h, w) }")
    before = files.to_bytes(model)
    assert prune(model, importance=importance) == [
        Refusal("", f"importance={importance} needs calibration data (--data)")
    ]
    with pytest.raises(DataError, match="what 'y' reads is not finite"):
        prune(model, learn(model, np.zeros((8, 4), np.float32)), importance=importance)
    assert files.to_bytes(model) == before


WRONG = {
    "pattern=4:2": "'4:2' is neither unstructured, nor N:M as 2:4, nor a block as 16x1",
    "pattern=0x3": "'0x3' is neither unstructured",
    "pattern=dense": "'dense' is neither unstructured",
    "pattern=2:4,scope=global": "2:4 says what stays; leave out threshold and scope=global",
    "pattern=2:4,threshold=0.1": "2:4 says what stays; leave out threshold and scope=global",
    "importance=wanda,threshold=0.1": "is about magnitudes; give ratio with importance=wanda",
    "ratio=1": "1.0 is outside 0.0 to 0.999",
}


@pytest.mark.parametrize(("words", "why"), WRONG.items())
def test_options_that_mean_nothing_are_refused(words: str, why: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_pass(f"prune-weights:{words}")
    assert why.replace("0.0 to", "0 to") in str(error.value)


def test_a_pattern_can_be_typed() -> None:
    assert parse_pass("prune-weights:pattern=2:4,ratio=0.7") == PruneWeights(pattern="2:4", ratio=0.7)


# --- in the pipeline ---


class Lenient:
    """A gate that lets everything through."""

    def measure(self, model: ir.Model) -> Drop:
        return Drop("top1", 10, 1.0, 1.0, 0.0, 0.0, 0.0, 0.95, True)


def test_it_is_kept_where_it_does_no_harm_and_says_what_it_is_good_for() -> None:
    model = net(*LAYERS["Gemm"])
    line = Pipeline(model, Context(CPU), random_samples(model, CPU, {}), Lenient(), Goal.SIZE, 100.0)
    (step,) = line.run([PruneWeights()])
    size = len(files.to_bytes(model))
    assert step.outcome is Outcome.KEPT
    assert step.why.startswith(f"{size} to {size} bytes; ")
    assert "ONNX Runtime has no sparse kernels: " in step.why
    assert (weight(line.best) == 0).mean() == 0.5
