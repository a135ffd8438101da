"""QuantizeLstm."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxopt import files
from onnxopt.core import Change, Context, Refusal
from onnxopt.graph import array, walk
from onnxopt.passes.quantize.grids.grid import PAIR_MAX
from onnxopt.passes.quantize.quantize_lstm import QuantizeLstm, quantized
from onnxopt.runtime import Session
from onnxopt.target import Target
from onnxopt.testing import lines, parse

CPU = Target()
ALLOWED = Context(CPU, allow_contrib=True)
RNG = np.random.default_rng(0)
TEXT = """g (float[t,n,12] x) => (float[t,1,n,8] y)
<float[1,32,12] w, float[1,32,8] r, float[1,64] b> { y, h, c = LSTM<hidden_size=8>(x, w, r, b) }"""
X = RNG.normal(size=(6, 3, 12)).astype(np.float32)


def quantize(model: ir.Model, **options: Any) -> tuple[ir.Model, list[Change | Refusal]]:
    """The quantized copy, and what the pass said."""
    copy = model.clone()
    said = list(QuantizeLstm(**options).run(copy, ALLOWED))
    onnx.checker.check_model(files.to_proto(copy), full_check=True)
    return copy, said


def both(before: ir.Model, after: ir.Model, **feeds: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each output of the two."""
    wanted, got = (Session(model, CPU).run(feeds) for model in (before, after))
    assert wanted.keys() == got.keys()
    return ((wanted[name], got[name]) for name in wanted)


KINDS = {
    "one direction": TEXT,
    "backwards": TEXT.replace("<hidden_size=8>", '<hidden_size=8, direction="reverse">'),
    "two directions, all outputs, no bias": """g (float[t,n,12] x) => (float[t,2,n,8] y, float[2,n,8] h, float[2,n,8] c)
        <float[2,32,12] w, float[2,32,8] r>
        { y, h, c = LSTM<hidden_size=8, direction="bidirectional">(x, w, r) }""",
    "only the last state": """g (float[t,n,12] x) => (float[1,n,8] h)
        <float[1,32,12] w, float[1,32,8] r, float[1,64] b> { , h = LSTM<hidden_size=8>(x, w, r, b) }""",
    "a first state": """g (float[t,3,12] x, float[1,3,8] s, float[1,3,8] d) => (float[1,3,8] h, float[1,3,8] c)
        <float[1,32,12] w, float[1,32,8] r, float[1,64] b>
        { , h, c = LSTM<hidden_size=8>(x, w, r, b, , s, d) }""",
    "peepholes, clip and another activation": """g (float[t,n,12] x) => (float[t,1,n,8] y)
        <float[1,32,12] w, float[1,32,8] r, float[1,64] b, float[1,24] p>
        { y = LSTM<hidden_size=8, clip=1.5, activations=["HardSigmoid","Tanh","Relu"]>(x, w, r, b, , , , p) }""",
    "input and forget gates coupled, layout 0": """g (float[t,n,12] x) => (float[t,1,n,8] y)
        <float[1,32,12] w, float[1,32,8] r> { y = LSTM<hidden_size=8, input_forget=1, layout=0>(x, w, r) }""",
    "sizes that no kernel likes": """g (float[t,n,11] x) => (float[t,1,n,3] y)
        <float[1,12,11] w, float[1,12,3] r> { y = LSTM<hidden_size=3>(x, w, r) }""",
}


@pytest.mark.parametrize("text", KINDS.values(), ids=KINDS.keys())
def test_computes_nearly_the_same(text: str) -> None:
    before = parse(text, opset=17)
    model, said = quantize(before)
    assert [type(item) for item in said] == [Change]
    assert model.opset_imports["com.microsoft"] == 1
    feeds = {"x": X[..., : before.graph.inputs[0].shape[2]]}
    if len(before.graph.inputs) > 1:
        feeds |= {name: RNG.uniform(-1, 1, (1, 3, 8)).astype(np.float32) for name in ("s", "d")}
    for wanted, got in both(before, model, **feeds):
        assert np.abs(got - wanted).mean() < 0.03 * np.abs(wanted).max()


def test_the_weights_are_integers_in_the_order_of_the_operator() -> None:
    before = parse(TEXT, opset=17)
    model, _ = quantize(before, portable="no")
    assert lines(model) == [
        "com.microsoft.DynamicQuantizeLSTM(x, const, const, const, , , , , const, const, const, const) -> y, h, c"
    ]
    (node,) = model.graph
    for index, name in ((1, "w"), (2, "r")):
        integers, scales = array(node.inputs[index]), array(node.inputs[6 + 2 * index])
        assert integers.dtype == np.int8
        wanted = array(before.graph.initializers[name])
        np.testing.assert_allclose(integers[0].T * scales[0][:, None], wanted[0], atol=scales.max() / 2)
        assert name not in model.graph.initializers


def test_no_processor_saturates() -> None:
    """Weights at their extremes against a product in wide integers, step by step, with the inputs rounded alike."""
    w, r = (np.where(RNG.normal(size=(1, 64, size)) > 0, 4.0, -4.0).astype(np.float32) for size in (32, 16))
    before = parse(
        """g (float[t,1,32] x) => (float[t,1,1,16] y) <float[1,64,32] w, float[1,64,16] r>
        { y = LSTM<hidden_size=16>(x, w, r) }""",
        opset=17,
    )
    for name, numbers in (("w", w), ("r", r)):
        before.graph.initializers[name].const_value = ir.Tensor(numbers)
    model, _ = quantize(before, portable="yes")
    x = np.sign(RNG.normal(size=(9, 1, 32))).astype(np.float32) * np.float32(0.02)
    x[0] = 0.02
    got = Session(model, CPU).run({"x": x})["y"][:, 0, 0]
    np.testing.assert_allclose(got, _reference(x[:, 0], w[0], r[0]), atol=2e-3)


def _reference(x: np.ndarray, w: np.ndarray, r: np.ndarray) -> np.ndarray:
    """An LSTM in numpy, gates in ONNX's order i, o, f, c, with x and h rounded to uint8 as the operator does."""

    def gate(numbers: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-numbers))

    products = _rounded(x) @ w.T
    h, c, outputs = np.zeros(r.shape[1]), np.zeros(r.shape[1]), []
    for product in products:
        i, o, f, g = np.split(product + r @ _rounded(h), 4)
        c = gate(f) * c + gate(i) * np.tanh(g)
        h = gate(o) * np.tanh(c)
        outputs.append(h)
    return np.stack(outputs)


def _rounded(numbers: np.ndarray) -> np.ndarray:
    """What is left of numbers after DynamicQuantizeLinear."""
    low, high = min(numbers.min(), 0.0), max(numbers.max(), 0.0)
    if low == high:
        return np.zeros_like(numbers)
    scale = (high - low) / 255
    zero = np.rint(-low / scale)
    return (np.clip(np.rint(numbers / scale) + zero, 0, 255) - zero) * scale


def test_pairs_are_bounded_where_asked() -> None:
    weight = RNG.choice([-1.0, 1.0], size=(2, 16, 9)).astype(np.float32)
    for pairs, largest in ((True, PAIR_MAX), (False, 254)):
        integers, scales, zeros = quantized(weight, pairs=pairs)
        assert (integers.shape, scales.shape, zeros.shape) == ((2, 9, 16), (2, 16), (2, 16))
        neighbours = integers[:, :8].astype(int).reshape(2, 4, 2, 16).sum(axis=2)
        assert np.abs(neighbours).max() == largest


def test_an_lstm_inside_a_branch() -> None:
    text = """g (bool k, float[t,n,12] x) => (float[t,1,n,8] y) <float[1,32,12] w, float[1,32,8] r>
    { y = If(k) <then_branch = f () => (float[t,1,n,8] a) { a = LSTM<hidden_size=8>(x, w, r) },
                 else_branch = e () => (float[t,1,n,8] d) { s = LSTM<hidden_size=8>(x, w, r)  d = Neg(s) }> }"""
    before = parse(text, opset=17)
    model, said = quantize(before)
    assert [item.node for item in said if isinstance(item, Change)] == ["a", "s"]
    for condition in (True, False):
        for wanted, got in both(before, model, k=np.array(condition), x=X):
            assert np.abs(got - wanted).mean() < 0.03 * np.abs(wanted).max()


def test_shared_weights_are_written_once() -> None:
    text = """g (float[t,n,8] x) => (float[t,1,n,8] y, float[t,1,n,8] z) <float[1,32,8] w, float[1,32,8] r>
    { y = LSTM<hidden_size=8>(x, w, r)  z = LSTM<hidden_size=8, direction="reverse">(x, w, r) }"""
    model, _ = quantize(parse(text, opset=17))
    one, other = model.graph
    assert one.inputs[1:] == other.inputs[1:]
    assert len(model.graph.initializers) == 6


REFUSED = {
    "the weight can be overridden": (
        TEXT.replace("(float[t,n,12] x)", "(float[t,n,12] x, float[1,32,12] w)"), "its W is not constant"
    ),
    "the recurrent weight is computed": (
        TEXT.replace("{ y", "{ s = Abs(r)  y").replace("w, r, b)", "w, s, b)"), "its R is not constant"
    ),
    "double precision": (TEXT.replace("float[", "double["), "its W is float64"),
    "batch first": (
        """g (float[n,t,12] x) => (float[n,t,1,8] y) <float[1,32,12] w, float[1,32,8] r>
        { y = LSTM<hidden_size=8, layout=1>(x, w, r) }""",
        "no layout 1",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "why"), REFUSED.values(), ids=REFUSED.keys())
def test_refuses(text: str, why: str) -> None:
    before = parse(text, opset=17)
    model, said = quantize(before)
    assert [why in item.why for item in said if isinstance(item, Refusal)] == [True]
    assert files.to_bytes(model) == files.to_bytes(before)


def test_only_where_operators_of_onnx_runtime_are_allowed() -> None:
    model = parse(TEXT, opset=17)
    before = files.to_bytes(model)
    said = QuantizeLstm().run(model, Context(CPU))
    assert said == [Refusal("", "DynamicQuantizeLSTM is an operator of ONNX Runtime only: --allow-contrib")]
    assert files.to_bytes(model) == before


def test_not_on_a_gpu() -> None:
    context = Context(Target(provider="cuda"), allow_contrib=True)
    said = QuantizeLstm().run(parse(TEXT, opset=17), context)
    assert said == [Refusal("", "DynamicQuantizeLSTM has a kernel for the CPU only")]


def test_nothing_to_say_without_an_lstm() -> None:
    text = "g (float[n,3] x) => (float[n,3] y) { y = Neg(x) }"
    assert QuantizeLstm().run(parse(text), Context(CPU)) == []


def test_same_bytes_each_time_and_nothing_left_for_a_second_run() -> None:
    once, again = (quantize(parse(TEXT, opset=17))[0] for _ in range(2))
    assert files.to_bytes(once) == files.to_bytes(again)
    model, said = quantize(once)
    assert said == []
    assert files.to_bytes(model) == files.to_bytes(once)
    assert [node.op_type for node in walk(model)] == ["DynamicQuantizeLSTM"]
