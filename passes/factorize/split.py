"""How a linear layer is written as two or three in a row: which kernel axes each of them has, and the channels between.

==========  ==============================  ==========  =================================================
svd         ``[R, C, k, k]``, ``[O, R]``    R           a product, and a convolution along its outputs
tucker      ``[R, C]``, ``[S, R, k, k]``,   R, S        Tucker-2; the last is left out where S would be O
            ``[O, S]``
separable   ``[R, C, k, 1]``,               R           one axis of the kernel after the other
            ``[O, R, 1, k]``
==========  ==============================  ==========  =================================================
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from onnxopt.calibrate.vectors import extent
from onnxopt.layers import Layer

SVD, TUCKER, SEPARABLE = "svd", "tucker", "separable"
FORMS = (SVD, TUCKER, SEPARABLE)

Axes = tuple[tuple[int, ...], ...]
"""Of the kernel, those that each of the layers has; one entry for each layer."""


@dataclass(frozen=True)
class Split:
    """A layer as several.

    Attributes:
        axes: of the kernel, those that each of the layers has; one entry for each layer.
        between: channels from one layer to the next: the ranks.
    """

    axes: Axes
    between: tuple[int, ...]

    @property
    def form(self) -> str:
        """Its name."""
        if all(self.axes):
            return SEPARABLE
        return SVD if not self.axes[-1] and len(self.axes) == 2 else TUCKER

    def __str__(self) -> str:
        """As reports name it."""
        ranks = " and ".join(map(str, self.between))
        return f"rank{'s' * (len(self.between) > 1)} {ranks}{'' if self.form == SVD else f' ({self.form})'}"


@dataclass(frozen=True)
class Shape:
    """Of a layer.

    Attributes:
        outputs: channels.
        inputs: channels.
        kernel: empty but for a convolution.
    """

    outputs: int
    inputs: int
    kernel: tuple[int, ...] = ()

    @classmethod
    def of(cls, layer: Layer) -> Shape:
        """That of a layer without groups."""
        shape = layer.numbers().shape
        if layer.node.op_type != "Conv":
            return cls(shape[layer.axis], shape[1 - layer.axis])
        return cls(shape[0], shape[1], tuple(shape[2:]))

    @property
    def wide(self) -> tuple[int, ...]:
        """Axes on which the kernel is not 1."""
        return tuple(axis for axis, size in enumerate(self.kernel) if size > 1)

    def weights(self, split: Split) -> list[tuple[int, ...]]:
        """The shape of each weight, ``[outputs, inputs, *kernel]``, with 1 on the axes that its layer does not have."""
        widths = [self.inputs, *split.between, self.outputs]
        return [
            (made, read, *(size if axis in axes else 1 for axis, size in enumerate(self.kernel)))
            for read, made, axes in zip(widths, widths[1:], split.axes, strict=False)
        ]

    def numbers(self, split: Split | None) -> int:
        """Of all weights; of the layer as it is without a split."""
        return sum(self._each(split))

    def macs(self, split: Split | None, places: Sequence[tuple[int, int]], others: int) -> int:
        """Multiply-accumulates.

        Args:
            split: None: as it is.
            places: on each axis, of what is read and of what is made.
            others: places on all other axes.
        """
        total, done = 0, set[int]()
        for axes, numbers in zip(split.axes if split else (range(len(places)),), self._each(split), strict=True):
            done |= set(axes)
            total += numbers * math.prod(made if axis in done else read for axis, (read, made) in enumerate(places))
        return others * total

    def _each(self, split: Split | None) -> list[int]:
        shapes = self.weights(split) if split else [(self.outputs, self.inputs, *self.kernel)]
        return list(map(math.prod, shapes))


def places(layer: Layer, read: Sequence[int]) -> tuple[list[tuple[int, int]], int]:
    """On each spatial axis the places of what a layer reads and makes, and those on all other axes.

    Args:
        layer: of any kind.
        read: the shape of its input.
    """
    found = extent(layer, read)
    if layer.node.op_type != "Conv":
        return [], math.prod(found)
    return list(zip(read[2:], found[1:], strict=True)), found[0]


def rows_read(layer: Layer, read: Sequence[int]) -> int:
    """Places of what a layer makes."""
    spatial, others = places(layer, read)
    return others * math.prod(made for _, made in spatial)


def axes_of(form: str, shape: Shape) -> list[Axes]:
    """Which axes the layers of a form have; empty where the kernel has none of this form."""
    every, wide = tuple(range(len(shape.kernel))), shape.wide
    if form == SVD:
        return [(every, ())]
    if form == TUCKER:
        return [((), every, ()), ((), every)] if wide else []
    return [(tuple(axis for axis in every if axis != wide[1]), (wide[1],))] if len(wide) == 2 else []
