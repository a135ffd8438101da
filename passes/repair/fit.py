"""Fit one layer of the pruned network to what the original's gives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxopt.core import Change, Refusal
from onnxopt.graph import label
from onnxopt.layers import Layer
from onnxopt.passes.repair.drawn import Drawn, bias_of
from onnxopt.passes.repair.least_squares import Array, Fit, Moments, Sums, chosen, corrected, fitted, nothing
from onnxopt.passes.repair.rectified import rectified
from onnxopt.passes.repair.sites import Site

LARGEST = 300 * 2**20
"""Bytes of the moments of a layer: some 6000 products. A fit takes six times as much for a moment."""
EXACT = 1e-10
"""Relative error below which a layer is as it was."""


def fit(site: Site, first: Drawn, held: Drawn | None, method: str) -> list[Change | Refusal]:
    """Write the best weights and bias into the changed model.

    Args:
        site: where both networks stand.
        first: vectors that are fitted on.
        held: vectors that decide how much is fitted.
        method: ``least-squares``, or ``bias`` for the bias alone.
    """
    layer, name = site.after, label(site.after.node)
    why = bias_only(site)
    whole = method == "least-squares" and not why
    refusals: list[Change | Refusal] = [Refusal(name, why)] if why and method == "least-squares" else []
    if not (whole or biased(layer)):
        return refusals
    if held is None:
        return [Refusal(name, "no samples are left to hold out")]
    found = best(site, first, held, whole=whole)
    if found is None:
        return refusals
    layer.write(*changed(layer, found.fit))
    return [*refusals, Change(name, found.words)]


@dataclass(frozen=True)
class Found:
    """A fit that errs less on the vectors held out.

    Attributes:
        fit: on all vectors.
        words: what was done and what it gave.
    """

    fit: Fit
    words: str


def best(site: Site, first: Drawn, held: Drawn, *, whole: bool) -> Found | None:
    """The best change of a layer; None where none makes it better.

    Args:
        site: with the activation behind the layer, and whether it has a bias.
        first: vectors that are fitted on.
        held: vectors that decide how much is fitted.
        whole: whether weights may change; else the bias alone.
    """
    about, has_bias = first.x.mean(1), biased(site.after)
    sums = [part.sums(about, whole=whole) for part in (first, held)]
    fit_on, judge_on = (Moments.of(one) for one in sums)
    scale = max(_spread(held.spread(), biased=has_bias), 1e-30)
    before = judge_on.error(nothing(judge_on)) / scale
    if before < EXACT:
        return None
    better = chosen(fit_on, judge_on, whole=whole, biased=has_bias)
    after = judge_on.error(better) / scale
    if after >= before:
        return None
    every = Moments.of(sums[0] + sums[1])
    found = corrected(every) if better.ridge is None else fitted(every, better.ridge, biased=has_bias)
    what = "bias corrected" if better.ridge is None else "refitted"
    if better.ridge is not None and has_bias and site.bounds is not None:
        bent = rectified((first, held), sums, better, found, site.bounds)
        what, found = ("refitted", found) if bent is None else ("refitted up to the activation", bent)
    ridge = "" if better.ridge is None else f", ridge {better.ridge:g}"
    return Found(found, f"{what}: relative error {before:.2g} -> {after:.2g} on held-out samples{ridge}")


def biased(layer: Layer) -> bool:
    """Whether a layer has a bias, or may get one."""
    return layer.node.op_type != "MatMul" or layer.added is not None


def bias_only(site: Site) -> str:
    """Why the weights of a layer stay as they are; empty if they need not."""
    layer, rows = site.after, site.after.rows()
    constants = [value for value in (layer.weight, layer.node.inputs[1]) if value is not None]
    if any(len(value.uses()) > 1 or value.is_graph_output() for value in constants):
        return "other nodes read its weight, too: only its bias is corrected"
    if 8 * rows.shape[1] * (rows.shape[1] * layer.group + len(rows)) > LARGEST:
        return f"{rows.shape[1]} products are too many to fit: only its bias is corrected"
    return ""


def _spread(sums: Sums, *, biased: bool) -> float:
    """The squared outputs, about their mean where a bias makes that."""
    moments = Moments.of(sums)
    return moments.rr if biased else moments.error(nothing(moments))


def changed(layer: Layer, found: Fit) -> tuple[Array, Array | None]:
    """Rows and bias of a layer after a fit."""
    rows, bias = layer.rows(), bias_of(layer)
    if found.ridge is not None:
        rows = rows + found.weights.transpose(0, 2, 1).reshape(rows.shape).astype(np.float32)
    shift = found.bias.reshape(-1)
    return rows, (shift if bias is None else bias + shift).astype(np.float32) if biased(layer) else None
