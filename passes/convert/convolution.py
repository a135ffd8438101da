"""A convolution with all that its attributes leave unsaid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxopt.graph import given
from onnxopt.passes.convert.plan import Site, dense


@dataclass(frozen=True)
class Convolution:
    """A Conv or ConvTranspose with constant weights.

    Attributes:
        node: the layer.
        weight: of a Conv ``[M, C / group, *kernel]``, of a ConvTranspose ``[C, M / group, *kernel]``.
        bias: ``[M]``, or None.
        sizes: of what it reads, ``[N, C, *image]``; None for a dynamic one.
        strides: one for each dimension of the image; ``dilations`` alike.
        before: pads at the beginning of each dimension.
        after: pads at its end.
        group: of channels.
    """

    node: ir.Node
    weight: np.ndarray
    bias: np.ndarray | None
    sizes: list[int | None]
    strides: list[int]
    dilations: list[int]
    before: list[int]
    after: list[int]
    group: int

    @property
    def biases(self) -> list[np.ndarray]:
        """The bias, as the last inputs of a layer; none without one."""
        return [] if self.bias is None else [self.bias]

    @property
    def kernel(self) -> list[int]:
        """The sizes of the kernel."""
        return list(self.weight.shape[2:])

    @property
    def pads(self) -> list[int]:
        """Those before, then those after."""
        return [*self.before, *self.after]

    @property
    def image(self) -> list[int | None]:
        """The sizes of the image."""
        return self.sizes[2:]

    @property
    def plain(self) -> bool:
        """Whether it neither strides, dilates nor pads."""
        return {*self.strides, *self.dilations} == {1} and not any(self.pads)

    def outputs(self) -> list[int | None]:
        """The sizes of the image that a Conv gives."""
        every = zip(self.image, self.kernel, self.strides, self.dilations, self.before, self.after, strict=True)
        return [None if n is None else (n + p + q - (k - 1) * d - 1) // s + 1 for n, k, s, d, p, q in every]


def convolution(site: Site) -> Convolution | str:
    """The layer with its attributes, or why it cannot be written otherwise."""
    node = site.node
    x, weight, bias = node.inputs[0], dense(node.inputs[1]), dense(given(node, 2))
    if weight is None:
        return "its weight is not constant, or sparse"
    if given(node, 2) is not None and bias is None:
        return "its bias is not constant"
    if reason := site.hindrance(x):
        return reason
    sizes = site.sizes(x)
    if sizes is None or len(sizes) != weight.ndim or weight.size == 0:
        return "its weight does not fit what it reads"
    dimensions = weight.ndim - 2
    strides, dilations = (list(node.attributes.get_ints(name, [1] * dimensions)) for name in ("strides", "dilations"))
    pads = _pads(node, sizes[2:], list(weight.shape[2:]), strides, dilations)
    if isinstance(pads, str):
        return pads
    group, half = node.attributes.get_int("group", 1), len(pads) // 2
    return Convolution(node, weight, bias, sizes, strides, dilations, pads[:half], pads[half:], group)


def _pads(
    node: ir.Node, image: list[int | None], kernel: list[int], strides: list[int], dilations: list[int]
) -> list[int] | str:
    """The pads at the beginnings, then those at the ends; or why they are not known."""
    mode = node.attributes.get_string("auto_pad", "NOTSET")
    if mode in ("NOTSET", "VALID"):
        pads = (
            list(node.attributes.get_ints("pads", [0] * 2 * len(kernel))) if mode == "NOTSET" else [0] * 2 * len(kernel)
        )
        return f"its pads are {pads}" if min(pads) < 0 else pads
    if node.op_type != "Conv":
        return f"its pads are {mode}"
    totals = []
    for n, k, s, d in zip(image, kernel, strides, dilations, strict=True):
        if n is None and s != 1:
            return f"its pads are {mode}, of an image of unknown size"
        totals.append(max(0, (k - 1) * d + 1 - (s if n is None or n % s == 0 else n % s)))
    less, more = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return [*less, *more] if mode == "SAME_UPPER" else [*more, *less]
