"""Which conversions pay: layers as they are and as they would be, timed on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxopt.calibrate import observed_shapes
from onnxopt.core import Context
from onnxopt.graph import inferred, label, opset, weight_bytes
from onnxopt.macs import Shape
from onnxopt.parts import costs
from onnxopt.passes.convert.piece import cut, wanted, with_fused
from onnxopt.passes.convert.plan import Conversion, Plan, Site
from onnxopt.samples import random_samples
from onnxopt.stopwatch import Cost

SECONDS = 2.0
"""For all timings of a round; each takes a few runs in any case."""
STEP = 1e-6
"""Seconds: profiles count whole microseconds."""
LEAST = 2 * STEP
"""Seconds that must be saved."""
LARGEST = 128 * 2**20
"""Bytes of weights of a layer that is timed: it is held several times meanwhile."""
AGAIN = " again"
"""Behind the key of a part that is timed a second time."""


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


class Clock:
    """Times layers as they are and as they would be; what was timed once in a run of the pass is not timed again."""

    def __init__(self, context: Context) -> None:
        """Nothing is timed yet."""
        self._context = context
        self._samples = context.calibration
        self._known: dict[str, Cost] = {}

    def judged(self, model: ir.Model, offers: Sequence[Offer], gain: float) -> tuple[list[Offer], list[Offer]]:
        """The offers that pay, those first that save most, and the others; with their times.

        Shapes are those of the first sample. An offer must pay twice: of many times that err, the best are too good.

        Args:
            model: that they are of.
            offers: to write its layers otherwise.
            gain: how many times as fast they must be.

        Raises:
            ModelError: if the model does not run.
        """
        target = self._context.target
        self._samples = self._samples or random_samples(model, target, {})
        names = {name for offer in offers for name in wanted(with_fused(offer.plan.nodes))}
        shapes, version = observed_shapes(model, self._samples, names, target), opset(model)
        first = self._timed(offers, shapes, version, "")
        second = self._timed([one for one in first if one.pays(gain)], shapes, version, AGAIN)
        paying = sorted((one for one in second if one.pays(gain)), key=lambda one: one.saved, reverse=True)
        return paying, [one for one in (*second, *first) if not one.pays(gain)]

    def _timed(self, offers: Sequence[Offer], shapes: Mapping[str, Shape], version: int, look: str) -> list[Offer]:
        """The offers with their times."""
        parts: dict[str, ir.Model] = {}
        keys = [self._keys(offer, shapes, version, look, parts) for offer in offers]
        self._known |= costs(parts, self._context.target, SECONDS) if parts else {}
        return [_filled(offer, pair, self._known) for offer, pair in zip(offers, keys, strict=True)]

    def _keys(
        self, offer: Offer, shapes: Mapping[str, Shape], version: int, look: str, parts: dict[str, ir.Model]
    ) -> tuple[str, str] | str:
        """The keys of the layer as it is and as it would be, new ones put among the parts; or why it is not timed."""
        piece = cut(with_fused(offer.plan.nodes), offer.site.node, shapes, version)
        if isinstance(piece, str):
            return piece
        if weight_bytes(piece.model) > LARGEST:
            return f"its weights of {weight_bytes(piece.model) // 2**20} MB are too large to be timed"
        before, old = f"{piece.key}{look}", piece.model.clone()
        plan = offer.conversion.at(Site(piece.node, inferred(piece.model), version, offer.site.block))
        if not isinstance(plan, Plan):
            return plan or "it is another layer by itself"
        plan.apply()
        after = f"{piece.key}{look}"
        parts.update({key: part for key, part in ((before, old), (after, piece.model)) if key not in self._known})
        return before, after


def _filled(offer: Offer, keys: tuple[str, str] | str, known: Mapping[str, Cost]) -> Offer:
    """The offer with its times, or why it has none."""
    if isinstance(keys, str):
        return Offer(offer.site, offer.conversion, offer.plan, why=keys)
    seconds = [cost.before + cost.kernel + cost.after for key in keys if (cost := known.get(key)) is not None]
    if len(seconds) < 2:
        return offer
    return Offer(offer.site, offer.conversion, offer.plan, seconds[0], seconds[1])
