"""ShareInitializers."""

import numpy as np
import onnx_ir as ir
import pytest

from onnxopt import files
from onnxopt.core import Change, Context, Saved
from onnxopt.passes.share.share_initializers import ShareInitializers
from onnxopt.target import Target
from onnxopt.testing import assert_leaves, assert_same_outputs, lines, parse, run_pass

BIG = np.random.default_rng(0).normal(size=(16, 32)).astype(np.float32)
SQUARE = np.random.default_rng(1).normal(size=(20, 20)).astype(np.float32)
TWO = "g (float[2,16] x) => (float[2,32] y) <float[16,32] v, float[16,32] w> { a = MatMul(x, v)  b = MatMul(x, w)  y = Add(a, b) }"
BRANCH = """g (bool c, float[2,16] x) => (float[2,32] y, float[2,32] z) <float[16,32] v> { z = MatMul(x, v)
  y = If(c) <then_branch = t () => (float[2,32] o) { o = MatMul(x, w) }, else_branch = e () => (float[2,32] p) { p = Neg(z) }> }"""


def weighted(text: str, **weights: np.ndarray) -> ir.Model:
    """A model with these numbers as its weights."""
    model = parse(text)
    for name, numbers in weights.items():
        model.graph.initializers[name].const_value = ir.tensor(numbers, name=name)
    return model


def check(model: ir.Model, after: list[str]) -> None:
    before = model.clone()
    size = len(files.to_bytes(model))
    changes = run_pass(ShareInitializers(), model)
    assert lines(model) == after
    counted = sum(change.saved.file for change in changes if change.saved)
    assert counted > 0
    assert abs(size - len(files.to_bytes(model)) - counted) <= 4 * len(changes)  # lengths, names
    assert_same_outputs(before, model, rtol=0.0)
    assert run_pass(ShareInitializers(), model) == []


def test_shares_equal_weights() -> None:
    model = weighted(TWO, v=BIG, w=BIG)
    check(model, ["MatMul(x, const) -> a", "MatMul(x, const) -> b", "Add(a, b) -> y"])
    assert list(model.graph.initializers) == ["v"]


def test_shares_a_weight_with_its_transpose() -> None:
    text = (
        "g (float[2,16] x) => (float[2,16] y) <float[16,32] v, float[32,16] w> { a = MatMul(x, v)  y = MatMul(a, w) }"
    )
    model = weighted(text, v=BIG, w=np.ascontiguousarray(BIG.T))
    check(model, ["Transpose(const) -> w", "MatMul(x, const) -> a", "MatMul(a, w) -> y"])


def test_shares_a_square_weight_with_its_transpose() -> None:
    text = (
        "g (float[2,20] x) => (float[2,20] y) <float[20,20] v, float[20,20] w> { a = MatMul(x, v)  y = MatMul(a, w) }"
    )
    model = weighted(text, v=SQUARE, w=np.ascontiguousarray(SQUARE.T))
    check(model, ["Transpose(const) -> w", "MatMul(x, const) -> a", "MatMul(a, w) -> y"])


def test_shares_a_weight_with_the_same_numbers_in_another_shape() -> None:
    text = """g (float[2,16] x) => (float[1,512] y, float[2,32] a) <float[16,32] v, float[1,512] w, float[1,512] u>
    { a = MatMul(x, v)  b = Add(w, u)  y = Neg(b) }"""
    model = weighted(text, v=BIG, w=BIG.reshape(1, 512), u=BIG.reshape(1, 512))
    check(model, ["Reshape(const, const) -> w", "MatMul(x, const) -> a", "Add(w, w) -> b", "Neg(b) -> y"])


def test_before_opset_5_another_shape_stays() -> None:
    text = "g (float[512] x) => (float[512] y) <float[512] v, float[1,512] w> { a = Mul(x, v)  y = Add(a, w) }"
    model = parse(text, opset=7)
    model.opset_imports[""] = 4
    for name, value in model.graph.initializers.items():
        value.const_value = ir.tensor(BIG.reshape((512,) if name == "v" else (1, 512)), name=name)
    assert run_pass(ShareInitializers(), model) == []


@pytest.mark.parametrize("name", ["w", "v"], ids=["another name", "the name of another weight inside"])
def test_a_weight_in_a_branch_reads_the_one_outside(name: str) -> None:
    inner = f"<float[16,32] {name} = {{{', '.join(map(repr, BIG.ravel().tolist()))}}}>"
    text = BRANCH.replace("(float[2,32] o) {", f"(float[2,32] o) {inner} {{").replace("x, w", f"x, {name}")
    model = parse(text.replace("float[16,32] v>", "float[16,32] u>").replace("MatMul(x, v)\n", "MatMul(x, u)\n"))
    model.graph.initializers["u"].const_value = ir.tensor(BIG, name="u")
    if name == "v":
        model.graph.initializers["u"].name = "v"
    check(model, ["MatMul(x, const) -> z", "If(c) -> y", "  MatMul(x, const) -> o", "  Neg(z) -> p"])


def test_names_what_it_did() -> None:
    changes = ShareInitializers().run(weighted(TWO, v=BIG, w=BIG), Context(Target()))
    assert changes == [Change("w", "equal to 'v'", Saved(2063, 0))]


MEMORY = {
    "of products, which keep packed weights once in any case": (
        "g (float[2,16] x) => (float[2,32] y, float[2,32] z) <float[16,32] v, float[16,32] w> { y = MatMul(x, v)  z = MatMul(x, w) }",
        0,
    ),
    "of lookups": (
        "g (int64[2] x) => (float[2,32] y, float[2,32] z) <float[16,32] v, float[16,32] w> { y = Gather(v, x)  z = Gather(w, x) }",
        2048,
    ),
    "of a product and a lookup, of which each keeps its own": (
        "g (float[2,16] x, int64[2] i) => (float[2,32] y, float[2,32] z) <float[16,32] v, float[16,32] w> { y = MatMul(x, v)  z = Gather(w, i) }",
        0,
    ),
    "of two that are added": (
        "g (float[16,32] x) => (float[16,32] y) <float[16,32] v, float[16,32] w> { a = Add(x, v)  y = Mul(a, w) }",
        2048,
    ),
    "of weights in front of the product": (
        "g (float[32,2] x) => (float[16,2] y, float[16,2] z) <float[16,32] v, float[16,32] w> { y = MatMul(v, x)  z = MatMul(w, x) }",
        2048,
    ),
}


@pytest.mark.parametrize(("text", "session"), MEMORY.values(), ids=MEMORY.keys())
def test_says_what_it_saves_in_memory(text: str, session: int) -> None:
    (change,) = run_pass(ShareInitializers(), weighted(text, v=BIG, w=BIG))
    assert change.saved is not None
    assert change.saved.session == session


UNEQUAL = {
    "other numbers": (BIG, BIG + 1),
    "0 and -0": (np.zeros_like(BIG), -np.zeros_like(BIG)),
}


@pytest.mark.parametrize(("v", "w"), UNEQUAL.values(), ids=UNEQUAL.keys())
def test_leaves_weights_that_differ(v: np.ndarray, w: np.ndarray) -> None:
    assert run_pass(ShareInitializers(), weighted(TWO, v=v, w=w)) == []


LEFT_ALONE = {
    "small weights, equal by chance": "g (float[4] x) => (float[4] y) <float[4] v = {1,1,1,1}, float[4] w = {1,1,1,1}> { a = Mul(x, v)  y = Add(a, w) }",
    "nothing to share": TWO,
    "integers, which ONNX Runtime must find one by one": """g (float[1,64] x) => (float[1,64] y, float[1,64] z)
        <int8[64,64] v, int8[64,64] w, float s = {0.1}>
        { a = DequantizeLinear(v, s)  b = DequantizeLinear(w, s)  y = MatMul(x, a)  z = MatMul(x, b) }""",
}


@pytest.mark.parametrize("text", LEFT_ALONE.values(), ids=LEFT_ALONE.keys())
def test_leaves(text: str) -> None:
    assert_leaves(ShareInitializers(), text)


def test_leaves_weights_that_a_caller_may_override_or_that_are_returned() -> None:
    overridable = weighted(TWO.replace("x) =>", "x, float[16,32] w) =>"), v=BIG, w=BIG)
    returned = weighted(TWO.replace("y) <", "y, float[16,32] w) <"), v=BIG, w=BIG)
    for model in (overridable, returned):
        assert run_pass(ShareInitializers(), model) == []


def test_small_weights_too_when_asked() -> None:
    text = "g (float[64] x) => (float[64] y) <float[64] v, float[64] w> { a = Mul(x, v)  y = Add(a, w) }"
    model = weighted(text, v=np.ones(64, np.float32), w=np.ones(64, np.float32))
    assert len(run_pass(ShareInitializers(min_bytes=256), model)) == 1
