"""Fit one layer of the pruned network to what the original's gives."""

from __future__ import annotations

import numpy as np

from onnxopt.core import Change, Refusal
from onnxopt.graph import label
from onnxopt.layers import Layer
from onnxopt.passes.repair.drawn import bias_of, draw
from onnxopt.passes.repair.least_squares import Fit, Moments, Sums, chosen, corrected, fitted, nothing
from onnxopt.passes.repair.lockstep import Lockstep
from onnxopt.passes.repair.rectified import rectified
from onnxopt.passes.repair.sites import Site

VECTORS = 30_000
"""Drawn for each layer, over all samples."""
LARGEST = 300 * 2**20
"""Bytes of the moments of a layer: some 6000 products. A fit takes six times as much for a moment."""
EXACT = 1e-10
"""Relative error below which a layer is as it was."""


def fit(site: Site, walk: Lockstep, method: str, vectors: int, seed: int) -> list[Change | Refusal]:
    """Write the best weights and bias into the pruned model.

    Args:
        site: where both networks stand.
        walk: what the layers read.
        method: ``least-squares``, or ``bias`` for the bias alone.
        vectors: to be drawn.
        seed: of the draw.
    """
    layer, name = site.after, label(site.after.node)
    why = _bias_only(site)
    whole = method == "least-squares" and not why
    refusals: list[Change | Refusal] = [Refusal(name, why)] if why and method == "least-squares" else []
    biased = layer.node.op_type != "MatMul" or layer.added is not None
    if not (whole or biased):
        return refusals
    first, held = draw(site, walk, vectors, seed)
    if held is None:
        return [Refusal(name, "no samples are left to hold out")]
    about = first.x.mean(1)
    sums = [part.sums(about, whole=whole) for part in (first, held)]
    fit_on, judge_on = (Moments.of(one) for one in sums)
    scale = max(_spread(held.spread(), biased=biased), 1e-30)
    before = judge_on.error(nothing(judge_on)) / scale
    if before < EXACT:
        return refusals
    best = chosen(fit_on, judge_on, whole=whole, biased=biased)
    after = judge_on.error(best) / scale
    if after >= before:
        return refusals
    every = Moments.of(sums[0] + sums[1])
    found = corrected(every) if best.ridge is None else fitted(every, best.ridge, biased=biased)
    what = "bias corrected" if best.ridge is None else "refitted"
    if best.ridge is not None and biased and site.bounds is not None:
        better = rectified((first, held), sums, best, found, site.bounds)
        what, found = ("refitted", found) if better is None else ("refitted up to the activation", better)
    _write(layer, found, biased=biased)
    ridge = "" if best.ridge is None else f", ridge {best.ridge:g}"
    return [*refusals, Change(name, f"{what}: relative error {before:.2g} -> {after:.2g} on held-out samples{ridge}")]


def _bias_only(site: Site) -> str:
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


def _write(layer: Layer, found: Fit, *, biased: bool) -> None:
    rows, bias = layer.rows(), bias_of(layer)
    if found.ridge is not None:
        rows = rows + found.weights.transpose(0, 2, 1).reshape(rows.shape)
    shift = found.bias.reshape(-1)
    layer.write(rows, (shift if bias is None else bias + shift).astype(np.float32) if biased else None)
