"""RemoveDeadChannels."""

import numpy as np
import onnx_ir as ir
import pytest

from onnxopt.core import Context, Refusal
from onnxopt.graph import tensor
from onnxopt.passes.prune.groups import RULES
from onnxopt.passes.prune.groups.tracer import Axes, Tracer
from onnxopt.passes.prune.remove_dead_channels import RemoveDeadChannels
from onnxopt.target import Target
from onnxopt.testing import assert_leaves, assert_refuses, assert_rewrites, assert_same_outputs, parse, run_pass

FREE = RemoveDeadChannels(multiple=1)
IMAGE = "g (float[n,2,6,6] x) => (float[n,3,a,b] y)"


def weight(name: str, *shape: int, scale: float = 1.0, **rows: np.ndarray | float) -> str:
    """A declaration with random numbers, but for ``r1=0`` (row 1 is zero) and ``c1=0`` (input 1 is)."""
    numbers = scale * np.random.default_rng(len(name) + sum(map(ord, name))).normal(size=shape)
    for place, value in rows.items():
        if place[0] == "r":
            numbers[int(place[1:])] = value
        else:
            numbers[:, int(place[1:])] = value
    return f"float[{','.join(map(str, shape))}] {name} = {{{', '.join(f'{one:.5f}' for one in numbers.ravel())}}}"


W = weight("w", 4, 2, 3, 3, r1=0)
V = weight("v", 3, 4, 3, 3)
B = "float[4] b = {0.3, 0.7, -0.2, 0.1}"
ONE = "Conv(x, const) -> h"
NET = "{ h = Conv(x, w, b) r = Relu(h) y = Conv(r, v) }"


def widths(text: str, *, rewrite: RemoveDeadChannels = FREE, opset: int = 20) -> dict[str, list[int]]:
    """The shapes of the constants after the pass, by name; the numbers are compared."""
    model = parse(text, opset=opset)
    before = model.clone()
    assert run_pass(rewrite, model)
    assert_same_outputs(before, model)
    assert run_pass(rewrite, model) == []
    found = {name: tensor(value) for name, value in model.graph.initializers.items()}
    return {name: list(contents.shape.numpy()) for name, contents in found.items() if contents is not None}


def test_removes_a_zero_filter() -> None:
    model = assert_rewrites(
        FREE,
        f"{IMAGE} <{W}, {V}> {{ h = Conv(x, w) r = Relu(h) y = Conv<pads=[1,1,1,1]>(r, v) }}",
        after=["Conv(x, const) -> h", "Relu(h) -> r", "Conv(r, const) -> y"],
    )
    assert [model.graph.initializers[name].shape for name in "wv"] == [[3, 2, 3, 3], [3, 3, 3, 3]]


def test_puts_a_constant_into_the_bias_of_the_reader() -> None:
    model = assert_rewrites(
        FREE,
        f"{IMAGE} <{W}, {V}, {B}> {NET}",
        after=["Conv(x, const, const) -> h", "Relu(h) -> r", "Conv(r, const, const) -> y"],
    )
    assert model.graph.initializers["w"].shape == [3, 2, 3, 3]


def test_leaves_a_constant_that_is_padded_with_zeros() -> None:
    for pads in ("pads=[0,1,0,0]", 'auto_pad="SAME_UPPER"'):
        text = f"{IMAGE} <{W}, {V}, {B}> {{ h = Conv(x, w, b) r = Relu(h) y = Conv<{pads}>(r, v) }}"
        assert_refuses(FREE, text, "1 constant channels stay: padded with zeros")


BELOW = f"{weight('u', 4, 2, 1, 1)}, {weight('w', 4, 4, 3, 3, r1=-0.1)}, {V}"
BELOW_NET = "{ a = Conv(x, u) p = Relu(a) h = Conv(p, w, b) r = Relu(h) y = Conv(r, v) }"


def test_removes_what_a_relu_cuts_off() -> None:
    found = widths(f"{IMAGE} <{BELOW}, float[4] b = {{0, -0.1, 0, 0}}> {BELOW_NET}")
    assert found["w"] == [3, 4, 3, 3]


def test_leaves_what_may_be_above_zero() -> None:
    assert_leaves(FREE, f"{IMAGE} <{BELOW}, float[4] b = {{0, 0.1, 0, 0}}> {BELOW_NET}")


@pytest.mark.parametrize(("bias", "goes"), [(-3.601, True), (-3.6, False), (-3.5, False)])
def test_leaves_room_for_rounding(bias: float, goes: bool) -> None:
    """Four inputs up to 6, each times 0.15, make 3.6."""
    text = f"""{IMAGE} <{weight("u", 4, 2, 1, 1)}, {weight("w", 4, 4, 1, 1, r1=0.15)}, {V},
        float[4] b = {{0, {bias}, 0, 0}}, float low = {{0}}, float high = {{6}}>
        {{ a = Conv(x, u) p = Clip(a, low, high) h = Conv(p, w, b) r = Relu(h) y = Conv(r, v) }}"""
    assert bool(run_pass(FREE, parse(text))) is goes


def test_takes_up_what_saturates_above() -> None:
    text = f"""{IMAGE} <{W}, {V}, float[4] b = {{0, 9, 0, 0}}, float low = {{0}}, float high = {{6}}>
        {{ h = Conv(x, w, b) r = Clip(h, low, high) y = Conv(r, v) }}"""
    assert widths(text)["v"] == [3, 3, 3, 3]


def test_goes_on_until_nothing_more_is_dead() -> None:
    """Filter 2 of the second convolution reads nothing but the first one's dead channel."""
    first = np.zeros((4, 3, 3))
    first[1] = 0.5
    text = f"""{IMAGE} <{W}, {B}, {weight("u", 5, 4, 3, 3, r2=first)}, {weight("v", 3, 5, 1, 1)}>
        {{ h = Conv(x, w, b) r = Relu(h) i = Conv(r, u) s = Sigmoid(i) y = Conv(s, v) }}"""
    found = widths(text)
    assert (found["w"], found["u"], found["v"]) == ([3, 2, 3, 3], [4, 3, 3, 3], [3, 4, 1, 1])


REMOVED = {
    "weights of zero where it is read": (
        f"{IMAGE} <{weight('w', 4, 2, 3, 3)}, {weight('v', 3, 4, 3, 3, c2=0)}, {B}>",
        "{ h = Conv(x, w, b) r = Relu(h) y = Conv<pads=[1,1,1,1]>(r, v) }",
        {"w": [3, 2, 3, 3], "v": [3, 3, 3, 3], "b": [3]},
    ),
    "weights of zero in both readers": (
        f"""g (float[n,2,6,6] x) => (float[n,3,4,4] y, float[n,3,4,4] z)
        <{weight("w", 4, 2, 3, 3)}, {weight("v", 3, 4, 1, 1, c2=0)}, {weight("u", 3, 4, 1, 1, c2=0, c1=0)}>""",
        "{ h = Conv(x, w) y = Conv(h, v) z = Conv(h, u) }",
        {"w": [3, 2, 3, 3], "v": [3, 3, 1, 1], "u": [3, 3, 1, 1]},
    ),
    "not read at all": (
        f"""{IMAGE} <{weight("w", 4, 2, 3, 3)}, {weight("v", 3, 2, 3, 3)},
        int64[1] s = {{1}}, int64[1] e = {{3}}, int64[1] d = {{1}}>""",
        "{ h = Conv(x, w) r = Slice(h, s, e, d) y = Conv(r, v) }",
        {"w": [2, 2, 3, 3], "v": [3, 2, 3, 3]},
    ),
    "joined with others": (
        f"{IMAGE} <{W}, {weight('u', 2, 2, 3, 3)}, {weight('v', 3, 6, 3, 3)}, {B}>",
        "{ h = Conv(x, w, b) i = Conv(x, u) c = Concat<axis=1>(i, h) y = Conv(c, v) }",
        {"w": [3, 2, 3, 3], "u": [2, 2, 3, 3], "v": [3, 5, 3, 3]},
    ),
    "zero on both sides of a sum": (
        f"{IMAGE} <{W}, {weight('u', 4, 2, 3, 3, r1=0, r2=0)}, {V}>",
        "{ h = Conv(x, w) i = Conv(x, u) a = Add(h, i) y = Conv(a, v) }",
        {"w": [3, 2, 3, 3], "u": [3, 2, 3, 3], "v": [3, 3, 3, 3]},
    ),
    "batch norm of scale zero": (
        f"{IMAGE} <{weight('w', 4, 2, 3, 3)}, float[4] s = {{1, 2, 0, 1}}, {B}, float[4] m, float[4] k, {V}>",
        "{ h = Conv(x, w) a = BatchNormalization(h, s, b, m, k) r = Sigmoid(a) y = Conv(r, v) }",
        {"w": [3, 2, 3, 3], "s": [3], "b": [3], "v": [3, 3, 3, 3]},
    ),
    "behind a depthwise convolution": (
        f"{IMAGE} <{weight('w', 4, 2, 1, 1)}, {weight('d', 4, 1, 3, 3, r1=0)}, {B}, {V}>",
        "{ h = Conv(x, w) a = Conv<group=4, pads=[1,1,1,1]>(h, d, b) r = Relu(a) y = Conv(r, v) }",
        {"w": [3, 2, 1, 1], "d": [3, 1, 3, 3], "v": [3, 3, 3, 3]},
    ),
    "before a depthwise convolution": (
        f"{IMAGE} <{weight('w', 4, 2, 1, 1, r1=0)}, {weight('d', 4, 1, 3, 3)}, {B}, {V}>",
        "{ h = Conv(x, w, b) a = Conv<group=4>(h, d) r = Relu(a) y = Conv(r, v) }",
        {"w": [3, 2, 1, 1], "d": [3, 1, 3, 3], "v": [3, 3, 3, 3]},
    ),
    "in front of squeeze and excitation": (
        f"{IMAGE} <{W}, {weight('q', 2, 4, 1, 1)}, {weight('e', 4, 2, 1, 1)}, {V}>",
        """{ h = Conv(x, w) m = GlobalAveragePool(h) a = Conv(m, q) r = Relu(a) f = Conv(r, e) s = Sigmoid(f)
        t = Mul(h, s) y = Conv(t, v) }""",
        {"w": [3, 2, 3, 3], "q": [2, 3, 1, 1], "e": [3, 2, 1, 1], "v": [3, 3, 3, 3]},
    ),
    "the same in each group": (
        f"{IMAGE} <{weight('w', 6, 2, 3, 3, r1=0, r4=0)}, float[6] b, {weight('v', 2, 3, 3, 3)}, {weight('u', 3, 2, 1, 1)}>",
        "{ h = Conv(x, w, b) r = Sigmoid(h) i = Conv<group=2>(r, v) y = Conv(i, u) }",
        {"w": [4, 2, 3, 3], "v": [2, 2, 3, 3], "u": [3, 2, 1, 1]},
    ),
    "all of a small group": (
        f"{IMAGE} <{weight('w', 4, 2, 3, 3, r2=0, r3=0)}, {weight('v', 2, 2, 3, 3)}, {weight('u', 3, 2, 1, 1)}>",
        "{ h = Conv(x, w) i = Conv<group=2>(h, v) y = Conv(i, u) }",
        {"w": [2, 2, 3, 3], "v": [1, 2, 3, 3], "u": [3, 1, 1, 1]},
    ),
    "pixels of a channel in a vector": (
        f"g (float[n,2,4,4] x) => (float[n,3] y) <{W}, {B}, {weight('v', 16, 3)}>",
        "{ h = Conv(x, w, b) r = Relu(h) f = Flatten(r) y = Gemm(f, v) }",
        {"w": [3, 2, 3, 3], "v": [12, 3]},
    ),
    "a transposed convolution, of zeros": (
        f"{IMAGE} <{W}, {weight('v', 4, 3, 2, 2)}>",
        "{ h = Conv(x, w) y = ConvTranspose(h, v) }",
        {"w": [3, 2, 3, 3], "v": [3, 3, 2, 2]},
    ),
    "what a recurrent layer reads of zeros": (
        f"""g (float[5,n,2] x) => (float[5,1,n,3] y)
        <{weight("w", 2, 4, c1=0)}, {weight("v", 1, 3, 4)}, {weight("u", 1, 3, 3)}>""",
        "{ h = MatMul(x, w) y, z = RNN<hidden_size=3>(h, v, u) }",
        {"w": [2, 3], "v": [1, 3, 3], "u": [1, 3, 3]},
    ),
    "queries of zero": (
        f"g (float[n,5,2] x) => (float[n,5,5] y) <{weight('w', 2, 4, c1=0)}, {weight('v', 2, 4)}>",
        "{ q = MatMul(x, w) k = MatMul(x, v) t = Transpose<perm=[0,2,1]>(k) y = MatMul(q, t) }",
        {"w": [2, 3], "v": [2, 3]},
    ),
    "a matrix read through a transpose": (
        f"g (float[n,2] x) => (float[n,3] y) <{weight('w', 2, 4, c1=0)}, {B}, {weight('v', 3, 4)}>",
        "{ h = Gemm(x, w, b) t = Transpose(v) r = Relu(h) y = MatMul(r, t) }",
        {"w": [2, 3], "v": [3, 3]},
    ),
    "read in a branch": (
        f"""g (float[n,2,6,6] x, bool t) => (float[n,3,a,b] y) <{W}, {V}, {B}, {weight("u", 3, 4, 3, 3)}>""",
        """{ h = Conv(x, w, b) r = Relu(h)
           y = If<then_branch = one () => (float[n,3,a,b] p) { p = Conv(r, v) },
                  else_branch = two () => (float[n,3,a,b] q) { q = Conv(r, u) }>(t) }""",
        {"w": [3, 2, 3, 3], "v": [3, 3, 3, 3], "u": [3, 3, 3, 3]},
    ),
}


@pytest.mark.parametrize(("head", "body", "shapes"), REMOVED.values(), ids=REMOVED.keys())
def test_removes(head: str, body: str, shapes: dict[str, list[int]]) -> None:
    found = widths(f"{head} {body}")
    assert {name: found[name] for name in shapes} == shapes


@pytest.mark.parametrize(("tail", "adds"), [("y = MatMul(r, v)", 1), ("p = MatMul(r, v) y = Add(p, c)", 1)])
def test_gives_a_product_a_bias(tail: str, adds: int) -> None:
    text = f"g (float[n,2] x) => (float[n,3] y) <{weight('w', 2, 4, c1=0)}, {B}, {weight('v', 4, 3)}, float[3] c> "
    text += f"{{ h = Gemm(x, w, b) r = Relu(h) {tail} }}"
    model = parse(text)
    before = model.clone()
    assert run_pass(FREE, model)
    assert_same_outputs(before, model)
    assert sum(node.op_type == "Add" for node in model.graph) == adds
    assert [value.name for value in model.graph.outputs] == ["y"]


def test_adds_no_bias_for_zeros() -> None:
    text = f"g (float[n,2] x) => (float[n,3] y) <{weight('w', 2, 4, c1=0)}, {weight('v', 4, 3)}>"
    assert_rewrites(
        FREE,
        f"{text} {{ h = MatMul(x, w) r = Relu(h) y = MatMul(r, v) }}",
        after=["MatMul(x, const) -> h", "Relu(h) -> r", "MatMul(r, const) -> y"],
    )


def test_keeps_a_shared_weight_shared() -> None:
    text = f"""g (float[n,2,6,6] x) => (float[n,3,2,2] y, float[n,3,2,2] z) <{W}, {V}, {B}, {weight("u", 4, 2, 3, 3, r1=0)}>
        {{ h = Conv(x, w, b) i = Conv(x, u, b) y = Conv(h, v) z = Conv(i, v) }}"""
    assert widths(text)["v"] == [3, 3, 3, 3]


def test_the_last_channel_stays() -> None:
    text = f"{IMAGE} <float[4,2,3,3] w = {{{', '.join(['0'] * 72)}}}, {V}> {{ h = Conv(x, w) y = Conv(h, v) }}"
    assert widths(text)["w"] == [1, 2, 3, 3]


WIDE = f"{weight('w', 16, 2, 3, 3, **{f'r{row}': 0 for row in range(2, 13)})}, {weight('v', 3, 16, 3, 3)}"


def test_keeps_a_multiple_of_eight() -> None:
    """11 of 16 are dead: the last 8 of them go."""
    text = f"{IMAGE} <{WIDE}> {{ h = Conv(x, w) r = Relu(h) y = Conv(r, v) }}"
    model = parse(text)
    kept = model.graph.initializers["w"].const_value
    assert kept is not None
    assert widths(text, rewrite=RemoveDeadChannels())["w"] == [8, 2, 3, 3]
    assert widths(text)["w"] == [5, 2, 3, 3]
    run_pass(RemoveDeadChannels(), model)
    now = model.graph.initializers["w"].const_value
    assert now is not None
    np.testing.assert_array_equal(now.numpy(), np.delete(kept.numpy(), np.arange(5, 13), axis=0))


def test_says_why_too_few_stay() -> None:
    text = f"{IMAGE} <{weight('w', 8, 2, 3, 3, r2=0, r3=0)}, {weight('v', 3, 8, 3, 3)}> "
    text += "{ h = Conv(x, w) y = Conv(h, v) }"
    assert_refuses(RemoveDeadChannels(), text, "2 of 8 channels are dead: too few to keep a multiple of 8")


def test_other_layers_have_no_grid() -> None:
    text = f"g (float[n,2] x) => (float[n,3] y) <{weight('w', 2, 8, c1=0)}, {weight('v', 8, 3)}> "
    assert widths(text + "{ h = MatMul(x, w) y = MatMul(h, v) }", rewrite=RemoveDeadChannels())["w"] == [2, 7]


LEFT = {
    "zero on one side of a sum": (
        f"{IMAGE} <{W}, {weight('u', 4, 2, 3, 3)}, {V}> {{ h = Conv(x, w) i = Conv(x, u) a = Add(h, i) y = Conv(a, v) }}"
    ),
    "weights of zero in one of two readers": (
        f"""g (float[n,2,6,6] x) => (float[n,3,4,4] y, float[n,3,4,4] z)
        <{weight("w", 4, 2, 3, 3)}, {weight("v", 3, 4, 1, 1, c2=0)}, {weight("u", 3, 4, 1, 1)}>
        {{ h = Conv(x, w) y = Conv(h, v) z = Conv(h, u) }}"""
    ),
    "an output": f"g (float[n,2,6,6] x) => (float[n,4,4,4] y) <{W}> {{ h = Conv(x, w) y = Relu(h) }}",
    "a softmax over it": (f"{IMAGE} <{W}, {V}> {{ h = Conv(x, w) s = Softmax<axis=1>(h) y = Conv(s, v) }}"),
    "weights that can be overridden": (
        f"g (float[n,2,6,6] x, float[4,2,3,3] w) => (float[n,3,a,b] y) <{W}, {V}> {{ h = Conv(x, w) y = Conv(h, v) }}"
    ),
    "a batch norm that trains": (
        f"{IMAGE} <{weight('w', 4, 2, 3, 3)}, float[4] s = {{1, 2, 0, 1}}, {B}, float[4] m, float[4] k, {V}> "
        "{ h = Conv(x, w) a, o, p = BatchNormalization<training_mode=1>(h, s, b, m, k) y = Conv(a, v) }"
    ),
    "before a padded depthwise convolution": (
        f"{IMAGE} <{weight('w', 4, 2, 1, 1, r1=0)}, {weight('d', 4, 1, 3, 3)}, {B}, {V}> "
        "{ h = Conv(x, w, b) a = Conv<group=4, pads=[1,1,1,1]>(h, d) r = Sigmoid(a) y = Conv(r, v) }"
    ),
    "in one group of two": (
        f"{IMAGE} <{weight('w', 6, 2, 3, 3, r1=0)}, {weight('v', 2, 3, 3, 3)}, {weight('u', 3, 2, 1, 1)}> "
        "{ h = Conv(x, w) i = Conv<group=2>(h, v) y = Conv(i, u) }"
    ),
    "ones among queries": (
        f"g (float[n,5,2] x) => (float[n,5,5] y) <{weight('w', 2, 4, c1=0)}, {B}, {weight('v', 2, 4)}> "
        "{ q = MatMul(x, w) a = Add(q, b) k = MatMul(x, v) t = Transpose<perm=[0,2,1]>(k) y = MatMul(a, t) }"
    ),
    "an operator of which nothing is known": (
        f"{IMAGE} <{W}, {weight('v', 3, 4)}> "
        """{ h = Conv(x, w) y = Einsum<equation = "nchw,dc->ndhw">(h, v) }"""
    ),
    "an old opset": f"{IMAGE} <{W}, {V}> {{ h = Conv(x, w) r = Relu(h) y = Conv(r, v) }}",
}


@pytest.mark.parametrize("text", LEFT.values(), ids=LEFT.keys())
def test_leaves(text: str) -> None:
    assert_leaves(FREE, text, opset=6 if text is LEFT["an old opset"] else 20)


REFUSED = {
    "a transposed convolution": f"{IMAGE} <{W}, {B}, {weight('v', 4, 3, 2, 2)}> "
    "{ h = Conv(x, w, b) r = Relu(h) y = ConvTranspose(r, v) }",
    "a recurrent layer": f"g (float[5,n,2] x) => (float[5,1,n,3] y) <{weight('w', 2, 4, c1=0)}, {B}, "
    f"{weight('v', 1, 3, 4)}, {weight('u', 1, 3, 3)}> "
    "{ m = MatMul(x, w) h = Add(m, b) y, z = RNN<hidden_size=3>(h, v, u) }",
}


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED.keys())
def test_refuses_a_constant_that_no_bias_takes_up(text: str) -> None:
    model = parse(text)
    found = RemoveDeadChannels(multiple=1).run(model, Context(Target()))
    assert [type(item) for item in found] == [Refusal]
    assert "its bias cannot take up a constant channel" in str(found[0])


def test_leaves_what_an_operator_joins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were channels of a sum free to go, those that are not zero would still be made use of."""

    def rule(tracer: Tracer, node: ir.Node) -> list[Axes]:
        return [[axis for place, axis in enumerate(tracer.of(node.inputs[0])) if place != 1]]

    monkeypatch.setitem(RULES, ("", "ReduceSum"), rule)
    text = f"g (float[n,2,6,6] x) => (float[n,a,b] y) <{W}, int64[1] c = {{1}}> "
    assert_leaves(FREE, text + "{ h = Conv(x, w) r = Sigmoid(h) y = ReduceSum<keepdims=0>(r, c) }")


def network(seed: int) -> str:
    """Convolutions with zero and negative filters, inputs of zero weights, biases, activations, sums and padding."""
    rng = np.random.default_rng(seed)
    declared, lines, value = [weight("v", 3, 6, 3, 3)], [], "x"
    for number in range(4):
        inputs = 6 if number else 2
        numbers = rng.normal(size=(6, inputs, 3, 3))
        numbers[rng.random(6) < 0.3] = 0
        numbers[rng.random(6) < 0.2] = -0.1
        numbers[:, rng.random(inputs) < 0.2] = 0
        bias = np.where(rng.random(6) < 0.4, 0, rng.normal(size=6))
        declared.append(f"float[6,{inputs},3,3] w{number} = {{{', '.join(f'{one:.3f}' for one in numbers.ravel())}}}")
        declared.append(f"float[6] b{number} = {{{', '.join(f'{one:.3f}' for one in bias)}}}")
        padded = rng.random() < 0.5
        function = rng.choice(["Relu", "Sigmoid", "HardSwish", "LeakyRelu", "HardSigmoid"])
        pads = "<pads=[1,1,1,1]>" if padded else ""
        lines.append(f"h{number} = Conv{pads}({value}, w{number}, b{number}) r{number} = {function}(h{number})")
        if padded and number and rng.random() < 0.7:
            lines.append(f"s{number} = Add({value}, r{number})")
            value = f"s{number}"
        else:
            value = f"r{number}"
    return f"{IMAGE.replace('6,6', '12,12')} <{', '.join(declared)}> {{ {' '.join(lines)} y = Conv({value}, v) }}"


def test_random_networks_stay_the_same() -> None:
    changed = 0
    for seed in range(15):
        model = parse(network(seed))
        before = model.clone()
        if run_pass(FREE, model):
            changed += 1
            assert_same_outputs(before, model)
            assert run_pass(FREE, model) == []
    assert changed > 10
