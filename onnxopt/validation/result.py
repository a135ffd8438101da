"""What came out of a comparison: a value, and its form as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from onnxopt.gate import Drop
from onnxopt.validation.bisect import Bisection
from onnxopt.validation.errors import ErrorOf
from onnxopt.validation.judge import Asked, Problem, problems_of
from onnxopt.validation.layers import Layers
from onnxopt.validation.sizes import Tried

VERSION = 2
"""Of the JSON form. 1: first. 2: ``outputs`` with SQNR, cosine, NaN and inf in place of ``differences``, ``metrics``
(the first is ``accuracy``), ``asked``, ``sizes``, ``layers``, ``bisection``."""


@dataclass(frozen=True)
class Validation:
    """What was compared, and what came out.

    Attributes:
        reference, model: paths.
        signature: sentences on inputs and outputs that are not the same; then nothing else was compared.
        data: where the samples came from.
        samples: number of them.
        asked: the limits.
        outputs: the error of each.
        drops: of the accuracy metrics, on data; the gate asks the first.
        sizes: dynamic dimensions at another size.
        found: what is beyond the limits.
        layers: the values inside; None where nobody asked.
        bisection: which changes explain the failure; None where nobody asked, or nothing failed.
        notes: what does not refuse the model and should be known.
    """

    reference: str
    model: str
    signature: tuple[str, ...]
    data: str = "none"
    samples: int = 0
    asked: Asked = field(default_factory=Asked)
    outputs: tuple[ErrorOf, ...] = ()
    drops: tuple[Drop, ...] = ()
    sizes: tuple[Tried, ...] = ()
    found: tuple[Problem, ...] = ()
    layers: Layers | None = None
    bisection: Bisection | None = None
    notes: tuple[str, ...] = ()

    @property
    def drop(self) -> Drop | None:
        """That of the gate's metric; None without data."""
        return self.drops[0] if self.drops else None

    @property
    def problems(self) -> tuple[str, ...]:
        """Sentences on what is beyond the limits; none where the model can take the reference's place."""
        return (*self.signature, *(problem.sentence for problem in self.found))

    def verdict(self, error: ErrorOf) -> str:
        """Of one output in a word or two."""
        words = {"nan": "NaN or inf", "shape": "another shape", "rtol": "too far", "sqnr": "SQNR too low"}
        return ", ".join(words[problem.kind] for problem in problems_of(error, self.asked)) or "ok"

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "version": VERSION,
            "reference": self.reference,
            "model": self.model,
            "passed": not self.problems,
            "problems": list(self.problems),
            "asked": self._asked(),
            "data": self.data,
            "samples": self.samples,
            "outputs": [{**error.to_dict(), "verdict": self.verdict(error)} for error in self.outputs],
            "accuracy": self.drop and self.drop.to_dict(),
            "metrics": [drop.to_dict() for drop in self.drops],
            "sizes": [one.to_dict() for one in self.sizes],
            "layers": self.layers and self.layers.to_dict(),
            "bisection": self.bisection and self.bisection.to_dict(),
            "notes": list(self.notes),
        }

    def _asked(self) -> dict[str, Any]:
        limits = self.asked.limits
        return {
            "rtol": self.asked.rtol,
            "min_sqnr": self.asked.min_sqnr,
            "max_drop": limits.max_drop if self.drops else None,
            "of_interval": limits.strict_interval,
        }
