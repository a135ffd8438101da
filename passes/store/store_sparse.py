"""Store weights that are mostly zero by what is not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxopt.core import Change, Context, Exactness, Pass, Refusal, Saved, option
from onnxopt.graph import initializers
from onnxopt.passes.constants import reader, refusal
from onnxopt.passes.settling import Stored, settle
from onnxopt.sizes import constant_bytes
from onnxopt.sparse import SparseTensor, sparse

KINDS = {
    *(ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.BOOL),
    *(ir.DataType.INT8, ir.DataType.INT16, ir.DataType.INT32, ir.DataType.INT64),
    *(ir.DataType.UINT8, ir.DataType.UINT16, ir.DataType.UINT32, ir.DataType.UINT64),
}
"""Of numbers, and what else there is in whole bytes."""
INDEX = 8
"""Bytes of the index of a number."""


@dataclass(frozen=True)
class StoreSparse(Pass):
    """Store constants as sparse initializers where that is smaller.

    Before:
        ``y = MatMul(x, w)``, most of w zero
    After:
        the same nodes; w a ``sparse_initializer``: the numbers that are not zero, each with an index of 8 bytes. With
        float32 it is smaller where fewer than a third are left. ONNX Runtime makes it dense when it loads the model:
        the same speed, the same memory
    Left alone:
        constants of fewer than ``min_bytes``, or that would not be smaller; those that can be overridden, are returned,
        lie in subgraphs or Constant nodes (lift-constants), are sparse already, or of strings, complex numbers
        or numbers of fewer than 8 bits; what ONNX Runtime does not load so.
    Exact up to:
        nothing: every bit is kept, -0.0 and NaN too.
    Source:
        ONNX IR specification, SparseTensorProto. onnx's checker takes such models; its strict shape inference
        (full_check) does not, for no operator says that it reads sparse constants. In a zip of the file, dense zeros
        take less than these indices.
    """

    name: ClassVar[str] = "store-sparse"
    exactness: ClassVar[Exactness] = Exactness.EXACT

    min_bytes: int = option(1024, "smaller constants are left alone", low=1)

    def run(self, model: ir.Model, context: Context) -> list[Change | Refusal]:
        """Store in place what is smaller so, and what ONNX Runtime loads."""
        stored, refusals = [], []
        for value in initializers(model):
            made = _made(value, self.min_bytes)
            why = None if made is None else _hindrance(value, model)
            if made is not None and why is None:
                stored.append(made)
            elif why is not None:
                refusals.append(refusal(value, why))
        return [*settle(model, stored, context.target), *refusals]


@dataclass(frozen=True, eq=False)
class _Sparse(Stored):
    """An initializer as a sparse one.

    Attributes:
        contents: the numbers that are not zero.
    """

    contents: SparseTensor

    @property
    def must_fold(self) -> bool:
        """No node gives it."""
        return False

    def write(self, model: ir.Model) -> Change:
        """Put it into the place of the numbers."""
        value = model.graph.initializers[self.name]
        before = constant_bytes(value)
        value.const_value = self.contents
        return Change(reader(value), f"{self.name!r} {self.what}", Saved(before - constant_bytes(value), 0))


def _made(value: ir.Value, min_bytes: int) -> _Sparse | None:
    """The sparse form of a constant that nodes read; None where it is not smaller."""
    contents = value.const_value
    if contents is None or isinstance(contents, SparseTensor) or contents.dtype not in KINDS or not value.uses():
        return None
    numbers = contents.numpy()
    if contents.nbytes < min_bytes or np.count_nonzero(numbers) * (numbers.itemsize + INDEX) >= contents.nbytes:
        return None
    found = sparse(numbers, contents.dtype, value.name or "")
    count = found.values.dims[0]
    return _Sparse(value.name or "", f"by {count:,} of {numbers.size:,} numbers", SparseTensor(found))


def _hindrance(value: ir.Value, model: ir.Model) -> str | None:
    """Why a constant stays dense."""
    if value.graph is not model.graph:
        return "is a constant of a subgraph"
    if value.is_graph_input():
        return "can be overridden by a caller"
    return "is an output of the graph" if value.is_graph_output() else None
