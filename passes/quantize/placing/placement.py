"""Which nodes compute in int8, so that the whole takes the least time: a minimum cut of the graph.

Each node takes its own time in float or in int8, and where the two meet, numbers are converted. That sum is the
capacity of a cut, with the nodes in int8 on the one side and those in float on the other, and a cut of least capacity
is found exactly (see ``passes.cut``). Noise has a price in seconds, raised until what is in int8 is quiet enough: the
Lagrangian of the knapsack that asks for the fastest placement within a noise budget.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from onnxopt.passes.cut import least_cut
from onnxopt.passes.quantize.int8.chains import FLOAT_OUTPUT, MOVES, Chains, data_inputs, result
from onnxopt.passes.quantize.placing.kernel_costs import Costs, Form

WORTH = 0.95
"""Weight zero point 1 loses a little accuracy: it must take less than this share of the plain form's time."""
PRICES = 50
"""Prices of noise that are tried."""

Noises = Mapping[ir.Node, float]


@dataclass(frozen=True)
class Plan:
    """A placement.

    Attributes:
        quantized: nodes that compute in int8.
        seconds: of all nodes of the chains, conversions included.
    """

    quantized: frozenset[ir.Node]
    seconds: float


def form(costs: Costs) -> Form:
    """The integer form that is the faster."""
    plain, tiles = costs[Form.INT8], costs.get(Form.TILES)
    return Form.TILES if tiles and tiles.fused and tiles.kernel < WORTH * plain.kernel else Form.INT8


@dataclass
class Placement:
    """The network of which plans are cuts.

    Its places are nodes, a Relu together with what it vanishes into, and values, which are converted to int8 once for
    all their readers.

    Attributes:
        chains: all that can compute in int8.
        costs: of its nodes; what has none is taken to cost nothing, and goes with its neighbours.
        in_float: seconds of each place in float.
        in_int8: the same in int8; infinite where that must not be.
        meet: seconds that are due where the first place is in int8 and the second in float.
    """

    chains: Chains
    costs: Mapping[ir.Node, Costs]
    in_float: list[float] = field(default_factory=list)
    in_int8: list[float] = field(default_factory=list)
    meet: dict[tuple[int, int], float] = field(default_factory=dict)
    _nodes: dict[ir.Node, int] = field(default_factory=dict)
    _values: dict[ir.Value, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Build it, each node after those that it reads."""
        every = {*self.chains.layers, *self.chains.members, *self.chains.clips}
        graph = next((node.graph for node in every if node.graph is not None), None)
        for node in graph or ():
            if node in self.chains.clips:
                self._nodes[node] = self._nodes[_source(self.chains, node)]
            elif node in every:
                self._add(node)

    def fastest(self, noise: Noises | None = None, budget: float = 0.0) -> Plan:
        """The plan of least time whose noise is within the budget.

        Args:
            noise: of each layer, if it alone is in int8; None: there is no budget.
            budget: the sum that is allowed.
        """
        plan = self._cut({})
        if noise is None or _sum(noise, plan) <= budget:
            return plan
        heard = [one for one in noise.values() if one > 0]
        whole = sum(self.in_float) or 1.0
        low, high = 1e-6 * whole / sum(heard), 10 * whole / min(heard)
        best = self._cut({node: high * one for node, one in noise.items()})
        for _ in range(PRICES):
            price = math.sqrt(low * high)
            plan = self._cut({node: price * one for node, one in noise.items()})
            if _sum(noise, plan) > budget:
                low = price
            else:
                high, best = price, min(best, plan, key=lambda one: one.seconds)
        return best

    def seconds(self, quantized: Collection[ir.Node]) -> float:
        """Of all nodes of the chains where these are in int8."""
        read = {value for node in quantized for value in _data(node)}
        places = {self._nodes[node] for node in quantized if node in self._nodes}
        return self._seconds(places | {self._values[value] for value in read if value in self._values})

    def _seconds(self, integer: Collection[int]) -> float:
        pairs = enumerate(zip(self.in_float, self.in_int8, strict=True))
        own = sum(one[1] if place in integer else one[0] for place, one in pairs)
        return own + sum(one for (a, b), one in self.meet.items() if a in integer and b not in integer)

    def _cut(self, price: Noises) -> Plan:
        dear = list(self.in_int8)
        for node, one in price.items():
            dear[self._nodes[node]] += one
        integer = least_cut(dear, self.in_float, self.meet)
        quantized = frozenset(node for node, place in self._nodes.items() if place in integer)
        return Plan(quantized, self._seconds(integer))

    def _add(self, node: ir.Node) -> None:
        costs, in_float, in_int8 = self.costs.get(node), 0.0, 0.0
        if costs is not None:
            in_float = costs[Form.FLOAT].kernel
            integer = costs[form(costs)]
            in_int8 = integer.kernel if integer.fused else math.inf
        in_float += self._elsewhere(node, False)
        place = self._nodes[node] = self._new(in_float, in_int8 + self._elsewhere(node, True))
        for value in _data(node):
            self._read(value, node, place)

    def _read(self, value: ir.Value, node: ir.Node, place: int) -> None:
        """What is due where the node and what it reads are not both in int8 or both in float."""
        count = len(_data(node))
        into, float_into = (self._edge(node, integer, before=True) / count for integer in (True, False))
        once = self._values[value] if value in self._values else self._values.setdefault(value, self._new(0.0, 0.0))
        self.meet[place, once] = math.inf
        source = _source(self.chains, value.producer()) if value in self.chains.born else None
        if source is None:
            self.in_int8[once] = into
            self.in_float[place] += float_into
            return
        producer = self._nodes[source]
        from_float, from_integer = (
            self._edge(source, integer, before=False) / len(source.outputs) for integer in (False, True)
        )
        self.meet[once, producer] = into + from_float
        if node.op_type in MOVES:
            self.meet[place, producer] = math.inf
        if source.op_type not in FLOAT_OUTPUT:  # of a Split, a node may read several values
            self.meet[producer, place] = self.meet.get((producer, place), 0.0) + from_integer + float_into

    def _elsewhere(self, node: ir.Node, integer: bool) -> float:
        """Conversions for readers that never compute in int8, the caller among them: each back to floats by itself."""
        inside = {*self.chains.layers, *self.chains.members}
        spent = 0.0
        for value in [result(self.chains, node), *node.outputs[1:]]:
            if value in self.chains.born:
                readers = len({use.node for use in value.uses()} - inside) + value.is_graph_output()
                count = readers if integer else min(readers, 1)
                spent += count * self._edge(node, integer, before=False) / len(node.outputs)
        return spent

    def _edge(self, node: ir.Node, integer: bool, *, before: bool) -> float:
        """Seconds at the edge of a node; of several outputs, all together."""
        costs = self.costs.get(node)
        if costs is None:
            return 0.0
        cost = costs[form(costs)] if integer else costs[Form.FLOAT]
        return cost.before if before else cost.after

    def _new(self, in_float: float, in_int8: float) -> int:
        self.in_float.append(in_float)
        self.in_int8.append(in_int8)
        return len(self.in_float) - 1


def _data(node: ir.Node) -> list[ir.Value]:
    """What the node computes with, each value once."""
    found = [node.inputs[index] for index in data_inputs(node)]
    return list(dict.fromkeys(value for value in found if value is not None))


def _source(chains: Chains, node: ir.Node | None) -> ir.Node:
    """The node, or that into which it vanishes."""
    while node in chains.clips:
        assert node.inputs[0] is not None
        node = node.inputs[0].producer()
    assert node is not None
    return node


def _sum(noise: Noises, plan: Plan) -> float:
    return sum(one for node, one in noise.items() if node in plan.quantized)
