"""Store weights as 16-bit floats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxopt.core import Change, Context, Exactness, Pass, Refusal, option
from onnxopt.graph import array, opset
from onnxopt.layers import tables
from onnxopt.passes.constants import refusal, relative_error, storable
from onnxopt.passes.settling import settle
from onnxopt.passes.store.coded import Coded, Decode

FLOAT16, BFLOAT16 = "float16", "bfloat16"
GREATEST = float(np.finfo(np.float16).max)
"""Beyond it, float16 is infinite."""
COARSE = 0.01
"""Relative error from which the numbers of a constant are too small for float16."""
BFLOAT16_OPSET = 13
"""From here Cast knows bfloat16."""


@dataclass(frozen=True)
class StoreHalf(Pass):
    """Store float32 constants as float16 or bfloat16.

    Before:
        ``y = Conv(x, w)``, w float32; ``e = Gather(t, ids)``
    After:
        ``y = Conv(x, Cast(w16))``, which ONNX Runtime computes when it loads the model: nothing is slower, and nothing
        smaller in memory; ``e = Cast(Gather(t16, ids))`` of tables, which stay small in memory, too
    Left alone:
        constants of fewer than ``min_bytes``, or that would save nothing; those with numbers beyond 65504 or almost all
        too small for float16 (bfloat16 holds them); what a caller may override, what the graph returns, what
        quantization reads (scales), sparse ones, float64, those in subgraphs or Constant nodes (lift-constants);
        bfloat16 before opset 13; what ONNX Runtime does not fold.
    Exact up to:
        lossy; the gate decides. float16 rounds to 11 bits, bfloat16 to 8. Weights that are 16-bit floats already, as in
        many published files, stay as they are.
    Source:
        IEEE 754 binary16. Float16 all through the graph is slower on processors: 0.7 to 1.0 times as fast, measured
        with ONNX Runtime 1.31.
    """

    name: ClassVar[str] = "store-half"
    exactness: ClassVar[Exactness] = Exactness.LOSSY

    dtype: str = option(FLOAT16, "of what is stored", choices=(FLOAT16, BFLOAT16))
    min_bytes: int = option(256, "smaller constants are left alone", low=1)

    def run(self, model: ir.Model, context: Context) -> list[Change | Refusal]:
        """Store in place what ONNX Runtime folds."""
        if self.dtype == BFLOAT16 and opset(model) < BFLOAT16_OPSET:
            return [Refusal("", f"bfloat16 needs opset {BFLOAT16_OPSET}; upgrade-opset first")]
        looked_up = {table.value for table in tables(model)[0]}
        found, refusals = storable(model, self.min_bytes)
        coded = []
        for value in found:
            made = self._coded(value, looked_up=value in looked_up)
            if isinstance(made, Coded):
                coded.append(made)
            else:
                refusals.append(refusal(value, made))
        return [*settle(model, coded, context.target), *refusals]

    def _coded(self, value: ir.Value, *, looked_up: bool) -> Coded | str:
        """The constant in 16 bits, or why not."""
        numbers = array(value)
        assert numbers is not None
        if self.dtype == FLOAT16 and np.abs(numbers[np.isfinite(numbers)]).max(initial=0.0) > GREATEST:
            return f"has numbers beyond {GREATEST:.0f}"
        half = numbers.astype(ir.DataType[self.dtype.upper()].numpy())
        error = relative_error(numbers, half)
        if error > COARSE:
            return f"has numbers too small for {self.dtype}"
        what = f"in {self.dtype}, relative error {error:.1e}" if error else f"in {self.dtype}, without error"
        cast = Decode("Cast", ("half",), {"to": int(ir.DataType.FLOAT)})
        return Coded(value.name or "", what, {"half": half}, (cast,), looked_up)
