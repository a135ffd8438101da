"""Store weights as integers of 8 or 4 bits."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxopt.core import Change, Context, Exactness, Pass, Refusal, option
from onnxopt.errors import UsageError
from onnxopt.graph import adopt, array, opset, rank
from onnxopt.layers import tables
from onnxopt.opsets import raise_opset
from onnxopt.passes.constants import refusal, storable
from onnxopt.passes.settling import settle
from onnxopt.passes.store.axes import channel_axes
from onnxopt.passes.store.coded import Coded
from onnxopt.passes.store.integers import CAST, DEQUANTIZE, How, matrix, packed_table, table

PER_CHANNEL_OPSET, NARROW_OPSET = 13, 21
"""From here DequantizeLinear takes a scale for each channel; blocks; and there are 4-bit integers."""
INT4_IR = 10
"""The version of the file format in which 4-bit integers begin."""
SMALLEST_BLOCK = 16
"""Of those that ONNX Runtime knows."""


@dataclass(frozen=True)
class StoreInt8(Pass):
    """Store the weights of layers, and embedding tables, as integers of 8 or 4 bits with a scale for each channel.

    Before:
        ``y = Conv(x, w)``, Gemm, MatMul, ConvTranspose, LSTM and GRU alike; ``e = Gather(t, ids)``
    After:
        ``y = Conv(x, Cast(w8) * scale)``, one scale for each output channel, or for each ``block`` weights of a channel
        of a matrix: ONNX Runtime computes it when it loads the model, so that speed and memory are those of float.
        With ``form=dequantize`` ``y = Conv(x, DequantizeLinear(w8, scale))``, which other runtimes know as quantized
        weights. ONNX Runtime does not compute that in advance: convolutions are slower (0.5 to 0.8 times as fast), and
        of MatMul it makes MatMulNBits, which rounds x to int8, too, and may be faster or slower.

        ``e = Cast(Gather(t8, ids)) * Gather(scale, ids)`` of tables, one scale for each row, which stay small in
        memory, too. In 4 bits, with ``--allow-contrib``, ``e = GatherBlockQuantized(t4, ids, scale)``.

        Scales are those of least squared error. Weights that are multiples of one step already, as in dequantized int8
        files, keep their numbers.
    Left alone:
        weights of fewer than ``min_bytes``, or that would save nothing; those that can be overridden, are returned,
        not float32, not finite, sparse, in subgraphs or Constant nodes (lift-constants); biases, and all else that is
        neither a weight nor a table; weights that layers read along different axes; tables in 4 bits without
        ``--allow-contrib``; what ONNX Runtime does not load or fold. The opset is raised to 21 for 4-bit weights and
        for blocks with ``form=dequantize``, to 13 for that form without.
    Exact up to:
        lossy; the gate decides. No data are looked at: in 4 bits, convolutional networks lose 10 points and more.
    Source:
        ONNX operator specification; for GatherBlockQuantized that of ONNX Runtime's contributed operators. Measured
        with ONNX Runtime 1.31.
    """

    name: ClassVar[str] = "store-int8"
    exactness: ClassVar[Exactness] = Exactness.LOSSY

    bits: int = option(8, "of a weight: 8 or 4", low=4, high=8)
    block: int = option(0, "weights that share a scale, a power of two from 16 on; 0: a whole channel", low=0)
    form: str = option(CAST, "nodes that decode; cast is folded when the model is loaded", choices=(CAST, DEQUANTIZE))
    min_bytes: int = option(256, "smaller weights are left alone", low=1)

    def __post_init__(self) -> None:
        """Refuse what no operator reads.

        Raises:
            UsageError: for other bits or blocks.
        """
        if self.bits not in (4, 8):
            raise UsageError(f"option bits: {self.bits} is neither 4 nor 8")
        if self.block and (self.block < SMALLEST_BLOCK or self.block & (self.block - 1)):
            raise UsageError(f"option block: {self.block} is neither 0 nor a power of two from {SMALLEST_BLOCK} on")

    def run(self, model: ir.Model, context: Context) -> list[Change | Refusal]:
        """Store in a copy, of the opset that is needed, and take it over if something came of it."""
        looked_up, axes = {found.value for found in tables(model)[0]}, channel_axes(model)
        values, refused = storable(model, self.min_bytes)
        coded = []
        for value in values:
            if (rank(value) or 0) < 2:
                continue
            if value in looked_up:
                made = self._table(value, contrib=context.allow_contrib)
            else:
                made = self._matrix(value, axes.get(value, ()))
            if isinstance(made, Coded):
                coded.append(made)
            else:
                refused.append(refusal(value, made))
        if not coded:
            return [*refused]
        copy = model.clone()
        if why := self._raised(copy, coded):
            return [Refusal("", why), *refused]
        said = settle(copy, coded, context.target)
        if any(isinstance(item, Change) for item in said):
            adopt(model, copy)
        return [*said, *refused]

    def _matrix(self, value: ir.Value, axes: Collection[tuple[int, ...]]) -> Coded | str:
        """A weight, or why it stays."""
        numbers = array(value)
        assert numbers is not None
        if not axes:
            return "is neither the weight of a layer nor a table"
        if len(axes) > 1:
            return "is read by layers along different axes"
        if not np.isfinite(numbers).all():
            return "is not finite"
        return matrix(value.name or "", numbers, next(iter(axes)), How(self.bits, self.block, self.form))

    def _table(self, value: ir.Value, *, contrib: bool) -> Coded | str:
        """A table, or why it stays."""
        numbers, name = array(value), value.name or ""
        assert numbers is not None
        if not np.isfinite(numbers).all():
            return "is not finite"
        if self.bits == 8:
            return table(name, numbers)
        return packed_table(name, numbers, self.block) if contrib else "is a table: in 4 bits it needs --allow-contrib"

    def _raised(self, model: ir.Model, coded: Collection[Coded]) -> str | None:
        """Raise the opset to the one that the integers need; why it cannot be, if it cannot."""
        if all(one.looked_up for one in coded):
            return None
        least = 1
        if self.form == DEQUANTIZE:
            least = NARROW_OPSET if self.block else PER_CHANNEL_OPSET
        if self.bits == 4:
            least = NARROW_OPSET
            model.ir_version = max(model.ir_version, INT4_IR)
        return raise_opset(model, least) if opset(model) < least else None
