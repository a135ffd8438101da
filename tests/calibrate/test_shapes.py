"""Shapes as they are when the model runs."""

from collections.abc import Callable

import numpy as np
import pytest

from onnxopt import files
from onnxopt.calibrate import observed_shapes
from onnxopt.samples import Samples, random_samples
from onnxopt.target import Target
from onnxopt.testing import parse

CPU = Target()
TEXT = """g (float[n,t,4] x, int64[n,k] i) => (float[n,m,3] y, float[j,4] e) <float[4,3] w, float[9,4] table>
{ h = MatMul(x, w)  y = Relu(h)  s = Shape(h)  e0 = Gather(table, i)  a = NonZero(x)  c = ReduceSum(a)
  r = Constant<value = int64[2] {-1, 4}>()  e = Reshape(e0, r) }"""


def test_sizes_that_are_dynamic_are_those_of_the_first_sample(sampled: Callable[..., Samples]) -> None:
    model = parse(TEXT)
    x, i = np.ones((6, 5, 4), np.float32), np.zeros((6, 2), np.int64)
    before = files.to_bytes(model)
    found = observed_shapes(model, sampled(model, x=x, i=i), ["x", "h", "y", "e0", "e"], CPU)
    assert found == {"x": (1, 5, 4), "h": (1, 5, 3), "y": (1, 5, 3), "e0": (1, 2, 4), "e": (2, 4)}
    assert files.to_bytes(model) == before


def test_tensors_of_other_types_constants_and_computed_sizes(sampled: Callable[..., Samples]) -> None:
    model = parse(TEXT)
    x = np.zeros((6, 5, 4), np.float32)
    x[0, :2, 0] = 1
    found = observed_shapes(
        model, sampled(model, x=x, i=np.zeros((6, 2), np.int64)), ["i", "s", "w", "a", "c", "r"], CPU
    )
    assert found == {"i": (1, 2), "s": (3,), "w": (4, 3), "a": (3, 2), "c": (1, 1), "r": (2,)}


@pytest.mark.parametrize("names", [[], ["", "no", "inner"]])
def test_names_that_are_not_there_are_passed_over(names: list[str]) -> None:
    model = parse("""g (float[2] x, bool b) => (float[2] y)
    { y = If(b) <then_branch = t () => (float[2] one) { inner = Neg(x)  one = Neg(inner) },
                 else_branch = f () => (float[2] two) { two = Abs(x) }> }""")
    samples = random_samples(model, CPU, {})
    assert observed_shapes(model, samples, names, CPU) == {}
    assert observed_shapes(model, samples, [*names, "y"], CPU) == {"y": (2,)}


def test_a_state_has_the_shape_it_starts_with(sampled: Callable[..., Samples]) -> None:
    model = parse("g (float[1,4] x, float[1,n] s) => (float[1,m] next) { next = Concat<axis=1>(s, x) }")
    samples = sampled(model, {"s": "next"}, x=np.ones((3, 4), np.float32))
    assert observed_shapes(model, samples, ["s", "next"], CPU) == {"s": (1, 1), "next": (1, 5)}
