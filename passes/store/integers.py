"""Matrices and tables as integers with scales, and the nodes that multiply them out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxopt.graph import label
from onnxopt.passes.constants import relative_error
from onnxopt.passes.store.coded import Coded, Decode
from onnxopt.passes.store.rounding import Rows, rounded

CAST, DEQUANTIZE = "cast", "dequantize"
PACKED_BLOCK = 32
"""Columns of a table that share a scale, where nothing else is said."""
PACKED_ZERO = 8
"""What GatherBlockQuantized takes for zero in 4 bits."""
PACKING = 2
"""Weights for which MatMulNBits takes a byte more than for the integers (measured, ONNX Runtime 1.31)."""
STAYS = "; DequantizeLinear is computed at each run"
FUSED = "; ONNX Runtime makes one product with it that rounds what it reads to int8, too (MatMulNBits)"

_CAST = Decode("Cast", ("integers",), {"to": int(ir.DataType.FLOAT)}, "float")
_MUL = Decode("Mul", ("float", "scale"))


@dataclass(frozen=True)
class How:
    """The options: bits, numbers of a row that share a scale (0: all), and the nodes that decode."""

    bits: int
    block: int
    form: str


def matrix(name: str, numbers: Rows, axes: tuple[int, ...], how: How) -> Coded | str:
    """A weight with a scale for each index along ``axes``, its output channels; or why it cannot be.

    Blocks are for weights of two dimensions; ``cast`` has them where they divide the products of a channel.
    """
    dims, order = numbers.shape, (*axes, *(axis for axis in range(numbers.ndim) if axis not in axes))
    rows = numbers.transpose(order).reshape(int(np.prod([dims[axis] for axis in axes])), -1)
    block = how.block if numbers.ndim == 2 and how.block < rows.shape[1] else 0
    if block and how.form == CAST and rows.shape[1] % block:
        block = 0
    if how.form == DEQUANTIZE and len(axes) > 1:
        return "has a scale along two axes, which DequantizeLinear does not know"
    integers, scales, what = _in_blocks(rows, how.bits, block or rows.shape[1])  # scales [channels, blocks]
    integers = integers.reshape([dims[axis] for axis in order]).transpose(np.argsort(order))
    if how.form == DEQUANTIZE:
        return _dequantized(name, what, _narrow(integers, how.bits), scales, axes[0], block)
    if not block:
        scales = scales.reshape([dim if axis in axes else 1 for axis, dim in enumerate(dims)])
        return Coded(name, what, {"integers": _narrow(integers, how.bits), "scale": scales}, (_CAST, _MUL))
    summed = order[-1]
    parts = {
        "integers": _narrow(integers.reshape(*dims[:summed], -1, block, *dims[summed + 1 :]), how.bits),
        "scale": np.expand_dims(scales if summed else scales.T, summed + 1),
        "shape": np.array(dims, np.int64),
    }
    product = Decode("Mul", ("float", "scale"), gives="product")
    return Coded(name, what, parts, (_CAST, product, Decode("Reshape", ("product", "shape"))))


def table(name: str, numbers: Rows) -> Coded:
    """A table of 8 bits with a scale for each row; what is looked up is multiplied out."""
    integers, scales, what = _in_blocks(numbers, 8, numbers.shape[1])
    return Coded(name, what, {"integers": integers, "scale": scales}, (_CAST, _MUL), looked_up=True)


def packed_table(name: str, numbers: Rows, block: int) -> Coded | str:
    """A table of 4 bits, two in a byte, that ONNX Runtime's own GatherBlockQuantized reads; or why it cannot be."""
    if numbers.shape[1] % 2:
        return "has an odd number of columns, which does not pack into bytes"
    integers, scales, what = _in_blocks(numbers, 4, block or PACKED_BLOCK)
    codes = (integers + PACKED_ZERO).astype(np.uint8)
    parts = {"integers": codes[:, ::2] | codes[:, 1::2] << 4, "scale": scales}
    attributes = {"bits": 4, "block_size": block or PACKED_BLOCK, "gather_axis": 0, "quantize_axis": 1}
    lookup = Decode("GatherBlockQuantized", ("integers", "", "scale"), attributes, domain="com.microsoft")
    return _Packed(name, what, parts, (lookup,), looked_up=True)


class _Packed(Coded):
    """A table whose lookup is one node, which decodes as well."""

    def _behind(self, lookup: ir.Node, parts: Mapping[str, ir.Value]) -> list[ir.Node]:
        return self._in_place(lookup, self._chain(label(lookup), {**parts, "": lookup.inputs[1]}))


def _dequantized(name: str, what: str, integers: np.ndarray, scales: Rows, axis: int, block: int) -> Coded:
    """The same, by one DequantizeLinear."""
    where = {"axis": 1 - axis, "block_size": block} if block else {"axis": axis}
    scale = (scales if axis == 0 else scales.T) if block else scales.reshape(-1)
    node = Decode("DequantizeLinear", ("integers", "scale"), where)
    parts = {"integers": integers, "scale": scale}
    return Coded(name, what, parts, (node,), stays=STAYS, fused=FUSED, packing=integers.size // PACKING)


def _in_blocks(rows: Rows, bits: int, block: int) -> tuple[np.ndarray, Rows, str]:
    """Integers ``[rows, numbers]``, scales ``[rows, blocks]``, how far off they are; a last block may be shorter."""
    count, width = rows.shape
    padded = np.pad(rows, ((0, 0), (0, -width % block))).reshape(-1, block)
    integers, scales = rounded(padded, bits)
    error = relative_error(padded, integers * scales[:, None])
    what = f"in {bits} bits, relative error {error:.1e}" if error else f"in {bits} bits, without error"
    return integers.reshape(count, -1)[:, :width], scales.reshape(count, -1), what


def _narrow(integers: np.ndarray, bits: int) -> np.ndarray:
    kind = ir.DataType.INT8 if bits == 8 else ir.DataType.INT4
    return np.ascontiguousarray(integers).astype(kind.numpy())
