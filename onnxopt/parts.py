"""What small graphs cost on this machine: each timed by itself among others, and kept for the next time.

A pass that can write a node in several ways makes a *part* of each, a model of static shapes with one output, and
takes the cheapest. What was measured on this machine before, in a run of any model, is not measured again, so that the
same model is decided alike the next time; but what was measured while others used the machine is not kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import astuple
from pathlib import Path

import onnx_ir as ir

from onnxopt import cache, files
from onnxopt.benchmark import LOAD_LIMIT
from onnxopt.errors import OnnxoptError
from onnxopt.graph import weight_bytes
from onnxopt.load import ForeignLoad
from onnxopt.runtime import version
from onnxopt.stopwatch import Cost, part_costs
from onnxopt.target import Target, instruction_sets, processor

VERSION = 2
"""Of the kept costs; raise it when they are measured otherwise. 1: one entry for each node, a cost for each form."""
KEPT = 16
"""Files of kept costs at most: one for each machine, number of threads and version of ONNX Runtime."""
LARGEST = 64 * 2**20
"""Bytes of weights and inputs that are timed together."""

Costs = dict[str, Cost]


def costs(parts: Mapping[str, ir.Model], target: Target, seconds: float) -> Costs:
    """What each part costs, by its key; those that ONNX Runtime does not run are missing.

    Args:
        parts: key to a model with float inputs of static shapes, one output, and no subgraphs. The key says all that
            decides the time: operators, attributes, shapes.
        target: this machine.
        seconds: for all measurements together; each takes a few runs in any case.
    """
    store = Store(target)
    new = {key: part for key, part in parts.items() if key not in store.known}
    groups, load = list(_groups(new)), ForeignLoad()
    found: Costs = {}
    for group in groups:
        found |= _measured(group, target, seconds / len(groups))
    store.add(found, quiet=load.share() <= LOAD_LIMIT)
    return {key: store.known[key] for key in parts if key in store.known}


class Store:
    """The costs that are known of this machine."""

    def __init__(self, target: Target) -> None:
        """Read what was kept; nothing where there is no file, or it is damaged."""
        folder = cache.folder("kernels")
        words = repr((VERSION, version(), processor(), sorted(instruction_sets()), target.threads))
        self._place = folder and folder / f"{hashlib.sha256(words.encode()).hexdigest()[:32]}.json"
        self.known = _load(self._place)

    def add(self, found: Mapping[str, Cost], *, quiet: bool) -> None:
        """Take in new costs, and keep them for the next time if the machine was quiet while they were measured."""
        self.known |= found
        if not found or not quiet or self._place is None:
            return
        text = json.dumps({key: astuple(cost) for key, cost in self.known.items()}, indent=1, sort_keys=True)
        with contextlib.suppress(OSError, OnnxoptError):
            self._place.parent.mkdir(parents=True, exist_ok=True)
            files.write_text(self._place, text + "\n")
            cache.trim(self._place.parent, KEPT)


def _load(place: Path | None) -> Costs:
    try:
        content = json.loads(place.read_text(encoding="utf-8")) if place else {}
        return {str(key): _cost(*numbers) for key, numbers in content.items()}
    except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return {}


def _cost(before: float, kernel: float, after: float, fused: bool) -> Cost:
    found = Cost(float(before), float(kernel), float(after), bool(fused))
    if not all(math.isfinite(seconds) and seconds >= 0 for seconds in (found.before, found.kernel, found.after)):
        raise ValueError(f"{found} is no cost")
    return found


def _groups(parts: Mapping[str, ir.Model]) -> Iterator[dict[str, ir.Model]]:
    """Parts that are timed in one session, so that their numbers do not fill the memory."""
    group: dict[str, ir.Model] = {}
    size = 0
    for key, part in parts.items():
        shapes = [value.shape.numpy() for value in part.graph.inputs if value.shape is not None]
        own = weight_bytes(part) + 4 * sum(map(math.prod, shapes))
        if group and (size + own > LARGEST or part.opset_imports != next(iter(group.values())).opset_imports):
            yield group
            group, size = {}, 0
        group[key] = part
        size += own
    if group:
        yield group


def _measured(group: Mapping[str, ir.Model], target: Target, seconds: float) -> Costs:
    """The costs of a group; where one of its parts does not run, of each of them alone."""
    try:
        (found,) = part_costs([_merged(list(group.values()))], target, seconds)
    except OnnxoptError:
        alone = [{key: part} for key, part in group.items()] if len(group) > 1 else []
        return {key: cost for one in alone for key, cost in _measured(one, target, seconds / len(alone)).items()}
    return dict(zip(group, found.values(), strict=True))


def _merged(parts: list[ir.Model]) -> ir.Model:
    """One model of all parts, side by side."""
    graph = ir.Graph([], [], nodes=[], opset_imports=dict(parts[0].opset_imports), name="parts")
    for place, part in enumerate(parts):
        copy = part.clone().graph
        inputs, outputs, weights = list(copy.inputs), list(copy.outputs), list(copy.initializers.values())
        nodes = list(copy)
        for value in {*inputs, *weights, *(value for node in nodes for value in node.outputs)}:
            value.name = f"{place}/{value.name}"
        for count, node in enumerate(nodes):
            node.name = f"{place}/{node.name or count}"
        copy.remove(nodes)
        copy.inputs.clear()
        copy.outputs.clear()
        copy.initializers.clear()
        graph.inputs.extend(inputs)
        for weight in weights:
            graph.register_initializer(weight)
        graph.extend(nodes)
        graph.outputs.extend(outputs)
    return ir.Model(graph, ir_version=max(part.ir_version for part in parts))
