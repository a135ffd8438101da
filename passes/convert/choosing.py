"""Which conversions pay: layers as they are and as they would be, timed on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxopt.calibrate import observed_shapes
from onnxopt.core import Context
from onnxopt.graph import inferred, label, opset
from onnxopt.macs import Shape
from onnxopt.parts import costs
from onnxopt.passes.convert.piece import Piece, cut, wanted, with_fused
from onnxopt.passes.convert.plan import Conversion, Plan, Site
from onnxopt.samples import Samples
from onnxopt.stopwatch import Cost

SECONDS = 2.0
"""For all timings of a round; each takes a few runs in any case."""
STEP = 1e-6
"""Seconds: profiles count whole microseconds."""
LEAST = 2 * STEP
"""Seconds that must be saved."""


@dataclass(frozen=True)
class Offer:
    """A layer that can be written otherwise.

    Attributes:
        site: the layer.
        conversion: the way.
        plan: how.
        before: seconds that it takes, with what is fused into it; None where it was not timed.
        after: seconds that it would take.
        why: the reason where it was not timed.
    """

    site: Site
    conversion: Conversion
    plan: Plan
    before: float | None = None
    after: float | None = None
    why: str = "ONNX Runtime does not run it by itself"

    @property
    def name(self) -> str:
        """How reports name the layer: by its result."""
        return label(self.plan.nodes[-1])

    @property
    def saved(self) -> float:
        """Seconds."""
        return 0.0 if self.before is None or self.after is None else self.before - self.after

    @property
    def ratio(self) -> float:
        """Time before over time after."""
        return 0.0 if self.before is None or self.after is None else self.before / max(self.after, STEP)

    def pays(self, gain: float) -> bool:
        """Whether it is so many times as fast."""
        return self.ratio >= gain and self.saved >= LEAST


def timed(model: ir.Model, offers: Sequence[Offer], samples: Samples, context: Context) -> list[Offer]:
    """The offers with their times, the shapes being those of the first sample."""
    groups = [with_fused(offer.plan.nodes) for offer in offers]
    names = set().union(*map(wanted, groups))
    shapes = observed_shapes(model, samples, names, context.target)
    parts: dict[str, ir.Model] = {}
    keys = [_keys(offer, nodes, shapes, parts, opset(model)) for offer, nodes in zip(offers, groups, strict=True)]
    known = costs(parts, context.target, SECONDS) if parts else {}
    return [_filled(offer, key, known) for offer, key in zip(offers, keys, strict=True)]


def _keys(
    offer: Offer, nodes: Sequence[ir.Node], shapes: Mapping[str, Shape], parts: dict[str, ir.Model], version: int
) -> tuple[str, str] | str:
    """The keys of the layer as it is and as it would be, which are put among the parts; or why it cannot be timed."""
    piece = cut(nodes, offer.site.node, shapes, version)
    if isinstance(piece, str):
        return piece
    before = piece.key
    parts.setdefault(before, Piece(piece.model.clone(), piece.node).model)
    plan = offer.conversion.at(Site(piece.node, inferred(piece.model), version, offer.site.block))
    if not isinstance(plan, Plan):
        return plan or "it is another layer by itself"
    plan.apply()
    parts.setdefault(piece.key, piece.model)
    return before, piece.key


def _filled(offer: Offer, keys: tuple[str, str] | str, known: Mapping[str, Cost]) -> Offer:
    """The offer with its times, or why it has none."""
    if isinstance(keys, str):
        return Offer(offer.site, offer.conversion, offer.plan, why=keys)
    seconds = [cost.before + cost.kernel + cost.after for key in keys if (cost := known.get(key)) is not None]
    if len(seconds) < 2:
        return offer
    return Offer(offer.site, offer.conversion, offer.plan, seconds[0], seconds[1])
