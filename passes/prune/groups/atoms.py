"""How two shapes with the same numbers are made of the same parts, and which part of an axis keeps its channels.

Both shapes are taken apart into *atoms*, in order: ``[N, 768]`` and ``[N, 12, 64]`` have the atoms N, 12, 64. An axis
that is split into several keeps its classes on one of them, the *keeper*.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from onnxopt.graph import STANDARD_DOMAINS, array
from onnxopt.passes.prune.groups.numbers import ONE, Product
from onnxopt.passes.prune.groups.tracer import Axis, Tracer


@dataclass(eq=False)
class Atom:
    """A part of an input axis that is a part of an output axis.

    Attributes:
        source: the input axis.
        target: the output axis.
        size: more than one.
        axis: its classes.
    """

    source: int
    target: int
    size: Product
    axis: Axis = None


@dataclass
class Alignment:
    """How an input and an output are made of the same atoms.

    Attributes:
        atoms: in order.
        loose: input axes, and output axes, of which a part could not be aligned.
    """

    atoms: list[Atom]
    loose: tuple[set[int], set[int]] = field(default_factory=lambda: (set(), set()))

    @classmethod
    def of(cls, before: Sequence[Product], after: Sequence[Product]) -> Alignment:
        """From the front as far as it goes, then from the back."""
        sides = [[(place, size) for place, size in enumerate(sizes) if size != ONE] for sizes in (before, after)]
        front = _walk(*sides)
        for side in sides:
            side.reverse()
        back = _walk(*sides)
        left, right = (side[::-1] for side in sides)
        middle: list[Atom] = []
        if len(left) == 1:  # as large as all others together, whatever their names
            middle = [Atom(left[0][0], place, size) for place, size in right]
        elif len(right) == 1:
            middle = [Atom(place, right[0][0], size) for place, size in left]
        loose = ({place for place, _ in side if not middle} for side in (left, right))
        return cls([*front, *middle, *reversed(back)], (next(loose), next(loose)))

    def of_input(self, axis: int) -> list[Atom]:
        """The parts of an input axis."""
        return [atom for atom in self.atoms if atom.source == axis]

    def of_output(self, axis: int) -> list[Atom]:
        """The parts of an output axis."""
        return [atom for atom in self.atoms if atom.target == axis]

    def moved(self) -> dict[int, int]:
        """Input axes that are as they were, to the output axes that they are."""
        whole = [
            atom for atom in self.atoms if len(self.of_input(atom.source)) == len(self.of_output(atom.target)) == 1
        ]
        return {
            atom.source: atom.target
            for atom in whole
            if not {atom.source} & self.loose[0] | {atom.target} & self.loose[1]
        }


def _walk(before: list[tuple[int, Product]], after: list[tuple[int, Product]]) -> list[Atom]:
    """Take atoms off both lists from their front, for as long as one size goes into the other."""
    atoms = []
    while before and after:
        (source, size), (target, other) = before[0], after[0]
        step = size if other.over(size) is not None else other
        rests = [size.over(step), other.over(step)]
        if rests[0] is None or rests[1] is None:
            break
        atoms.append(Atom(source, target, step))
        for side, place, rest in ((before, source, rests[0]), (after, target, rests[1])):
            side[:1] = [] if rest == ONE else [(place, rest)]
    return atoms


def keeper_of(tracer: Tracer, output: ir.Value, parts: Sequence[Atom]) -> Atom:
    """The part that keeps the classes of an axis that is split: the first, in the order in which they are used.

    The order is that of a Transpose that follows: after a channel shuffle's, what is inside a group comes first. An
    axis from which single positions are taken next (queries, keys and values that were made as one) is passed over.
    """
    order = next((_order(node) for node in _readers(output, "Transpose")), None)
    ranked = sorted(parts, key=lambda part: order.index(part.target) if order else part.target)
    return next((part for part in ranked if not _taken_apart(tracer, output, part.target)), ranked[0])


def _order(transpose: ir.Node) -> list[int]:
    """The axes of the input in the order of the output; empty where they are only reversed, without saying so."""
    return list(transpose.attributes.get_ints("perm", []))


def _taken_apart(tracer: Tracer, value: ir.Value, axis: int) -> bool:
    """Whether constant positions of an axis are taken next, after more of Transpose and Reshape at most."""
    for node in _readers(value, "Gather", "Split", "Transpose", "Reshape"):
        if node.op_type in ("Gather", "Split"):
            rank = len(_said(tracer, value))
            constant = node.op_type == "Split" or array(node.inputs[1]) is not None
            found = constant and node.attributes.get_int("axis", 0) in (axis, axis - rank)
        else:
            place = _moved(tracer, node, axis)
            found = place is not None and _taken_apart(tracer, node.outputs[0], place)
        if found:
            return True
    return False


def _moved(tracer: Tracer, node: ir.Node, axis: int) -> int | None:
    """Where an axis is after a Transpose or a Reshape; None where it is not by itself."""
    if node.op_type == "Transpose":
        order = _order(node)
        return order.index(axis) if order else None
    return Alignment.of(_said(tracer, node.inputs[0]), _said(tracer, node.outputs[0])).moved().get(axis)


def _said(tracer: Tracer, value: ir.Value | None) -> list[Product]:
    """The sizes that shape inference found."""
    twin = tracer.twins.get(value) if value is not None else None
    shape = twin.shape if twin is not None and twin.shape is not None else ()
    return [_size(value, place, size) for place, size in enumerate(shape)]


def _size(value: ir.Value | None, place: int, size: int | ir.SymbolicDim) -> Product:
    return Product(size) if isinstance(size, int) else Product(1, (size.value or f"{value} {place}",))


def _readers(value: ir.Value, *operators: str) -> list[ir.Node]:
    readers = (use.node for use in value.uses())
    return [node for node in readers if node.op_type in operators and node.domain in STANDARD_DOMAINS]
