"""Turn Constant nodes into initializers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from onnxopt.core import Change, Context, Exactness, Pass
from onnxopt.graph import lift, nodes


@dataclass(frozen=True)
class LiftConstants(Pass):
    """Turn Constant nodes into initializers of the same graph, where other passes look for weights.

    Before:
        ``w = Constant<value = ...>()``
    After:
        an initializer ``w``
    Left alone:
        a Constant that its graph returns; strings.
    Exact up to:
        nothing.
    Source:
        ONNX operator specification, Constant.
    """

    name: ClassVar[str] = "lift-constants"
    exactness: ClassVar[Exactness] = Exactness.EXACT

    def run(self, model: ir.Model, context: Context) -> list[Change]:
        """Lift all, those in subgraphs too."""
        lifted = [value for node in nodes(model, "Constant") if (value := lift(node)) is not None]
        return [Change(value.name or "", "Constant became an initializer") for value in lifted]
