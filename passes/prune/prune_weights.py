"""Set the least important weights to zero, one by one or in patterns."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxopt.calibrate.inputs import fits, input_moments
from onnxopt.core import Change, Context, Exactness, Pass, Refusal, option
from onnxopt.errors import UsageError
from onnxopt.layers import Rows, Weight, weights
from onnxopt.passes.prune.weights.importance import (
    IMPORTANCES,
    MAGNITUDE,
    SECOND_ORDER,
    WANDA,
    apart,
    importance,
    together,
)
from onnxopt.passes.prune.weights.patterns import UNSTRUCTURED, Mask, Pattern, share_of
from onnxopt.passes.prune.weights.sparsegpt import sparsegpt


@dataclass(frozen=True)
class PruneWeights(Pass):
    """Set the least important weights of layers to zero, one by one or in a pattern.

    Before:
        ``y = Conv(x, W)``; Gemm and MatMul alike
    After:
        ``y = Conv(x, W')``, W' of the same shape with the share ``ratio`` of zeros where the least important weights
        were. ``magnitude``: ``|w|``, among the whole layer. ``wanda``: ``|w_ij| ||x_j||``, among each output channel; x
        are the vectors that meet the weights, on calibration samples. ``second-order``: the error that a weight leaves
        although later weights of its channel make it good; they do, so that the others in W' differ from W, too.

        Of blocks (``pattern=16x1``: 16 output channels, one input channel) it is the root mean square. With
        ``pattern=2:4``, two of four neighbouring input channels stay, whatever ``ratio`` says. With ``scope=global``,
        all layers are ranked together, by the share of their layer's sum of squares that weights take with them, so
        that layers compare, and those with few weights lose less. Weights that are zero already count, and a weight of
        several layers is pruned once.
    Left alone:
        layers of fewer than ``size`` weights, not named in ``only``, or named in ``leave``; weights that are
        quantized, not constant or not float32, or that an embedding or other operator reads, too; layers whose
        channels the pattern does not divide; for ``second-order``, layers with more than 8192 products for each
        output; nodes in subgraphs.
    Exact up to:
        lossy; the gate decides. ONNX Runtime has no sparse kernels: with 90 % of zeros it is 1.007 times as fast, and
        2:4 gains nothing. Files get smaller where they are compressed, or store their weights sparse.
    Source:
        Han, Pool, Tran, Dally, "Learning both Weights and Connections for Efficient Neural Networks", NIPS 2015; Sun,
        Liu, Bair, Kolter, "A Simple and Effective Pruning Approach for Large Language Models" (Wanda), ICLR 2024;
        Frantar, Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot", ICML 2023, but
        with what the layers read before any is pruned.
    """

    name: ClassVar[str] = "prune-weights"
    exactness: ClassVar[Exactness] = Exactness.LOSSY
    pays_elsewhere: ClassVar[str] = (
        "ONNX Runtime has no sparse kernels: zeros make nothing faster, and a file smaller only where it is "
        "compressed or stores its weights sparse"
    )

    ratio: float = option(0.5, "share of a layer's weights that are zero in the end", low=0, high=0.999)
    threshold: float = option(0.0, "in place of ratio: smaller magnitudes go; 0: none", low=0)
    relative: bool = option(False, "threshold is a share of the greatest magnitude in the layer")
    importance: str = option(MAGNITUDE, "of a weight; wanda and second-order need data", choices=IMPORTANCES)
    scope: str = option("layer", "what ratio is a share of: each layer, or all together", choices=("layer", "global"))
    pattern: str = option(UNSTRUCTURED, "of the zeros: unstructured, N of M that stay as 2:4, blocks as 16x1")
    size: int = option(0, "fewest weights of a layer that is pruned", low=0)
    only: tuple[str, ...] = option((), "layers to prune, by the name of their output; * stands for anything; none: all")
    leave: tuple[str, ...] = option((), "layers to leave, by the name of their output; * stands for anything")

    def __post_init__(self) -> None:
        """Refuse what has no meaning.

        Raises:
            UsageError: for an unknown pattern, or options that do not go together.
        """
        if self.threshold and self.importance != MAGNITUDE:
            raise UsageError(f"option threshold: is about magnitudes; give ratio with importance={self.importance}")
        if Pattern.parse(self.pattern).of and (self.threshold or self.scope == "global"):
            raise UsageError(f"option pattern: {self.pattern} says what stays; leave out threshold and scope=global")

    def run(self, model: ir.Model, context: Context) -> list[Change | Refusal]:
        """Prune in place."""
        if self.importance != MAGNITUDE and context.calibration is None:
            return [Refusal("", f"importance={self.importance} needs calibration data (--data)")]
        found, refusals = weights(model)
        why = {weight: self._why_not(weight) for weight in found}
        refusals += [Refusal(weight.name, reason) for weight, reason in why.items() if reason]
        refusals += self._unknown([name for weight in found for name in weight.names])
        chosen = [weight for weight, reason in why.items() if not reason]
        pruned = list(self._pruned(model, chosen, context)) if chosen else []
        changes = [_written(weight, rows) for weight, rows in zip(chosen, pruned, strict=True)]
        return [*filter(None, changes), *refusals]

    def _why_not(self, weight: Weight) -> str | None:
        """Why a weight is left alone."""
        if (self.only and not _named(weight.names, self.only)) or _named(weight.names, self.leave):
            return "is to be left"
        if weight.rows.size < self.size:
            return f"{weight.rows.size} weights are fewer than {self.size}"
        if self.importance == SECOND_ORDER and not fits(weight):
            return f"{weight.rows.shape[1]} products for each output are too many for importance={SECOND_ORDER}"
        return Pattern.parse(self.pattern).misfit(weight.grouped.shape[1], weight.inputs)

    def _unknown(self, names: Collection[str]) -> list[Refusal]:
        """The words of ``only`` and ``leave`` that no layer answers to."""
        words = [word for word in (*self.only, *self.leave) if not _named(names, [word])]
        return [Refusal("", f"no layer that can be pruned is named {word!r}") for word in words]

    def _pruned(self, model: ir.Model, chosen: Sequence[Weight], context: Context) -> Iterable[Rows]:
        """The new rows of each weight."""
        pattern = Pattern.parse(self.pattern)
        if self.importance == SECOND_ORDER:
            return self._repaired(model, chosen, context, pattern)
        masks = self._masks(model, chosen, context, pattern)
        return (np.where(pattern.spread(mask), 0, weight.rows) for weight, mask in zip(chosen, masks, strict=True))

    def _masks(self, model: ir.Model, chosen: Sequence[Weight], context: Context, pattern: Pattern) -> Iterator[Mask]:
        """The units of each weight that go."""
        if self.threshold:
            return (pattern.units(np.abs(weight.rows)) < self._limit(weight) for weight in chosen)
        scores = importance(self.importance, model, chosen, context)
        if self.scope == "global":
            return together(pattern, chosen, scores, self.ratio)
        by_row = self.importance == WANDA
        both = zip(chosen, scores, strict=True)
        return (apart(pattern, weight, one, self.ratio, by_row=by_row) for weight, one in both)

    def _limit(self, weight: Weight) -> float:
        """The magnitude below which weights go."""
        return self.threshold * (float(np.abs(weight.rows).max()) if self.relative else 1.0)

    def _repaired(
        self, model: ir.Model, chosen: Sequence[Weight], context: Context, pattern: Pattern
    ) -> Iterator[Rows]:
        """The new rows of each weight, those that stay changed; a weight that has its zeros stays as it is."""
        if self.scope == "global":
            counts = [int(mask.sum()) for mask in self._masks(model, chosen, context, pattern)]
        else:
            counts = [share_of(self.ratio, pattern.gone(weight.rows).size) for weight in chosen]
        wanted = dict(zip(chosen, counts, strict=True))
        todo = [weight for weight, count in wanted.items() if not pattern.holds(weight.rows, count)]
        found = {
            weight: sparsegpt(weight.grouped.astype(np.float64), met.second, pattern, wanted[weight])
            for weight, met in input_moments(model, todo, context)
        }
        for weight in chosen:
            rows = found[weight].astype(np.float32) if weight in found else weight.rows
            yield rows.reshape(weight.rows.shape)


def _named(names: Collection[str], words: Collection[str]) -> bool:
    """Whether a word is one of the names, or a pattern of one."""
    return any(name == word or fnmatchcase(name, word) for name in names for word in words)


def _written(weight: Weight, rows: Rows) -> Change | None:
    """Put new rows into the model, if they have more zeros."""
    before, after = (int((one == 0).sum()) for one in (weight.rows, rows))
    if before == after:
        return None
    weight.write(rows)
    return Change(weight.name, f"{after:,} of {rows.size:,} weights are zero")
