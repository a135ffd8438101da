"""Make weights constants where the file lists them as inputs too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from onnxopt.core import Change, Context, Exactness, Pass, Refusal, option

FREE_SINCE = 4
"""The IR version from which an initializer need not be a graph input."""


@dataclass(frozen=True)
class FreezeWeights(Pass):
    """Take initializers off the list of graph inputs, so that other passes may rely on them.

    Before:
        an input ``w`` with an initializer ``w``: a default that a caller may override
    After:
        the initializer ``w`` alone: a constant (IR version 4 at least)
    Left alone:
        files of IR version 4 and above, unless ``everywhere`` is set: there the list says what may be
        overridden. Before, every initializer had to be on it, so that it says nothing.
    Exact up to:
        nothing, as long as no caller gives the weight.
    Source:
        ONNX IR specification, "Graphs": initializers that share a name with an input.
    """

    name: ClassVar[str] = "freeze-weights"
    exactness: ClassVar[Exactness] = Exactness.EXACT

    everywhere: bool = option(False, "also where the file's IR version makes the list of inputs a choice")

    def run(self, model: ir.Model, context: Context) -> list[Change | Refusal]:
        """Remove the inputs."""
        weights = [value for value in model.graph.inputs if value.is_initializer()]
        if not weights:
            return []
        first = weights[0].name or ""
        if model.ir_version >= FREE_SINCE and not self.everywhere:
            why = (
                f"{len(weights)} weights are inputs too, so that a caller may override them and they are no "
                "constants; if nobody does: freeze-weights:everywhere=true"
            )
            return [Refusal(first, why)]
        kept = [value for value in model.graph.inputs if not value.is_initializer()]
        model.graph.inputs.clear()
        model.graph.inputs.extend(kept)
        return [Change(value.name or "", "weight is no longer an input") for value in weights]
