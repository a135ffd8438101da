"""Convert a model to a newer opset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from onnxopt.core import Change, Context, Exactness, Pass, Refusal, option
from onnxopt.graph import opset
from onnxopt.opsets import OLDEST, raise_opset


@dataclass(frozen=True)
class UpgradeOpset(Pass):
    """Convert the model to opset ``version`` of the standard operators.

    Before:
        ``y = Squeeze<axes = [0]>(x)``, opset 11
    After:
        ``y = Squeeze(x, axes)``, opset 17
    Left alone:
        models that are there already or below opset 7; those with sparse weights, model-local functions
        (onnx's converter loses them) or operators of a domain the file does not import; Hardmax before
        opset 13 and Resize by less than 1 before opset 11, whose meaning the converter changes.
    Exact up to:
        float rounding.
    Source:
        onnx.version_converter, run on every operator whose meaning changed (see the test). It forgets that
        Resize before opset 11 was asymmetric, which is put right here. onnxscript's converter knows opset 18
        to 25 only.
    """

    name: ClassVar[str] = "upgrade-opset"
    exactness: ClassVar[Exactness] = Exactness.ROUNDING

    version: int = option(17, "opset of the standard operators", low=OLDEST)

    def run(self, model: ir.Model, context: Context) -> list[Change | Refusal]:
        """Convert a copy and take it over if it is valid."""
        before = opset(model)
        if before >= self.version:
            return []
        why = raise_opset(model, self.version)
        return [Refusal("opset", why) if why else Change("opset", f"{before} became {self.version}")]
