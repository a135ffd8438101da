"""What a layer reads and gives, drawn from the values of both networks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxopt.graph import array
from onnxopt.layers import Layer
from onnxopt.passes.repair.least_squares import Array, Sums
from onnxopt.passes.repair.lockstep import Lockstep
from onnxopt.passes.repair.sites import Site
from onnxopt.passes.repair.sources import Source, row_of

PER_PRODUCT = 256
"""Vectors drawn for each product, at most: more tell a convolution of few products, a depthwise one, nothing."""
NUMBERS = 2**26
"""In all vectors of one layer, at most: 256 MB."""
CHUNK = 4096
"""Vectors that are summed at once in single precision, about."""


@dataclass(frozen=True)
class Drawn:
    """Vectors of one layer.

    Attributes:
        x: what the pruned layer reads, ``[groups, vectors, products]``.
        target: what should be given, with what is added to it, ``[groups, vectors, channels]``.
        given: what is given, with what is added to it.
        outputs: of the original layer alone.
    """

    x: Array
    target: Array
    given: Array
    outputs: Array

    def __add__(self, other: Drawn) -> Drawn:
        """Both."""
        pairs = zip(self.parts(), other.parts(), strict=True)
        return Drawn(*(np.concatenate(pair, 1) for pair in pairs))

    def parts(self) -> tuple[Array, Array, Array, Array]:
        """All arrays."""
        return self.x, self.target, self.given, self.outputs

    def sums(self, about: Array, *, whole: bool) -> Sums:
        """Of x and how far what is given is off; without the products unless the ``whole`` layer is fitted."""
        x = self.x if whole else self.x[:, :, :0]
        found = Sums.none(about if whole else about[:, :0], self.target.shape[2])
        for start in range(0, x.shape[1], CHUNK):
            part = slice(start, start + CHUNK)
            found.add(x[:, part], self.target[:, part] - self.given[:, part])
        return found

    def spread(self) -> Sums:
        """Of the original outputs."""
        channels = self.outputs.transpose(1, 0, 2).reshape(1, self.outputs.shape[1], -1)
        found = Sums.none(np.zeros((1, 0), np.float32), channels.shape[2])
        found.add(np.zeros((1, channels.shape[1], 0), np.float32), channels)
        return found


def draw(site: Site, walk: Lockstep, vectors: int, seed: int) -> tuple[Drawn, Drawn | None]:
    """Vectors of the samples that are fitted on, and of those held out, if there are any.

    Args:
        site: where both networks stand.
        walk: what the layers read.
        vectors: over all samples, of each batch its share.
        seed: of the draw.
    """
    generator = np.random.default_rng((seed, site.place))
    source = _source(site, walk)
    sizes = np.array([walk.original(source.name, batch).size for batch in range(walk.batches)])
    products = site.after.rows().shape[1]
    count = min(vectors, PER_PRODUCT * products, NUMBERS // (products * site.after.group))
    parts: tuple[list[Drawn], list[Drawn]] = [], []
    for batch, share in enumerate(np.ceil(count * sizes / max(sizes.sum(), 1)).astype(int).tolist()):
        parts[batch in walk.held].append(_of_batch(site, walk, source, batch, share, generator))
    first, held = (_joined(part) if part else None for part in parts)
    if first is None:
        assert held is not None
        return held, None
    return first, held


def _joined(parts: list[Drawn]) -> Drawn:
    return Drawn(*(np.concatenate(arrays, 1) for arrays in zip(*(part.parts() for part in parts), strict=True)))


def _of_batch(
    site: Site, walk: Lockstep, source: Source, batch: int, count: int, generator: np.random.Generator
) -> Drawn:
    numbers = walk.original(source.name, batch)
    at = source.places(site.before, numbers, count, generator)
    x = source.vectors(site.after, walk.pruned(source.name, batch), at)
    outputs = _outputs(site.before, source.vectors(site.before, numbers, at))[:, site.kept.outputs]
    target, given = outputs, _outputs(site.after, x)
    if site.beside and source.axis is None:
        shape = source.extent(site.before, numbers)
        pair = (walk.original(site.beside, batch), walk.pruned(site.beside, batch))
        beside = [row_of(site.before, one, at, shape) for one in pair]
        if beside[0] is not None and beside[1] is not None:
            target, given = target + beside[0][:, site.kept.outputs], given + beside[1]
    group = site.after.group
    return Drawn(x, *(part.reshape(len(part), group, -1).transpose(1, 0, 2) for part in (target, given, outputs)))


def _source(site: Site, walk: Lockstep) -> Source:
    """Before the pooling, if there is one and nothing else happens to what it gives.

    The mean of an image says less than its positions: a hundred images are a hundred means.
    """
    if site.pooled is None:
        return site.source
    numbers, read = (walk.original(name, 0) for name in (site.pooled.name, site.source.name))
    return site.pooled if site.pooled.explains(site.before, numbers, read) else site.source


def _outputs(layer: Layer, x: Array) -> Array:
    """What a layer gives for vectors ``[groups, vectors, products]``: ``[vectors, channels]``, bias included."""
    rows = layer.rows()
    y = x @ rows.reshape(layer.group, -1, rows.shape[1]).transpose(0, 2, 1)
    bias = bias_of(layer)
    given: Array = y.transpose(1, 0, 2).reshape(x.shape[1], -1)
    return given if bias is None else given + bias


def bias_of(layer: Layer) -> Array | None:
    """Also that of a MatMul."""
    return array(layer.added) if layer.bias is None else layer.bias_numbers()
