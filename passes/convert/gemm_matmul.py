"""Gemm is a matrix product and a sum, and the other way round: ``alpha A B + beta C``."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxopt.graph import added_row, given
from onnxopt.passes.convert.plan import Plan, Site, Writer, dense


def gemm_to_matmul(site: Site) -> Plan | str | None:
    """``Gemm(A, B, C)`` to ``MatMul(A, B) + C``; factors go into the constants, constants are transposed."""
    node = site.node
    if reason := site.hindrance(*node.inputs[:2]):
        return reason
    weight, added = dense(node.inputs[1]), dense(given(node, 2))
    alpha, beta = (np.float32(node.attributes.get_float(name, 1.0)) for name in ("alpha", "beta"))
    across, down = (bool(node.attributes.get_int(name, 0)) for name in ("transA", "transB"))
    if alpha != 1 and weight is None:
        return "it scales a product of which no side is constant"
    if beta != 1 and added is None and given(node, 2) is not None:
        return "it scales a summand that is not constant"

    def write(new: Writer) -> ir.Value:
        a, b, c = node.inputs[0], node.inputs[1], given(node, 2)
        left = new("Transpose", [a], perm=[1, 0]) if across else a
        if weight is not None and (down or alpha != 1):
            right: ir.Value | np.ndarray | None = (weight.T if down else weight) * alpha
        else:
            right = new("Transpose", [b], perm=[1, 0]) if down else b
        y = new("MatMul", [left, right])
        if c is None:
            return y
        return new("Add", [y, c if beta == 1 or added is None else np.asarray(added * beta)])

    return Plan((node,), write)


def matmul_to_gemm(site: Site) -> Plan | str | None:
    """``MatMul(A, B) + c`` of matrices to ``Gemm(A, B, c)``, c a constant row."""
    node = site.node
    found = added_row(node)
    shapes = [site.sizes(value) or [] for value in node.inputs]
    if found is None or found[0].op_type != "Add" or [len(shape) for shape in shapes] != [2, 2]:
        return None
    if reason := site.hindrance(*node.inputs):
        return reason
    adder, row = found
    width, summand = shapes[1][1], dense(row)
    if width is None or summand is None or len(summand) not in (1, width):
        return "it is not known that the sum is as wide as the product"

    def write(new: Writer) -> ir.Value:
        return new("Gemm", [*node.inputs, summand])

    return Plan((node, adder), write)
