"""A convolution of single pixels is a matrix product over the channels, and the other way round.

``y[n, m, i] = sum over c of W[m, c] x[n, c, i]`` for each pixel i: the matrix ``W`` times each image with its pixels in
one row. No number changes its place. A product over channels that come last, between a transposition that brings them
there and one that takes them back, is the same convolution, without the transpositions.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxopt.passes.convert.convolution import convolution
from onnxopt.passes.convert.plan import SHAPE_FROM, Plan, Site, Writer, dense, only_reader, only_source


def conv_to_matmul(site: Site) -> Plan | str | None:
    """``Conv(x, W, b)``, W [M, C, 1, 1], to ``Reshape(MatMul(W, Reshape(x, [N, C, -1])) + b, [N, M, H, W])``."""
    found = convolution(site)
    if isinstance(found, str):
        return found
    if {*found.kernel} != {1} or not found.plain:
        return None
    if found.group != 1:
        return "it has groups"
    weight, bias, image = found.weight, found.bias, found.image
    channels = len(weight)
    flat, computed = len(image) == 1, image.count(None) > 1
    if computed and site.opset < SHAPE_FROM:
        return f"sizes of its image are not known, and opset {site.opset} cannot ask for two of them"

    def write(new: Writer) -> ir.Value:
        x = site.node.inputs[0]
        assert x is not None
        pixels = None if None in image else int(np.prod([size or 1 for size in image]))
        y = new("MatMul", [weight.reshape(channels, -1), x if flat else new.reshape(x, [0, 0, pixels])])
        if bias is not None:
            y = new("Add", [y, bias.reshape(-1, 1)])
        if flat:
            return y
        if not computed:
            return new.reshape(y, [0, channels, *image])
        sizes = new("Shape", [x], ir.DataType.INT64, start=2)
        return new.reshape(y, new("Concat", [np.array([0, channels]), sizes], ir.DataType.INT64, axis=0))

    return Plan((site.node,), write)


def matmul_to_conv(site: Site) -> Plan | str | None:
    """``MatMul(W, x) + b`` of signals [N, C, T], or ``Transpose(MatMul(Transpose(x), W) + b)``, to a Conv."""
    a, b = site.node.inputs
    if (numbers := dense(a)) is not None and numbers.ndim == 2 and len(site.sizes(b) or []) == 3:
        return site.hindrance(b) or _of_signals(site, numbers)
    first = only_source(site.node, 0, "Transpose")
    return None if first is None else _between_transpositions(site, first)


def _of_signals(site: Site, weight: np.ndarray) -> Plan | None:
    """The constant is on the left: ``W [M, C] x [N, C, T]``."""
    node, channels = site.node, len(weight)
    if weight.size == 0:
        return None
    adder, bias = _bias(node, (channels, 1))

    def write(new: Writer) -> ir.Value:
        return new("Conv", [node.inputs[1], weight[:, :, None], *bias], kernel_shape=[1])

    return Plan((node, *adder), write)


def _between_transpositions(site: Site, first: ir.Node) -> Plan | str | None:
    """The channels come last: ``Transpose(Transpose(x) W + b)``."""
    node, weight = site.node, dense(site.node.inputs[1])
    adder, bias = _bias(node, (weight.shape[1],)) if weight is not None and weight.ndim == 2 else ((), ())
    last = only_reader((node, *adder)[-1], "Transpose")
    dimensions = len(site.sizes(first.inputs[0]) or [])
    if last is None or dimensions < 3:
        return None
    axes = list(range(dimensions))
    there, back = [0, *axes[2:], 1], [0, dimensions - 1, *axes[1:-1]]
    if [list(one.attributes.get_ints("perm", axes[::-1])) for one in (first, last)] != [there, back]:
        return None
    if weight is None or weight.ndim != 2 or weight.size == 0:
        return "its weight is no constant matrix"
    if reason := site.hindrance(first.inputs[0]):
        return reason
    kernel = weight.T.reshape(*weight.T.shape, *[1] * (dimensions - 2))

    def write(new: Writer) -> ir.Value:
        return new("Conv", [first.inputs[0], kernel, *bias], kernel_shape=[1] * (dimensions - 2))

    return Plan((first, node, *adder, last), write)


def _bias(node: ir.Node, shape: tuple[int, ...]) -> tuple[tuple[ir.Node, ...], tuple[np.ndarray, ...]]:
    """The node that adds one constant to each output channel, and those constants, if there is such a node."""
    adder = only_reader(node, "Add")
    if adder is None or adder.inputs[0] is adder.inputs[1]:
        return (), ()
    numbers = dense(next(value for value in adder.inputs if value is not node.outputs[0]))
    if numbers is None or numbers.shape not in (shape, (1, *shape)):
        return (), ()
    return (adder,), (numbers.reshape(-1),)
