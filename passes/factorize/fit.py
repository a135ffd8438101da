"""A weight as the weights of the layers that take its place: of the ranks wanted, and of full rank.

Scales are such that quantizers lose little. What a channel between two layers gives has the variance 1, for 8 bits then
hold all of them equally well; and the largest weight of each layer is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxopt.calibrate.moments import Moment
from onnxopt.layers import Rows, Weight
from onnxopt.passes.factorize.numbers import Blocks, Numbers, components, principal
from onnxopt.passes.factorize.split import SVD, Shape, Split

FEW = 4
"""Moments of n vectors count as so many times n against the products that they are of. Measured on MiniLM, ResNet-56
and SqueezeNet: what is shrunk so is within 2 % of the best for each, on samples held out."""
LEAST = 1e-4
"""Of the mean variance of what a layer reads, added to each: what is silent on a few samples may speak on others."""
FLOOR = 1e-3
"""Of the greatest deviation of a channel between two layers, the least that it is scaled by."""


@dataclass(frozen=True)
class Fitted:
    """The weights of a split.

    Attributes:
        kept: of each layer, ``[outputs, inputs, *kernel]``, with 1 on the axes that it does not have.
        whole: the same of full rank, of which the product is the weight itself. The channels between are the kept ones
            and then more.
        rows: the product of those kept, as ``Weight.rows``.
    """

    kept: list[Rows]
    whole: list[Rows]
    rows: Rows


def spread(weight: Weight, moment: Moment | None, *, shrunk: bool = True) -> Numbers | None:
    """The second moments of what a layer reads, about the mean where its bias takes that up; None without any.

    Args:
        weight: without groups.
        moment: of what its layers read.
        shrunk: towards no covariance, the more the fewer vectors there were: what else is fitted is noise.
    """
    if moment is None:
        return None
    found: Numbers = (moment.covariance if weight.biased else moment.second)[0]
    if not shrunk:
        return found
    variances, products = np.diagonal(found), len(found)
    share = products / (products + FEW * moment.vectors)
    return (1 - share) * found + np.diag(share * variances + LEAST * max(float(variances.mean()), 1e-30))


def fitted(weight: Weight, split: Split, moment: Moment | None) -> Fitted:
    """The weights of a split that err least on what the layer reads."""
    rows, shape, moments = weight.rows.astype(np.float64), Shape.of(weight.layers[0]), spread(weight, moment)
    kept, whole, product = (_principal if split.form == SVD else _blocked)(rows, shape, split, moments)
    largest = [max(float(np.abs(one).max()), 1e-30) for one in kept]
    middle = float(np.exp(np.mean(np.log(largest))))
    balanced = [
        [_shaped(one * (middle / size), shape, axes) for one, size, axes in zip(many, largest, split.axes, strict=True)]
        for many in (kept, whole)
    ]
    return Fitted(balanced[0], balanced[1], np.asarray(product, np.float32))


Layers = Sequence[Numbers]
"""Rows of each, ``[outputs, (kernel positions, inputs)]``."""


def _principal(rows: Numbers, shape: Shape, split: Split, moments: Numbers | None) -> tuple[Layers, Layers, Numbers]:
    (rank,) = split.between
    basis, variances = principal(rows, moments)
    scales = _scales(variances)
    first, last = (basis.T @ rows) / scales[:, None], basis * scales
    return [first[:rank], last[:, :rank]], [first, last], last[:, :rank] @ first[:rank]


def _blocked(rows: Numbers, shape: Shape, split: Split, moments: Numbers | None) -> tuple[Layers, Layers, Numbers]:
    blocks = Blocks.of(rows, moments, shape.kernel, split.axes[0])
    rank, *more = split.between
    last = more[0] if more else len(rows)
    columns, inverse = blocks.whole(blocks.fitted(blocks.start()[:, :rank], last)[0])
    first = columns[:, :rank]
    core, seconds = blocks.explained(first)
    full = np.tensordot(blocks.rows, inverse, axes=(2, 0)).reshape(len(rows), -1)
    basis, variances = components(seconds)
    given = (basis[:, :last] @ (basis[:, :last].T @ core)).reshape(-1, rank) @ first.T
    product = np.empty_like(rows)
    product[:, blocks.order.reshape(-1)] = given.reshape(rows.shape)
    if not more:
        return [first.T, core], [columns.T, full], product
    scales = _scales(variances)
    own, all_ = ((basis / scales).T @ one for one in (core, full))
    return [first.T, own[:last], (basis * scales)[:, :last]], [columns.T, all_, basis * scales], product


def _scales(variances: Numbers) -> Numbers:
    """Deviations, but for those that are next to nothing."""
    found = np.sqrt(variances)
    greatest = float(found.max(initial=0))
    return np.maximum(found, FLOOR * greatest if greatest > 0 else 1.0)


def _shaped(rows: Numbers, shape: Shape, axes: Sequence[int]) -> Rows:
    """Rows ``[outputs, (kernel positions, inputs)]`` as the weight of a layer."""
    sizes = [shape.kernel[axis] for axis in axes]
    inputs = rows.shape[1] // int(np.prod(sizes))
    turned = np.moveaxis(rows.reshape(len(rows), *sizes, inputs), -1, 1)
    kernel = [size if axis in axes else 1 for axis, size in enumerate(shape.kernel)]
    return np.ascontiguousarray(turned.reshape(len(rows), inputs, *kernel), np.float32)
