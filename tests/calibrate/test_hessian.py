"""The factor of a Hessian."""

import numpy as np
import pytest

from onnxopt.calibrate import hessian as module
from onnxopt.calibrate.hessian import factored, fed_back, in_turn, ordered


@pytest.mark.parametrize(("groups", "products"), [(1, 5), (3, 17), (2, 1)])
def test_the_factor_gives_the_damped_hessian_back(groups: int, products: int) -> None:
    x = np.random.default_rng(0).normal(size=(groups, 40, products))
    hessian = x.transpose(0, 2, 1) @ x
    factor, diagonal = factored(hessian)
    np.testing.assert_array_equal(factor, np.triu(factor))
    upper = factor * diagonal[:, None]
    mean = np.diagonal(hessian, axis1=1, axis2=2).mean(axis=1)[:, None, None]
    np.testing.assert_allclose(upper @ upper.transpose(0, 2, 1), hessian + 0.01 * mean * np.eye(products), rtol=1e-10)


def test_the_diagonal_is_that_of_the_inverse_of_what_is_left() -> None:
    x = np.random.default_rng(0).normal(size=(60, 7)) @ np.random.default_rng(1).normal(size=(7, 7))
    hessian = x.T @ x
    damped = hessian + 0.01 * np.diagonal(hessian).mean() * np.eye(7)
    _, diagonal = factored(hessian[None])
    left = [1 / np.linalg.inv(damped[j:, j:])[0, 0] for j in range(7)]
    np.testing.assert_allclose(diagonal[0] ** 2, left, rtol=1e-8)


def test_inputs_that_are_always_zero_have_a_factor() -> None:
    factor, diagonal = factored(np.zeros((1, 3, 3)))
    np.testing.assert_array_equal(factor[0], np.eye(3))
    assert (diagonal > 0).all()


@pytest.mark.parametrize("block", [2, 128])
def test_each_column_makes_good_what_those_before_it_cannot(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all but the last column fixed, the last is where least squares puts it."""
    monkeypatch.setattr(module, "BLOCK", block)
    random = np.random.default_rng(0)
    x = random.normal(size=(1, 50, 5)) @ random.normal(size=(1, 5, 5))
    hessian, weights = x.transpose(0, 2, 1) @ x, random.normal(size=(1, 3, 5))
    fixed = np.round(weights)
    factor, _ = factored(hessian)
    values = fed_back(weights, factor, lambda j, wanted: fixed[..., j] if j < 4 else wanted)
    damped = hessian[0] + 0.01 * np.diagonal(hessian[0]).mean() * np.eye(5)
    off = (weights - fixed)[0, :, :4]
    best = weights[0, :, 4] + off @ damped[:4, 4] / damped[4, 4]
    np.testing.assert_allclose(values[0, :, 4], best, rtol=1e-9)
    np.testing.assert_array_equal(values[..., :4], fixed[..., :4])


def test_columns_of_large_inputs_come_first() -> None:
    hessian = np.diag([1.0, 3.0, 2.0])[None]
    order = in_turn(hessian)
    np.testing.assert_array_equal(order, [[1, 2, 0]])
    np.testing.assert_array_equal(np.diagonal(ordered(hessian, order)[0]), [3, 2, 1])
