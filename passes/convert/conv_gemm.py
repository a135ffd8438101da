"""A convolution whose kernel covers its whole input is a matrix product, and the other way round.

``y[n, m] = sum over c, i, j of W[m, c, i, j] x[n, c, i, j]``: one row of numbers for each image.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from onnxopt.graph import given
from onnxopt.passes.convert.convolution import convolution
from onnxopt.passes.convert.plan import Plan, Site, Writer, dense, only_source


def conv_to_gemm(site: Site) -> Plan | str | None:
    """``Conv(x, W, b)`` over the whole image to ``Reshape(Gemm(Flatten(x), W', b), [N, M, 1, 1])``."""
    found = convolution(site)
    if isinstance(found, str):
        return found
    if found.image != found.kernel or any(found.pads) or {*found.dilations} != {1}:
        return None
    if found.group != 1:
        return "it has groups"
    channels = len(found.weight)

    def write(new: Writer) -> ir.Value:
        flat = new("Flatten", [site.node.inputs[0]], axis=1)
        product = new("Gemm", [flat, found.weight.reshape(channels, -1), *found.biases], transB=1)
        return new.reshape(product, [0, channels, *[1] * len(found.kernel)])

    return Plan((site.node,), write)


def gemm_to_conv(site: Site) -> Plan | str | None:
    """``Gemm(x, W, b)`` to a Conv over images of one pixel, or over those that a Flatten before it has laid flat."""
    node = site.node
    a, weight, bias = node.inputs[0], dense(node.inputs[1]), dense(given(node, 2))
    if weight is None:
        return "its weight is not constant, or sparse"
    if given(node, 2) is not None and bias is None:
        return "its bias is not constant"
    if reason := site.hindrance(a):
        return reason
    if node.attributes.get_int("transA", 0):
        return "it transposes what it reads"
    if bias is not None and (bias.ndim > 2 or (bias.ndim == 2 and len(bias) != 1)):
        return "its bias differs from row to row"
    down = bool(node.attributes.get_int("transB", 0))
    alpha, beta = (np.float32(node.attributes.get_float(name, 1.0)) for name in ("alpha", "beta"))
    flatten, channels = _flatten(site), weight.shape[0 if down else 1]
    image = [1, 1] if flatten is None else [size or 0 for size in (site.sizes(flatten.inputs[0]) or [])[2:]]

    def write(new: Writer) -> ir.Value:
        rows = (weight if down else weight.T) * alpha
        x = flatten.inputs[0] if flatten is not None else new.reshape(node.inputs[0], [0, rows.shape[1], 1, 1])
        added = [] if bias is None else [np.broadcast_to(bias.reshape(-1) * beta, [channels])]
        y = new("Conv", [x, rows.reshape(channels, -1, *image), *added], kernel_shape=image)
        return new.reshape(y, [0, channels])

    return Plan((node,) if flatten is None else (flatten, node), write)


def _flatten(site: Site) -> ir.Node | None:
    """The node that lays images of known size flat, for this layer alone."""
    found = only_source(site.node, 0, "Flatten", "Reshape")
    sizes = site.sizes(found.inputs[0]) if found is not None else None
    if found is None or sizes is None or len(sizes) != 4 or None in sizes[1:]:
        return None
    if found.op_type == "Flatten":
        return found if found.attributes.get_int("axis", 1) == 1 else None
    target, whole = dense(found.inputs[1]), math.prod(size or 0 for size in sizes[1:])
    if target is None or found.attributes.get_int("allowzero", 0) == 1:
        return None
    first = [0, -1] if sizes[0] is None else [0, -1, sizes[0]]
    return found if len(target) == 2 and target[0] in first and target[1] in (-1, whole) else None
