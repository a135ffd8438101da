"""Checker: outputs before and after, and where they part."""

import numpy as np
import pytest

from onnxopt.check import Checker, largest
from onnxopt.core import Exactness
from onnxopt.samples import random_samples
from onnxopt.target import Target
from onnxopt.testing import parse

TEXT = "g (float[2,4] x) => (float[2,4] y) <float[4] w = {1,2,3,4}> { a = Mul(x, w)  b = Exp(a)  y = Neg(b) }"


def checker(model):
    return Checker(random_samples(model, Target(), {}), Target())


def test_the_first_value_that_differs_is_named() -> None:
    before, after = parse(TEXT), parse(TEXT.replace("Exp", "Abs"))
    found = checker(before).first_different_value(before, after, Exactness.ROUNDING)
    assert found is not None
    assert found[0] == "b"
    assert not found[1].ok


def test_equal_models_have_no_different_value() -> None:
    model = parse(TEXT)
    assert checker(model).first_different_value(model, model.clone(), Exactness.EXACT) is None


def test_random_outputs_are_not_compared() -> None:
    model = parse("g (float[2,4] x) => (float[2,4] y, float[2,4] r) { y = Neg(x)  r = RandomNormalLike(x) }")
    outputs, comparable = checker(model).reproducible(model)
    assert comparable == {"y"}
    assert set(outputs[0]) == {"y", "r"}


CASES = {
    "one float off in its last bit is a difference when exact": (
        np.float32([1, 2]),
        np.nextafter(np.float32([1, 2]), 3),
        True,
        False,
    ),
    "one float off in its last bit is rounding": (np.float32([1, 2]), np.nextafter(np.float32([1, 2]), 3), False, True),
    "a thousandth is more than rounding": (np.float32([1, 2]), np.float32([1, 2.002]), False, False),
    "NaN equals NaN": (np.float32([np.nan, 1]), np.float32([np.nan, 1]), True, True),
    "NaN in place of a number": (np.float32([1, 1]), np.float32([np.nan, 1]), False, False),
    "infinity in place of a number": (np.float32([1, 1]), np.float32([np.inf, 1]), False, False),
    "another shape": (np.float32([1, 1]), np.float32([[1, 1]]), False, False),
    "another type": (np.float32([1, 1]), np.float64([1, 1]), False, False),
    "integers are never off": (np.int64([1, 2]), np.int64([1, 3]), False, False),
    "half precision has its own tolerance": (np.float16([1, 2]), np.float16([1, 2.01]), False, True),
    "strings": (np.array(["a", "b"], object), np.array(["a", "b"], object), True, True),
    "a missing output": (np.float32([1]), None, False, False),
}


@pytest.mark.parametrize(("before", "after", "exact", "ok"), CASES.values(), ids=CASES.keys())
def test_largest(before, after, exact: bool, ok: bool) -> None:
    new = {} if after is None else {"y": after}
    assert largest([{"y": before}], [new], {"y"}, exact=exact).ok is ok


def test_largest_reports_the_worst_output() -> None:
    before = {"a": np.float32([1]), "b": np.float32([1])}
    after = {"a": np.float32([1.01]), "b": np.float32([1.5])}
    found = largest([before], [after], {"a", "b"}, exact=False)
    assert found.output == "b"
    assert found.relative == pytest.approx(0.5)
