"""What planning says and predicts, with given times."""

from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import pytest

from onnxopt.core import Change, Context, Prediction, Refusal
from onnxopt.passes.quantize.int8.chains import Chains
from onnxopt.passes.quantize.placing import planning
from onnxopt.passes.quantize.placing.kernel_costs import Costs, Form
from onnxopt.passes.quantize.quantize_int8 import QuantizeInt8
from onnxopt.samples import random_samples
from onnxopt.stopwatch import Cost
from onnxopt.target import Target
from onnxopt.testing import parse

CPU = Target()
ISLANDS = """g (float[1,4,2,2] x) => (float[1,4,2,2] y) <float[4,4,1,1] w>
{ a = Conv(x, w)  s = Tanh(a)  b = Conv(s, w)  t = Tanh(b)  y = Conv(t, w) }"""
Timed = Callable[..., None]


def costs(in_float: float, in_int8: float, *, ends: float = 0.0, fused: bool = True) -> Costs:
    """Of a layer whose int8 form converts at its ends."""
    return {Form.FLOAT: Cost(0.0, in_float, 0.0), Form.INT8: Cost(ends, in_int8, ends, fused)}


@pytest.fixture
def timings(monkeypatch: pytest.MonkeyPatch) -> Timed:
    """Give nodes these costs, by the names of their outputs, and the model this time."""

    def set_to(whole: float, **by_output: Costs) -> None:
        def kernel_costs(chains: Chains, *_: object) -> dict[ir.Node, Costs]:
            nodes = [*chains.layers, *chains.members]
            return {node: by_output[name] for node in nodes if (name := node.outputs[0].name) in by_output}

        monkeypatch.setattr(planning, "kernel_costs", kernel_costs)
        monkeypatch.setattr(planning, "run_seconds", lambda *_: whole)

    return set_to


def quantize(
    text: str, target: Target = CPU, **options: Any
) -> tuple[ir.Model, list[Change], dict[str, str], list[float]]:
    """The model; what the pass changed, what it refused, and the ratio that it predicts."""
    model = parse(text, opset=17)
    context = Context(target, random_samples(model, CPU, {}, count=4))
    said = QuantizeInt8(**options).run(model, context)
    refused = {item.node: item.why for item in said if isinstance(item, Refusal)}
    changed = [item for item in said if isinstance(item, Change)]
    return model, changed, refused, [item.ratio for item in said if isinstance(item, Prediction)]


def test_what_time_leaves_in_float_is_said_with_its_times(timings: Timed) -> None:
    timings(1.0, a=costs(10e-6, 12e-6, ends=2e-6), b=costs(10e-6, 1e-6, fused=False), y=costs(10e-6, 1e-6))
    _, changed, refused, _ = quantize(ISLANDS)
    assert [change.node for change in changed] == ["y"]
    assert refused == {
        "a": "stays in float: 10 us there, 12 us in int8, and 4 us for conversions at its ends",
        "b": "stays in float: ONNX Runtime does not fuse its form",
    }


def test_what_noise_leaves_in_float_is_said_in_decibel(timings: Timed) -> None:
    timings(1.0, a=costs(10e-6, 12e-6), b=costs(10e-6, 1e-6), y=costs(10e-6, 1e-6))
    _, changed, refused, _ = quantize(ISLANDS, min_sqnr=90.0)
    assert changed == []
    assert refused["a"].startswith("stays in float: 10 us there")
    assert all(refused[name].startswith("stays in float: alone in int8 it leaves ") for name in ("b", "y"))
    assert refused[""] == "no layer gains from int8"


def test_a_share_of_the_noise_leaves_the_layers_that_are_loud_for_what_they_save(timings: Timed) -> None:
    timings(1.0, a=costs(10e-6, 9e-6), b=costs(10e-6, 1e-6), y=costs(10e-6, 1e-6))
    kept = {}
    for share in (1.0, 0.9, 0.5, 0.0):
        _, changed, refused, _ = quantize(ISLANDS, noise=share)
        kept[share] = [change.node for change in changed]
        assert all(why.startswith("stays in float: alone in int8") for name, why in refused.items() if name)
    assert kept[1.0] == ["a", "b", "y"]
    assert "a" not in kept[0.9]
    assert len(kept[0.9]) >= len(kept[0.5]) > len(kept[0.0]) == 0


def test_what_its_neighbours_leave_in_float_is_said(timings: Timed) -> None:
    timings(1.0, a=costs(10e-6, 20e-6, ends=1e-6), y=costs(10e-6, 20e-6, ends=1e-6))
    _, _, refused, _ = quantize("""g (float[1,4,2,2] x) => (float[1,4,2,2] y) <float[4,4,1,1] w>
    { a = Conv(x, w)  k = MaxPool<kernel_shape=[1,1]>(a)  y = Conv(k, w) }""")
    assert refused["k"] == "stays in float: its neighbours do"


@pytest.mark.parametrize(("whole", "ratio"), [(40e-6, 40 / 28), (24e-6, 2.0), (12e-6, 20.0)])
def test_the_prediction_is_the_gain_of_what_is_quantized(timings: Timed, whole: float, ratio: float) -> None:
    timings(whole, a=costs(10e-6, 2e-6, ends=1e-6), b=costs(10e-6, 2e-6, ends=1e-6), y=costs(10e-6, 20e-6))
    _, changed, _, predicted = quantize(ISLANDS)
    assert [change.node for change in changed] == ["a", "b"]
    assert predicted == [pytest.approx(ratio)]


def test_convolutions_whose_tiles_are_faster_get_weight_zero_point_1(timings: Timed) -> None:
    tiles = {**costs(10e-6, 4e-6), Form.TILES: Cost(0, 2e-6, 0)}
    timings(1.0, a=tiles, b=costs(10e-6, 4e-6), y=tiles)
    model, *_ = quantize(ISLANDS)
    weights = [node.inputs[1].producer() for node in model.graph if node.op_type == "Conv"]  # type: ignore[union-attr]
    zeros = [node.inputs[2].const_value.numpy().max() for node in weights]  # type: ignore[union-attr]
    assert zeros == [1, 0, 1]


@pytest.mark.parametrize(
    ("options", "target"),
    [({"placement": "everywhere"}, CPU), ({}, Target(features=frozenset({"avx512_vnni", "amx_int8"})))],
    ids=["everywhere", "another machine"],
)
def test_nothing_is_timed_where_it_would_not_count(
    options: dict[str, str], target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("timed")

    monkeypatch.setattr(planning, "kernel_costs", fail)
    monkeypatch.setattr(planning, "run_seconds", fail)
    _, changed, refused, predicted = quantize(ISLANDS, target, **options)
    assert [change.node for change in changed] == ["a", "b", "y"]
    assert (refused, predicted) == ({}, [])
