"""Which splits are taken, what they cost, and how long they take."""

import itertools
import math
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxopt.core import Context
from onnxopt.layers import Layer, Weight, weights
from onnxopt.macs import node_macs
from onnxopt.passes.factorize import costs, timing
from onnxopt.passes.factorize.candidates import Ways, some, ways
from onnxopt.passes.factorize.fit import fitted
from onnxopt.passes.factorize.limits import int8_limit
from onnxopt.passes.factorize.ranks import Choice, cheapest, within
from onnxopt.passes.factorize.split import FORMS, Shape, Split, axes_of, places, rows_read
from onnxopt.passes.factorize.writing import write
from onnxopt.stopwatch import Cost
from onnxopt.target import Target
from onnxopt.testing import assert_same_outputs, parse

CPU = Context(Target())
EVERY = settings(derandomize=True, deadline=None, database=None, max_examples=150)
PRODUCT = ((), ())


def rank(number: int) -> Split:
    return Split(PRODUCT, (number,))


# --- within a budget ---

choice = st.tuples(st.integers(1, 9), st.integers(0, 20))
layer_choices = st.tuples(st.integers(5, 10), st.lists(choice, max_size=4))


def choices(drawn: list[tuple[int, list[tuple[int, int]]]]) -> list[list[Choice]]:
    return [
        [Choice(None, float(full), 0.0), *(Choice(rank(i + 1), float(c), float(x)) for i, (c, x) in enumerate(many))]
        for full, many in drawn
    ]


@EVERY
@given(st.lists(layer_choices, min_size=1, max_size=4), st.floats(0, 1))
def test_a_budget_is_met_wherever_it_can_be(drawn: list[tuple[int, list[tuple[int, int]]]], share: float) -> None:
    many = choices(drawn)
    total = sum(one[0].cost for one in many)
    taken = within(many, share * total, total)
    assert all(one in of for one, of in zip(taken, many, strict=True))
    least = sum(min(one.cost for one in of) for of in many)
    assert sum(one.cost for one in taken) <= max(share * total, least) + 1e-9


@EVERY
@given(st.lists(layer_choices, min_size=1, max_size=4), st.floats(0, 1))
def test_nothing_as_cheap_loses_less_than_the_hull(
    drawn: list[tuple[int, list[tuple[int, int]]]], share: float
) -> None:
    """Against all combinations: the loss is at most that of the best, and of the step over the budget."""
    many = choices(drawn)
    total = sum(one[0].cost for one in many)
    taken = within(many, share * total, total)
    budget = max(share * total, sum(one.cost for one in taken))
    best = min(
        sum(one.loss for one in mix)
        for mix in itertools.product(*many)
        if sum(one.cost for one in mix) <= budget + 1e-9
    )
    slack = max((one.loss for of in many for one in of), default=0.0)
    assert sum(one.loss for one in taken) <= best + slack


def test_what_is_best_for_the_whole_is_taken() -> None:
    many = [
        [Choice(None, 10, 0), Choice(rank(1), 5, 1.0), Choice(rank(2), 8, 0.1)],
        [Choice(None, 10, 0), Choice(rank(1), 5, 0.2), Choice(rank(2), 8, 0.15)],
    ]
    expected = {1.0: (None, None), 0.75: (None, 1), 0.65: (2, 1), 0.5: (1, 1), 0.1: (1, 1)}
    for share, wanted in expected.items():
        taken = within(many, share * 20, 20)
        assert tuple(one.split and one.split.between[0] for one in taken) == wanted, share


def test_a_loss_that_is_not_finite_is_never_taken() -> None:
    for bad in (Choice(rank(1), 1, math.inf), Choice(rank(1), math.inf, 0.0), Choice(rank(1), 1, math.nan)):
        assert within([[Choice(None, 10, 0), bad]], 5, 10) == [Choice(None, 10, 0)]


# --- by the error of a layer ---

MORE = [Choice(None, 10, 0), *(Choice(rank(r), r, loss) for r, loss in ((2, 0.5), (4, 0.02), (6, 0.009), (8, 0.001)))]


def test_the_cheapest_that_loses_little_enough_is_taken() -> None:
    for most, wanted in ((0.6, 2), (0.02, 4), (0.01, 6), (0.001, 8), (0.0005, None)):
        found = cheapest(Ways(None, {}, []), MORE, most)
        assert (found and found.between[0]) == wanted


def test_no_more_is_lost_than_the_noise() -> None:
    for falls, most, wanted in (([7], 0.02, 8), ([7], 0.6, 8), ([4, 1, 9], 0.4, 4), ([9], 0.02, 4), ([3], 0.02, 4)):
        found = cheapest(Ways(None, {}, falls), MORE, most)
        assert found is not None
        assert found.between == (wanted,)


def test_ranks_are_found_where_noise_begins() -> None:
    """Rank 5 and one per cent of noise, whatever may be lost: at 10 % of the variance three components would do."""
    rng = np.random.default_rng(0)
    weight = product_of(30, 40)
    low = rng.normal(size=(40, 5)) @ rng.normal(size=(5, 30))
    noisy = low + 0.01 * np.linalg.norm(low) / math.sqrt(low.size) * rng.normal(size=low.shape)
    vars(weight)["rows"] = noisy.astype(np.float32)
    found = ways(weight, FORMS, 16, lambda split: True, None, None)
    assert found.falls == [5]
    many = [Choice(None, 1e9, 0), *(Choice(split, split.between[0], loss) for split, loss in found.losses.items())]
    for most in (0.1, 0.01, 1e-3):
        assert cheapest(found, many, most) == rank(5)
    assert found.losses[rank(5)] < 1e-4
    assert found.losses[rank(4)] > 1e-2


# --- what splits there are, and what they cost ---


def only(model: ir.Model) -> Weight:
    (found,) = weights(model)[0]
    return found


def product_of(inputs: int, outputs: int, rows: str = "n") -> Weight:
    sides = f"(float[{rows},{inputs}] x) => (float[{rows},{outputs}] y)"
    return only(parse(f"g {sides} <float[{inputs},{outputs}] w> {{ y = MatMul(x, w) }}"))


def convolution(kernel: str, attributes: str, size: str, outputs: int, inputs: int) -> ir.Model:
    spatial = ",".join("pqr"[: size.count(",") + 1])
    return parse(
        f"""g (float[2,{inputs},{size}] x) => (float[2,{outputs},{spatial}] y) <float[{outputs},{inputs},{kernel}] w>
        {{ y = Conv{attributes}(x, w) }}"""
    )


def conv(kernel: str = "3,3", size: str = "9,7") -> Weight:
    return only(convolution(kernel, "", size, 32, 32))


def test_a_convolution_has_three_forms_and_a_product_one() -> None:
    found = ways(conv(), FORMS, 8, lambda split: True, None, None)
    assert {split.form for split in found.losses} == set(FORMS)
    assert all(size % 8 == 0 for split in found.losses for size in split.between)
    assert {split.form for split in ways(product_of(6, 5), FORMS, 8, lambda split: True, None, None).losses} == {"svd"}
    assert {split.form for split in ways(conv("1,1"), FORMS, 8, lambda split: True, None, None).losses} == {"svd"}
    assert {split.form for split in ways(conv("3", size="9"), FORMS, 8, lambda split: True, None, None).losses} == {
        "svd",
        "tucker",
    }


@pytest.mark.parametrize("forms", [("svd",), ("tucker",), ("separable", "svd")])
def test_only_the_forms_that_are_asked_for(forms: tuple[str, ...]) -> None:
    assert {split.form for split in ways(conv(), forms, 8, lambda split: True, None, None).losses} == set(forms)


def test_what_a_split_is_said_to_lose_is_about_what_it_loses() -> None:
    """A little less, for P is fitted to one rank of the outputs for all, and in the end to that which is taken."""
    weight = conv()
    found = ways(weight, FORMS, 8, lambda split: sum(split.between) in (16, 24), None, None)
    assert len(found.losses) > 5
    for split, loss in found.losses.items():
        off = weight.rows - fitted(weight, split, None).rows
        assert 0.9 * loss < float((off**2).sum() / (weight.rows**2).sum()) < 1.001 * loss


GEOMETRY = {
    "3x3": ("3,3", "<pads=[1,1,1,1]>", "9,7"),
    "with strides": ("3,3", "<strides=[2,3], pads=[1,0,0,2]>", "9,7"),
    "padding itself": ("3,3", '<auto_pad="SAME_UPPER", strides=[2,1]>', "9,7"),
    "dilated": ("3,2", "<dilations=[2,3]>", "9,7"),
    "1x1 with strides": ("1,1", "<strides=[2,3]>", "9,7"),
    "one axis": ("3,1", "<strides=[2,2], pads=[1,0,1,0]>", "9,7"),
    "one dimension": ("3", "<strides=[2]>", "9"),
    "three dimensions": ("3,1,2", "<strides=[1,2,2]>", "5,6,4"),
}


@pytest.mark.parametrize(("kernel", "attributes", "size"), GEOMETRY.values(), ids=GEOMETRY.keys())
@pytest.mark.parametrize("form", FORMS)
def test_a_written_split_computes_its_product_and_costs_what_was_said(
    kernel: str, attributes: str, size: str, form: str
) -> None:
    model = convolution(kernel, attributes, size, 6, 5)
    feeds = {"x": np.zeros((2, 5, *map(int, size.split(","))), np.float32)}
    shape, at = Shape.of(only(model).layers[0]), places(only(model).layers[0], feeds["x"].shape)
    assert shape.macs(None, *at) == sum(node_macs(model, feeds))
    for axes in axes_of(form, shape):
        split = Split(axes, (3, 4)[: len(axes) - 1])
        written, dense = model.clone(), model.clone()
        found = fitted(only(model), split, None)
        labels = write(written, only(written), split, found.kept)
        only(dense).write(found.rows)
        assert labels == [["y/rank0", "y/rank1", "y"][-len(axes) :] if len(axes) == 3 else ["y/rank0", "y"]]
        assert sum(node_macs(written, feeds)) == shape.macs(split, *at)
        assert [value.shape.numpy() for value in written.graph.initializers.values()] == shape.weights(split)
        assert shape.numbers(split) == sum(math.prod(one) for one in shape.weights(split))
        assert_same_outputs(dense, written)


def test_some_are_spread_evenly_from_end_to_end() -> None:
    assert some([], 3) == []
    assert some([7], 3) == [7]
    assert some(range(10), 20) == list(range(10))
    assert some(range(0, 101, 10), 3) == [0, 50, 100]


def test_int8_pays_only_where_products_are_wide() -> None:
    limits = {
        (384, 384): 0.3,
        (384, 1536): 0.3,
        (768, 768): 0.6,
        (768, 3072): 0.7,
        (3072, 768): 0.7,
    }
    for (inputs, outputs), limit in limits.items():
        assert int8_limit(product_of(inputs, outputs), rows=128) == limit
        assert int8_limit(product_of(inputs, outputs), rows=1) == 0.9
    assert int8_limit(conv(), rows=128) == 0


def test_rows_are_the_places_of_what_is_made() -> None:
    layer = only(convolution("3,3", "<strides=[2,3]>", "9,7", 6, 5)).layers[0]
    assert rows_read(layer, (2, 5, 9, 7)) == 2 * 4 * 2
    assert rows_read(product_of(6, 5, "n,t").layers[0], (3, 4, 6)) == 12


# --- how long they take ---

TWO = """g (float[1,32,9,9] x) => (float[1,32,9,9] y) <float[32,32,3,3] v, float[32,32,3,3] w>
{ h = Conv<pads=[1,1,1,1]>(x, v)  i = Relu(h)  y = Conv<pads=[1,1,1,1]>(i, w) }"""


class Clock:
    """In place of kernels: seconds by rule, and which parts were asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def costs(self, parts: Mapping[str, ir.Model], target: Target, seconds: float) -> dict[str, Cost]:
        self.asked += parts
        return {key: Cost(9.0, float(sum(node_macs(part, self.feeds(part)))), 9.0) for key, part in parts.items()}

    @staticmethod
    def feeds(part: ir.Model) -> dict[str, np.ndarray]:
        (x,) = part.graph.inputs
        assert x.shape is not None
        return {"x": np.zeros(x.shape.numpy(), np.float32)}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(timing, "costs", found.costs)
    monkeypatch.setattr(timing, "run_seconds", lambda *_: 1e7)
    return found


def test_some_ranks_are_timed_and_the_others_lie_between(clock: Clock) -> None:
    model = parse(TWO)
    found = weights(model)[0]
    every = [ways(one, FORMS, 2, lambda split: max(split.between) < 32, None, None) for one in found]
    shapes: dict[Layer, tuple[int, ...]] = {layer: (1, 32, 9, 9) for one in found for layer in one.layers}
    timed = timing.seconds(model, every, shapes, CPU)
    assert timed.total == 1e7
    assert (
        len(clock.asked) == len(set(clock.asked)) == 1 + 4 + 4 + 9 + 4
    )  # as it is, svd, tucker of one and two, separable
    counted = costs.macs(model, shapes, CPU)
    for one in every:
        assert timed.of(one.weight, None) == counted.of(one.weight, None)
        for split in one.losses:
            if len(split.between) == 1:  # of two ranks the cost has a term with both, which is linear in each
                assert timed.of(one.weight, split) == pytest.approx(counted.of(one.weight, split))
            else:
                assert timed.of(one.weight, split) == pytest.approx(counted.of(one.weight, split), rel=1e-6)


def test_what_does_not_run_alone_is_never_taken(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "costs", lambda *_: {})
    model = parse(TWO)
    found = weights(model)[0]
    every = [ways(one, ("svd",), 8, lambda split: True, None, None) for one in found]
    shapes = {layer: (1, 32, 9, 9) for one in found for layer in one.layers}
    timed = timing.seconds(model, every, shapes, CPU)
    assert all(timed.of(one.weight, split) == math.inf for one in every for split in one.losses)
    assert timed.of(found[0], None) == 0


@pytest.mark.parametrize("opset", [9, 20])
def test_real_parts_run(opset: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "SECONDS", 0.01)
    monkeypatch.setattr(timing, "WHOLE_SECONDS", 0.01)
    model = parse(
        """g (float[1,16,9,9] x) => (float[1,5] y) <float[16,16,3,3] v, float[784,5] w, float[5] b>
        { h = Conv(x, v)  f = Flatten(h)  y = Gemm(f, w, b) }""",
        opset=opset,
    )
    found = weights(model)[0]
    every = [ways(one, FORMS, 4, lambda split: True, None, None) for one in found]
    shapes = costs.read_shapes(model, found, CPU)
    timed = timing.seconds(model, every, shapes, CPU)
    assert 0 < timed.total < 1
    for one in every:
        assert 0 < timed.of(one.weight, None) < 1
        assert all(0 < timed.of(one.weight, split) < 1 for split in one.losses)


def test_bytes_count_a_weight_once_and_macs_each_layer() -> None:
    model = parse(
        """g (float[n,8] x) => (float[n,8] y) <float[8,8] w> { h = MatMul(x, w)  i = Relu(h)  y = MatMul(i, w) }"""
    )
    found = weights(model)[0]
    shapes = dict.fromkeys(found[0].layers, (3, 8))
    by_bytes, by_macs = costs.numbers(model), costs.macs(model, shapes, CPU)
    assert by_bytes.total == by_bytes.of(found[0], None) == 4 * 64
    assert by_bytes.of(found[0], rank(2)) == 4 * 32
    assert by_macs.of(found[0], None) == 2 * 3 * 64
    assert by_macs.share(found[0], rank(2)) == by_bytes.share(found[0], rank(2)) == 0.5
