"""What is decided on at once: a pass, several passes together, or the best of several such."""

from __future__ import annotations

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

    def run(self, model: ir.Model, context: Context) -> list[Change | Refusal | Prediction]:
        """Run one after the other, in place; where one of them finds nothing, there is nothing to do together."""
        found: list[Change | Refusal | Prediction] = []
        for rewrite in self.passes:
            said = rewrite.run(model, context)
            if not any(isinstance(item, Change) for item in said):
                return [Refusal("", f"{rewrite.name} has nothing to do")]
            found += said
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


Stage = Candidate | OneOf
