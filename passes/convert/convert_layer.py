"""Write layers as layers of another kind, where the kernels of this machine are faster then."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar

import onnx_ir as ir

from onnxopt.core import Change, Context, Exactness, Pass, Refusal, option
from onnxopt.errors import ModelError, UsageError
from onnxopt.graph import inferred, label, opset
from onnxopt.passes.convert.choosing import Clock, Offer
from onnxopt.passes.convert.conversions import CONVERSIONS
from onnxopt.passes.convert.plan import Conversion, Plan, Site

OLDEST = 11
"""The opset from which all operators are as the conversions write them."""
ROUNDS = 8
"""A layer that was converted is looked at again, and its neighbours."""
WHERE_FASTER, ALWAYS = "faster", "always"


@dataclass(frozen=True)
class ConvertLayer(Pass):
    """Write a layer as one of another kind, where its kernel is faster on this machine.

    Before:
        ``y = Conv(x, W, b)``, W [M, C, 1, 1]; or another of the layers below
    After:
        ``y = Reshape(MatMul(W, Reshape(x, [N, C, -1])) + b, [N, M, H, W])``. The conversions:

        - ``conv-to-matmul``, ``matmul-to-conv``: a convolution of single pixels and a product over channels
        - ``conv-to-gemm``, ``gemm-to-conv``: a convolution that covers its whole input and a product
        - ``gemm-to-matmul``, ``matmul-to-gemm``: a Gemm and a product with a sum
        - ``transposed-to-conv``: a ConvTranspose of stride 1 to a Conv with its kernel turned round
        - ``transposed-to-blocks``, ``blocks-to-transposed``: a ConvTranspose whose stride is its kernel, and a Conv
          with DepthToSpace
        - ``strided-to-blocks``, ``blocks-to-strided``: a Conv of stride s over few channels, and SpaceToDepth with a
          Conv of stride 1
        - ``few-outputs-2x2``, ``few-outputs-4x4``: a Conv that gives few channels to one of stride 2 or 4 that gives
          those of 4 or 16 pixels at once, and DepthToSpace
        - ``grouped-to-depthwise``: a Conv that makes several channels of each, to a depthwise one of repeated channels
        - ``merge-groups``: a Conv of small groups to one of fewer groups, with zeros between the old ones
        - ``conv-1d-to-2d``: a Conv of signals to one of images with a single row
        - ``einsum-to-matmul``: an Einsum to MatMul (or Mul, ReduceSum), with transpositions where it needs them
    Left alone:
        what is not ``gain`` times as fast in its place, twice, with what ONNX Runtime fuses into it, or saves less than
        2 microseconds; on other targets than the CPU of this machine, all; weights that are not constant, are stored
        sparse or have more than 128 MB; types other than float32, subgraphs, opsets before 11.
    Exact up to:
        float rounding, for finite numbers: a new zero weight times infinity is not zero.
    Source:
        linearity; space-to-depth and sub-pixel convolution (Shi et al., "Real-Time Single Image and Video
        Super-Resolution Using an Efficient Sub-Pixel Convolutional Neural Network", CVPR 2016). By single layers, on a
        shared AVX512 machine with ONNX Runtime 1.31: few outputs 1.1 to 14 times as fast (3x3 to 9x9, to 8 or 1
        channels), signals 0.6 to 5.0, depthwise form 2.1 to 3.2, merged groups of 4 or 8 channels 0.9 to 2.3,
        ConvTranspose of stride 1 1.2 to 2.9 (0.25 where it gives few channels), Einsum 0.9 to 2.3, the whole input 0.4
        to 1.3 and with a batch of 8 to 2.2, single pixels 0.4 to 1.2 and 2.6 where channels are few, blocks of a
        ConvTranspose 0.4 to 1.5 and back 0.6 to 2.3, of a stem 0.5 and back 1.0 to 1.3, products between transpositions
        1.05 to 1.3, Gemm as Conv 0.2 to 2.0 (large matrices, one row), Gemm and MatMul with Add the same.
    """

    name: ClassVar[str] = "convert-layer"
    exactness: ClassVar[Exactness] = Exactness.ROUNDING
    for_speed: ClassVar[bool] = True

    conversions: tuple[str, ...] = option((), "those to try; none: all", choices=tuple(one.name for one in CONVERSIONS))
    only: tuple[str, ...] = option((), "layers to try, by the name of their output; * stands for anything; none: all")
    gain: float = option(1.1, "least ratio of times for which a layer is converted", low=1)
    choose: str = option(
        WHERE_FASTER,
        "faster: by timing; always: without, and not those that undo another",
        choices=(WHERE_FASTER, ALWAYS),
    )

    def __post_init__(self) -> None:
        """Refuse what would go round in circles.

        Raises:
            UsageError: for two conversions that undo each other, with choose=always.
        """
        for one in CONVERSIONS:
            if self.choose == ALWAYS and {one.name, one.undoes} <= {*self.conversions}:
                raise UsageError(
                    f"option conversions: {one.name} undoes {one.undoes}; give one of them, or choose=faster"
                )

    def run(self, model: ir.Model, context: Context) -> list[Change | Refusal]:
        """Convert layers of the main graph."""
        names = [label(node) for node in model.graph]
        unknown = [word for word in self.only if not _named(names, [word])]
        done: list[Change | Refusal] = []
        refusals, clock = list[Refusal](), Clock(context)
        for _ in range(ROUNDS):
            changes, refusals = self._round(model, context, clock)
            done += changes
            if not changes:
                break
        return [*done, *refusals, *(Refusal("", f"no node is named {word!r}") for word in unknown)]

    def _round(self, model: ir.Model, context: Context, clock: Clock) -> tuple[list[Change], list[Refusal]]:
        """Convert what pays as the model is now; a node takes part in one conversion."""
        offers, refusals = self._offers(model, context)
        if not offers:
            return [], refusals
        if self.choose == ALWAYS:
            return list(_applied(offers)), refusals
        if not context.target.is_here:
            return [], [Refusal("", "kernels of another machine cannot be timed here")]
        try:
            paying, slow = clock.judged(model, offers, self.gain)
        except ModelError as error:
            return [], [Refusal("", f"kernels cannot be timed: {error}")]
        changes = list(_applied(paying))
        return changes, [*(Refusal(one.name, f"{one.conversion.name}: {_said(one)}") for one in slow), *refusals]

    def _offers(self, model: ir.Model, context: Context) -> tuple[list[Offer], list[Refusal]]:
        """What can be converted, and why other layers cannot."""
        tried = self._tried()
        layers = [node for node in model.graph if any(node.op_type == one.op for one in tried)]
        layers = [node for node in layers if self._meant(node)]
        version = opset(model)
        if not layers or version < OLDEST:
            return [], [Refusal("", f"opset {version} is older than {OLDEST}")] if layers else []
        known, block = inferred(model), 16 if context.target.has_avx512 else 8
        offers, refusals = [], []
        for node in layers:
            site, reasons = Site(node, known, version, block), dict[str, list[str]]()
            for conversion in tried:
                plan = conversion.at(site)
                if isinstance(plan, Plan):
                    offers.append(Offer(site, conversion, plan))
                elif plan is not None:
                    reasons.setdefault(plan, []).append(conversion.name)
            refusals += [Refusal(label(node), f"{', '.join(names)}: {why}") for why, names in reasons.items()]
        return offers, refusals

    def _tried(self) -> list[Conversion]:
        """The conversions that are asked for."""
        if self.conversions:
            return [one for one in CONVERSIONS if one.name in self.conversions]
        return [one for one in CONVERSIONS if not one.undoes or self.choose == WHERE_FASTER]

    def _meant(self, node: ir.Node) -> bool:
        """Whether a layer is asked for."""
        return not self.only or _named([label(node)], self.only)


def _named(names: Collection[str], words: Collection[str]) -> bool:
    """Whether a word is one of the names, or a pattern of one."""
    return any(name == word or fnmatchcase(name, word) for name in names for word in words)


def _applied(offers: list[Offer]) -> Iterator[Change]:
    """Convert, the first offers first; a node that has gone takes its other offers with it."""
    gone: set[ir.Node] = set()
    for offer in offers:
        if gone.isdisjoint(offer.plan.nodes):
            gone.update(offer.plan.nodes)
            name = offer.name
            offer.plan.apply()
            yield Change(name, f"{offer.conversion.name}{'' if offer.before is None else f', {_said(offer)}'}")


def _said(offer: Offer) -> str:
    return offer.why if offer.before is None else f"{offer.ratio:.2f} times as fast by itself"
