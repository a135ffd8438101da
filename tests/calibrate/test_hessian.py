"""The factor of a Hessian."""

import numpy as np
import pytest

from onnxopt.calibrate.hessian import factored


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
