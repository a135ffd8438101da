"""Which decode nodes ONNX Runtime leaves in the graph that it builds."""

import pytest

from onnxopt.errors import ModelError
from onnxopt.folding import unfolded
from onnxopt.target import Target
from onnxopt.testing import parse

CASES = {
    "a Cast of a constant is folded": (
        "g (float[2,64] x) => (float[2,48] y) <float16[64,48] h> { w = Cast<to=1>(h)  y = MatMul(x, w) }",
        set(),
    ),
    "two nodes one after the other are folded": (
        """g (float[1,64,4,4] x) => (float[1,32,4,4] y) <int8[32,64,1,1] q, float[32,1,1,1] s>
        { u = Cast<to=1>(q)  w = Mul(u, s)  y = Conv(x, w) }""",
        set(),
    ),
    "DequantizeLinear before a convolution stays": (
        """g (float[1,64,4,4] x) => (float[1,32,4,4] y) <int8[32,64,1,1] q, float s = {0.1}>
        { w = DequantizeLinear(q, s)  y = Conv(x, w) }""",
        {"w"},
    ),
    "what depends on an input stays": (
        "g (float[2,64] x, float16[64,48] h) => (float[2,48] y) { w = Cast<to=1>(h)  y = MatMul(x, w) }",
        {"w"},
    ),
    "what depends on a constant that a caller may override stays": (
        """g (float[2,64] x, float16[64,48] h) => (float[2,48] y) <float16[64,48] h>
        { w = Cast<to=1>(h)  y = MatMul(x, w) }""",
        {"w"},
    ),
    "a Cast of a constant inside a branch is folded, that of an input is not": (
        """g (bool c, float[2,64] x, float16[2,64] i) => (float[2,64] y) <float16[2,64] h> { y = If(c) <
        then_branch = t () => (float[2,64] o) { w = Cast<to=1>(h)  o = Add(x, w) },
        else_branch = e () => (float[2,64] p) { v = Cast<to=1>(i)  p = Sub(x, v) }> }""",
        {"v"},
    ),
}


@pytest.mark.parametrize(("text", "left"), CASES.values(), ids=CASES.keys())
def test_unfolded(text: str, left: set[str]) -> None:
    assert unfolded(parse(text), Target(), {"u", "v", "w", "no such value"}) == left


def test_a_model_that_does_not_load_is_an_error() -> None:
    with pytest.raises(ModelError):
        unfolded(parse("g (float16[2] x) => (float[2] y) { w = Det(x)  y = Cast<to=1>(w) }"), Target(), {"w"})
