"""Fits that know of the activation behind a layer."""

from __future__ import annotations

import math

import numpy as np
import pytest

from onnxopt.passes.repair.drawn import Drawn
from onnxopt.passes.repair.least_squares import Moments, fitted
from onnxopt.passes.repair.rectified import Bounds, _descended, bounds_after, rectified
from onnxopt.testing import parse

RELU = Bounds(0.0, math.inf)


def drawn(seed: int, vectors: int = 600) -> Drawn:
    """A layer of 8 products of which 4 are left, in front of a Relu that cuts off most numbers."""
    draw = np.random.default_rng(seed)
    mixed = np.random.default_rng(9).normal(size=(8, 8))
    x = np.maximum(draw.normal(size=(1, vectors, 8)) @ mixed, 0).astype(np.float32)
    weights = np.random.default_rng(5).normal(size=(8, 3)).astype(np.float32)
    target = x @ weights - 2
    return Drawn(x[:, :, :4], target, x[:, :, :4] @ weights[:4] - 2, target)


def losses(bounds: Bounds) -> tuple[float, float]:
    """Behind the activation on vectors that nothing saw: of least squares, and of the fit that knows of it."""
    parts, unseen = (drawn(0), drawn(1)), drawn(2)
    about = parts[0].x.mean(1)
    sums = [part.sums(about, whole=True) for part in parts]
    plain = [fitted(Moments.of(one), 1e-3, biased=True) for one in (sums[0], sums[0] + sums[1])]
    better = rectified(parts, sums, plain[0], plain[1], bounds)
    assert better is not None
    given = [unseen.given + unseen.x @ fit.weights + fit.bias[:, None] for fit in (plain[1], better)]
    return bounds.loss(unseen.target, given[0]), bounds.loss(unseen.target, given[1])


@pytest.mark.parametrize("bounds", [RELU, Bounds(0.0, 8.0)])
def test_less_error_behind_the_activation_on_vectors_not_seen(bounds: Bounds) -> None:
    plain, better = losses(bounds)
    assert better < 0.95 * plain


def test_without_an_end_the_fit_is_that_of_least_squares() -> None:
    part = drawn(0)
    sums = part.sums(part.x.mean(1), whole=True)
    plain = fitted(Moments.of(sums), 1e-3, biased=True)
    found = _descended(part, sums, plain, Bounds(-math.inf, math.inf))
    np.testing.assert_allclose(found.weights, plain.weights, atol=1e-5)
    np.testing.assert_allclose(found.bias, plain.bias, atol=1e-5)


def test_what_is_wanted() -> None:
    target, found = np.array([-1.0, -1.0, 3.0, 8.0, 8.0], np.float32), np.array([-5.0, 2.0, 1.0, 9.0, 2.0], np.float32)
    np.testing.assert_array_equal(Bounds(0.0, 6.0).wanted(target, found), [-5, 0, 3, 9, 6])


BEHIND = {
    "Relu(h)": RELU,
    "Clip(h, low, high)": Bounds(0.5, 6.0),
    "Clip(h, , high)": Bounds(-math.inf, 6.0),
    "Sigmoid(h)": None,
    "Clip(low, h)": None,
}


@pytest.mark.parametrize(("op", "bounds"), BEHIND.items(), ids=BEHIND.keys())
def test_what_stands_behind(op: str, bounds: Bounds | None) -> None:
    model = parse(f"""g (float x) => (float y) <float low = {{0.5}}, float high = {{6}}> {{ h = Neg(x)  y = {op} }}""")
    assert bounds_after(model.graph.node(0).outputs[0]) == bounds


def test_two_readers_need_all_numbers() -> None:
    model = parse("g (float[2] x) => (float[2] y, float[2] z) { h = Neg(x)  y = Relu(h)  z = Exp(h) }")
    assert bounds_after(model.graph.node(0).outputs[0]) is None
