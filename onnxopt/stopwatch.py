"""How long the parts of a graph take, each by itself, as ONNX Runtime's profiler sees them.

A *part* is what hangs together. Of each, the kernels are told from what stands at its edges: conversions between
floats and integers, and between layouts, which vanish where a neighbour reads what the part gives as it is.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from onnxopt import progress
from onnxopt.graph import label
from onnxopt.runtime import Session, kernels
from onnxopt.target import Target

CONVERSIONS = frozenset({"QuantizeLinear", "DequantizeLinear"})
EDGES = CONVERSIONS | {"Cast", "ReorderInput", "ReorderOutput", "Reshape", "Transpose"}
"""What ONNX Runtime puts at the edges of kernels."""
EMPTY = "onnxopt/empty"
"""A node beside the parts that does next to nothing: what it takes is the profiler's own time."""
ASIDE = "onnxopt/aside"
"""Part of the names of nodes that stand before a kernel only to give it its numbers in the usual layout."""
DISPATCH = 1e-6
"""Seconds that ONNX Runtime spends on a node without a profiler, whatever it computes."""
OWN = "onnxopt/node/"
"""Beginning of the names of nodes while a whole model is timed."""
BLOCKED = "_nchwc"
"""What ONNX Runtime writes after the name of the value that a channel-blocked node gives."""
FUSED = 3
"""Nodes behind a convolution that may be fused into it: an Add, an activation."""
WARM_UP = 2
"""Runs that do not count."""
FEWEST, MOST = 5, 40
"""Runs that count."""


@dataclass(frozen=True)
class Cost:
    """Seconds of one part.

    Attributes:
        before: conversions of what it reads.
        kernel: its own.
        after: conversions of what it gives.
        fused: whether nothing within it is converted back to floats.
    """

    before: float
    kernel: float
    after: float
    fused: bool = True


def part_costs(models: Sequence[ir.Model], target: Target, seconds: float) -> list[dict[str, Cost]]:
    """The cost of each part of each model, by the name of each output of the graph that it gives.

    The models run in turn, so that what else the machine does meets all of them. A time is the mean of the faster
    half of the runs: profiles count whole microseconds, and small kernels take few.

    Args:
        models: of static shapes, inputs of float32, and nodes with names of their own.
        target: where to run.
        seconds: at most, but for 7 runs of each in any case.

    Raises:
        ModelError: if ONNX Runtime does not load or run one.
    """
    progress.detail("timing kernels")
    models = [_with_empty(model) for model in models]
    with tempfile.TemporaryDirectory(prefix="onnxopt-") as folder:
        folders = [Path(folder) / str(place) for place in range(len(models))]
        for place in folders:
            place.mkdir()  # profiles are called after the millisecond: two of the same folder may be one file
        built = [place / "built.onnx" for place in folders]
        sessions = [
            Session(model, target, save_as=path, profile_in=path.parent)
            for model, path in zip(models, built, strict=True)
        ]
        feeds = [_random(model) for model in models]
        started = time.perf_counter()
        for run in range(WARM_UP + MOST):
            if run >= WARM_UP + FEWEST and time.perf_counter() - started > seconds:
                break
            for session, fed in zip(sessions, feeds, strict=True):
                session.run(fed)
        graphs = [onnx.load(path, load_external_data=False).graph for path in built]
        return [
            dict(_costs(graph, _own(session.durations()), [value.name or "" for value in model.graph.outputs[:-1]]))
            for graph, session, model in zip(graphs, sessions, models, strict=True)
        ]


def node_seconds(
    model: ir.Model, feeds: Mapping[str, np.ndarray], target: Target, seconds: float = 3.0
) -> tuple[dict[str, float], float]:
    """Seconds of each node of the main graph by its label, as ONNX Runtime runs the whole model, and of all the rest.

    What was fused into a node counts with it: of a convolution and the Relu behind it, the convolution has the time of
    both. The rest are nodes that ONNX Runtime put in or that cannot be told: reorderings of layout, fused parts.

    Args:
        model: not changed.
        feeds: its inputs.
        target: where to run.
        seconds: at most, but for 7 runs in any case.
    """
    progress.detail("timing nodes")
    copy = _numbered(_with_empty(model))
    with tempfile.TemporaryDirectory(prefix="onnxopt-") as folder:
        session = Session(copy, target, profile_in=Path(folder))
        fed = {**feeds, f"{EMPTY}/x": np.zeros(1, np.float32)}
        started = time.perf_counter()
        for run in range(WARM_UP + MOST):
            if run >= WARM_UP + FEWEST and time.perf_counter() - started > seconds:
                break
            session.run(fed)
        own = _own(session.durations())
    return _attributed(copy.graph, own)


def node_kernels(model: ir.Model, target: Target) -> dict[str, str]:
    """The kernel that ONNX Runtime really runs for each node of the main graph, by the node's label.

    A label that is missing is that of a node that was fused into another, or removed.

    Args:
        model: not changed.
        target: where to run.
    """
    copy = _numbered(model.clone())
    built = kernels(copy, target)
    found: dict[str, list[str]] = {}
    for name, node in _owners(copy.graph, built).items():
        if node is not None:
            found.setdefault(label(node), []).append(built[name])
    return {name: " + ".join(dict.fromkeys(words)) for name, words in found.items()}


def _numbered(model: ir.Model) -> ir.Model:
    """The model, its nodes called so that they are known again in what ONNX Runtime makes of them."""
    for number, node in enumerate(model.graph):
        node.name = f"{OWN}{number}" if node.name != EMPTY else EMPTY
    return model


def _attributed(graph: ir.Graph, own: Mapping[str, float]) -> tuple[dict[str, float], float]:
    """The time of each node of ONNX Runtime's graph, given to the node it was made from."""
    found: dict[str, float] = {}
    rest = 0.0
    for name, node in _owners(graph, own).items():
        if name == EMPTY:
            continue
        if node is None:
            rest += own[name]
        else:
            found[label(node)] = found.get(label(node), 0.0) + own[name]
    return found, rest


def _owners(graph: ir.Graph, names: Collection[str]) -> dict[str, ir.Node | None]:
    """The node that each node of ONNX Runtime's graph was made from, by the name that it has there.

    What is fused has more written after its name. Channel-blocked convolutions are called after the value they give,
    which may be that of what was fused into them.
    """
    nodes = {node.name: node for node in graph}
    makers = {f"{value.name}{BLOCKED}": node for node in graph for value in node.outputs}
    timed = {nodes[name] for name in names if name in nodes} | {makers[name] for name in names if name in makers}
    found: dict[str, ir.Node | None] = {}
    for name in names:
        begin = re.match(rf"{OWN}\d+", name)
        node = nodes.get(begin[0]) if begin else None
        found[name] = node or (_convolution(makers[name], timed) if name in makers else None)
    return found


def _convolution(node: ir.Node, timed: Collection[ir.Node]) -> ir.Node:
    """The convolution that gives a value, with what is fused into it between."""
    at = node
    for _ in range(FUSED):
        if at.op_type == "Conv":
            return at
        before = [value.producer() for value in at.inputs if value is not None]
        ahead = next((one for one in before if one is not None and one not in timed), None)
        if ahead is None:
            break
        at = ahead
    return at if at.op_type == "Conv" else node


def run_seconds(model: ir.Model, feeds: Mapping[str, np.ndarray], target: Target, seconds: float) -> float:
    """The time of one run: of the faster half, their mean.

    Args:
        model: as it is loaded, with ONNX Runtime's optimizations.
        feeds: its inputs.
        target: where to run.
        seconds: at most, but for 7 runs in any case.
    """
    session = Session(model, target)
    times: list[float] = []
    ended = time.perf_counter() + seconds
    while len(times) < WARM_UP + FEWEST or (len(times) < WARM_UP + MOST and time.perf_counter() < ended):
        started = time.perf_counter()
        session.run(feeds)
        times.append(time.perf_counter() - started)
    return _typical(times)


def _with_empty(model: ir.Model) -> ir.Model:
    copy, kind = model.clone(), ir.TensorType(ir.DataType.FLOAT)
    x, y = (ir.Value(name=f"{EMPTY}/{end}", type=kind, shape=ir.Shape([1])) for end in "xy")
    copy.graph.inputs.append(x)
    copy.graph.outputs.append(y)
    copy.graph.append(ir.Node("", "Neg", [x], outputs=[y], name=EMPTY))
    return copy


def _own(durations: Mapping[str, list[float]]) -> dict[str, float]:
    """Seconds of each node without the profiler's part."""
    typical = {name: _typical(seconds) for name, seconds in durations.items()}
    overhead = max(0.0, typical[EMPTY] - DISPATCH)
    return {name: max(0.0, seconds - overhead) for name, seconds in typical.items()}


def _random(model: ir.Model) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    inputs = [(value.name or "", value.shape) for value in model.graph.inputs]
    return {
        name: random.standard_normal(shape.numpy(), dtype=np.float32) for name, shape in inputs if shape is not None
    }


def _costs(
    graph: onnx.GraphProto, seconds: Mapping[str, float], outputs: Collection[str]
) -> Iterable[tuple[str, Cost]]:
    """Cut the graph into its parts, and each into what is before, within and after."""
    parts = _parts(graph)
    for name in outputs:
        nodes = parts.get(name, [])
        inner = [node for node in nodes if node.op_type not in EDGES]
        inner = inner or [node for node in nodes if node.op_type not in CONVERSIONS]
        end = nodes.index(inner[-1]) + 1 if inner else 0
        spent = {"before": 0.0, "kernel": 0.0, "after": 0.0}
        for place, node in enumerate(nodes):
            part = "kernel" if node in inner else "after" if place >= end else "before"
            spent[part] += 0.0 if ASIDE in node.name else seconds.get(node.name, 0.0)
        yield name, Cost(**spent, fused=all(node.op_type != "DequantizeLinear" for node in nodes[:end]))


def _parts(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    """Value name to the nodes of its part, in an order in which they can run; constants do not tie parts together."""
    constants = {tensor.name for tensor in graph.initializer}
    parts: dict[str, list[onnx.NodeProto]] = {}
    names: dict[int, set[str]] = {}
    for node in graph.node:
        own = {name for name in (*node.input, *node.output) if name and name not in constants}
        merged: list[onnx.NodeProto] = []
        for part in {id(parts[name]): parts[name] for name in sorted(own) if name in parts}.values():
            merged += part
            own |= names.pop(id(part))
        merged.append(node)
        names[id(merged)] = own
        parts.update(dict.fromkeys(own, merged))
    return parts


def _typical(seconds: Sequence[float]) -> float:
    """The mean of the faster half, of runs that count."""
    counted = sorted(seconds[WARM_UP:])
    faster = counted[: max(1, len(counted) // 2)]
    return sum(faster) / len(faster) if faster else 0.0
