"""What the layers that read channels make of them: the second moments of their inputs, on calibration samples.

A layer that reads x through the rows w of its weight gives ``w x``; the error of any other weights v on the same inputs
is ``(w - v) G (w - v)^T`` with ``G = E[x x^T]`` (about the mean, where a bias takes that up). So G is all that is kept.
It is kept twice, for the first samples and for the others, so that what is fitted on the ones can be judged on the
others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxopt.calibrate.tap import Values
from onnxopt.calibrate.vectors import places, samples_of, vectors_at
from onnxopt.core import Context
from onnxopt.layers import Layer
from onnxopt.passes.prune.groups import Groups
from onnxopt.runtime import Session

Numbers = npt.NDArray[np.float64]
Classes = npt.NDArray[np.int64]

FITTED = 0.75
"""The share of the samples that is fitted on; the last ones are held out."""
VECTORS = 32768
"""Drawn for each layer, about, over all samples."""
BUDGET = 2**30
"""Bytes of all moments at one time; there are as many runs over the calibration samples as it takes."""
LARGEST = 6000
"""Products of a layer whose moments are still taken: 288 MB each."""


@dataclass
class Moments:
    """Of vectors x, summed.

    Attributes:
        count: of vectors.
        total: sum of x, ``[products]``.
        squares: sum of ``x x^T``, ``[products, products]``.
    """

    count: int
    total: Numbers
    squares: Numbers

    @classmethod
    def zero(cls, products: int) -> Moments:
        """Of no vectors."""
        return cls(0, np.zeros(products), np.zeros((products, products)))

    def add(self, vectors: npt.NDArray[np.float32]) -> None:
        """Take in ``[vectors, products]``."""
        self.count += len(vectors)
        self.total += vectors.sum(0, dtype=np.float64)
        self.squares += vectors.T @ vectors

    def __add__(self, other: Moments) -> Moments:
        """Of both."""
        return Moments(self.count + other.count, self.total + other.total, self.squares + other.squares)

    def second(self, *, centred: bool) -> Numbers:
        """``E[x x^T]``, or ``E[(x - mean)(x - mean)^T]``."""
        count = max(self.count, 1)
        mean = self.total / count
        found: Numbers = self.squares / count
        return found - np.outer(mean, mean) if centred else found


@dataclass
class Reading:
    """One group of a layer, and what it reads.

    Attributes:
        layer: of the model.
        group: of the convolution; 0 for all others.
        classes: of each product, ``[products]``, in the order of ``Layer.rows``.
        fitted: moments on the first samples.
        held: on the others.
    """

    layer: Layer
    group: int
    classes: Classes
    fitted: Moments = field(default_factory=lambda: Moments.zero(0))
    held: Moments = field(default_factory=lambda: Moments.zero(0))

    @property
    def biased(self) -> bool:
        """Whether a bias takes up what the mean changes by."""
        return self.layer.bias is not None or self.layer.added is not None

    def weights(self) -> Numbers:
        """``[products, outputs]``."""
        rows = self.layer.rows().astype(np.float64)
        own: Numbers = rows.reshape(self.layer.group, -1, rows.shape[1])[self.group].T
        return own

    @property
    def size(self) -> int:
        """Bytes of both moments."""
        return 2 * 8 * len(self.classes) ** 2


def readings(layers: Sequence[Layer], groups: Groups) -> list[Reading]:
    """The layers that read channels which can go, parted into their groups.

    Depthwise convolutions, and those whose groups go whole, read nothing: a channel goes with what is made of it.
    """
    found = []
    for layer in layers:
        read, made = groups.read_by(layer.node), groups.made_by(layer.node)
        if read is None or not read.any() or len(read) % layer.group:
            continue
        for group, own in enumerate(np.split(read, layer.group)):
            goes_whole = layer.group > 1 and made is not None and np.isin(own, made).all()
            if own.any() and not goes_whole:
                taps = layer.rows().shape[1] // len(own)
                found.append(Reading(layer, group, np.tile(own, taps)))
    return found


def measure(model: ir.Model, bundles: Sequence[Sequence[Reading]], context: Context) -> Iterator[int]:
    """Take the moments of bundles of readings: the number of each, when all of its are at hand, and until the next.

    As many bundles as fit into the budget share a run over the samples.
    """
    portion: list[int] = []
    for number in range(len(bundles)):
        together = [bundles[one] for one in [*portion, number]]
        if portion and sum(one.size for one in _distinct(together)) > BUDGET:
            yield from _measured(model, bundles, portion, context)
            portion = []
        portion.append(number)
    if portion:
        yield from _measured(model, bundles, portion, context)


def _distinct(bundles: Sequence[Sequence[Reading]]) -> list[Reading]:
    return list({id(reading): reading for bundle in bundles for reading in bundle}.values())


def _measured(
    model: ir.Model, bundles: Sequence[Sequence[Reading]], portion: Sequence[int], context: Context
) -> Iterator[int]:
    """One run over the samples, for a portion of the bundles."""
    every = _distinct([bundles[number] for number in portion])
    _run(model, every, context)
    yield from portion
    for reading in every:
        reading.fitted = reading.held = Moments.zero(0)


def _run(model: ir.Model, portion: Sequence[Reading], context: Context) -> None:
    samples = context.calibration
    assert samples is not None
    for reading in portion:
        reading.fitted, reading.held = (Moments.zero(len(reading.classes)) for _ in range(2))
    by_layer: dict[ir.Node, list[Reading]] = {}
    for reading in portion:
        by_layer.setdefault(reading.layer.node, []).append(reading)
    sources = {node: (node.inputs[0].name or "") if node.inputs[0] is not None else "" for node in by_layer}
    tap = Values.of(model, set(sources.values()), samples.state.values())
    draws = {node: np.random.default_rng(context.seed) for node in by_layer}
    done, border = 0, max(1, round(len(samples) * FITTED))
    for batch, outputs in samples.run(Session(tap.model, context.target)):
        count = math.ceil(VECTORS * batch.size / len(samples))
        for node, many in by_layer.items():
            numbers, layer = outputs[tap.outputs[sources[node]]], many[0].layer
            drawn = places(layer, numbers.shape, count, draws[node])
            own = samples_of(layer, numbers.shape, drawn) + done < border
            vectors = vectors_at(layer, numbers, drawn)
            for reading in many:
                reading.fitted.add(vectors[reading.group][own])
                reading.held.add(vectors[reading.group][~own])
        done += batch.size
