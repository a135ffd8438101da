"""ConvertLayer: what is chosen, with times that are given; and what layers are timed as."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from onnxopt import cache, files
from onnxopt import parts as kept
from onnxopt.core import Change, Context, Refusal
from onnxopt.data import random_dataset
from onnxopt.errors import UsageError
from onnxopt.macs import Shape
from onnxopt.passes import parse as parse_pass
from onnxopt.passes.convert import choosing
from onnxopt.passes.convert.conversions import CONVERSIONS
from onnxopt.passes.convert.convert_layer import ConvertLayer
from onnxopt.passes.convert.layout import in_blocks, read_in_blocks
from onnxopt.passes.convert.piece import Piece, cut, with_fused
from onnxopt.runtime import Session, input_specs
from onnxopt.samples import Samples, random_samples
from onnxopt.stopwatch import ASIDE, Cost, part_costs
from onnxopt.target import Target
from onnxopt.testing import CPU, assert_same_outputs, compare_outputs, lines, parse, run_pass

SHARED = Path(os.environ.get("ONNXOPT_SHARED", Path(__file__).resolve().parents[3] / "shared")) / "data"
BASIC_PITCH = SHARED / "models" / "basic_pitch.onnx"
HERE = Context(CPU)
POINT = """g (float[n,4,5,5] x) => (float[n,3,5,5] y) <float[3,4,1,1] w> { y = Conv(x, w) }"""
TWO = """g (float[n,4,5,5] x) => (float[n,3,5,5] y) <float[6,4,1,1] w, float[3,6,1,1] u>
    { h = Conv(x, w)  i = Tanh(h)  y = Conv(i, u) }"""

Rule = Callable[[str], float | None]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[Rule], list[list[str]]]:
    """Let parts take as many microseconds as a rule says of their key; what was asked for, round by round."""

    def set_to(rule: Rule) -> list[list[str]]:
        asked: list[list[str]] = []

        def costs(parts: Mapping[str, ir.Model], target: Target, seconds: float) -> dict[str, Cost]:
            asked.append([*parts])
            known = {key: rule(key) for key in parts}
            return {key: Cost(0.0, micros * 1e-6, 0.0) for key, micros in known.items() if micros is not None}

        monkeypatch.setattr(choosing, "costs", costs)
        return asked

    return set_to


def refused(model: ir.Model, rewrite: ConvertLayer, context: Context = HERE) -> list[str]:
    return [item.why for item in rewrite.run(model, context) if isinstance(item, Refusal)]


def test_a_layer_is_converted_where_it_is_faster(clock) -> None:
    clock(lambda key: 50 if "MatMul" in key else 100)
    model = parse(POINT)
    (change,) = [item for item in ConvertLayer().run(model, HERE) if isinstance(item, Change)]
    assert change == Change("y", "conv-to-matmul, 2.00 times as fast by itself")
    assert [node.op_type for node in model.graph] == ["Reshape", "MatMul", "Reshape"]
    assert_same_outputs(parse(POINT), model)
    contents = files.to_bytes(model)
    assert run_pass(ConvertLayer(), model) == []
    assert files.to_bytes(model) == contents


@pytest.mark.parametrize(
    ("before", "after", "gain", "taken"),
    [(100, 91, 1.1, False), (100, 90, 1.1, True), (100, 70, 1.5, False), (4, 1, 1.1, True), (3, 1.5, 1.1, False)],
    ids=["too little", "enough", "less than is asked", "tiny, but 3 us", "1.5 us are within the clock's step"],
)
def test_how_much_faster(clock, before: float, after: float, gain: float, taken: bool) -> None:
    clock(lambda key: after if "MatMul" in key else before)
    model = parse(POINT)
    found = ConvertLayer(gain=gain, conversions=("conv-to-matmul",)).run(model, HERE)
    assert [type(item) for item in found] == [Change if taken else Refusal]
    if not taken:
        assert found == [Refusal("y", f"conv-to-matmul: {before / after:.2f} times as fast by itself")]


def test_the_best_of_several_conversions(clock) -> None:
    text = POINT.replace("5,5", "1,1").replace("float[n,3,1,1] y", "float[n,3,1,1] y")
    clock(lambda key: 20 if "Gemm" in key else 60 if "MatMul" in key else 100)
    model = parse(text)
    (change,) = run_pass(ConvertLayer(), model)
    assert change.what == "conv-to-gemm, 5.00 times as fast by itself"


def test_a_converted_layer_is_looked_at_again(clock) -> None:
    text = POINT.replace("5,5", "1,1")
    asked = clock(lambda key: 10 if "MatMul" in key and "Flatten" not in key else 20 if "Gemm" in key else 100)
    model = parse(text.replace("<float", "<float[3] b, float").replace("Conv(x, w)", "Conv(x, w, b)"))
    changes = run_pass(ConvertLayer(conversions=("conv-to-gemm", "gemm-to-matmul")), model)
    assert [change.what.split(",")[0] for change in changes] == ["conv-to-gemm", "gemm-to-matmul"]
    times = [key for keys in asked for key in keys]
    assert len({*times}) == len(times) == 8  # nothing is timed twice, but what pays once again


def test_a_node_takes_part_in_one_conversion(clock) -> None:
    text = """g (float[1,4,3,3] x) => (float[1,1,6,6] y) <float[4,4,1,1] w> { h = Conv(x, w)
        y = DepthToSpace<blocksize=2>(h) }"""
    clock(lambda key: 10 if "ConvTranspose" in key else 50 if "MatMul" in key else 100)
    model = parse(text)
    (change,) = run_pass(ConvertLayer(), model)
    assert change.what.startswith("blocks-to-transposed, 10.00 times")
    assert [node.op_type for node in model.graph] == ["ConvTranspose"]


def test_what_pays_must_pay_again(clock) -> None:
    asked = clock(lambda key: 100 if "MatMul" not in key else 95 if key.endswith(" again") else 50)
    model = parse(POINT)
    assert refused(model, ConvertLayer()) == ["conv-to-matmul: 1.05 times as fast by itself"]
    assert [[key.endswith(" again") for key in keys] for keys in asked] == [[False, False], [True, True]]
    assert [node.op_type for node in model.graph] == ["Conv"]


def test_weights_that_are_too_large_are_not_timed(clock, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = clock(lambda key: 100)
    monkeypatch.setattr(choosing, "LARGEST", 40)
    assert refused(parse(POINT), ConvertLayer()) == ["conv-to-matmul: its weights of 0 MB are too large to be timed"]
    assert asked == []


def test_layers_that_are_alike_are_timed_once(clock) -> None:
    asked = clock(lambda key: 100)
    text = """g (float[1,4,5,5] x) => (float[1,4,5,5] y) <float[4,4,1,1] v, float[4,4,1,1] w>
        { h = Conv(x, v)  i = Softmax(h)  y = Conv(i, w) }"""
    ConvertLayer().run(parse(text), HERE)
    assert len(asked) == 1
    assert len(asked[0]) == 2


def test_what_cannot_be_timed_is_left_alone(clock) -> None:
    clock(lambda key: None)
    model = parse(POINT)
    assert refused(model, ConvertLayer()) == ["conv-to-matmul: ONNX Runtime does not run it by itself"]


def test_shapes_are_those_of_the_first_sample(clock) -> None:
    asked = clock(lambda key: 100)
    model = parse(POINT)
    samples = Samples(random_dataset(input_specs(model), {"x": (7, 4, 5, 5)}, count=1, seed=0))
    size = next(iter(samples.first().values())).shape[0]
    ConvertLayer().run(model, Context(CPU, samples))
    assert f"[{size}, 4, 5, 5]" in asked[0][0]


def test_without_conversions_nothing_is_timed(clock) -> None:
    asked = clock(lambda key: 100)
    text = "g (float[1,4,5,5] x) => (float[1,4,3,3] y) <float[4,4,3,3] w> { y = Conv<dilations=[1,1]>(x, w) }"
    assert ConvertLayer(conversions=("conv-to-matmul", "conv-to-gemm")).run(parse(text), HERE) == []
    assert asked == []


def test_other_machines_are_refused() -> None:
    elsewhere = Context(Target(features=frozenset({"avx2"})))
    assert refused(parse(POINT), ConvertLayer(), elsewhere) == ["kernels of another machine cannot be timed here"]
    assert refused(parse("g (float[1,4] x) => (float[1,4] y) { y = Relu(x) }"), ConvertLayer(), elsewhere) == []


def test_a_model_without_inputs_that_run_is_refused(clock) -> None:
    clock(lambda key: 100)
    text = """g (float[n,4,5,5] x, float[m,4,5,5] z) => (float[p,3,5,5] y) <float[3,4,1,1] w, int64[4] s = {7, 4, 5, 5}>
        { h = Reshape(z, s)  i = Add(x, h)  y = Conv(i, w) }"""
    (why,) = refused(parse(text), ConvertLayer())
    assert why.startswith("kernels cannot be timed: no random input fits the model")


def test_old_opsets_are_refused() -> None:
    assert refused(parse(POINT, opset=10), ConvertLayer(choose="always")) == ["opset 10 is older than 11"]


def test_only_the_layers_that_are_named() -> None:
    model = parse(TWO)
    found = ConvertLayer(choose="always", only=("h", "z*")).run(model, HERE)
    assert [item for item in found if isinstance(item, Change)] == [Change("h", "conv-to-matmul")]
    assert [item for item in found if isinstance(item, Refusal)] == [Refusal("", "no node is named 'z*'")]
    assert lines(model)[-1] == "Conv(i, const) -> y"


def test_a_name_that_looks_like_a_pattern_is_a_name() -> None:
    model = parse(TWO)
    model.graph.node(0).outputs[0].name = "h[0]"
    assert [change.node for change in run_pass(ConvertLayer(choose="always", only=("h[0]",)), model)] == ["h[0]"]


def test_conversions_that_undo_each_other_need_the_clock() -> None:
    pair = ("conv-to-gemm", "gemm-to-conv")
    with pytest.raises(UsageError, match="gemm-to-conv undoes conv-to-gemm"):
        ConvertLayer(conversions=pair, choose="always")
    assert ConvertLayer(conversions=pair).choose == "faster"


def test_options_in_words() -> None:
    rewrite = parse_pass("convert-layer:conversions=conv-to-gemm+einsum-to-matmul,only=a+b*,gain=1.5,choose=always")
    assert rewrite == ConvertLayer(("conv-to-gemm", "einsum-to-matmul"), ("a", "b*"), 1.5, "always")
    with pytest.raises(UsageError, match="'conv-to-gem' is not one of"):
        parse_pass("convert-layer:conversions=conv-to-gem")


def test_each_conversion_that_undoes_another_names_it() -> None:
    names = {one.name for one in CONVERSIONS}
    assert len(names) == len(CONVERSIONS)
    assert {one.undoes for one in CONVERSIONS} - {""} <= names
    for one in CONVERSIONS:
        assert f"``{one.name}``" in (ConvertLayer.__doc__ or "")


def test_an_exact_pass_that_must_pay() -> None:
    assert ConvertLayer.for_speed


CHAIN = """g (float[1,3,16,16] x) => (float[{out}] y) <float[32,3,3,3] a, float[32,32,3,3] w, float[8,32,1,1] b, float[6,32,1,1] c,
    float[32] s, float[6] f> {{ g = Conv(x, a)  h = Relu(g)  {body} }}"""
LAYOUTS = {
    "between convolutions": ("1,8,12,12", "k = Conv(h, w)  y = Conv(k, b)", "k", True, True),
    "behind an activation and before a pool": (
        "1,8,6,6",
        "k = Conv(h, w)  p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(k)  y = Conv(p, b)",
        "k",
        True,
        True,
    ),
    "the last": ("1,32,12,12", "y = Conv(h, w)", "y", True, False),
    "before a node that reads no blocks": ("1,4608", "k = Conv(h, w)  y = Flatten(k)", "k", True, False),
    "behind a node that gives no blocks": (
        "1,8,12,12",
        "t = Transpose<perm=[0,1,3,2]>(h)  k = Conv(t, w)  y = Conv(k, b)",
        "k",
        False,
        True,
    ),
    "behind a sum of blocks": ("1,32,12,12", "i = Add(h, g)  y = Conv(i, w)", "y", True, False),
    "behind a sum of blocks and others": (
        "1,32,14,14",
        "t = Transpose<perm=[0,1,3,2]>(h)  i = Add(h, t)  y = Conv<pads=[1,1,1,1]>(i, w)",
        "y",
        False,
        False,
    ),
    "before a concatenation of blocks": (
        "1,8,12,12",
        "k = Conv(h, w)  d = Conv<kernel_shape=[3,3]>(h, w)  m = Concat<axis=1>(k, d)  q = Split<axis=1, num_outputs=2>(m)  y = Conv(k, b)",
        "k",
        True,
        True,
    ),
    "before channels that make no blocks": ("1,6,12,12", "k = Conv(h, c)  y = Relu(k)", "k", True, False),
}


@pytest.mark.parametrize(("out", "body", "name", "front", "back"), LAYOUTS.values(), ids=LAYOUTS.keys())
def test_where_images_are_in_blocks(out: str, body: str, name: str, front: bool, back: bool) -> None:
    model = parse(CHAIN.format(out=out, body=body).replace("q = Split", "q, r = Split"))
    node = next(node for node in model.graph if node.outputs[0].name == name)
    assert in_blocks(node.inputs[0]) == front
    assert read_in_blocks(node.outputs[0]) == back


@pytest.mark.parametrize(
    ("weight", "attributes", "blocks"),
    [
        ("6,3,3,3", "", True),
        ("8,32,1,1", "", True),
        ("8,33,1,1", "", False),
        ("32,1,3,3", "group=32", True),
        ("33,1,3,3", "group=33", False),
        ("64,16,3,3", "group=2", True),
        ("64,8,3,3", "group=4", False),
        ("64,1,3,3", "group=32", False),
        ("8,4,3", "", False),
    ],
)
def test_which_convolutions_give_blocks(weight: str, attributes: str, blocks: bool) -> None:
    group = int(attributes.split("=")[1]) if attributes else 1
    _, inputs, *kernel = weight.split(",")
    shape = ",".join(["1", str(int(inputs) * group), *["5"] * len(kernel)])
    out, shown = ",".join("pqrs"[: 2 + len(kernel)]), f"<{attributes}>" if attributes else ""
    text = f"g (float[{shape}] x) => (float[{out}] y) <float[{weight}] w> {{ y = Conv{shown}(x, w) }}"
    assert in_blocks(parse(text).graph.outputs[0]) == blocks


def piece(text: str, name: str, shapes: Mapping[str, Shape], *, fused: bool = True) -> Piece:
    model = parse(text)
    node = next(node for node in model.graph if node.outputs[0].name == name)
    found = cut(with_fused([node]) if fused else [node], node, shapes, 20)
    assert isinstance(found, Piece)
    return found


def test_a_piece_stands_between_convolutions_where_its_layer_does() -> None:
    text = CHAIN.format(out="1,8,12,12", body="k = Conv(h, w)  r = Relu(k)  y = Conv(r, b)")
    found = piece(text, "k", {"h": (1, 32, 14, 14), "k": (1, 32, 12, 12), "r": (1, 32, 12, 12)})
    assert [node.op_type for node in found.model.graph] == ["Conv", "Conv", "Relu", "Conv", "GlobalAveragePool"]
    assert [ASIDE in (node.name or "") for node in found.model.graph] == [True, False, False, True, True]
    assert found.model.graph.inputs[0].shape == (1, 1, 14, 14)
    assert found.model.graph.node(1) is found.node


def test_the_sum_and_the_activation_that_are_fused_belong_to_a_piece() -> None:
    body = "k = Conv<pads=[1,1,1,1]>(h, w)  m = Add(h, k)  r = Relu(m)  y = Tanh(r)"
    text = CHAIN.format(out="1,32,14,14", body=body)
    shapes = dict.fromkeys("hkmry", (1, 32, 14, 14))
    ops = [node.op_type for node in piece(text, "k", shapes).model.graph]
    assert ops == ["Conv", "Conv", "Add", "Relu"]
    alone = [node.op_type for node in piece(text.replace("Add(h, k)", "Add(k, k)"), "k", shapes).model.graph]
    assert alone == ["Conv", "Conv"]


def test_what_a_piece_is_called_says_all_that_decides_its_time() -> None:
    shapes: dict[str, Shape] = {"x": (1, 4, 5, 5), "y": (1, 3, 5, 5)}
    key = piece(POINT, "y", shapes).key
    assert key == "layer opset 20 Conv<>(0:[1, 4, 5, 5], 1:[3, 4, 1, 1])"
    same = POINT.replace("x", "other").replace(" w", " weight")
    assert piece(same, "y", {"other": (1, 4, 5, 5), "y": (1, 3, 5, 5)}).key == key
    assert piece(POINT, "y", {"x": (2, 4, 5, 5), "y": (2, 3, 5, 5)}).key != key
    assert piece(POINT.replace("Conv(", "Conv<dilations=[2,2]>("), "y", shapes).key != key


def test_shapes_that_are_not_known_make_no_piece() -> None:
    model = parse(POINT)
    node = model.graph.node(0)
    assert cut([node], node, {"y": (1, 3, 5, 5)}, 20) == "the shape of 'x' is not known"
    assert cut([node], node, {"x": (1, 4, 5, 5)}, 20) == "the shape of 'y' is not known"


def test_a_layer_between_convolutions_is_not_charged_for_reorderings() -> None:
    """By the nodes that ONNX Runtime builds: none but the layer's own has a time that counts."""
    text = CHAIN.format(out="1,8,12,12", body="k = Conv(h, w)  y = Conv(k, b)")
    found = piece(text, "k", {"h": (1, 32, 14, 14), "k": (1, 32, 12, 12)})
    end = found.model.graph.outputs[0].name
    cost = part_costs([found.model], CPU, 0.0)[0][end]
    assert cost.before == 0.0
    assert cost.kernel > 0.0


WIDE = """g (float[1,16,40,40] x) => (float[1,1,40,40] y) <float[1,16,9,9] w>
    { y = Conv<pads=[4,4,4,4]>(x, w) }"""


def test_what_is_many_times_as_fast_is_taken_by_the_clock() -> None:
    """One output channel in a block of 16: measured 5 to 14 times as fast, so that noise does not decide."""
    model = parse(WIDE)
    (change,) = run_pass(ConvertLayer(), model)
    assert change.what.startswith("few-outputs-")
    assert [node.op_type for node in model.graph] == ["Conv", "DepthToSpace"]
    assert_same_outputs(parse(WIDE), model)


@pytest.mark.slow
@pytest.mark.skipif(not BASIC_PITCH.exists(), reason=f"no {BASIC_PITCH}; set ONNXOPT_SHARED")
def test_a_real_network_whose_images_have_one_channel() -> None:
    """basic-pitch ends in convolutions to one channel: 1.4 times as fast as a whole on AVX512."""
    before = files.load(BASIC_PITCH)
    model = before.clone()
    changes = run_pass(ConvertLayer(), model)
    assert len([change for change in changes if change.what.startswith("few-outputs-")]) >= 2
    feeds = random_samples(before, CPU, {}).first()
    compare_outputs(*(Session(one, CPU, optimize=False).run(feeds) for one in (before, model)), rtol=1e-4)


def test_what_was_decided_once_is_decided_so_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(cache.OFF, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(kept.ForeignLoad, "share", lambda self: 0.0)
    first, second = parse(TWO), parse(TWO)
    ConvertLayer().run(first, HERE)

    def again(*_: object) -> None:
        raise AssertionError("timed again")

    monkeypatch.setattr(kept, "part_costs", again)
    ConvertLayer().run(second, HERE)
    assert files.to_bytes(first) == files.to_bytes(second)


def test_the_model_of_which_it_was_given_a_clone_stays() -> None:
    model = parse(TWO)
    before = files.to_bytes(model)
    assert run_pass(ConvertLayer(choose="always"), model.clone())
    assert files.to_bytes(model) == before
    np.testing.assert_array_equal(len(model.graph), 3)
