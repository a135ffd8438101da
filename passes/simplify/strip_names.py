"""Strip what only people read from the inside of a model: names, and shapes that follow from the inputs."""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from onnxopt.core import Change, Context, Exactness, Pass
from onnxopt.graph import inferred, walk

LETTERS = string.ascii_letters
DIGITS = LETTERS + string.digits


@dataclass(frozen=True)
class StripNames(Pass):
    """Shorten the names of inner values, and drop names of nodes and the types and shapes that follow from the inputs.

    Before:
        ``/features/features.1/expand3x3/Conv_output_0 = Conv(...)``, the node called
        ``/features/features.1/expand3x3/Conv``, its output stated to be float32 [batch, 64, 55, 55]
    After:
        ``q = Conv(...)`` of a node without a name; nothing is stated
    Left alone:
        inputs and outputs of the model, and weights that are inputs; types and shapes that ONNX cannot infer,
        and of what subgraphs give; local functions.
    Exact up to:
        nothing. Profiles and error messages say less, so this is for small files only: of a network of a few hundred
        kilobytes, names and shapes are a tenth.
    Source:
        ONNX IR specification: names are identifiers of C, unique in their graph.
    """

    name: ClassVar[str] = "strip-names"
    exactness: ClassVar[Exactness] = Exactness.EXACT

    def run(self, model: ir.Model, context: Context) -> list[Change]:
        """Nodes, values, shapes; one change for each kind."""
        twins = inferred(model, believe=False)
        outside = {*model.graph.inputs, *model.graph.outputs}
        inner = [value for value in dict.fromkeys(_values(model)) if value not in outside]
        given = {value for graph in model.graphs() for value in graph.outputs}
        stated = [value for value in inner if value not in given]
        counts = {
            "names of nodes removed": sum([_unname(node) for node in walk(model)]),
            "types and shapes removed that follow from the inputs": sum([_untype(v, twins.get(v)) for v in stated]),
            "names of values shortened": _shorten(inner, {value.name or "" for value in outside}),
        }
        return [Change("model", f"{count} {what}") for what, count in counts.items() if count]


def _values(model: ir.Model) -> Iterator[ir.Value]:
    """All values of all graphs."""
    for graph in model.graphs():
        yield from graph.inputs
        yield from graph.initializers.values()
        for node in graph:
            yield from node.outputs


def _unname(node: ir.Node) -> bool:
    had, node.name = bool(node.name), ""
    return had


def _untype(value: ir.Value, twin: ir.Value | None) -> bool:
    """Forget type and shape of what a node gives if inference finds the same."""
    stated = value.producer() is not None and (value.type is not None or value.shape is not None)
    if not stated or twin is None or twin.type != value.type or str(twin.shape) != str(value.shape):
        return False
    value.type, value.shape = None, None
    return True


def _shorten(values: list[ir.Value], taken: set[str]) -> int:
    """Give values the shortest free names, in order; those that are left out of a node stay so."""
    names = (name for name in _names() if name not in taken)
    new = {value: next(names) for value in values if value.name}
    changed = [value for value, name in new.items() if value.name != name]
    for place, value in enumerate(changed):  # out of the way first, since names may change places
        value.name = f"onnxopt/strip/{place}"
    for value in changed:
        value.name = new[value]
    return len(changed)


def _names() -> Iterator[str]:
    """Identifiers, the shorter first."""
    for length in itertools.count():
        for first in LETTERS:
            for rest in itertools.product(DIGITS, repeat=length):
                yield first + "".join(rest)
