"""Samples: data together with how they are fed, batch by batch, states included."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from onnxopt import progress
from onnxopt.data import Batch, Dataset, random_dataset
from onnxopt.errors import ModelError
from onnxopt.roles import Bounds, input_bounds
from onnxopt.runtime import Outputs, Session, input_specs, zero_state
from onnxopt.target import Target

BATCH = 32
"""Samples in one run where time is not measured, at most,"""
BATCH_BYTES = 4 * 2**20
"""and bytes of their inputs: activations are tens of times as large, and a session keeps what it once allocated."""


@dataclass(frozen=True)
class Samples:
    """Inputs for a model, and the outputs that come back as its next inputs.

    Attributes:
        data: the inputs, without the state inputs.
        state: state input name to the output that feeds it at the next sample.
        start: the first value of each state input.
    """

    data: Dataset
    state: Mapping[str, str] = field(default_factory=dict)
    start: Outputs = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.data)

    def run(
        self, session: Session, fixed: Outputs | None = None, size: int | None = None
    ) -> Iterator[tuple[Batch, Outputs]]:
        """Each batch with its outputs; one sample at a time where a state is fed back.

        Args:
            session: the model.
            fixed: inputs beside the data, the same for every batch.
            size: samples at once; None takes as many as fit well.
        """
        done = 0
        batches = self.data.batches(size or self._batch())
        for batch, outputs in session.stream(batches, self.state, self.start, fixed):
            done += batch.size
            progress.count("sample", done, len(self))
            yield batch, outputs

    def judged(self, outputs: Outputs) -> Outputs:
        """The outputs that accuracy is about: states only where there is nothing else."""
        states = set(self.state.values())
        return dict(outputs) if states >= outputs.keys() else {k: v for k, v in outputs.items() if k not in states}

    def _batch(self) -> int:
        """How many samples to run at once."""
        if self.state:
            return 1
        first = next(iter(self.data.batches(1)))
        size = sum(array.nbytes for array in first.feeds.values()) // max(1, first.size)
        return max(1, min(BATCH, BATCH_BYTES // max(1, size)))

    def grouped(self, group: int) -> Samples:
        """Samples that belong together (sentence pairs) are never parted."""
        return Samples(self.data.grouped(group), self.state, self.start)

    def take(self, count: int) -> Samples:
        """The first ``count`` samples."""
        return Samples(self.data.take(count), self.state, self.start)

    def split(self, fraction: float, seed: int) -> tuple[Samples, Samples]:
        """Calibration and held-out samples; a sequence is cut once, other data are drawn by seed."""
        parts = self.data.split(fraction, seed, ordered=bool(self.state))
        return Samples(parts[0], self.state, self.start), Samples(parts[1], self.state, self.start)

    def first(self) -> Outputs:
        """The inputs of one sample, states included: what is run when time is measured."""
        return {**next(iter(self.data.batches(1))).feeds, **self.start}


def with_state(data: Dataset, model: ir.Model, state: Mapping[str, str], *, batch: int = 1) -> Samples:
    """Data for a model whose ``state`` inputs start at zero.

    Args:
        data: without the states.
        model: whose inputs.
        state: state input name to the output that feeds it.
        batch: how many samples are run at once: the size of dynamic dimensions of states that are called as
            axis 0 of another input; others are 1.
    """
    specs = input_specs(model)
    start = zero_state(specs, state)
    names = {spec.shape[0] for spec in specs if spec.name not in state and spec.shape} - {None}
    for spec in specs:
        if spec.name in state and spec.shape and names.intersection(spec.shape):
            dims = [batch if dim in names and isinstance(dim, str) else dim for dim in spec.shape]
            start[spec.name] = np.zeros([dim if isinstance(dim, int) else 1 for dim in dims], spec.dtype)
    return Samples(data, state, start)


def random_samples(
    model: ir.Model, target: Target, state: Mapping[str, str], *, count: int = 4, seed: int = 0, batch: int = 1
) -> Samples:
    """Random inputs that respect the model (see ``onnxopt.roles``), on which it runs.

    Sizes of dynamic dimensions are tried until it does, and smaller integers; at last without what the graph seems
    to say of its inputs. What ``target`` says of shapes and ranges always holds.

    Args:
        model: whose inputs.
        target: where it runs, shapes and ranges of inputs.
        state: state input name to the output that feeds it; these inputs are zero.
        count: samples.
        seed: of the numbers.
        batch: size of a dynamic axis 0.

    Raises:
        ModelError: if no tried size runs; says to give the shapes.
        UsageError: if a shape or range does not fit an input.
    """
    specs = [spec for spec in input_specs(model) if spec.name not in state]
    session = Session(model, target, optimize=False)
    dynamic = any(not isinstance(dim, int) for spec in specs for dim in spec.shape or (None,))
    given = {name: Bounds(*ends) for name, ends in target.ranges.items()}
    fed = {spec.name for spec in specs}
    found = {name: bounds for name, bounds in input_bounds(model).items() if name in fed}
    fills = (1, 16, 64, 224, 512, 1024) if dynamic else (1,)
    for bounds, fill, high in itertools.product((found, {}) if found else ({},), fills, (100, 10, 2)):
        data = random_dataset(
            specs, target.shapes, count=count, seed=seed, fill=fill, high=high, batch=batch, bounds={**bounds, **given}
        )
        samples = with_state(data, model, state, batch=batch)
        try:
            session.run(samples.first())
        except ModelError as error:
            failure = error
        else:
            return samples
    raise ModelError(f"no random input fits the model; give --shape name=1x3x224x224, or --data. {failure}")
