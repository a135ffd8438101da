"""What is decided on at once: a pass, several passes together, the best of several such, or how much of a pass."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import onnx_ir as ir

from onnxopt.core import Change, Context, Exactness, Pass, Prediction, Refusal


@dataclass(frozen=True)
class Together:
    """Passes that are kept or undone as one: some pay only with another.

    Written ``one + other:option=value``.
    """

    passes: tuple[Pass, ...]

    @property
    def exactness(self) -> Exactness:
        """That of the least exact."""
        order = list(Exactness)
        return max((rewrite.exactness for rewrite in self.passes), key=order.index)

    @property
    def pays_elsewhere(self) -> str:
        """What its lossy passes say, if all of them do."""
        said = [rewrite.pays_elsewhere for rewrite in self.passes if rewrite.exactness is Exactness.LOSSY]
        return "; ".join(dict.fromkeys(said)) if all(said) else ""

    @property
    def for_speed(self) -> bool:
        """Whether one of its passes is only worth keeping where it is faster."""
        return any(rewrite.for_speed for rewrite in self.passes)

    def run(self, model: ir.Model, context: Context) -> list[Change | Refusal | Prediction]:
        """Run one after the other, in place; where one of them finds nothing, there is nothing to do together."""
        found: list[Change | Refusal | Prediction] = []
        lossy = False
        for rewrite in self.passes:
            said = rewrite.run(model, context)
            if not any(isinstance(item, Change) for item in said):
                why = next((f": {item.why}" for item in said if isinstance(item, Refusal)), "")
                return [Refusal("", f"{rewrite.name} has nothing to do{why}")]
            # behind a lossy pass, a prediction is against a model that nobody times
            found += [item for item in said if not (lossy and isinstance(item, Prediction))]
            lossy = lossy or rewrite.exactness is Exactness.LOSSY
        return found

    def finer(self) -> Together | None:
        """The same with its last pass made with more care; None where that has no such form."""
        finer = self.passes[-1].finer()
        return None if finer is None else Together((*self.passes[:-1], finer))

    def __str__(self) -> str:
        """As typed after ``--pass``."""
        return " + ".join(map(str, self.passes))


Candidate = Pass | Together


@dataclass(frozen=True)
class OneOf:
    """Candidates of which the best is kept; then that is made with more care, if it can be, and the more exact stays.

    Written ``one | other``.
    """

    candidates: tuple[Candidate, ...]

    def __str__(self) -> str:
        """As typed after ``--pass``."""
        return " | ".join(map(str, self.candidates))


@dataclass(frozen=True)
class Search:
    """A pass of which the boldest amount is wanted that the accuracy gate lets through, found by bisection.

    It is tried with the lossy passes that were kept right before it, in front of them: int8 of a pruned network is
    calibrated on the pruned network. Written ``one:option=bold..careful``, as ``prune-channels:macs=0.3..0.95``.

    Attributes:
        rewrite: the pass, without the amount.
        option: the one that is searched.
        bold: the end where most is done.
        careful: the end where least is.
    """

    rewrite: Pass
    option: str
    bold: float
    careful: float

    def at(self, amount: float, behind: Candidate | None) -> Candidate:
        """The pass with an amount, and what comes behind it."""
        rewrite: Pass = dataclasses.replace(self.rewrite, **{self.option: amount})  # type: ignore[type-var]
        if behind is None:
            return rewrite
        return Together((rewrite, *(behind.passes if isinstance(behind, Together) else (behind,))))

    def __str__(self) -> str:
        """As typed after ``--pass``."""
        words = str(self.rewrite)
        amount = f"{self.option.replace('_', '-')}={self.bold}..{self.careful}"
        return f"{words}{',' if ':' in words else ':'}{amount}"


Stage = Candidate | OneOf | Search
