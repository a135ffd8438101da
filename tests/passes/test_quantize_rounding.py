"""Rounding that looks at the inputs: what the layers give comes nearer, and the integers keep to their bounds."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from onnxopt import files
from onnxopt.core import Context
from onnxopt.data import open_dataset
from onnxopt.errors import UsageError
from onnxopt.graph import inferred
from onnxopt.passes.quantize.grids.grid import PAIR_MAX, Grid, activation_grid
from onnxopt.passes.quantize.int8.chains import Chains, find
from onnxopt.passes.quantize.rounding import rounding
from onnxopt.passes.quantize.rounding.adaround import adaround
from onnxopt.passes.quantize.rounding.inputs import on_grid
from onnxopt.passes.quantize.rounding.optq import optq
from onnxopt.passes.quantize.rounding.rounding import rounded
from onnxopt.runtime import Session, input_specs
from onnxopt.samples import with_state
from onnxopt.target import Target
from onnxopt.testing import parse

CPU = Target()


def correlated(groups: int, products: int, seed: int = 0) -> np.ndarray:
    """A Hessian of inputs that a few hidden causes decide."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(groups, 500, 4)) @ rng.normal(size=(groups, 4, products))
    x += 0.1 * rng.normal(size=x.shape)
    return x.transpose(0, 2, 1) @ x / 500


def error(weights: np.ndarray, integers: np.ndarray, hessian: np.ndarray) -> float:
    off = weights - integers
    return float(((off @ hessian) * off).sum())


def greatest_pair(rows: np.ndarray) -> int:
    pairs = rows[:, : rows.shape[1] // 2 * 2].astype(int).reshape(len(rows), -1, 2)
    return max(int(np.maximum(sign * pairs, 0).sum(axis=2).max()) for sign in (1, -1))


@pytest.mark.parametrize(("groups", "products"), [(1, 64), (1, 300), (5, 9), (3, 31)])
def test_optq_makes_good_most_of_the_error(groups: int, products: int) -> None:
    weights = np.random.default_rng(1).uniform(-100, 100, (groups, 8, products))
    hessian = correlated(groups, products)
    got = optq(weights, hessian, pairs=False)
    assert error(weights, got, hessian) < 0.4 * error(weights, np.rint(weights), hessian)
    np.testing.assert_array_equal(got, np.rint(got))


def test_the_blocked_form_is_the_plain_one() -> None:
    """Against the rounding of one column after the other by its definition, over more columns than a block has."""
    weights, hessian = np.random.default_rng(1).uniform(-100, 100, (1, 3, 150)), correlated(1, 150)
    order = np.argsort(-np.diagonal(hessian[0]), kind="stable")
    h = hessian[0][np.ix_(order, order)] + 0.01 * np.diagonal(hessian[0]).mean() * np.eye(150)
    inverse, w, expected = np.linalg.inv(h), weights[0][:, order].copy(), np.zeros((3, 150))
    for j in range(150):  # OPTQ as the paper has it: later weights move, and column j leaves the inverse
        expected[:, order[j]] = np.rint(w[:, j])
        w[:, j:] -= np.outer((w[:, j] - np.rint(w[:, j])) / inverse[j, j], inverse[j, j:])
        inverse = inverse - np.outer(inverse[:, j], inverse[j]) / inverse[j, j]
    np.testing.assert_array_equal(optq(weights, hessian, pairs=False)[0], expected)


@pytest.mark.parametrize("hessian", [np.eye(12), np.zeros((12, 12))], ids=["independent inputs", "no input"])
def test_without_correlation_it_is_the_nearest(hessian: np.ndarray) -> None:
    weights = np.random.default_rng(0).uniform(-100, 100, (1, 5, 12))
    np.testing.assert_array_equal(optq(weights, hessian[None], pairs=False), np.rint(weights))


def test_channels_that_are_always_zero_keep_their_weights() -> None:
    weights, hessian = np.random.default_rng(0).uniform(-100, 100, (1, 5, 12)), correlated(1, 12)
    hessian[:, 3] = hessian[:, :, 3] = 0
    np.testing.assert_array_equal(optq(weights, hessian, pairs=False)[0, :, 3], np.rint(weights)[0, :, 3])


@pytest.mark.parametrize("products", [40, 41])
def test_pairs_keep_to_their_bound_with_extreme_weights(products: int) -> None:
    weights = np.random.default_rng(0).choice([-127.4, -64.4, 0.6, 64.4, 127.4], (1, 30, products))
    hessian = correlated(1, products)
    free, bounded = optq(weights, hessian, pairs=False), optq(weights, hessian, pairs=True)
    assert greatest_pair(free[0]) > PAIR_MAX >= greatest_pair(bounded[0])
    assert np.abs(bounded).max() == 127


def test_adaround_is_nearer_than_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="AdaRound needs PyTorch")
    monkeypatch.setattr("onnxopt.passes.quantize.rounding.adaround.STEPS", 250)
    weights, hessian = np.random.default_rng(1).uniform(-100, 100, (2, 4, 16)), correlated(2, 16)
    got = adaround(weights, hessian, pairs=False)
    assert error(weights, got, hessian) < 0.5 * error(weights, np.rint(weights), hessian)
    assert np.abs(got - weights).max() < 1
    np.testing.assert_array_equal(got, adaround(weights, hessian, pairs=False))


def test_adaround_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UsageError, match=r"adaround needs PyTorch.*pip install"):
        adaround(np.ones((1, 1, 2)), np.eye(2)[None], pairs=False)


LAYERS = {
    "convolution": ("4,9,7", "6,4,3,3", "Conv<pads=[1,0,2,1], strides=[2,1], dilations=[1,2]>(x, w)"),
    "padded more after": ("4,9,8", "6,4,3,2", 'Conv<auto_pad="SAME_UPPER", strides=[2,1]>(x, w)'),
    "padded more before": ("4,9,8", "6,4,3,2", 'Conv<auto_pad="SAME_LOWER", strides=[2,1]>(x, w)'),
    "not padded": ("4,9,8", "6,4,3,2", 'Conv<auto_pad="VALID", strides=[2,1]>(x, w)'),
    "one dimension": ("4,9", "6,4,3", "Conv<pads=[1,1]>(x, w)"),
    "groups": ("6,8,8", "4,3,3,3", "Conv<group=2>(x, w)"),
    "depthwise": ("6,8,8", "6,1,3,3", "Conv<group=6, pads=[1,1,1,1]>(x, w)"),
    "Gemm": ("20", "20,5", "Gemm(x, w)"),
    "Gemm with transB": ("20", "5,20", "Gemm<transB=1>(x, w)"),
    "MatMul": ("3,20", "20,5", "MatMul(x, w)"),
    "tied to an embedding": ("3,20", "5,20", "MatMul(x, v)"),
}
COUNT = 24


def net(shape: str, weight: str, call: str) -> ir.Model:
    """One layer; in front of it, a Relu."""
    sizes = ",".join("abc"[: shape.count(",") + 1])
    tied = "v = Transpose<perm=[1,0]>(w)" if "v)" in call else ""
    call = call.replace("(x,", "(h,")
    return parse(
        f"g (float[n,{shape}] x) => (float[n,{sizes}] y) <float[{weight}] w> {{ {tied} h = Relu(x) y = {call} }}"
    )


def smooth(shape: str) -> np.ndarray:
    """Inputs of which a part is the same everywhere in a sample."""
    rng, sizes = np.random.default_rng(0), [int(size) for size in shape.split(",")]
    common = rng.normal(1, 1, (COUNT, *[1] * len(sizes)))
    return (common + 0.1 * rng.normal(size=(COUNT, *sizes))).astype(np.float32)


def known(model: ir.Model) -> tuple[Chains, dict[ir.Value, Grid]]:
    """The layers that become int8, each with inputs from 0 to 4."""
    chains = find(model.graph, inferred(model))
    return chains, {value: activation_grid(0, 4) for value in chains.values}


def gives(model: ir.Model, x: np.ndarray) -> np.ndarray:
    return np.asarray(Session(model, CPU, optimize=False).run({"x": x})["y"])


def emulated(model: ir.Model, x: np.ndarray, found: dict[ir.Node, np.ndarray] | None = None) -> np.ndarray:
    """What y is with rounded inputs and weights: to nearest, or as found."""
    chains, grids = known(model)
    twin = model.clone()
    (node, layer), source = next(iter(chains.layers.items())), next(iter(grids))
    integers, scales = layer.quantized(float(grids[source].scale), pairs=False)
    rows = integers if found is None else found[node]
    numbers = layer.shaped(rows * scales[:, None]).astype(np.float32)
    twin.graph.initializers["w"].const_value = ir.tensor(numbers.T.copy() if layer.transposed else numbers.copy())
    return gives(twin, on_grid(np.maximum(x, 0), grids[source]))


@pytest.mark.parametrize("parts", LAYERS.values(), ids=LAYERS.keys())
def test_the_layer_gives_nearly_what_it_gave(parts: tuple[str, str, str], save_npz: Callable[..., Path]) -> None:
    model, x = net(*parts), smooth(parts[0])
    context = learned(model, x, save_npz)
    found = rounded(model, *known(model), context, "optq", pairs=False)
    wanted = gives(model, on_grid(np.maximum(x, 0), activation_grid(0, 4)))
    plain, better = (float(np.square(emulated(model, x, rows) - wanted).mean()) for rows in (None, found))
    assert better < 0.7 * plain


def learned(model: ir.Model, x: np.ndarray, save_npz: Callable[..., Path], seed: int = 0) -> Context:
    data = open_dataset(str(save_npz(x=x)), input_specs(model))
    return Context(CPU, with_state(data, model, {}), seed)


TWO = """g (float[n,8,6,6] x) => (float[n,4,5,5] y) <float[8,8,1,1] a, float[4,8,2,2] b>
{ h = Conv(x, a) i = Relu(h) y = Conv(i, b) }"""


@pytest.mark.parametrize("method", ["optq", "adaround"])
def test_integers_have_the_shape_the_type_and_the_bound(
    method: str, save_npz: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    if method == "adaround":
        pytest.importorskip("torch", reason="AdaRound needs PyTorch")
        monkeypatch.setattr("onnxopt.passes.quantize.rounding.adaround.STEPS", 30)
    model = parse(TWO)
    for name, seed in (("a", 0), ("b", 1)):
        shape = model.graph.initializers[name].shape.numpy()
        extreme = np.random.default_rng(seed).choice([-1.0, -0.497, 0.0, 0.503, 1.0], shape).astype(np.float32)
        model.graph.initializers[name].const_value = ir.tensor(extreme)
    context, before = learned(model, smooth("8,6,6"), save_npz), files.to_bytes(model)
    found, again = (rounded(model, *known(model), context, method, pairs=True) for _ in range(2))
    chains, grids = known(model)
    for node, layer in chains.layers.items():
        nearest, _ = layer.quantized(float(grids[node.inputs[0]].scale), pairs=True)
        assert (found[node].dtype, found[node].shape) == (np.int8, nearest.shape)
        assert greatest_pair(found[node]) <= PAIR_MAX
        assert found[node].tobytes() == again[node].tobytes()
        taken = dataclasses.replace(layer, integers=found[node])
        np.testing.assert_array_equal(taken.quantized(1.0, pairs=True)[0], found[node])
    assert files.to_bytes(model) == before


def test_a_channel_that_nothing_reaches_is_rounded_to_nearest(save_npz: Callable[..., Path]) -> None:
    parts = LAYERS["MatMul"]
    model, x = net(*parts), smooth(parts[0])
    x[..., 3] = -1  # the Relu makes it zero
    chains, grids = known(model)
    found = rounded(model, chains, grids, learned(model, x, save_npz), "optq", pairs=False)
    (node, layer), grid = next(iter(chains.layers.items())), next(iter(grids.values()))
    nearest, _ = layer.quantized(float(grid.scale), pairs=False)
    np.testing.assert_array_equal(found[node][:, 3], nearest[:, 3])
    assert (found[node] != nearest).any()


def test_layers_that_share_a_weight_get_the_same_integers(save_npz: Callable[..., Path]) -> None:
    model = parse(
        """g (float[n,20] x) => (float[n,20] y) <float[20,20] w>
        { h = Gemm(x, w) i = Relu(h) y = Gemm(i, w) }"""
    )
    found = rounded(model, *known(model), learned(model, smooth("20"), save_npz), "optq", pairs=True)
    one, other = found.values()
    np.testing.assert_array_equal(one, other)


def test_the_hessians_at_one_time_are_bounded(save_npz: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Portions change nothing but memory, and a layer beyond the budget is left out."""
    model = parse(TWO)
    context = learned(model, smooth("8,6,6"), save_npz)
    at_once = rounded(model, *known(model), context, "optq", pairs=False)
    results = {}
    for budget in (8 * 32 * 32, 8 * 8 * 8):
        monkeypatch.setattr(rounding, "BUDGET", budget)
        results[budget] = rounded(model, *known(model), context, "optq", pairs=False)
    first, second = known(model)[0].layers
    for node in (first, second):
        np.testing.assert_array_equal(results[8 * 32 * 32][node], at_once[node])
    assert set(results[8 * 8 * 8]) == {first}


def test_a_worse_choice_is_not_taken(save_npz: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(rounding.METHODS, "optq", lambda weights, hessian, *, pairs: np.floor(weights) - 1)
    parts = LAYERS["MatMul"]
    model = net(*parts)
    chains, grids = known(model)
    found = rounded(model, chains, grids, learned(model, smooth(parts[0]), save_npz), "optq", pairs=False)
    (node, layer), grid = next(iter(chains.layers.items())), next(iter(grids.values()))
    np.testing.assert_array_equal(found[node], layer.quantized(float(grid.scale), pairs=False)[0])
