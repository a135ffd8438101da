"""Write layers as several of low rank, and refit what reads them."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar

import onnx_ir as ir

from onnxopt.core import Change, Context, Exactness, Pass, Prediction, Refusal, option
from onnxopt.errors import UsageError
from onnxopt.graph import adopt
from onnxopt.layers import Layer, Weight, layers, weights
from onnxopt.macs import Shape as Sizes
from onnxopt.passes.factorize import costs, store
from onnxopt.passes.factorize.building import NONE, built
from onnxopt.passes.factorize.candidates import Ways
from onnxopt.passes.factorize.costs import Costs
from onnxopt.passes.factorize.limits import int8_limit
from onnxopt.passes.factorize.pairs import ahead
from onnxopt.passes.factorize.ranks import Choice, cheapest, within
from onnxopt.passes.factorize.search import Search
from onnxopt.passes.factorize.split import FORMS, Split, rows_read
from onnxopt.passes.factorize.timing import seconds
from onnxopt.passes.repair import METHODS

REPAIRS = (*METHODS, NONE)
AMOUNTS = ("error", "macs", "latency", "bytes")


@dataclass(frozen=True)
class Factorize(Pass):
    """Write matrix products and convolutions as two or three of low rank, and refit the network.

    Before:
        ``y = MatMul(x, W)``, W [K, N], Gemm alike; ``y = Conv(x, W, b)``, W [O, C, k, k]
    After:
        ``y = MatMul(MatMul(x, A), B)``, A [K, R], B [R, N], with A B the matrix of rank R with which the outputs err
        least on calibration samples; without data, the one that is nearest to W. Of convolutions the best of three
        forms: kxk to R channels, then 1x1 (``svd``); 1x1 to R, kxk to S, 1x1 to O (``tucker``); kx1 to R, then 1xk
        (``separable``). Then all layers are refitted by least squares, one after the other, so that they give what they
        gave in the original, on calibration samples; no labels, no training.

        ``error`` finds the ranks of each layer by itself: the cheapest that lose no more of its outputs' variance, on
        samples held out, and all up to where its spectrum falls off to noise. The other amounts are budgets of the
        whole model: the ranks of all layers are chosen together, for the least error that is predicted of its outputs.
    Left alone:
        ranks that cost more than ``limit`` of the layer, for which two kernels are no faster than one; layers of two in
        a row with nothing between, which are split already; grouped convolutions; weights that can be overridden, are
        not float32, or are read by other operators; nodes in subgraphs.
    Exact up to:
        lossy; the gate decides. In front of int8 it made a MiniLM 1.20 times as fast as int8 alone, at 65 % of its
        multiply-accumulates, and a ResNet-56 slower (``int8=yes`` takes only ranks that pay by kernels alone).
    Source:
        principal components of the outputs: Zhang, Zou, He, Sun, "Accelerating Very Deep Convolutional Networks for
        Classification and Detection", TPAMI 2016; Tucker-2: Kim et al., "Compression of Deep Convolutional Neural
        Networks for Fast and Low Power Mobile Applications", ICLR 2016; separable: Jaderberg, Vedaldi, Zisserman,
        "Speeding up Convolutional Neural Networks with Low Rank Expansions", BMVC 2014; here all are weighed with the
        second moments of the inputs. Measured on MiniLM at 65 % of its layers' multiply-accumulates: plain SVD
        loses 2.7 points of rank correlation, this 0.9; on a ResNet-56 at 85 %: 1.9 points of top-1, this 0.4.
    """

    name: ClassVar[str] = "factorize"
    exactness: ClassVar[Exactness] = Exactness.LOSSY

    error: float = option(0.01, "share of a layer's output variance that may go, if no other is given", low=0, high=1)
    macs: float = option(0.0, "share of the multiply-accumulates that may stay", low=0, high=1)
    latency: float = option(0.0, "share of the time that may stay", low=0, high=1)
    bytes: float = option(0.0, "share of the bytes of constants that may stay", low=0, high=1)
    forms: tuple[str, ...] = option(FORMS, "of split convolutions; the best is taken", choices=FORMS)
    whiten: bool = option(True, "whether the error of outputs counts, on calibration samples; else that of weights")
    repair: str = option("least-squares", "what is refitted: weights and biases, biases, or nothing", choices=REPAIRS)
    multiple: int = option(16, "ranks of convolutions are multiples of it", low=1)
    limit: float = option(0.9, "most that a split layer may cost, as a share of what it costs as it is", low=0, high=1)
    int8: bool = option(False, "whether layers will be quantized: lower limits, and no convolutions")
    only: tuple[str, ...] = option((), "layers to split, by the name of their output; * stands for anything; none: all")
    leave: tuple[str, ...] = option((), "layers to leave, by the name of their output; * stands for anything")

    def __post_init__(self) -> None:
        """Refuse two amounts.

        Raises:
            UsageError: if more than one of error, macs, latency and bytes is given.
        """
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        given = [name for name in AMOUNTS if getattr(self, name) != defaults[name]]
        if len(given) > 1:
            raise UsageError(f"factorize: give one of {', '.join(AMOUNTS)}, not {' and '.join(given)}")

    def run(self, model: ir.Model, context: Context) -> list[Change | Refusal | Prediction]:
        """Split in place."""
        if self.latency and not context.target.is_here:
            return [Refusal("", "latency: kernels can be timed only on the processor of this machine")]
        chosen, refusals = self._chosen(model)
        if not chosen:
            return [*refusals]
        shapes = costs.read_shapes(model, chosen, context)
        counted = costs.numbers(model) if self.bytes else costs.macs(model, shapes, context)
        search = Search(self.forms, self.multiple, lambda one: self._limit(one, shapes), counted.share, self.whiten)
        judged = self._judged(search, model, chosen, context)
        paid = seconds(model, [one for one, _ in judged], shapes, context) if self.latency else counted
        splits = self._picked(judged, paid)
        said = [Refusal(one.weight.name, self._why_whole(one)) for one, _ in judged if one.weight not in splits]
        if not splits:
            return [*said, *refusals]
        smaller, changes = built(model, splits, context, whiten=self.whiten, method=self.repair)
        adopt(model, smaller)
        after = paid.total - sum(paid.of(weight, None) - paid.of(weight, split) for weight, split in splits.items())
        return [*changes, *said, *refusals, *([Prediction(paid.total / after)] if self.latency else [])]

    def _judged(self, search: Search, model: ir.Model, chosen: Sequence[Weight], context: Context) -> store.Judged:
        """All ways to split the weights, and what an error of each means; found out once."""
        asked = (self.forms, self.multiple, self.limit, self.int8, self.whiten, bool(self.bytes), self._budgeted)
        place = store.place(model, chosen, context, asked)
        found = store.load(place, chosen)
        if found is None:
            found = list(search.judged(model, chosen, context, gains=self._budgeted))
            store.keep(place, found)
        return found

    @property
    def _budgeted(self) -> bool:
        """Whether the amount is of the whole model."""
        return bool(self.macs or self.latency or self.bytes)

    def _chosen(self, model: ir.Model) -> tuple[list[Weight], list[Refusal]]:
        """The weights that may be split, and why others may not."""
        found, refusals = weights(model)
        known = {layer.node: layer for layer in layers(model)[0]}
        paired = {layer for one in known.values() if (first := ahead(one, known)) for layer in (first, one)}
        why = {weight: self._why_not(weight, paired) for weight in found}
        refusals += [Refusal(weight.name, reason) for weight, reason in why.items() if reason]
        names = [name for weight in found for name in weight.names]
        words = [word for word in (*self.only, *self.leave) if not _named(names, [word])]
        refusals += [Refusal("", f"no layer that can be split is named {word!r}") for word in words]
        return [weight for weight, reason in why.items() if not reason], refusals

    def _why_not(self, weight: Weight, paired: Collection[Layer]) -> str | None:
        """Why a weight is left alone, whatever its ranks."""
        if (self.only and not _named(weight.names, self.only)) or _named(weight.names, self.leave):
            return "is to be left"
        if weight.layers[0].group > 1:
            return "its convolution is grouped"
        if any(layer in paired for layer in weight.layers):
            return "is one of two layers in a row with nothing between, which merge-linear may multiply out"
        return None

    def _limit(self, weight: Weight, shapes: Mapping[Layer, Sizes]) -> float:
        """Most that a split may cost."""
        rows = sum(rows_read(layer, shapes[layer]) for layer in weight.layers)
        return min(self.limit, int8_limit(weight, rows)) if self.int8 else self.limit

    def _picked(self, judged: Sequence[tuple[Ways, float]], paid: Costs) -> dict[Weight, Split]:
        """The splits that are made."""
        choices = [_choices(found, gain, paid) for found, gain in judged]
        if self._budgeted:
            share = self.macs or self.latency or self.bytes
            splits = [one.split for one in within(choices, share * paid.total, paid.total)]
        else:
            splits = [cheapest(found, many, self.error) for (found, _), many in zip(judged, choices, strict=True)]
        return {found.weight: split for (found, _), split in zip(judged, splits, strict=True) if split is not None}

    def _why_whole(self, found: Ways) -> str:
        """Why a layer that could be split is not."""
        least = min(found.losses.values(), default=None)
        if least is None:
            return "no rank that is allowed costs so much less that it would pay"
        if self._budgeted:
            return "the budget is met without it"
        return f"ranks that pay lose at least {least:.1%} of its outputs' variance"


def _choices(found: Ways, gain: float, paid: Costs) -> list[Choice]:
    """The layer as it is, and its splits."""
    whole = Choice(None, paid.of(found.weight, None), 0.0)
    return [whole, *(Choice(one, paid.of(found.weight, one), gain * loss) for one, loss in found.losses.items())]


def _named(names: Collection[str], words: Collection[str]) -> bool:
    """Whether a word is one of the names, or a pattern of one."""
    return any(name == word or fnmatchcase(name, word) for name in names for word in words)
