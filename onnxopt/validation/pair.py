"""Two models beside each other: which value of one stands for which value of the other.

A value stands for another if it has its name and a dtype that a Cast turns into the other's. Where a float value is
also read through a QuantizeLinear-DequantizeLinear pair, what the pair gives stands for it once more: for that, the
reference gets an Identity at the same place. Where names tell little, the order of the operators does.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from onnxopt.graph import inferred, lift, opset, subgraphs, tensor
from onnxopt.opsets import raise_opset

QUANTIZED = "~quantized"
"""After the name of a value: what it is once it went through a QuantizeLinear-DequantizeLinear pair."""
FEW = 0.5
"""With names alone for less than this share of the smaller model's nodes, the order of operators is asked, too."""
Kind = tuple[ir.DataType | None, ir.Shape | None]
"""Dtype and shape, as far as they can be told."""
FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)


@dataclass(frozen=True)
class Match:
    """A value of the reference and the one that stands for it.

    Attributes:
        old, new: their names.
        kinds: their dtypes.
    """

    old: str
    new: str
    kinds: tuple[ir.DataType | None, ir.DataType | None]

    @property
    def floats(self) -> bool:
        """Whether it holds numbers of which an error can be told."""
        return all(kind in FLOATS for kind in self.kinds)


@dataclass(frozen=True)
class Pair:
    """Two models, made ready to be mixed, and their matches in the order in which the new model computes them.

    Attributes:
        old, new: copies: functions inlined, constants as initializers, of one opset where that could be done.
        matches: graph outputs included.
        how: ``names``, or ``names and the order of operators``.
        hindrance: why the two cannot be mixed in one graph; empty where they can.
    """

    old: ir.Model
    new: ir.Model
    matches: tuple[Match, ...]
    how: str
    hindrance: str = ""

    @property
    def inner(self) -> int:
        """Matches that are no outputs of the graph."""
        outputs = {value.name for value in self.old.graph.outputs}
        return sum(match.old not in outputs for match in self.matches)

    def without(self, names: Collection[str]) -> Pair:
        """The same with fewer matches, by the names of the reference; outputs stay."""
        outputs = {value.name for value in self.old.graph.outputs}
        kept = [match for match in self.matches if match.old not in names or match.old in outputs]
        return replace(self, matches=tuple(kept))


def pair(old: ir.Model, new: ir.Model, *, by_name: bool = True) -> Pair:
    """Match the values of two models with the same inputs and outputs."""
    old, new = _ready(old), _ready(new)
    hindrance = _align_opsets(old, new)
    _merge_twins(new)
    matches, how = _matches(old, new, by_name)
    matches += _quantized(old, new, matches)
    found = Pair(old, new, tuple(_ordered(matches, new)), how, hindrance)
    return found.without(_in_cycles(found))


def reads(node: ir.Node) -> Iterator[ir.Value]:
    """Inputs of a node, and what its subgraphs see of the graph around them."""
    yield from (value for value in node.inputs if value is not None)
    for graph in subgraphs(node):
        inner = list(ir.traversal.RecursiveGraphIterator(graph))
        own = {id(value) for one in inner for value in one.outputs}
        for one in (graph, *(deep for node_ in inner for deep in subgraphs(node_))):
            own |= {id(value) for value in (*one.inputs, *one.initializers.values())}
        seen = [value for one in inner for value in one.inputs if value is not None]
        yield from (value for value in (*seen, *graph.outputs) if id(value) not in own)


def values_of(model: ir.Model) -> dict[str, ir.Value]:
    """Results of the nodes of the main graph, and its initializers, by name."""
    found = {value.name: value for node in model.graph for value in node.outputs if value.name}
    return {**found, **{name: value for name, value in model.graph.initializers.items() if name not in found}}


def leaves(value: ir.Value, stops: Collection[str]) -> set[str]:
    """The matched values from which this one is computed, by name: the nearest."""
    found, todo, seen = set(), [value], {id(value)}
    while todo:
        producer = todo.pop().producer()
        for one in reads(producer) if producer is not None else ():
            if id(one) in seen:
                continue
            seen.add(id(one))
            if one.name in stops:
                found.add(one.name)
            else:
                todo.append(one)
    return {name for name in found if name}


def _ready(model: ir.Model) -> ir.Model:
    """A copy without functions, whose constants are initializers that nobody may override."""
    copy = model.clone()
    if copy.functions:
        InlinePass()(copy)
    copy.ir_version = max(copy.ir_version, 4)  # before, an initializer must be an input
    kept = [value for value in copy.graph.inputs if value.name not in copy.graph.initializers]
    copy.graph.inputs.clear()
    copy.graph.inputs.extend(kept)
    for node in list(copy.graph):
        if node.op_type == "Constant":
            lift(node)
    return copy


def _align_opsets(old: ir.Model, new: ir.Model) -> str:
    """Bring both to the same opset, in place; say why where that cannot be."""
    versions = opset(old), opset(new)
    if versions[0] != versions[1]:
        why = raise_opset(old if versions[0] < versions[1] else new, max(versions))
        if why:
            return f"the models have opsets {versions[0]} and {versions[1]}, and {why}"
    return ""


def _merge_twins(model: ir.Model) -> None:
    """Let readers of equal DequantizeLinear nodes behind one QuantizeLinear read the first of them."""
    for node in list(model.graph):
        if node.op_type != "QuantizeLinear":
            continue
        readers = [use.node for use in node.outputs[0].uses() if use.node.op_type == "DequantizeLinear"]
        readers = [reader for reader in readers if reader.graph is model.graph and _same_constants(node, reader)]
        for twin in readers[1:]:
            if not twin.outputs[0].is_graph_output():
                twin.outputs[0].replace_all_uses_with(readers[0].outputs[0])
                model.graph.remove(twin, safe=True)


def _same_constants(quantize: ir.Node, dequantize: ir.Node) -> bool:
    """Whether a pair has one scale and one zero point."""
    for a, b in zip(quantize.inputs[1:], dequantize.inputs[1:], strict=False):
        one, other = tensor(a), tensor(b)
        if a is not b and (one is None or other is None or one.tobytes() != other.tobytes()):
            return False
    return len(quantize.inputs) == len(dequantize.inputs)


def _matches(old: ir.Model, new: ir.Model, by_name: bool) -> tuple[list[Match], str]:
    kinds = _kinds(old), _kinds(new)
    before, after = values_of(old), values_of(new)
    outputs = {value.name for value in old.graph.outputs}
    if not by_name or _accidental(before, after):
        after = {name: value for name, value in after.items() if name in outputs}
    found = {}
    for name, value in after.items():
        inner = value.producer() is not None or before.get(name, value).producer() is not None
        if name in before and inner and not (_only_dequantized(value) and _only_dequantized(before[name])):
            match = Match(name, name, (kinds[0][name][0], kinds[1][name][0]))
            if name in outputs or _fits(kinds[0][name], kinds[1][name]):
                found[name] = match
    fewer = min(sum(1 for _ in old.graph), sum(1 for _ in new.graph))
    if len(found) >= FEW * fewer:
        return list(found.values()), "names"
    used = {match.new for match in found.values()} | {match.old for match in found.values()}
    more = [match for match in _by_order(old, new, kinds) if not {match.old, match.new} & used]
    return [*found.values(), *more], "names and the order of operators" if more else "names"


def _only_dequantized(value: ir.Value) -> bool:
    """Whether it lies between QuantizeLinear and DequantizeLinear, which belong together."""
    producer = value.producer()
    quantized = producer is not None and producer.op_type == "QuantizeLinear" and not value.is_graph_output()
    return quantized and all(use.node.op_type == "DequantizeLinear" for use in value.uses())


def _accidental(before: dict[str, ir.Value], after: dict[str, ir.Value]) -> bool:
    """Whether names are numbers or letters that were given anew: most of the same name come of other operators."""
    both = [
        (before[name].producer(), node)
        for name, value in after.items()
        if name in before and (node := value.producer())
    ]
    told = [one.op_type == other.op_type for one, other in both if one is not None]
    return sum(told) < len(told) / 2


def _fits(old: Kind, new: Kind) -> bool:
    """Whether values of these dtypes and shapes can stand for each other."""
    if old[0] is None or not (old[0] is new[0] or {old[0], new[0]} <= set(FLOATS)):
        return False
    if old[1] is None or new[1] is None:
        return True
    dims = zip(old[1], new[1], strict=False)
    return len(old[1]) == len(new[1]) and all(m == n for m, n in dims if isinstance(m, int) and isinstance(n, int))


def _kinds(model: ir.Model) -> dict[str, Kind]:
    """Dtype and shape of every value of the main graph, by name."""
    twins = inferred(model)
    return {
        value.name: (twin.dtype, twin.shape)
        for value, twin in twins.items()
        if value.name and value.graph is model.graph
    }


def _by_order(old: ir.Model, new: ir.Model, kinds: tuple[dict[str, Kind], dict[str, Kind]]) -> Iterator[Match]:
    """Matches of the first outputs of nodes that stand at the same place in both sequences of operators."""
    nodes = list(old.graph), list(new.graph)
    a, b = ([_key(node) for node in side] for side in nodes)
    for start, other, count in difflib.SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks():
        for i in range(count):
            one, two = nodes[0][start + i], nodes[1][other + i]
            for before, after in zip(one.outputs, two.outputs, strict=False):
                if before.name and after.name and _fits(kinds[0][before.name], kinds[1][after.name]):
                    yield Match(before.name, after.name, (kinds[0][before.name][0], kinds[1][after.name][0]))


def _key(node: ir.Node) -> tuple[object, ...]:
    """Operator, number of inputs, and shapes of the constants."""
    constants = tuple(
        tuple(value.const_value.shape.numpy()) if value is not None and value.const_value is not None else None
        for value in node.inputs
    )
    return node.domain, node.op_type, constants


def _quantized(old: ir.Model, new: ir.Model, matches: list[Match]) -> list[Match]:
    """Matches of what Q-DQ pairs give; the reference gets an Identity for each, and its readers read that."""
    partner = {match.new: match for match in matches}
    makers = {match.old: match for match in matches}
    before, after = values_of(old), values_of(new)
    before |= {value.name or "": value for value in old.graph.inputs}
    after |= {value.name or "": value for value in new.graph.inputs}
    found = []
    for name, value in list(after.items()):
        known = name in partner or any(name == one.name for one in new.graph.inputs)
        source = partner[name].old if name in partner else name
        if not known or source not in before or before[source].dtype not in (None, *FLOATS):
            continue
        for given in _pairs_behind(value):
            uses = [use for use in before[source].uses() if _reads_too(use.node, given, makers, after)]
            if given.name and given.name not in partner and uses:
                identity = ir.node("Identity", [before[source]])
                identity.outputs[0].name = f"{source}{QUANTIZED}"
                old.graph.append(identity)
                for use in uses:
                    use.node.replace_input_with(use.idx, identity.outputs[0])
                kinds = partner[name].kinds if name in partner else (ir.DataType.FLOAT, ir.DataType.FLOAT)
                found.append(Match(f"{source}{QUANTIZED}", given.name, kinds))
                break
    old.graph.sort()
    return found


def _pairs_behind(value: ir.Value) -> Iterator[ir.Value]:
    """What DequantizeLinear gives of QuantizeLinear of this value, in the main graph."""
    for use in value.uses():
        if use.node.op_type == "QuantizeLinear" and use.idx == 0 and use.node.graph is value_graph(value):
            for again in use.node.outputs[0].uses():
                if again.node.op_type == "DequantizeLinear" and again.node.graph is use.node.graph:
                    yield again.node.outputs[0]


def value_graph(value: ir.Value) -> object:
    """The graph that a value belongs to."""
    producer = value.producer()
    return value.graph if producer is None else producer.graph


def _reads_too(node: ir.Node, given: ir.Value, makers: dict[str, Match], after: dict[str, ir.Value]) -> bool:
    """Whether the node that stands for this one in the new model reads the dequantized value."""
    for output in node.outputs:
        match = makers.get(output.name or "")
        producer = after[match.new].producer() if match is not None and match.new in after else None
        if producer is not None and any(value is given for value in reads(producer)):
            return True
    return False


def _ordered(matches: list[Match], new: ir.Model) -> list[Match]:
    place = {value.name: i for i, node in enumerate(new.graph) for value in node.outputs}
    return sorted(matches, key=lambda match: place.get(match.new, -1))


def _in_cycles(found: Pair) -> set[str]:
    """Matches that one model computes before another value, and the other model after it: names that were reused."""
    dropped: set[str] = set()
    before, after = values_of(found.old), values_of(found.new)
    while True:
        matches = [match for match in found.matches if match.old not in dropped]
        back = {match.new: match.old for match in matches}
        stops = set(back.values()), set(back)
        needs = {
            m.old: leaves(before[m.old], stops[0]) | {back[n] for n in leaves(after[m.new], stops[1])} for m in matches
        }
        while ready := [name for name, wanted in needs.items() if not wanted & needs.keys()]:
            for name in ready:
                del needs[name]
        outputs = {value.name for value in found.old.graph.outputs}
        stuck = [name for name in needs if name not in outputs]
        if not stuck:
            return dropped
        dropped.add(stuck[0])
