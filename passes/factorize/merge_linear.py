"""Multiply two linear layers in a row into one, where that is cheaper."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxopt.core import Change, Context, Exactness, Pass, Refusal, option
from onnxopt.graph import drop_constant, label, rewrite
from onnxopt.layers import Layer, layers
from onnxopt.passes.factorize.joined import Sweep, joined, per_output, product, seen, sweep
from onnxopt.passes.factorize.pairs import Bias, ahead, bias_of


@dataclass(frozen=True)
class MergeLinear(Pass):
    """Multiply two linear layers in a row, with nothing between them, into one that is cheaper.

    Before:
        ``y = MatMul(MatMul(x, A) + a, B) + b``, A [K, R], B [R, N]; Gemm alike. ``y = Conv(Conv(x, A, a), B, b)``,
        where on each axis one of the two has a kernel of 1: 1x1 after kxk, kxk after 1x1, 1xk after kx1
    After:
        ``y = MatMul(x, A B) + (a B + b)``; ``y = Conv(x, B A, B a + b)``
    Left alone:
        pairs that cost no more multiply-accumulates, or fewer weights, as they are (``always=yes`` takes them, too, and
        so undoes ``factorize``); a layer whose outputs are read elsewhere, or are outputs of the graph; a convolution
        with a bias in front of one that pads; grouped convolutions; weights that can be overridden, or are not float32;
        nodes in subgraphs.
    Exact up to:
        float rounding.
    Source:
        associativity; Guo, Alvarez, Salzmann, "ExpandNets: Linear Over-parameterization to Train Compact Convolutional
        Networks", NeurIPS 2020, contracts trained pairs so.
    """

    name: ClassVar[str] = "merge-linear"
    exactness: ClassVar[Exactness] = Exactness.ROUNDING

    always: bool = option(False, "also where the product costs more: the way back from factorize")

    def run(self, model: ir.Model, context: Context) -> list[Change | Refusal]:
        """Merge pair after pair until none is left: a product may be the half of another."""
        changes: list[Change | Refusal] = []
        while True:
            known = {layer.node: layer for layer in layers(model)[0]}
            done, refusals = self._round(known)
            changes += done
            if not done:
                return [*changes, *refusals]

    def _round(self, known: Mapping[ir.Node, Layer]) -> tuple[list[Change], list[Refusal]]:
        """Merge pairs that have no layer in common."""
        changes, refusals, stale = list[Change](), list[Refusal](), set[ir.Node]()
        for node, second in known.items():
            first = None if node in stale else ahead(second, known)
            if first is None or first.node in stale:
                continue
            found = self._merged(first, second)
            if isinstance(found, str):
                refusals.append(Refusal(label(node), found))
                continue
            stale |= {first.node, node}
            changes.append(Change(label(node), f"{first.node.op_type} {label(first.node)!r} multiplied into it"))
            _write(first, second, found)
        return changes, refusals

    def _merged(self, first: Layer, second: Layer) -> _Merged | str:
        """What both are in one, or why they stay two."""
        found = _convolution(first, second) if second.node.op_type == "Conv" else _product(first, second)
        if isinstance(found, str):
            return found
        if not self.always and found.macs >= found.before:
            return f"{found.macs} multiply-accumulates for each output position instead of {found.before}"
        if not self.always and found.weight.size > _freed(first) + _freed(second):
            return "weights that other layers read would be copied"
        numbers = [one for one in (found.weight, found.bias) if one is not None]
        with np.errstate(over="ignore"):
            finite = all(np.isfinite(one.astype(np.float32)).all() for one in numbers)
        return found if finite else "the product does not fit float32"


@dataclass(frozen=True)
class _Merged:
    """Two layers in one.

    Attributes:
        weight: float64, as the second reads its own.
        bias: all of it; None where the second's stays as it is.
        macs: of it, for each output position.
        before: of the two.
        sweep: of a convolution.
    """

    weight: np.ndarray
    bias: Bias
    macs: int
    before: int
    sweep: Sweep | None = None


def _product(first: Layer, second: Layer) -> _Merged:
    one, two = first.rows().astype(np.float64), second.rows().astype(np.float64)
    rows, bias = two @ one, bias_of(first)
    weight = rows if second.axis == 0 else rows.T
    return _Merged(weight, _shifted(None if bias is None else two @ bias, second), rows.size, one.size + two.size)


def _convolution(first: Layer, second: Layer) -> _Merged | str:
    one, two, bias = first.numbers(), second.numbers(), bias_of(first)
    if first.group > 1 or second.group > 1:
        return "one of the two is grouped"
    found = joined(sweep(first), sweep(second))
    if isinstance(found, str):
        return found
    if found.unbiased and bias is not None and bias.any():
        return "the first has a bias, and the second pads what that gives"
    before = one.size * per_output(sweep(second)) + two.size
    weight = product(two, one)
    return _Merged(weight, _shifted(None if bias is None else seen(two, bias), second), weight.size, before, found)


def _shifted(moved: Bias, second: Layer) -> Bias:
    """The bias of the second with what it makes of the first's."""
    own = bias_of(second)
    return None if moved is None else moved + (0 if own is None else own)


def _freed(layer: Layer) -> int:
    """Numbers of its weight that go with it."""
    shared = layer.weight.is_graph_output() or len(layer.weight.uses()) > 1
    return 0 if shared else math.prod(layer.numbers().shape)


def _write(first: Layer, second: Layer, found: _Merged) -> None:
    """Let the second do what both did, and remove the first."""
    node, source = second.node, first.node.inputs[0]
    second.write(None, found.bias)
    rewrite(node, 1, found.weight.astype(np.float32))
    if found.sweep is not None:
        for name in ("pads", "auto_pad"):
            node.attributes.pop(name, None)
        node.attributes.update({one.name: one for one in found.sweep.attributes()})
    between = node.inputs[0]
    node.replace_input_with(0, source)
    assert between is not None
    drop_constant(between)
