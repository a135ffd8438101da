"""Factorize."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxopt import files
from onnxopt.core import Change, Context, Prediction, Refusal
from onnxopt.data import open_dataset
from onnxopt.errors import UsageError
from onnxopt.gate import Drop
from onnxopt.graph import array
from onnxopt.layers import weights
from onnxopt.macs import node_macs
from onnxopt.passes import parse as parse_pass
from onnxopt.passes.factorize import timing
from onnxopt.passes.factorize.factorize import Factorize
from onnxopt.passes.factorize.merge_linear import MergeLinear
from onnxopt.pipeline import Goal, Outcome, Pipeline
from onnxopt.runtime import Session, input_specs
from onnxopt.samples import Samples, random_samples, with_state
from onnxopt.target import Target
from onnxopt.testing import assert_refuses, assert_same_outputs, lines, parse, run_pass

CPU = Target()
NET = """g (float[n,8,10,10] x) => (float[n,5] y)
<float[32,8,3,3] u, float[32] a, float[32,32,3,3] v, float[32] b, float[32,24] w, float[24] c, float[24,5] z>
{ h = Conv<pads=[1,1,1,1]>(x, u, a)  i = Relu(h)  j = Conv<pads=[1,1,1,1], strides=[2,2]>(i, v, b)  k = Relu(j)
  p = GlobalAveragePool(k)  f = Flatten(p)  l = Gemm(f, w, c)  m = Relu(l)  y = MatMul(m, z) }"""
LAYERS = {
    "a product": ("n,20", "n,30", "20,30", "", "MatMul(x, w)"),
    "a product of images": ("n,3,20", "n,3,30", "20,30", "", "MatMul(x, w)"),
    "a product and its bias": ("n,20", "n,30", "20,30", "h = MatMul(x, w)", "Add(h, b)"),
    "a transposed product": ("n,20", "n,30", "30,20", "t = Transpose<perm=[1,0]>(w)", "MatMul(x, t)"),
    "Gemm": ("n,20", "n,30", "20,30", "", "Gemm(x, w, b)"),
    "Gemm with transB": ("n,20", "n,30", "30,20", "", "Gemm<transB=1>(x, w, b)"),
}
AFTER = {
    "a product": ["MatMul(x, const) -> y/rank0", "MatMul(y/rank0, const) -> y"],
    "a product of images": ["MatMul(x, const) -> y/rank0", "MatMul(y/rank0, const) -> y"],
    "a product and its bias": ["MatMul(x, const) -> h/rank0", "MatMul(h/rank0, const) -> h", "Add(h, const) -> y"],
    "a transposed product": ["MatMul(x, const) -> y/rank0", "MatMul(y/rank0, const) -> y"],
    "Gemm": ["Gemm(x, const) -> y/rank0", "Gemm(y/rank0, const, const) -> y"],
    "Gemm with transB": ["Gemm(x, const) -> y/rank0", "Gemm(y/rank0, const, const) -> y"],
}
every_layer = pytest.mark.parametrize("name", LAYERS)


def net(name: str) -> ir.Model:
    shape, out, weight, before, call = LAYERS[name]
    return parse(f"g (float[{shape}] x) => (float[{out}] y) <float[{weight}] w, float[30] b> {{ {before} y = {call} }}")


def lower(model: ir.Model, rank: int, noise: float = 0.0) -> ir.Model:
    """The same with weights of low rank, and noise of a share of their size."""
    rng, copy = np.random.default_rng(0), model.clone()
    for weight in weights(copy)[0]:
        outputs, products = weight.rows.shape
        low = rng.normal(size=(outputs, rank)) @ rng.normal(size=(rank, products)) / rank**0.5
        weight.write((low + noise * rng.normal(size=low.shape)).astype(np.float32))
    return copy


@pytest.fixture
def learn(save_npz: Callable[..., Path]) -> Callable[..., Samples]:
    """Samples for a model with one input, in which a few hidden causes decide much."""

    def learn(model: ir.Model, count: int = 64) -> Samples:
        (spec,) = input_specs(model)
        rng, sizes = np.random.default_rng(0), [int(size) for size in (spec.shape or ())[1:]]
        causes = rng.normal(size=(count, 4)) @ rng.normal(size=(4, int(np.prod(sizes))))
        x = (causes.reshape(count, *sizes) + 0.5 * rng.normal(size=(count, *sizes))).astype(np.float32)
        return with_state(open_dataset(str(save_npz(**{spec.name: x})), input_specs(model)), model, {})

    return learn


@every_layer
def test_bytes_saved_are_those_of_the_file(name: str, learn: Callable[..., Samples]) -> None:
    model = lower(net(name), 4)
    before, held = len(files.to_bytes(model)), sum(one.rows.nbytes for one in weights(model)[0])
    found = factorize(model, learn(model), repair="none")
    (saved,) = [item.saved for item in found if isinstance(item, Change) and item.saved]
    assert abs(before - len(files.to_bytes(model)) - saved.file) <= 8  # lengths of what holds them
    assert saved.session == held - sum(one.rows.nbytes for one in weights(model)[0])


def factorize(model: ir.Model, samples: Samples | None = None, **options: object) -> list[object]:
    return list(Factorize(**options).run(model, Context(CPU, samples)))


def split(said: list[object]) -> dict[str, str]:
    """Which layers were split, and into what."""
    items = [item for item in said if isinstance(item, Change) and item.what.startswith("rank")]
    return {item.node: item.what.partition(":")[0] for item in items}


def reasons(said: list[object]) -> dict[str, str]:
    return {item.node: item.why for item in said if isinstance(item, Refusal)}


def gives(model: ir.Model, samples: Samples) -> np.ndarray:
    found = [np.asarray(outputs["y"]) for _, outputs in samples.run(Session(model, CPU, optimize=False))]
    return np.concatenate(found)


def off(model: ir.Model, original: ir.Model, samples: Samples) -> float:
    """The squared error of the outputs, as a share of their variance."""
    wanted, got = gives(original, samples), gives(model, samples)
    return float(((got - wanted) ** 2).sum() / ((wanted - wanted.mean(0)) ** 2).sum())


# --- what is low is found ---


@every_layer
@pytest.mark.parametrize("opset", [13, 20])
def test_a_layer_of_low_rank_becomes_two_that_compute_the_same(name: str, opset: int) -> None:
    model = lower(net(name), 4)
    before = model.clone()
    assert split(factorize(model)) == {AFTER[name][-1 if "bias" not in name else 1].split(" -> ")[1]: "rank 4"}
    onnx.checker.check_model(files.to_proto(model), full_check=True)
    assert lines(model) == AFTER[name]
    assert_same_outputs(before, model, rtol=1e-4)
    after = files.to_bytes(model)
    assert split(factorize(model)) == {}
    assert files.to_bytes(model) == after


def test_an_old_gemm_needs_a_bias_so_that_a_product_stands_in_front() -> None:
    model = lower(
        parse("g (float[n,20] x) => (float[n,30] y) <float[20,30] w, float[30] b> { y = Gemm(x, w, b) }", opset=9), 4
    )
    before = model.clone()
    assert split(factorize(model)) == {"y": "rank 4"}
    assert lines(model) == ["MatMul(x, const) -> y/rank0", "Gemm(y/rank0, const, const) -> y"]
    onnx.checker.check_model(files.to_proto(model), full_check=True)
    assert_same_outputs(before, model, rtol=1e-4)


@pytest.mark.parametrize("error", [0.1, 0.01, 0.001])
def test_ranks_end_where_noise_begins(error: float, learn: Callable[..., Samples]) -> None:
    noisy = lower(net("a product and its bias"), 5, noise=0.01)
    for samples in (None, learn(noisy)):
        model = noisy.clone()
        assert split(factorize(model, samples, error=error)) == {"h": "rank 5"}


def conv_net(weight: np.ndarray, call: str = "Conv<pads=[1,1,1,1], strides=[2,1]>(x, w, b)") -> ir.Model:
    outputs, inputs = weight.shape[:2]
    sizes = ",".join(map(str, weight.shape))
    model = parse(
        f"""g (float[n,{inputs},12,10] x) => (float[n,{outputs},p,q] y) <float[{sizes}] w, float[{outputs}] b>
        {{ y = {call} }}"""
    )
    model.graph.initializers["w"].const_value = ir.tensor(weight.astype(np.float32))
    return model


def random(*sizes: int) -> np.ndarray:
    return np.random.default_rng(len(sizes)).normal(size=sizes)


CONVS = {
    "rank 4": np.einsum("or,rcij->ocij", random(24, 4), random(4, 16, 3, 3)),
    "ranks 4 and 8 (tucker)": np.einsum("os,srij,rc->ocij", random(24, 8), random(8, 4, 3, 3), random(4, 16)),
    "rank 8 (separable)": np.einsum("orj,rci->ocij", random(24, 8, 3), random(8, 16, 3)),
    "rank 4 (tucker)": np.einsum("orij,rc->ocij", random(24, 4, 3, 3), random(4, 16)),
}
ENDS = {
    "rank 4": ["Conv(x, const) -> y/rank0", "Conv(y/rank0, const, const) -> y"],
    "ranks 4 and 8 (tucker)": [
        "Conv(x, const) -> y/rank0",
        "Conv(y/rank0, const) -> y/rank1",
        "Conv(y/rank1, const, const) -> y",
    ],
    "rank 8 (separable)": ["Conv(x, const) -> y/rank0", "Conv(y/rank0, const, const) -> y"],
    "rank 4 (tucker)": ["Conv(x, const) -> y/rank0", "Conv(y/rank0, const, const) -> y"],
}


@pytest.mark.parametrize("words", CONVS)
@pytest.mark.parametrize("padding", ["pads=[1,0,2,1]", 'auto_pad="SAME_LOWER"', 'auto_pad="VALID"'])
def test_the_form_that_a_convolution_has_is_found(words: str, padding: str) -> None:
    model = conv_net(CONVS[words], f"Conv<{padding}, strides=[2,1]>(x, w, b)")
    before = model.clone()
    assert split(factorize(model, error=1e-6, multiple=4)) == {"y": words}
    assert lines(model) == ENDS[words]
    onnx.checker.check_model(files.to_proto(model), full_check=True)
    assert_same_outputs(before, model, rtol=1e-4)
    assert run_pass(MergeLinear(always=True), model)
    assert lines(model) == ["Conv(x, const, const) -> y"]
    numbers = array(model.graph.node(0).inputs[1])
    np.testing.assert_allclose(numbers, CONVS[words], rtol=0, atol=1e-4)
    assert_same_outputs(before, model, rtol=1e-4)


@every_layer
def test_merge_linear_is_the_way_back_and_leaves_what_pays(name: str) -> None:
    model = lower(net(name), 4)
    before = model.clone()
    factorize(model)
    assert run_pass(MergeLinear(), model) == []
    assert run_pass(MergeLinear(always=True), model)
    assert len(lines(model)) == len(AFTER[name]) - 1
    assert_same_outputs(before, model, rtol=1e-4)


def test_ranks_of_convolutions_keep_to_the_grid() -> None:
    model = conv_net(np.einsum("or,rcij->ocij", random(48, 21), random(21, 32, 3, 3)))
    assert split(factorize(model.clone(), error=1e-5)) == {"y": "rank 32"}
    assert split(factorize(model.clone(), error=1e-5, multiple=5)) == {"y": "rank 25"}
    assert split(factorize(model.clone(), error=1e-5, multiple=1)) == {"y": "rank 21"}


# --- budgets ---


def share_left(model: ir.Model, original: ir.Model) -> float:
    feeds = {"x": np.zeros((1, 8, 10, 10), np.float32)}
    return sum(node_macs(model, feeds)) / sum(node_macs(original, feeds))


@pytest.mark.parametrize("share", [0.9, 0.7, 0.5])
@pytest.mark.parametrize("data", [False, True])
def test_multiply_accumulates_are_met(share: float, data: bool, learn: Callable[..., Samples]) -> None:
    original = parse(NET)
    model, samples = original.clone(), learn(original)
    factorize(model, samples if data else None, macs=share, multiple=1)
    assert share - 0.05 < share_left(model, original) <= share
    onnx.checker.check_model(files.to_proto(model), full_check=True)


def test_bytes_are_met() -> None:
    original = parse(NET)
    sizes = []
    for share in (0.9, 0.6):
        model = original.clone()
        factorize(model, bytes=share, multiple=1)
        sizes.append(sum(value.const_value.size for value in model.graph.initializers.values() if value.const_value))
    full = sum(value.const_value.size for value in original.graph.initializers.values() if value.const_value)
    assert 0.85 * full < sizes[0] <= 0.9 * full
    assert 0.55 * full < sizes[1] <= 0.6 * full


def test_a_budget_that_cannot_be_met_is_met_as_far_as_possible() -> None:
    original = parse(NET)
    left = []
    for share in (0.01, 0.05):
        model = original.clone()
        factorize(model, macs=share, multiple=1)
        left.append(share_left(model, original))
    assert 0.01 < left[0] <= left[1]


def test_time_is_met_and_the_ratio_foretold(monkeypatch: pytest.MonkeyPatch, learn: Callable[..., Samples]) -> None:
    """By a clock on which a multiply-accumulate takes a nanosecond, and all the rest nothing."""
    original = parse(NET)

    def macs(part: ir.Model) -> float:
        return 1e-9 * sum(node_macs(part, {"x": np.zeros(part.graph.inputs[0].shape.numpy(), np.float32)}))

    whole = 1e-9 * sum(node_macs(original, {"x": np.zeros((1, 8, 10, 10), np.float32)}))
    monkeypatch.setattr(
        timing, "costs", lambda parts, *_: {key: timing.Cost(0.0, macs(part), 0.0) for key, part in parts.items()}
    )
    monkeypatch.setattr(timing, "run_seconds", lambda *_: whole)
    model = original.clone()
    said = factorize(model, learn(original), latency=0.6, multiple=2)
    assert 0.55 < share_left(model, original) < 0.62
    (predicted,) = [item for item in said if isinstance(item, Prediction)]
    assert predicted.ratio == pytest.approx(1 / share_left(model, original), rel=0.03)


def test_time_is_only_measured_here() -> None:
    model = parse(NET)
    found = Factorize(latency=0.5).run(model, Context(Target(features=frozenset())))
    assert found == [Refusal("", "latency: kernels can be timed only on the processor of this machine")]


# --- data ---


def test_what_is_read_decides_what_is_kept(learn: Callable[..., Samples]) -> None:
    original = parse(NET)
    samples = learn(original)
    errors = {}
    for words in ("whiten=no,repair=none", "repair=none", "repair=bias", "repair=least-squares"):
        model = original.clone()
        parse_pass(f"factorize:macs=0.5,multiple=1,{words}").run(model, Context(CPU, samples))
        errors[words] = off(model, original, samples)
    assert errors["repair=none"] < 0.7 * errors["whiten=no,repair=none"], errors
    assert errors["repair=least-squares"] < 0.9 * errors["repair=none"], errors
    assert errors["repair=bias"] <= 1.01 * errors["repair=none"], errors


def test_the_same_twice_gives_the_same_bytes(learn: Callable[..., Samples]) -> None:
    original = parse(NET)
    samples, before = learn(original), files.to_bytes(original)
    found = []
    for _ in range(2):
        model = original.clone()
        factorize(model, samples, macs=0.6, multiple=4)
        found.append(files.to_bytes(model))
    assert found[0] == found[1]
    assert files.to_bytes(original) == before


def test_biases_take_up_the_mean(learn: Callable[..., Samples]) -> None:
    """What is read has a mean, of which a lower rank loses a part: the outputs keep theirs."""
    original = net("a product and its bias")
    samples = learn(original)
    model = original.clone()
    assert split(factorize(model, samples, error=0.5, repair="none"))
    np.testing.assert_allclose(gives(model, samples).mean(0), gives(original, samples).mean(0), rtol=0, atol=0.05)


def test_one_sample_is_enough(learn: Callable[..., Samples]) -> None:
    original = parse(NET)
    model = original.clone()
    assert split(factorize(model, learn(original, count=1), macs=0.7, multiple=1))
    onnx.checker.check_model(files.to_proto(model), full_check=True)


# --- what is left ---


TIED = """g (float[n,20] x) => (float[n,20] y) <float[20,20] w, float[20] b>
{ h = Gemm(x, w, b)  i = Relu(h)  j = MatMul(i, w)  k = Relu(j)  y = Gemm(k, w) }"""


def test_a_weight_of_several_layers_is_split_once_for_all() -> None:
    model = lower(parse(TIED), 3)
    before = model.clone()
    assert split(factorize(model)) == {"h": "rank 3"}
    assert lines(model) == [
        "Gemm(x, const) -> h/rank0",
        "Gemm(h/rank0, const, const) -> h",
        "Relu(h) -> i",
        "MatMul(i, const) -> j/rank0",
        "MatMul(j/rank0, const) -> j",
        "Relu(j) -> k",
        "Gemm(k, const) -> y/rank0",
        "Gemm(y/rank0, const) -> y",
    ]
    shapes = sorted(value.shape.numpy() for value in model.graph.initializers.values() if value.shape)
    assert shapes == [(3, 20), (20,), (20, 3)]
    assert_same_outputs(before, model, rtol=1e-4)


def test_names_that_are_taken_are_not_used() -> None:
    text = """g (float[n,20] x) => (float[n,30] y, float[n,20] z) <float[20,30] w, float[1] a>
    { z = Add(x, a)  y = MatMul(x, w) }"""
    model = lower(parse(text), 4)
    model.graph.outputs[1].name = "y/rank0"
    model.graph.initializers["a"].name = "y/factor0"
    before = model.clone()
    assert split(factorize(model)) == {"y": "rank 4"}
    assert lines(model)[1:] == ["MatMul(x, const) -> y/rank0.1", "MatMul(y/rank0.1, const) -> y"]
    onnx.checker.check_model(files.to_proto(model), full_check=True)
    assert_same_outputs(before, model, rtol=1e-4)


PAIRED = "is one of two layers in a row with nothing between, which merge-linear may multiply out"
LEFT = {
    "a layer of full rank": (
        "g (float[n,20] x) => (float[n,30] y) <float[20,30] w> { y = MatMul(x, w) }",
        "ranks that pay lose at least",
    ),
    "a layer too small for any rank": (
        "g (float[n,2] x) => (float[n,2] y) <float[2,2] w> { y = MatMul(x, w) }",
        "no rank that is allowed costs so much less that it would pay",
    ),
    "groups": (
        "g (float[n,8,9,9] x) => (float[n,8,7,7] y) <float[8,4,3,3] w> { y = Conv<group=2>(x, w) }",
        "its convolution is grouped",
    ),
    "depthwise": (
        "g (float[n,8,9,9] x) => (float[n,8,7,7] y) <float[8,1,3,3] w> { y = Conv<group=8>(x, w) }",
        "its convolution is grouped",
    ),
    "a weight that an embedding reads": (
        """g (int64[n] i) => (float[n,40] y) <float[40,64] e>
        { x = Gather(e, i) t = Transpose<perm=[1,0]>(e) y = MatMul(x, t) }""",
        "its weight is also read by Gather 'x'",
    ),
    "a weight that is an output": (
        "g (float[n,4] x) => (float[n,4] y, float[4,4] t) <float[4,4] w> { t = Transpose<perm=[1,0]>(w) y = MatMul(x, t) }",
        "its weight is also read by the graph as an output",
    ),
    "a weight that can be overridden": (
        "g (float[n,4] x, float[4,4] w) => (float[n,4] y) <float[4,4] w> { y = MatMul(x, w) }",
        "its weight is not constant",
    ),
    "half precision": (
        "g (float16[n,4] x) => (float16[n,4] y) <float16[4,4] w> { y = MatMul(x, w) }",
        "its weight is FLOAT16, not float32",
    ),
    "double precision": (
        "g (double[n,4] x) => (double[n,4] y) <double[4,4] w> { y = MatMul(x, w) }",
        "its weight is DOUBLE, not float32",
    ),
    "quantized": (
        "g (float[n,4] x) => (float[n,4] y) <int8[4,4] q, float s = {0.1}> { w = DequantizeLinear(q, s) y = MatMul(x, w) }",
        "its weight is not constant",
    ),
    "a branch": (
        """g (float[n,20] x, bool t) => (float[n,30] y) <float[20,30] w>
        { y = If(t) <then_branch = p () => (float[n,30] o) { o = MatMul(x, w) },
                     else_branch = q () => (float[n,30] r) { s = MatMul(x, w)  r = Relu(s) }> }""",
        None,
    ),
    "nothing to split": ("g (float[n,4] x) => (float[n,4] y) { y = Relu(x) }", None),
}


@pytest.mark.parametrize(("text", "why"), LEFT.values(), ids=LEFT.keys())
def test_leaves(text: str, why: str | None) -> None:
    assert_refuses(Factorize(), text, why)


def test_layers_in_a_row_are_left() -> None:
    model = parse(
        """g (float[n,20] x) => (float[n,20] y) <float[20,30] v, float[30] a, float[30,20] w>
        { h = MatMul(x, v)  i = Add(h, a)  y = MatMul(i, w) }"""
    )
    assert factorize(model) == [Refusal("h", PAIRED), Refusal("y", PAIRED)]


CHOSEN = {
    "all": ({}, {"h", "j", "l"}),
    "only": ({"only": ("h",)}, {"h"}),
    "only, a pattern": ({"only": ("[h-j]",)}, {"h", "j"}),
    "leave": ({"leave": ("h", "l")}, {"j"}),
}


@pytest.mark.parametrize(("options", "names"), CHOSEN.values(), ids=CHOSEN.keys())
def test_layers_are_chosen_by(options: dict[str, object], names: set[str]) -> None:
    said = factorize(parse(NET), error=1.0, multiple=1, **options)
    assert set(split(said)) >= names
    assert set(split(said)) <= {*names, "y"} if not options.get("only") else set(split(said)) == names
    left = {node for node, why in reasons(said).items() if why == "is to be left"}
    assert left == {"h", "j", "l", "y"} - set(split(said)) - {n for n in "hjly" if n not in left}


def test_words_that_name_no_layer_are_told() -> None:
    said = factorize(parse(NET), only=("nobody*",), leave=("h",))
    assert [item.why for item in said if isinstance(item, Refusal) and not item.node] == [
        "no layer that can be split is named 'nobody*'"
    ]


def test_int8_takes_lower_ranks_of_products_and_no_convolutions(learn: Callable[..., Samples]) -> None:
    original = parse(NET)
    said = factorize(original.clone(), error=1.0, multiple=1, int8=True)
    assert not {"h", "j"} & set(split(said))
    assert "l" in split(said)
    ranks = {}
    for int8 in (False, True):
        model = lower(net("a product of images"), 8)
        ranks[int8] = split(factorize(model, error=1e-6, int8=int8))
    assert ranks == {False: {"y": "rank 8"}, True: {}}  # 0.3 of break-even is 3


@pytest.mark.parametrize(
    ("words", "why"),
    {
        "macs=0.5,latency=0.5": "factorize: give one of error, macs, latency, bytes, not macs and latency",
        "error=0.1,bytes=0.5": "factorize: give one of error, macs, latency, bytes, not error and bytes",
        "forms=cp": "option forms: 'cp' is not one of svd, tucker, separable",
        "macs=2": "option macs: 2.0 is outside 0 to 1",
    }.items(),
)
def test_options_that_mean_nothing_are_refused(words: str, why: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_pass(f"factorize:{words}")
    assert str(error.value) == why


def test_it_can_be_typed() -> None:
    assert parse_pass("factorize:macs=0.7,forms=svd+tucker,whiten=no") == Factorize(
        macs=0.7, forms=("svd", "tucker"), whiten=False
    )
    assert str(parse_pass("factorize")) == "factorize"


# --- in the pipeline ---


class Lenient:
    """A gate that lets everything through."""

    def measure(self, model: ir.Model) -> Drop:
        return Drop("top1", 10, 1.0, 1.0, 0.0, 0.0, 0.0, 0.95, True)


def test_it_is_kept_where_the_file_gets_smaller() -> None:
    model = lower(parse(NET), 3)
    line = Pipeline(model, Context(CPU), random_samples(model, CPU, {}), Lenient(), Goal.SIZE, 100.0)
    (step,) = line.run([Factorize(multiple=1)])
    assert step.outcome is Outcome.KEPT
    assert len(files.to_bytes(line.best)) < 0.6 * len(files.to_bytes(model))
