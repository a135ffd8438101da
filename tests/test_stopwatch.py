"""The stopwatch: a graph as ONNX Runtime built it, with given durations, cut into parts."""

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from onnxopt import stopwatch
from onnxopt.stopwatch import Cost, part_costs, run_seconds
from onnxopt.target import Target
from onnxopt.testing import parse

CPU = Target()


def built(nodes: str) -> onnx.GraphProto:
    """A graph of these nodes, each called as its first output; ``w`` is a constant."""
    graph = onnx.parser.parse_graph(
        f"g (float[4] x, float[4] z) => (float[4] y) <float[4] w = {{1,2,3,4}}> {{ {nodes} }}"
    )
    for node in graph.node:
        node.name = node.output[0]
    return graph


def named(text: str) -> ir.Model:
    """A model whose nodes are called as their outputs."""
    model = parse(text)
    for node in model.graph:
        node.name = node.outputs[0].name
    return model


def costs(nodes: str, *outputs: str, **micros: float) -> dict[str, Cost]:
    """The costs of parts where nodes take so many microseconds; exact in floats."""
    return dict(stopwatch._costs(built(nodes), micros, outputs or ("y",)))


PARTS = {
    "a kernel alone": ("y = Relu(x)", {"y": 3}, Cost(0, 3, 0)),
    "conversions at both ends": (
        "q = QuantizeLinear(x, w, w)  c = QLinearConv(q, w)  y = DequantizeLinear(c, w, w)",
        {"q": 2, "c": 5, "y": 1},
        Cost(2, 5, 1),
    ),
    "layouts at both ends": (
        "r = ReorderInput(x)  t = Transpose(r)  c = Conv(t, w)  o = Reshape(c, w)  y = ReorderOutput(o)",
        {"r": 1, "t": 2, "c": 5, "o": 3, "y": 1},
        Cost(3, 5, 4),
    ),
    "a layout between two kernels": (
        "c = Conv(x, w)  t = Transpose(c)  d = Conv(t, w)  y = ReorderOutput(d)",
        {"c": 4, "t": 2, "d": 4, "y": 1},
        Cost(2, 8, 1),
    ),
    "floats within": (
        "q = QuantizeLinear(x, w, w)  d = DequantizeLinear(q, w, w)  c = Conv(d, w)  y = QuantizeLinear(c, w, w)",
        {"q": 2, "d": 1, "c": 9, "y": 1},
        Cost(3, 9, 1, fused=False),
    ),
    "two strands": (
        """q = QuantizeLinear(x, w, w)  r = QuantizeLinear(z, w, w)  s = QLinearAdd(q, r)
        y = DequantizeLinear(s, w, w)""",
        {"q": 2, "r": 3, "s": 4, "y": 1},
        Cost(5, 4, 1),
    ),
    "two strands of several nodes": (
        """q = QuantizeLinear(x, w, w)  r = QuantizeLinear(z, w, w)  t = Transpose(q)  u = Transpose(r)
        s = QLinearAdd(t, u)  y = DequantizeLinear(s, w, w)""",
        {"q": 2, "r": 3, "t": 1, "u": 1, "s": 4, "y": 1},
        Cost(7, 4, 1),
    ),
    "a node that only moves numbers is the kernel where there is no other": (
        "q = QuantizeLinear(x, w, w)  t = Transpose(q)  y = DequantizeLinear(t, w, w)",
        {"q": 2, "t": 5, "y": 1},
        Cost(2, 5, 1),
    ),
    "what ONNX Runtime took away costs nothing": ("y = Identity(x)", {}, Cost(0, 0, 0)),
    "a constant may be read by all": (
        "c = Conv(x, w)  y = Relu(c)  e = Conv(z, w)",
        {"c": 4, "y": 1, "e": 99},
        Cost(0, 5, 0),
    ),
}


@pytest.mark.parametrize(("nodes", "micros", "expected"), PARTS.values(), ids=PARTS.keys())
def test_a_part_is_before_within_and_after(nodes: str, micros: dict[str, float], expected: Cost) -> None:
    assert costs(nodes, **micros) == {"y": expected}


def test_parts_are_told_apart_and_those_of_several_outputs_are_one() -> None:
    found = costs("a = Relu(x)  y = Neg(a)  b, c = Split(z)", "y", "b", "c", a=1, y=2, b=4)
    assert found == {"y": Cost(0, 3, 0), "b": Cost(0, 4, 0), "c": Cost(0, 4, 0)}


def test_what_only_gives_numbers_their_layout_is_not_counted() -> None:
    graph = built("a = Conv(x, w)  y = MaxPool(a)")
    graph.node[0].name = f"{stopwatch.ASIDE}/a"
    assert dict(stopwatch._costs(graph, {f"{stopwatch.ASIDE}/a": 8, "y": 3}, ["y"])) == {"y": Cost(0, 3, 0)}


def test_an_output_that_nothing_gives_costs_nothing() -> None:
    assert costs("y = Relu(x)", "gone", y=3) == {"gone": Cost(0, 0, 0)}


def test_the_time_of_the_profiler_is_taken_off_and_nothing_is_negative() -> None:
    durations = {stopwatch.EMPTY: [9.0, 9.0, 3e-6, 3e-6], "a": [9.0, 9.0, 7e-6, 7e-6], "b": [9.0, 9.0, 1e-6, 1e-6]}
    assert stopwatch._own(durations) == pytest.approx({stopwatch.EMPTY: 1e-6, "a": 5e-6, "b": 0.0})


def test_a_profiler_that_takes_nothing_adds_nothing() -> None:
    assert stopwatch._own({stopwatch.EMPTY: [0.0] * 4, "a": [5e-6] * 4}) == {stopwatch.EMPTY: 0.0, "a": 5e-6}


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [([9, 9, 4, 1, 3, 2], 1.5), ([9, 9, 4, 1, 3], 1), ([9, 9, 4], 4), ([9, 9], 0), ([], 0)],
    ids=["the faster half", "an odd number", "one run", "only warm-up", "none"],
)
def test_a_time_is_the_mean_of_the_faster_half(seconds: list[float], expected: float) -> None:
    assert stopwatch._typical(seconds) == expected


def test_two_parts_are_timed_by_onnx_runtime() -> None:
    models = [
        named(f"""g (float[64,256] x, float[64,256] z) => (float[64,256] y, float[64,256] b) <float[256,256] w>
        {{ y = MatMul(x, w)  a = {op}(z)  b = Softmax(a) }}""")
        for op in ("Tanh", "Erf")
    ]
    before = [len(list(model.graph)) for model in models]
    found = part_costs(models, CPU, 0.0)
    assert [{*costs} for costs in found] == [{"y", "b"}] * 2
    assert all(cost.kernel > 0 and cost.fused for costs in found for cost in costs.values())
    assert all(cost.before == cost.after == 0 for costs in found for cost in costs.values())
    assert [len(list(model.graph)) for model in models] == before


def test_each_profile_has_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime calls profiles after the millisecond in which they begin."""
    folders = []

    class Noted(stopwatch.Session):
        def __init__(self, *words, profile_in, **more):  # type: ignore[no-untyped-def]
            folders.append(profile_in)
            super().__init__(*words, profile_in=profile_in, **more)

    monkeypatch.setattr(stopwatch, "Session", Noted)
    models = [named("g (float[2] x) => (float[2] y) { y = Neg(x) }") for _ in range(3)]
    assert [{*costs} for costs in part_costs(models, CPU, 0.0)] == [{"y"}] * 3
    assert len({*folders}) == 3


def test_durations_of_another_profile_reach_the_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    micros = {"y": 7.0, "b": 3.0, stopwatch.EMPTY: 2.0}
    taken = {name: [value * 1e-6] * 4 for name, value in micros.items()}
    monkeypatch.setattr(stopwatch.Session, "durations", lambda _: taken)
    model = named("""g (float[8,8] x, float[8,8] z) => (float[8,8] y, float[8,8] b) <float[8,8] w>
    { y = MatMul(x, w)  b = Tanh(z) }""")
    (found,) = part_costs([model], CPU, 0.0)
    assert {name: cost.kernel for name, cost in found.items()} == pytest.approx({"y": 6e-6, "b": 2e-6})


@pytest.mark.parametrize(("limit", "runs"), [(0.0, 7), (1e9, 42)])
def test_runs_are_at_least_7_and_at_most_42(limit: float, runs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 0

    class Counted(stopwatch.Session):
        def run(self, feeds):  # type: ignore[no-untyped-def]
            nonlocal count
            count += 1
            return super().run(feeds)

    monkeypatch.setattr(stopwatch, "Session", Counted)
    model = parse("g (float[2] x) => (float[2] y) { y = Neg(x) }")
    assert run_seconds(model, {"x": np.ones(2, np.float32)}, CPU, limit) > 0
    assert count == runs
