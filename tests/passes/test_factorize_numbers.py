"""The numbers of split layers, against plain linear algebra."""

import dataclasses
import functools
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxopt.calibrate.moments import Moment
from onnxopt.layers import Weight, weights
from onnxopt.passes.factorize import numbers
from onnxopt.passes.factorize.fit import fitted, spread
from onnxopt.passes.factorize.joined import product
from onnxopt.passes.factorize.numbers import Blocks, along, lost, principal
from onnxopt.passes.factorize.split import Shape, Split
from onnxopt.testing import parse

EVERY = settings(derandomize=True, deadline=None, database=None, max_examples=40)
SVD, TUCKER, HALF_TUCKER = ((0, 1), ()), ((), (0, 1), ()), ((), (0, 1))
SEPARABLE, TURNED = ((0,), (1,)), ((1,), (0,))


def moments(products: int, vectors: int = 400, seed: int = 0) -> np.ndarray:
    """Of inputs that have something to do with each other, loud and soft ones."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(vectors, products)) @ rng.normal(size=(products, products)) * rng.uniform(0.1, 3, products)
    return x.T @ x / vectors


def rows(outputs: int, products: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(outputs, products))


def error(wanted: np.ndarray, given: np.ndarray, moment: np.ndarray) -> float:
    """Of what is lost of the outputs, the share."""
    off = wanted - given
    return float(np.trace(off @ moment @ off.T) / np.trace(wanted @ moment @ wanted.T))


def best(wanted: np.ndarray, moment: np.ndarray, rank: int) -> np.ndarray:
    """The matrix of this rank that errs least, by the singular values of whitened rows."""
    lower = np.linalg.cholesky(moment)
    left, values, right = np.linalg.svd(wanted @ lower, full_matrices=False)
    return (left[:, :rank] * values[:rank]) @ right[:rank] @ np.linalg.inv(lower)


# --- principal components ---


@pytest.mark.parametrize(("outputs", "products"), [(6, 9), (9, 6), (5, 5), (7, 1), (1, 7)])
def test_without_data_components_are_singular_vectors(outputs: int, products: int) -> None:
    wanted = rows(outputs, products)
    basis, variances = principal(wanted, None)
    np.testing.assert_allclose(variances, np.linalg.svd(wanted, compute_uv=False) ** 2, rtol=1e-9)
    np.testing.assert_allclose(basis.T @ basis, np.eye(min(outputs, products)), atol=1e-12)
    np.testing.assert_allclose(basis @ (basis.T @ wanted), wanted, atol=1e-12)


@pytest.mark.parametrize(("outputs", "products"), [(6, 9), (9, 6)])
def test_components_are_the_whitened_singular_value_decomposition(outputs: int, products: int) -> None:
    wanted, moment = rows(outputs, products), moments(products)
    basis, variances = principal(wanted, moment)
    shares = lost(variances)
    assert shares[0] == 1
    assert shares[-1] == pytest.approx(0, abs=1e-12)
    for rank in range(1, 6):
        ours = basis[:, :rank] @ (basis[:, :rank].T @ wanted)
        np.testing.assert_allclose(ours, best(wanted, moment, rank), atol=1e-7)
        assert shares[rank] == pytest.approx(error(wanted, ours, moment), abs=1e-9)


def test_other_moments_judge_the_components() -> None:
    wanted, fit, held = rows(6, 9), moments(9, seed=1), moments(9, seed=2)
    basis, _ = principal(wanted, fit)
    shares = lost(along(wanted, basis, held))
    for rank in range(7):
        ours = basis[:, :rank] @ (basis[:, :rank].T @ wanted)
        assert shares[rank] == pytest.approx(error(wanted, ours, held), abs=1e-9)


# --- one basis for all blocks ---

CASES = {"tucker": (), "separable": (0,), "the other axis first": (1,)}
every_case = pytest.mark.parametrize("inner", CASES.values(), ids=CASES.keys())
KERNEL, INPUTS, OUTPUTS = (3, 2), 4, 5


def blocks(inner: tuple[int, ...], moment: np.ndarray | None = None) -> Blocks:
    return Blocks.of(rows(OUTPUTS, 24), moment, KERNEL, inner)


def applied(found: Blocks, first: np.ndarray, core: np.ndarray) -> np.ndarray:
    """The rows that P and G make, ``[outputs, blocks * inside]``."""
    return (core.reshape(OUTPUTS, len(found.order), -1) @ first.T).reshape(OUTPUTS, -1)


def test_blocks_hold_what_lies_together() -> None:
    marked = np.arange(24.0).reshape(3, 2, 4)  # kernel, inputs
    for inner, wanted in (((), marked.reshape(6, 4)), ((0,), np.moveaxis(marked, 1, 0).reshape(2, 12))):
        np.testing.assert_array_equal(Blocks.of(marked.reshape(1, 24), None, KERNEL, inner).rows[0], wanted)


@every_case
def test_the_core_is_least_squares(inner: tuple[int, ...]) -> None:
    found = blocks(inner, moments(24))
    first = np.random.default_rng(3).normal(size=(found.rows.shape[2], 3))
    core, seconds = found.explained(first)
    lower = np.linalg.cholesky(found.spread)
    reads = np.kron(np.eye(len(found.order)), first.T) @ lower  # F L
    expected = np.linalg.lstsq(reads.T, (found.flat @ lower).T, rcond=None)[0].T
    np.testing.assert_allclose(core, expected, rtol=0, atol=1e-5)  # a billionth of the diagonal is added
    np.testing.assert_allclose(seconds, expected @ reads @ reads.T @ expected.T, rtol=1e-5)


@every_case
def test_the_basis_is_least_squares(inner: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Conjugate gradients, left to run, end where the dense normal equations do."""
    monkeypatch.setattr(numbers, "STEPS", 500)
    found, rank, last = blocks(inner, moments(24)), 2, 3
    first = found.start()[:, :rank]
    core, _ = found.explained(first)
    outputs = np.linalg.qr(rows(OUTPUTS, last, seed=5))[0]
    ours = found.refined(first, core, outputs)
    parts = (outputs.T @ core).reshape(last, len(found.order), rank)
    lower = np.linalg.cholesky(found.spread)
    inside = found.rows.shape[2]
    columns = [
        ((parts @ one.reshape(inside, rank).T).reshape(last, -1) @ lower).reshape(-1) for one in np.eye(inside * rank)
    ]
    wanted = ((outputs.T @ found.flat) @ lower).reshape(-1)
    expected = np.linalg.lstsq(np.array(columns).T, wanted, rcond=None)[0].reshape(inside, rank)
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-4)


@every_case
@pytest.mark.parametrize("aware", [False, True])
def test_turns_never_make_it_worse(inner: tuple[int, ...], aware: bool) -> None:
    found = blocks(inner, moments(24) if aware else None)
    for rank in (1, 2, 3):
        shares = [
            found.lost(*found.fitted(found.start()[:, :rank], OUTPUTS, turns=turns))[-1] for turns in (0, 1, 2, 8)
        ]
        assert all(later <= earlier + 1e-9 for earlier, later in itertools.pairwise(shares)), shares


@every_case
def test_what_is_lost_is_what_the_outputs_miss(inner: tuple[int, ...]) -> None:
    fit, held = blocks(inner, moments(24, seed=1)), blocks(inner, moments(24, seed=2))
    first, core, outputs = fit.fitted(fit.start()[:, :2], 3)
    shares = held.lost(first, core, outputs)
    for last in range(OUTPUTS + 1):
        kept = outputs[:, :last] @ (outputs[:, :last].T @ applied(fit, first, core))
        assert shares[last] == pytest.approx(error(held.flat, kept, held.spread), abs=1e-9)


@every_case
def test_with_all_columns_nothing_is_lost(inner: tuple[int, ...]) -> None:
    found = blocks(inner, moments(24))
    columns, inverse = found.whole(found.start()[:, :2])
    np.testing.assert_allclose(columns.T @ inverse, np.eye(len(columns)), atol=1e-7)
    np.testing.assert_allclose(columns.T @ found.common @ columns, np.eye(len(columns)), atol=1e-7)
    core = np.tensordot(found.rows, inverse, axes=(2, 0)).reshape(OUTPUTS, -1)
    np.testing.assert_allclose(applied(found, columns, core), found.flat, atol=1e-7)
    span = np.linalg.lstsq(columns[:, :2], found.start()[:, :2], rcond=None)[0]
    np.testing.assert_allclose(columns[:, :2] @ span, found.start()[:, :2], atol=1e-6)


def test_tucker_without_data_errs_no_more_than_the_higher_order_singular_value_decomposition() -> None:
    wanted = rows(8, 9 * 6, seed=7).reshape(8, 9, 6)
    inputs, outputs = (
        np.linalg.svd(np.moveaxis(wanted, axis, 0).reshape(wanted.shape[axis], -1), full_matrices=False)[0]
        for axis in (2, 0)
    )
    found = Blocks.of(wanted.reshape(8, -1), None, (3, 3), ())
    for rank, last in ((2, 3), (3, 5), (5, 6)):
        projected = np.einsum(
            "obc,cd,op->pbd", wanted, inputs[:, :rank] @ inputs[:, :rank].T, outputs[:, :last] @ outputs[:, :last].T
        )
        hosvd = float(((wanted - projected) ** 2).sum() / (wanted**2).sum())
        ours = found.lost(*found.fitted(found.start()[:, :rank], last))[last]
        assert ours <= hosvd + 1e-9
        assert ours > 0.5 * hosvd


# --- the layers of a split ---


def layer(kind: str, outputs: int, inputs: int, kernel: tuple[int, ...] = (), biased: bool = True) -> Weight:
    sizes = ",".join(map(str, (outputs, inputs, *kernel) if kind == "Conv" else (inputs, outputs)))
    shape, out = (
        ",".join(["n", str(width), *names[: len(kernel)]]) for width, names in ((inputs, "pqr"), (outputs, "stu"))
    )
    bias, declared = (", b", f", float[{outputs}] b") if biased else ("", "")
    (found,) = weights(
        parse(f"g (float[{shape}] x) => (float[{out}] y) <float[{sizes}] w{declared}> {{ y = {kind}(x, w{bias}) }}")
    )[0]
    return found


def moment(weight: Weight, vectors: int = 300) -> Moment:
    products = weight.rows.shape[1]
    rng = np.random.default_rng(0)
    x = rng.normal(size=(vectors, products)) @ rng.normal(size=(products, products)) + 2
    return Moment(vectors, x.mean(0)[None], (x.T @ x / vectors)[None])


def composed(weight: Weight, arrays: list[np.ndarray]) -> np.ndarray:
    """What the layers do, as rows of one."""
    found = functools.reduce(lambda first, second: product(second, first), arrays)
    return np.moveaxis(found, 1, -1).reshape(weight.rows.shape)


SPLITS = {
    "svd of a product": (layer("Gemm", 7, 9), Split(((), ()), (3,))),
    "svd of a wide product": (layer("Gemm", 12, 5), Split(((), ()), (2,))),
    "svd of a 1x1 convolution": (layer("Conv", 6, 5, (1, 1)), Split(SVD, (3,))),
    "svd": (layer("Conv", 6, 5, (3, 3)), Split(SVD, (4,))),
    "svd of more outputs than products": (layer("Conv", 20, 2, (3, 3)), Split(SVD, (4,))),
    "tucker": (layer("Conv", 6, 5, (3, 2)), Split(TUCKER, (2, 4))),
    "tucker of the inputs alone": (layer("Conv", 6, 5, (3, 3)), Split(HALF_TUCKER, (3,))),
    "tucker along one dimension": (layer("Conv", 6, 5, (3,)), Split(((), (0,), ()), (2, 3))),
    "separable": (layer("Conv", 6, 5, (3, 2)), Split(SEPARABLE, (7,))),
    "separable, columns first": (layer("Conv", 6, 5, (3, 2)), Split(TURNED, (7,))),
    "separable of three dimensions": (layer("Conv", 4, 3, (2, 1, 3)), Split(((0, 1), (2,)), (3,))),
}
every_split = pytest.mark.parametrize(("weight", "split"), SPLITS.values(), ids=SPLITS.keys())


@every_split
@pytest.mark.parametrize("aware", [False, True])
def test_layers_of_full_rank_are_the_layer(weight: Weight, split: Split, aware: bool) -> None:
    found = fitted(weight, split, moment(weight) if aware else None)
    np.testing.assert_allclose(composed(weight, found.whole), weight.rows, rtol=0, atol=2e-5)


@every_split
@pytest.mark.parametrize("aware", [False, True])
def test_the_layers_that_are_kept_have_the_ranks_and_the_rows(weight: Weight, split: Split, aware: bool) -> None:
    found = fitted(weight, split, moment(weight) if aware else None)
    assert [one.shape for one in found.kept] in (
        Shape.of(weight.layers[0]).weights(split),
        [one[:2] for one in Shape.of(weight.layers[0]).weights(split)],
    )
    np.testing.assert_allclose(composed(weight, found.kept), found.rows, rtol=0, atol=2e-5)
    first, whole = found.kept[0], found.whole[0]
    np.testing.assert_allclose(first, whole[: len(first)], rtol=1e-6)


@every_split
def test_fitted_to_what_is_read_the_outputs_err_less(weight: Weight, split: Split) -> None:
    seen = moment(weight)
    plain, aware = (fitted(weight, split, one).rows for one in (None, seen))
    errors = [error(weight.rows.astype(float), one, seen.covariance[0]) for one in (plain, aware)]
    assert 0 < errors[1] < 0.9 * errors[0]


@every_split
def test_channels_between_vary_alike_and_layers_have_weights_of_one_size(weight: Weight, split: Split) -> None:
    seen = moment(weight, 10**5)
    found = fitted(weight, split, seen)
    largest = [np.abs(one).max() for one in found.kept]
    np.testing.assert_allclose(largest, largest[0], rtol=1e-5)
    if split.form != "svd":
        return
    first = np.moveaxis(found.kept[0], 1, -1).reshape(len(found.kept[0]), -1)
    variances = np.diagonal(first @ seen.covariance[0] @ first.T)
    np.testing.assert_allclose(variances, variances.mean(), rtol=1e-2)


def test_a_layer_of_zeros_is_split_like_any_other() -> None:
    for name in ("svd", "tucker", "separable"):
        weight, split = SPLITS[name]
        weight = Weight(weight.layers)
        vars(weight)["rows"] = np.zeros_like(weight.rows)
        found = fitted(weight, split, moment(weight))
        assert all(np.isfinite(one).all() for one in (*found.kept, *found.whole))
        assert not composed(weight, found.kept).any()


def test_inputs_that_are_silent_do_no_harm() -> None:
    for name in ("svd", "tucker", "separable"):
        weight, split = SPLITS[name]
        seen = moment(weight)
        seen.second[:, ::2] = seen.second[:, :, ::2] = 0
        seen.mean[:, ::2] = 0
        found = fitted(weight, split, seen)
        assert all(np.abs(one).max() < 1e4 for one in (*found.kept, *found.whole))
        np.testing.assert_allclose(composed(weight, found.whole), weight.rows, rtol=0, atol=1e-3)


@EVERY
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 3), st.integers(1, 3), st.data())
def test_any_convolution_is_the_product_of_its_layers(
    outputs: int, inputs: int, height: int, width: int, data: st.DataObject
) -> None:
    weight = layer("Conv", outputs, inputs, (height, width))
    form = data.draw(st.sampled_from([SVD, TUCKER, HALF_TUCKER, SEPARABLE]))
    rank = st.integers(1, min(outputs, inputs))
    split = Split(form, tuple(data.draw(rank) for _ in form[1:]))
    found = fitted(weight, split, moment(weight))
    np.testing.assert_allclose(composed(weight, found.whole), weight.rows, rtol=0, atol=2e-4)
    np.testing.assert_allclose(composed(weight, found.kept), found.rows, rtol=0, atol=2e-4)


# --- what a layer reads ---


def test_the_mean_counts_only_where_no_bias_takes_it_up() -> None:
    for biased in (True, False):
        weight = layer("Gemm", 7, 9, biased=biased)
        seen = moment(weight)
        found = spread(weight, seen, shrunk=False)
        np.testing.assert_array_equal(found, (seen.covariance if biased else seen.second)[0])


def test_few_vectors_say_little_of_covariances() -> None:
    weight = layer("Gemm", 7, 9)
    seen = moment(weight)
    true = spread(weight, seen, shrunk=False)
    assert true is not None
    for count, share in ((1, 4 / 13), (9, 36 / 45), (10**9, 1.0)):
        found = spread(weight, dataclasses.replace(seen, vectors=count))
        assert found is not None
        np.testing.assert_allclose(found[0, 1:], share * true[0, 1:], rtol=1e-6)
        np.testing.assert_allclose(np.diagonal(found), np.diagonal(true), rtol=2e-3)


def test_a_few_samples_do_not_make_a_layer_look_free() -> None:
    """Three vectors lie in three dimensions: unshrunk, rank 3 would lose nothing on them, and all else elsewhere."""
    weight, true = layer("Gemm", 20, 30), moments(30, 10**4)
    x = np.random.default_rng(0).normal(size=(3, 30)) @ np.linalg.cholesky(true).T
    few = Moment(3, np.zeros((1, 30)), (x.T @ x / 3)[None])
    plain, aware = (fitted(weight, Split(((), ()), (8,)), one).rows for one in (None, few))
    assert error(weight.rows.astype(float), aware, true) < error(weight.rows.astype(float), plain, true)
