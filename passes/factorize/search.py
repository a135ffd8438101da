"""All ways to split the layers of a model, and what an error of each layer means at the outputs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import onnx_ir as ir

from onnxopt import progress
from onnxopt.calibrate.inputs import fits, input_moments
from onnxopt.calibrate.moments import Moment
from onnxopt.core import Context
from onnxopt.layers import Weight
from onnxopt.passes.factorize.candidates import Ways, parted, ways
from onnxopt.passes.factorize.gain import Judge
from onnxopt.passes.factorize.split import Split

Share = Callable[[Weight, Split], float]
"""What a split costs, as a share of what the layers of the weight cost as they are."""


@dataclass(frozen=True)
class Search:
    """What is looked for.

    Attributes:
        forms: of split convolutions.
        multiple: of their ranks.
        limit: most that a weight's layers may cost, as a share of what they cost as they are.
        share: that a split costs.
        whiten: whether splits are fitted to what the layers read.
    """

    forms: Collection[str]
    multiple: int
    limit: Callable[[Weight], float]
    share: Share
    whiten: bool

    def ways(self, weight: Weight, moments: Sequence[Moment] = ()) -> Ways:
        """All ways that are allowed; judged by the second of two moments of what the layers read, if there are any."""
        limit = self.limit(weight)
        fit, held = moments or (None, None)
        return ways(
            weight,
            self.forms,
            self.multiple,
            lambda split: self.share(weight, split) <= limit,
            fit if self.whiten else None,
            held,
        )

    def judged(
        self, model: ir.Model, chosen: Sequence[Weight], context: Context, *, gains: bool
    ) -> Iterator[tuple[Ways, float]]:
        """The ways of each weight, and what its loss is multiplied with: the divergence of outputs that it makes.

        Args:
            model: not changed.
            chosen: of its weights.
            context: where to run, and calibration samples, if there are any.
            gains: whether the model is run; else all losses count alike.
        """
        if context.calibration is None:
            yield from ((self.ways(weight), 1.0) for weight in chosen)
            return
        fit, held = parted(context)
        judge = Judge(model, len(chosen), held) if gains and chosen else None
        for number, (weight, moments) in enumerate(_moments(model, chosen, (fit, held)), 1):
            progress.count("ranks of layer", number, len(chosen))
            found = self.ways(weight, moments)
            gain = 1.0
            if judge is not None and found.losses:
                gain = judge.gain(found, partial(self.share, weight), moments, whiten=self.whiten)
            yield found, gain


def _moments(
    model: ir.Model, chosen: Sequence[Weight], contexts: Sequence[Context]
) -> Iterator[tuple[Weight, tuple[Moment, ...]]]:
    """Of what each weight meets, on the samples of each context; none where they would be too large."""
    seen = [weight for weight in chosen if fits(weight)]
    if seen:
        for found in zip(*(input_moments(model, seen, context) for context in contexts), strict=True):
            yield found[0][0], tuple(moment for _, moment in found)
    yield from ((weight, ()) for weight in chosen if weight not in seen)
