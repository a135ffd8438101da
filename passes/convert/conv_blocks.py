"""Convolutions over blocks of pixels, and the other way round: space-to-depth and depth-to-space."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from onnxopt.passes.convert.blocks import over_blocks, shifted, trimmed, unblocked
from onnxopt.passes.convert.convolution import Convolution, convolution
from onnxopt.passes.convert.plan import Plan, Site, Writer, only_source

FEW = 4
"""Channels of an image at most."""
LESS = 0.8
"""Share of the work that a convolution must come down to, for it to be worth trying."""


def strided_to_blocks(site: Site) -> Plan | str | None:
    """A Conv of stride s over few channels to ``Conv(SpaceToDepth(x))``, of stride 1 over blocks of s x s pixels."""
    found = _over_images(site)
    if not isinstance(found, Convolution):
        return found
    size = found.strides[0]
    if found.weight.shape[1] > FEW or size == 1 or found.strides != [size, size]:
        return None
    if any(pixels is None or pixels % size for pixels in found.image):
        shown = "x".join("?" if pixels is None else str(pixels) for pixels in found.image)
        return f"its image of {shown} is not known to be whole blocks of {size}"

    def write(new: Writer) -> ir.Value:
        weight, pads = over_blocks(found.weight, found.pads, size)
        x = new("SpaceToDepth", [site.node.inputs[0]], blocksize=size)
        return new("Conv", [x, weight, *found.biases], kernel_shape=weight.shape[2:], pads=pads)

    return Plan((site.node,), write)


def blocks_to_strided(site: Site) -> Plan | str | None:
    """``Conv(SpaceToDepth(x))`` of stride 1 to a Conv whose stride is the size of the blocks."""
    source = only_source(site.node, 0, "SpaceToDepth")
    if source is None:
        return None
    found = convolution(site)
    if isinstance(found, str):
        return found
    if len(found.kernel) != 2 or {*found.strides, *found.dilations} != {1} or found.group != 1:
        return None
    size = source.attributes.get_int("blocksize", 1)

    def write(new: Writer) -> ir.Value:
        weight, pads = trimmed(unblocked(found.weight, size), [size * pad for pad in found.pads])
        inputs = [source.inputs[0], weight, *found.biases]
        return new("Conv", inputs, kernel_shape=weight.shape[2:], pads=pads, strides=[size, size])

    return Plan((source, site.node), write)


def few_outputs(steps: int) -> Callable[[Site], Plan | str | None]:
    """A Conv that gives few channels to ``DepthToSpace(Conv(x))``, which gives those of ``steps`` x ``steps`` pixels.

    ONNX Runtime's kernels compute output channels in blocks of 8 or 16. A layer that gives one or a few, as the last of
    a network that makes images, leaves most of a block empty; the shifted kernels of several pixels fill it.
    """

    def plan(site: Site) -> Plan | str | None:
        found = _over_images(site)
        if not isinstance(found, Convolution):
            return found
        if found.strides != [1, 1] or not _less_work(found, steps, site.block):
            return None
        outputs = found.outputs()
        if any(pixels is None or pixels % steps for pixels in outputs):
            shown = "x".join("?" if pixels is None else str(pixels) for pixels in outputs)
            return f"its output of {shown} is not known to be whole blocks of {steps}"

        def write(new: Writer) -> ir.Value:
            weight, bias = shifted(found.weight, steps), [np.tile(one, steps**2) for one in found.biases]
            inputs, shape = [site.node.inputs[0], weight, *bias], weight.shape[2:]
            y = new("Conv", inputs, kernel_shape=shape, pads=found.pads, strides=[steps, steps])
            return new("DepthToSpace", [y], blocksize=steps)

        return Plan((site.node,), write)

    return plan


def _less_work(found: Convolution, steps: int, block: int) -> bool:
    """Whether the layer computes fewer numbers so, those counted that its blocks of channels are filled up with."""
    outputs, size = len(found.weight), steps**2
    before = -(-outputs // block) * size * math.prod(found.kernel)
    after = -(-outputs * size // block) * math.prod(kernel + steps - 1 for kernel in found.kernel)
    return after <= LESS * before


def _over_images(site: Site) -> Convolution | str | None:
    """The layer, if it is a convolution of images that are not in blocks already."""
    found = convolution(site)
    if isinstance(found, str):
        return found
    source = site.node.inputs[0]
    producer = None if source is None else source.producer()
    if len(found.kernel) != 2 or found.group != 1 or {*found.dilations} != {1}:
        return None
    return None if producer is not None and producer.op_type == "SpaceToDepth" else found
