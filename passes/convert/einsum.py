"""Einsum as a product of matrices, between transpositions and reshapes where the order of its indices needs them.

The indices of two operands fall into four kinds: those in both operands and in the result (the batch), those in both
and not in the result (summed), and those of one operand alone (free). ``MatMul(a, b)`` of

    a [batch, free of a, summed]    b [batch, summed, free of b]

gives ``[batch, free of a, free of b]``. Several free or summed indices are laid into one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxopt.passes.convert.plan import Plan, Site, Writer

Sizes = dict[str, int | None]


def einsum_to_matmul(site: Site) -> Plan | str | None:
    """``Einsum(a, b)`` to MatMul, or to Mul where nothing is summed; ``Einsum(a)`` to Transpose and ReduceSum."""
    node = site.node
    terms, result = _parsed(node.attributes.get_string("equation", ""))
    if reason := _hindrance(site, terms, result):
        return reason
    sizes: Sizes = {}
    for term, value in zip(terms, node.inputs, strict=True):
        for index, size in zip(term, site.sizes(value) or [], strict=True):
            if sizes.get(index) not in (None, size) and size is not None:
                return f"index {index!r} has two sizes"
            sizes[index] = size if sizes.get(index) is None else sizes[index]
    wanted = [result + other for other in (terms[::-1] if len(terms) == 2 else [""])]
    kept = [_kept(term, indices) for term, indices in zip(terms, wanted, strict=True)]
    product = _Product.of(kept[0], kept[1], result) if len(kept) == 2 else None
    if product is not None and product.summed and (reason := product.hindrance(sizes)):
        return reason

    def write(new: Writer) -> ir.Value:
        values = [
            _summed(new, value, term, one, site.opset)
            for value, term, one in zip(node.inputs, terms, kept, strict=True)
            if value is not None
        ]
        if product is None:
            only = _ordered(new, values[0], kept[0], result)
            return new("Identity", [only]) if only is node.inputs[0] else only
        if product.summed:
            return product.write(new, values, sizes)
        return new("Mul", [_aligned(new, *one, result, site.opset) for one in zip(values, kept, strict=True)])

    return Plan((node,), write)


def _parsed(equation: str) -> tuple[list[str], str]:
    """The indices of the operands, and of the result."""
    words, arrow, result = equation.replace(" ", "").partition("->")
    if not arrow:
        result = "".join(sorted(index for index in set(words) - {",", "."} if words.count(index) == 1))
    return words.split(","), result


def _hindrance(site: Site, terms: Sequence[str], result: str) -> str | None:
    """Why an equation is not written otherwise."""
    if any("." in term for term in (*terms, result)):
        return "its equation has an ellipsis"
    if len(terms) > 2 or len(terms) != len(site.node.inputs):
        return "it has more than two operands"
    if any(len({*term}) < len(term) for term in (*terms, result)):
        return "it takes a diagonal"
    if reason := site.hindrance(*site.node.inputs):
        return reason
    if any(len(site.sizes(value) or []) != len(term) for term, value in zip(terms, site.node.inputs, strict=True)):
        return "its equation does not fit what it reads"
    return None


def _kept(term: str, wanted: str) -> str:
    """The indices that are wanted, in their order."""
    return "".join(index for index in term if index in wanted)


@dataclass(frozen=True)
class _Product:
    """A product of two operands.

    Attributes:
        terms: the indices of the left and the right operand.
        batch, summed: the indices of both, in the result and not.
        free: those of the left alone, and of the right.
        result: the indices of the result.
        turned: whether the second operand of the Einsum is the left one.
    """

    terms: tuple[str, str]
    batch: str
    summed: str
    free: tuple[str, str]
    result: str
    turned: bool

    @classmethod
    def of(cls, left: str, right: str, result: str) -> _Product:
        """The product; operands change places where the result is then in the right order."""
        batch, summed = (_kept(result, _kept(left, right)), "".join(i for i in left if i in right and i not in result))
        free = tuple("".join(i for i in result if i in one and i not in batch) for one in (left, right))
        turned = result == batch + free[1] + free[0] and bool(free[0] and free[1])
        terms = (right, left) if turned else (left, right)
        return cls(terms, batch, summed, (free[1], free[0]) if turned else (free[0], free[1]), result, turned)

    @property
    def matrices(self) -> bool:
        """Whether the operands are matrices as they are, once in order."""
        single = len(self.summed) == len(self.free[1]) == 1
        return single and (len(self.free[0]) == 1 or (not self.batch and bool(self.free[0])))

    def hindrance(self, sizes: Sizes) -> str | None:
        """Why the shapes in between cannot be told, if they cannot."""
        if self.matrices:
            return None
        unknown = [[i for i in group if sizes[i] is None] for group in (*self.free, self.summed)]
        if len(unknown[0]) + len(unknown[1]) > 1 or (unknown[2] and (unknown[0] or unknown[1])):
            return "two of the sizes that it lays together are not known"
        return None

    def write(self, new: Writer, values: Sequence[ir.Value], sizes: Sizes) -> ir.Value:
        """The nodes."""
        a, b = reversed(values) if self.turned else values
        a = _ordered(new, a, self.terms[0], self.batch + self.free[0] + self.summed)
        b = _ordered(new, b, self.terms[1], self.batch + self.summed + self.free[1])
        if not self.matrices:
            batch = [0] * len(self.batch)
            left, right, summed = (_laid(group, sizes) for group in (*self.free, self.summed))
            a, b = new.reshape(a, [*batch, left, summed]), new.reshape(b, [*batch, summed, right])
        y = new("MatMul", [a, b])
        if not self.matrices and (len(self.free[0]) != 1 or len(self.free[1]) != 1):
            y = new.reshape(y, [*batch, *(sizes[i] for i in self.free[0]), *(sizes[i] for i in self.free[1])])
        return _ordered(new, y, self.batch + self.free[0] + self.free[1], self.result)


def _summed(new: Writer, value: ir.Value, term: str, kept: str, opset: int) -> ir.Value:
    """The value summed along the indices that are not kept."""
    gone = [place for place, index in enumerate(term) if index not in kept]
    return new.along("ReduceSum", value, gone, opset) if gone else value


def _laid(group: str, sizes: Sizes) -> int | None:
    """The size of indices laid into one."""
    known = [sizes[index] for index in group]
    return None if None in known else math.prod(size for size in known if size is not None)


def _ordered(new: Writer, value: ir.Value, term: str, wanted: str) -> ir.Value:
    """The value with its indices in another order."""
    return value if term == wanted else new("Transpose", [value], perm=[term.index(index) for index in wanted])


def _aligned(new: Writer, value: ir.Value, term: str, result: str, opset: int) -> ir.Value:
    """The value with its indices in the order of the result, and 1 for those it lacks, but for the first of them."""
    value = _ordered(new, value, term, _kept(result, term))
    after = result.lstrip("".join({*result} - {*term})) if term else ""
    missing = [place for place, index in enumerate(after) if index not in term]
    return new.along("Unsqueeze", value, missing, opset) if missing else value
