"""The model with some of its layers split: fitted on all samples, written, and the network refitted.

A split of full rank computes what the layer does, and one of lower rank is the same with fewer channels between its
layers. So what repairs pruned networks repairs split ones, beside the model in which all splits have full rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxopt import progress
from onnxopt.calibrate.inputs import fits, input_moments
from onnxopt.calibrate.moments import Moment
from onnxopt.calibrate.sensitivity import shift
from onnxopt.core import Change, Context, Refusal, Saved
from onnxopt.layers import Rows, Weight, weights
from onnxopt.passes.factorize.fit import fitted
from onnxopt.passes.factorize.split import Shape, Split
from onnxopt.passes.factorize.writing import write
from onnxopt.passes.repair import KeptChannels, repair
from onnxopt.sizes import constant_bytes, node_bytes

Kept = dict[str, KeptChannels]
NONE = "none"
"""No repair."""


def built(
    model: ir.Model, splits: Mapping[Weight, Split], context: Context, *, whiten: bool, method: str
) -> tuple[ir.Model, list[Change | Refusal]]:
    """A copy in which layers are split, and what was done.

    Args:
        model: not changed.
        splits: of its weights.
        context: calibration samples, if there are any.
        whiten: whether splits are fitted to what the layers read.
        method: of repair; none without samples.
    """
    smaller, whole = model.clone(), model.clone()
    mine, full = ({one.name: one for one in weights(copy)[0]} for copy in (smaller, whole))
    kept, changes = Kept(), list[Change | Refusal]()
    for weight, moment in _moments(model, list(splits), context):
        progress.detail(f"splitting {weight.name}")
        split, shape = splits[weight], Shape.of(weight.layers[0])
        found = fitted(weight, split, moment if whiten else None)
        if moment is not None and (moved := shift(weight, found.rows, moment.mean)) is not None:
            mine[weight.name].move_biases(moved)
        before = _held(smaller)
        names = write(smaller, mine[weight.name], split, found.kept)
        saved = Saved(*(one - two for one, two in zip(before, _held(smaller), strict=True)))
        write(whole, full[weight.name], split, found.whole)
        for chain in names:
            kept |= _kept(chain, found.kept)
        what = f"{split}: {shape.numbers(split):,} weights instead of {shape.numbers(None):,}"
        changes.append(Change(weight.name, what, saved))
    if method != NONE and context.calibration is not None:
        changes += repair(whole, smaller, kept, context, method=method)
    return smaller, changes


def _held(model: ir.Model) -> tuple[int, int]:
    """Bytes of the main graph in the file and in memory."""
    values = model.graph.initializers.values()
    return constant_bytes(*values) + node_bytes(model.graph), sum(
        tensor.nbytes for v in values if (tensor := v.const_value)
    )


def _moments(model: ir.Model, wanted: Sequence[Weight], context: Context) -> Iterator[tuple[Weight, Moment | None]]:
    """Of what each weight meets, on all samples; None without samples, and where they would be too large."""
    seen = [weight for weight in wanted if context.calibration is not None and fits(weight)]
    yield from input_moments(model, seen, context) if seen else ()
    yield from ((weight, None) for weight in wanted if weight not in seen)


def _kept(chain: Sequence[str], numbers: Sequence[Rows]) -> Kept:
    """Of each layer of a chain, the channels that it has kept: the first of those of full rank, and all at the ends."""
    return {
        name: KeptChannels(np.arange(one.shape[0]), np.arange(one.shape[1]))
        for name, one in zip(chain, numbers, strict=True)
    }
