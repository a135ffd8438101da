"""Layer by layer: what was planned, what runs, what passes said."""

import numpy as np
import onnx_ir as ir
import pytest

from onnxopt.core import Change, Context, Exactness, Refusal
from onnxopt.passes.quantize.quantize_int8 import QuantizeInt8
from onnxopt.pipeline import Outcome, Step
from onnxopt.report.layerwise import MOST, Layer, Layers, Side, joined, layers
from onnxopt.samples import random_samples
from onnxopt.stopwatch import node_kernels, node_seconds
from onnxopt.target import Target

BEFORE = Side({"c": "Conv", "r": "Relu", "x": "Exp"}, {"c": "Conv", "x": "Exp"}, {"c": 2e-3, "x": 1e-4}, 1e-5)
AFTER = Side({"c": "Conv", "c/dq": "DequantizeLinear"}, {"c": "QLinearConv"}, {"c": 1e-3}, 2e-5)


def said(outcome: Outcome, *items: Change | Refusal, words: str = "int8") -> Step:
    changes = tuple(item for item in items if isinstance(item, Change))
    return Step(words, Exactness.LOSSY, outcome, "", 0.1, changes, tuple(i for i in items if isinstance(i, Refusal)))


def rows(*steps: Step) -> dict[str, Layer]:
    return {row.name: row for row in joined(BEFORE, AFTER, steps).rows}


def test_a_layer_has_both_kernels_and_both_times() -> None:
    found = rows()
    assert (found["c"].kernel_before, found["c"].kernel) == ("Conv", "QLinearConv")
    assert (found["c"].seconds_before, found["c"].seconds) == (2e-3, 1e-3)
    assert (found["x"].planned, found["x"].kernel) == (None, None)


def test_what_has_no_time_and_of_which_nothing_was_said_is_counted() -> None:
    found = joined(BEFORE, AFTER, ())
    assert [row.name for row in found.rows] == ["c", "x"]
    assert (found.left_out, found.rest_before, found.rest) == (2, 1e-5, 2e-5)


def test_the_plan_is_that_of_the_pass_that_was_kept() -> None:
    kept, refused = (Change("c", "in int8", kernel=kernel) for kernel in ("QLinearConv", "Other"))
    assert rows(said(Outcome.REFUSED, refused))["c"].planned == "Conv"
    found = rows(said(Outcome.KEPT, kept), said(Outcome.REFUSED, refused))["c"]
    assert (found.planned, found.changes) == ("QLinearConv", ("int8: in int8",))


def test_a_plan_that_onnxruntime_did_not_follow_is_seen() -> None:
    step = said(Outcome.KEPT, Refusal("x", "ONNX Runtime does not fuse it", "QGemm"))
    assert rows(step)["x"].planned == "QGemm"


def test_refusals_of_all_passes_are_told_each_once() -> None:
    steps = [said(Outcome.REFUSED, Refusal("r", "slow")), said(Outcome.NOTHING, Refusal("r", "slow"), words="other")]
    assert rows(*steps)["r"].refusals == ("int8: slow",)


def test_noise_becomes_decibels() -> None:
    assert rows(said(Outcome.KEPT, Refusal("c", "loud", noise=1e-3)))["c"].sqnr_db == pytest.approx(30)
    assert rows(said(Outcome.KEPT, Change("c", "", noise=0.0)))["c"].sqnr_db == pytest.approx(300)
    assert rows()["c"].sqnr_db is None


def test_of_very_many_layers_the_slowest_stay_in_their_order() -> None:
    names = [f"n{i}" for i in range(MOST + 10)]
    side = Side(dict.fromkeys(names, "Exp"), {}, {name: 1.0 + i for i, name in enumerate(names)}, 0.0)
    found = joined(side, side, ())
    assert [row.name for row in found.rows] == names[10:]
    assert found.left_out == 10


@pytest.fixture
def int8(conv_net: ir.Model) -> tuple[ir.Model, list[Change | Refusal]]:
    model = conv_net.clone()
    context = Context(Target(), random_samples(conv_net, Target(), {}, count=8, seed=0))
    found = QuantizeInt8(placement="everywhere", noise=0.9, rounding="nearest").run(model, context)
    return model, [item for item in found if isinstance(item, (Change, Refusal))]


def test_int8_says_the_kernel_it_wants_and_the_noise_it_measured(int8) -> None:
    changes = [item for item in int8[1] if isinstance(item, Change)]
    assert "QLinearConv" in {change.kernel for change in changes}
    measured = [item for item in int8[1] if item.noise is not None]
    assert measured
    assert all(0 < (item.noise or 0) < 1 for item in measured)
    assert changes[0].to_dict()["kernel"] == changes[0].kernel


def test_integer_kernels_are_known_by_the_layers_they_were_made_from(int8, conv_net: ir.Model) -> None:
    """ONNX Runtime writes a number behind their names."""
    model, found = int8
    wanted = {item.node: item.kernel for item in found if isinstance(item, Change)}
    built = node_kernels(model, Target())
    assert wanted.items() <= built.items()
    feeds = random_samples(conv_net, Target(), {}, count=1, seed=0).first()
    seconds, rest = node_seconds(model, feeds, Target(), seconds=0.2)
    assert wanted.keys() <= seconds.keys()
    assert rest >= 0


def test_two_models_are_timed(int8, conv_net: ir.Model) -> None:
    model, items = int8
    feeds = {"x": np.zeros((1, 3, 8, 8), np.float32)}
    found = layers(conv_net, model, [said(Outcome.KEPT, *items)], feeds, Target())
    assert isinstance(found, Layers)
    chosen = [row for row in found.rows if row.planned == "QLinearConv"]
    assert chosen
    assert all(row.kernel == "QLinearConv" and row.op == "Conv" for row in chosen)
    assert {row.op for row in found.rows} >= {"Gemm"}
