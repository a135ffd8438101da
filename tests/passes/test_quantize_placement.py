"""Placement of int8, against an exhaustive search."""

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from onnxopt.graph import inferred
from onnxopt.passes.quantize.int8.chains import FLOAT_OUTPUT, MOVES, Chains, data_inputs, find
from onnxopt.passes.quantize.placing.kernel_costs import Costs, Form
from onnxopt.passes.quantize.placing.placement import WORTH, Placement, form
from onnxopt.stopwatch import Cost
from onnxopt.testing import parse

EXAMPLES = settings(
    derandomize=True, deadline=None, max_examples=60, database=None, phases=[Phase.explicit, Phase.generate]
)
CLOSE = {"rel": 1e-6, "abs": 1e-6}
"""A cut is exact on whole numbers of 2**-28 of all seconds."""
ISLANDS = """g (float[1,4,2,2] x) => (float[1,4,2,2] y) <float[4,4,1,1] w>
{ a = Conv(x, w)  s = Tanh(a)  b = Conv(s, w)  t = Tanh(b)  y = Conv(t, w) }"""


def chains_of(text: str) -> Chains:
    model = parse(text, opset=17)
    return find(model.graph, inferred(model))


def inside(chains: Chains) -> list[ir.Node]:
    """Layers and members in the order of the graph."""
    graph = next(iter(chains.layers)).graph
    assert graph is not None
    return [node for node in graph if node in chains.layers or node in chains.members]


def named(chains: Chains, **by_output: Any) -> dict[ir.Node, Any]:
    """What belongs to each node, by the name of its output."""
    return {node: by_output[node.outputs[0].name or ""] for node in inside(chains) if node.outputs[0].name in by_output}


def costs(in_float: float, in_int8: float, *, ends: float = 0.0, fused: bool = True) -> Costs:
    """Of a layer whose int8 form converts at its ends."""
    return {Form.FLOAT: Cost(0.0, in_float, 0.0), Form.INT8: Cost(ends, in_int8, ends, fused)}


# --- the exhaustive search ---


@st.composite
def networks(draw: st.DrawFn) -> str:
    """A convolution and 2 to 5 operators on images, each of which reads any before it; at times two Gemm at the end."""
    channels, lines, read = {"x": 4, "c": 4}, ["c = Conv(x, w4)"], set[str]()

    def pick(*wanted: int) -> str:
        name = draw(st.sampled_from([name for name, count in channels.items() if count in wanted]))
        read.add(name)
        return name

    for place in range(draw(st.integers(2, 5))):
        op, name = draw(st.sampled_from(["Conv", "Relu", "Add", "Concat", "MaxPool", "Tanh", "Split"])), f"v{place}"
        one = pick(4, 8) if op == "Split" else pick(2, 4) if op == "Concat" else pick(2, 4, 8)
        count = channels[one]
        match op:
            case "Conv":
                lines.append(f"{name} = Conv({one}, w{count})")
                count = 4
            case "Add" | "Concat":
                lines.append(f"{name} = {op}{'<axis=1>' if op == 'Concat' else ''}({one}, {pick(count)})")
                count *= 2 if op == "Concat" else 1
            case "Split":
                lines.append(f"{name}, {name}s = Split<axis=1>({one})")
                count //= 2
                channels[f"{name}s"] = count
            case _:
                lines.append(f"{name} = {op}{'<kernel_shape=[1,1]>' if op == 'MaxPool' else ''}({one})")
        channels[name] = count
    given_out = {name: f"float[1,{count},2,2]" for name, count in channels.items() if name not in read and name != "x"}
    extra = draw(st.sampled_from([name for name in channels if name != "x"]))
    given_out[extra] = f"float[1,{channels[extra]},2,2]"
    if draw(st.booleans()):
        lines.append(f"f = Flatten({pick(4)})  d = Gemm(f, m)  e = Relu(d)  z = Gemm(e, m)")
        given_out["z"] = "float[1,16]"
    outputs = ", ".join(f"{kind} {name}" for name, kind in given_out.items())
    weights = ", ".join(f"float[4,{count},1,1] w{count}" for count in (2, 4, 8))
    return f"g (float[1,4,2,2] x) => ({outputs}) <{weights}, float[16,16] m> {{ {'  '.join(lines)} }}"


def random_costs(chains: Chains, seed: int) -> dict[ir.Node, Costs]:
    """Small whole numbers, so that there are ties; some nodes without costs, some integer forms that are not fused."""
    random = np.random.default_rng(seed)

    def cost(low: int, *, fused: bool) -> Cost:
        before, kernel, after = map(float, random.integers([0, low, 0], [4, 20, 4]))
        return Cost(before, kernel, after, fused)

    return {
        node: {one: cost(5 if one is Form.FLOAT else 0, fused=random.random() < 0.9) for one in Form}
        for node in inside(chains)
        if random.random() < 0.9
    }


def due(chains: Chains, known: Mapping[ir.Node, Costs], quantized: frozenset[ir.Node]) -> float:
    """Seconds of a placement, added up node by node from what the docstrings say; infinite where it must not be."""

    def edge(node: ir.Node, integer: bool, end: str) -> float:
        return getattr(known[node][form(known[node]) if integer else Form.FLOAT], end) if node in known else 0.0

    def source(value: ir.Value) -> ir.Node | None:
        producer = value.producer()
        if value not in chains.born or producer is None:
            return None
        return producer.inputs[0].producer() if producer in chains.clips else producer  # type: ignore[union-attr]

    every, total = inside(chains), 0.0
    into: dict[ir.Value, float] = {}  # one conversion for all readers, with the time that the last of them has measured
    converted: set[ir.Value] = set()
    for node in every:
        integer = node in quantized
        data = {node.inputs[index] for index in data_inputs(node)}
        own = known[node][form(known[node]) if integer else Form.FLOAT] if node in known else Cost(0.0, 0.0, 0.0)
        total += own.kernel if own.fused or not integer else math.inf
        for value in data:
            producer = source(value)
            meets = producer is not None and (producer in quantized) != integer
            from_float = edge(producer, False, "after") / len(producer.outputs) if producer is not None else 0.0
            into[value] = edge(node, True, "before") / len(data) + from_float
            if integer and (producer is None or meets):
                converted.add(value)
            if integer and meets and node.op_type in MOVES:
                total = math.inf
            if not integer and meets and producer.op_type not in FLOAT_OUTPUT:
                total += edge(producer, True, "after") / len(producer.outputs) + edge(node, False, "before") / len(data)
            if not integer and producer is None:
                total += edge(node, False, "before") / len(data)
        for value in (value for value in chains.born if source(value) is node):
            outside = {use.node for use in value.uses()} - set(every)
            back = len(outside) + value.is_graph_output()
            total += (back if integer else min(back, 1)) * edge(node, integer, "after") / len(node.outputs)
    return total + sum(into[value] for value in converted)


def every_placement(chains: Chains, known: Mapping[ir.Node, Costs]) -> dict[frozenset[ir.Node], float]:
    nodes = inside(chains)
    sets = (itertools.compress(nodes, chosen) for chosen in itertools.product([0, 1], repeat=len(nodes)))
    return {one: due(chains, known, one) for one in map(frozenset, sets)}


@EXAMPLES
@given(networks(), st.integers(0, 2**32))
def test_the_cut_is_the_best_of_all_placements(text: str, seed: int) -> None:
    chains = chains_of(text)
    known = random_costs(chains, seed)
    placement, table = Placement(chains, known), every_placement(chains, known)
    for quantized, seconds in table.items():
        assert placement.seconds(quantized) == pytest.approx(seconds)
    plan = placement.fastest()
    assert plan.seconds == pytest.approx(min(table.values()), **CLOSE)
    assert table[plan.quantized - chains.clips] == pytest.approx(plan.seconds)


@EXAMPLES
@given(networks(), st.integers(0, 2**32), st.floats(0, 1))
def test_a_noise_budget_is_kept_as_well_as_prices_can(text: str, seed: int, share: float) -> None:
    chains = chains_of(text)
    known, random = random_costs(chains, seed), np.random.default_rng(seed)
    noise = {node: float(random.integers(0, 6)) for node in chains.layers}
    budget = share * sum(noise.values())

    def loud(quantized: frozenset[ir.Node]) -> float:
        return sum(one for node, one in noise.items() if node in quantized)

    plan = Placement(chains, known).fastest(noise, budget)
    assert loud(plan.quantized) <= budget
    table = every_placement(chains, known)
    seconds, heard = np.array([*table.values()]), np.array([*map(loud, table)])
    for price in (0.0, *np.geomspace(1e-3, 1e3, 40)):
        best = np.argmin(seconds + price * heard)
        assert heard[best] > budget or plan.seconds <= seconds[best] + 1e-4


@pytest.mark.parametrize("allowed", range(4))
def test_of_layers_with_the_same_noise_those_that_gain_most_are_quantized(allowed: int) -> None:
    chains = chains_of(ISLANDS)
    known = named(chains, a=costs(10, 6), b=costs(10, 2), y=costs(10, 4))
    plan = Placement(chains, known).fastest(dict.fromkeys(chains.layers, 0.1), 0.1 * allowed + 0.01)
    assert {node.outputs[0].name for node in plan.quantized} == {*["b", "y", "a"][:allowed]}
    assert plan.seconds == pytest.approx(30 - sum([8, 6, 4][:allowed]))


def test_a_noise_budget_is_kept_where_no_cost_is_known() -> None:
    chains = chains_of(ISLANDS)
    plan = Placement(chains, {}).fastest(dict.fromkeys(chains.layers, 0.1), 0.2)
    assert len(plan.quantized) <= 2


# --- single rules ---


def test_where_it_makes_no_difference_a_layer_is_in_int8() -> None:
    chains = chains_of(ISLANDS)
    known = dict.fromkeys(chains.layers, costs(8, 4, ends=2))
    assert Placement(chains, known).fastest().quantized == {*chains.layers}
    known = dict.fromkeys(chains.layers, costs(8, 4, ends=2.25))
    assert Placement(chains, known).fastest().quantized == frozenset()


@pytest.mark.parametrize(("in_int8", "where"), [(1.0, {"a", "k", "y"}), (20.0, set())])
def test_what_has_no_cost_goes_with_its_neighbours(in_int8: float, where: set[str]) -> None:
    chains = chains_of("""g (float[1,4,2,2] x) => (float[1,4,2,2] y) <float[4,4,1,1] w>
    { a = Conv(x, w)  k = MaxPool<kernel_shape=[1,1]>(a)  y = Conv(k, w) }""")
    known = named(chains, a=costs(10, in_int8, ends=1), y=costs(10, in_int8, ends=1))
    plan = Placement(chains, known).fastest()
    assert {node.outputs[0].name for node in plan.quantized} == where


def test_a_form_that_is_not_fused_is_never_taken() -> None:
    chains = chains_of(ISLANDS)
    known = named(chains, a=costs(10, 1, fused=False), b=costs(10, 1), y=costs(10, 1))
    assert {node.outputs[0].name for node in Placement(chains, known).fastest().quantized} == {"b", "y"}


@pytest.mark.parametrize(
    ("share", "fused", "expected"),
    [(WORTH - 0.01, True, Form.TILES), (WORTH + 0.01, True, Form.INT8), (0.1, False, Form.INT8)],
)
def test_weight_zero_point_1_must_be_worth_it(share: float, fused: bool, expected: Form) -> None:
    found = {Form.INT8: Cost(0, 10.0, 0), Form.TILES: Cost(0, 10.0 * share, 0, fused)}
    assert form(found) is expected


def test_weight_zero_point_1_is_the_time_that_counts() -> None:
    chains = chains_of(ISLANDS)
    tiles = {**costs(10, 12), Form.TILES: Cost(0, 6.0, 0)}
    known = named(chains, a=tiles, b=tiles, y=tiles)
    assert Placement(chains, known).fastest().seconds == pytest.approx(18)


def test_a_concatenation_that_goes_back_to_float_takes_its_relu_along() -> None:
    chains = chains_of("""g (float[1,4,2,2] x) => (float[1,8,2,2] y, float[1,16] z) <float[4,4,1,1] w, float[16,16] m>
    { a = Conv(x, w)  k = Concat<axis=1>(x, a)  y = Relu(k)  f = Flatten(a)  z = Gemm(f, m) }""")
    assert {value.name for value in chains.born} == {"a", "f"}
    assert (len(chains.clips), len(Placement(chains, {}).fastest().quantized)) == (0, 3)
