"""Transposed convolutions as convolutions, and the other way round.

``y[m, o] = sum over c, i, u with s i + u - p = o of W[c, m, u] x[c, i]``

With stride 1 that is a convolution with the kernel turned round, ``i = o + p - u``, padded by ``(k - 1) d - p``. With a
stride as large as the kernel, no two u meet: ``o = s i + u``, and each pixel i becomes a block of its own,
``y[m, s i + u] = sum over c of W[c, m, u] x[c, i]``: a convolution of single pixels with the outputs (m, u), which
DepthToSpace puts in their places.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxopt.passes.convert.convolution import Convolution, convolution
from onnxopt.passes.convert.plan import Plan, Site, Writer, only_reader


def unstrided_to_conv(site: Site) -> Plan | str | None:
    """A ConvTranspose of stride 1 to a Conv with its kernel turned round."""
    found = _transposed(site)
    if not isinstance(found, Convolution) or {*found.strides} != {1}:
        return found if isinstance(found, str) else None
    reach = [(k - 1) * d for k, d in zip(found.kernel, found.dilations, strict=True)]
    before, after = ([r - p for r, p in zip(reach, pads, strict=True)] for pads in (found.before, found.after))
    if min([*before, *after]) < 0:
        return f"its pads {found.pads} reach over its kernel"

    def write(new: Writer) -> ir.Value:
        weight = np.flip(_forward(found), tuple(range(2, found.weight.ndim)))
        return new(
            "Conv",
            [site.node.inputs[0], weight, *found.biases],
            kernel_shape=found.kernel,
            pads=[*before, *after],
            dilations=found.dilations,
            group=found.group,
        )

    return Plan((site.node,), write)


def transposed_to_blocks(site: Site) -> Plan | str | None:
    """A ConvTranspose whose stride is its kernel to ``DepthToSpace(Conv(x, W'))``, W' [M s s, C, 1, 1]."""
    found = _transposed(site)
    if not isinstance(found, Convolution):
        return found
    size = found.kernel[0]
    if found.kernel != found.strides or max(found.kernel) == 1 or any(found.pads) or {*found.dilations} != {1}:
        return None
    if found.kernel != [size, size]:
        return f"its kernel is {'x'.join(map(str, found.kernel))}, and DepthToSpace makes square blocks"

    def write(new: Writer) -> ir.Value:
        forward = _forward(found)
        weight = np.moveaxis(forward, 1, -1).reshape(-1, forward.shape[1], 1, 1)
        bias = [np.repeat(one, size**2) for one in found.biases]
        blocks = new("Conv", [site.node.inputs[0], weight, *bias], kernel_shape=[1, 1], group=found.group)
        return new("DepthToSpace", [blocks], blocksize=size, mode="CRD")

    return Plan((site.node,), write)


def blocks_to_transposed(site: Site) -> Plan | str | None:
    """``DepthToSpace(Conv(x, W))`` of single pixels to a ConvTranspose whose kernel is its stride."""
    reader = only_reader(site.node, "DepthToSpace")
    if reader is None:
        return None
    found = convolution(site)
    if isinstance(found, str):
        return found
    if found.kernel != [1, 1] or not found.plain:
        return None
    if found.group != 1:
        return "it has groups"
    size, inner = reader.attributes.get_int("blocksize", 1), reader.attributes.get_string("mode", "DCR") == "CRD"
    split = (-1, size, size) if inner else (size, size, -1)
    rows = [one.reshape(split) if inner else one.reshape(split).transpose(2, 0, 1) for one in found.biases]
    if any((one != one[:, :1, :1]).any() for one in rows):
        return "its bias differs within a block"

    def write(new: Writer) -> ir.Value:
        weight = found.weight.reshape(*split, found.weight.shape[1]).transpose((3, 0, 1, 2) if inner else (3, 2, 0, 1))
        inputs = [site.node.inputs[0], weight, *(one[:, 0, 0] for one in rows)]
        return new("ConvTranspose", inputs, kernel_shape=[size, size], strides=[size, size])

    return Plan((site.node, reader), write)


def _transposed(site: Site) -> Convolution | str:
    """The layer, if nothing is asked of it that only a ConvTranspose can."""
    found = convolution(site)
    if isinstance(found, str):
        return found
    if "output_shape" in site.node.attributes or any(site.node.attributes.get_ints("output_padding", [0])):
        return "it says how large its output is to be"
    return found


def _forward(found: Convolution) -> np.ndarray:
    """The weight ``[C, M / group, *kernel]`` as that of a Conv, ``[M, C / group, *kernel]``."""
    split = found.weight.reshape(found.group, -1, *found.weight.shape[1:])
    return split.swapaxes(1, 2).reshape(-1, split.shape[1], *found.kernel)
