"""Runs a model beside the reference on the same samples, and says what is beyond the limits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from onnxopt import progress
from onnxopt.data import Batch
from onnxopt.gate import Drop, Limits, judged_drop
from onnxopt.metrics import Metric
from onnxopt.metrics.base import Array
from onnxopt.runtime import Outputs, Session
from onnxopt.samples import Samples
from onnxopt.target import Target
from onnxopt.validation.errors import ErrorOf, Tally

KEPT_BYTES = 256 * 2**20
"""Outputs of the reference are kept up to this; beyond, it runs again beside every model."""


@dataclass(frozen=True)
class Asked:
    """The limits.

    Attributes:
        rtol: largest difference of an output relative to its largest magnitude; None asks nothing.
        min_sqnr: dB that each output of floats must reach; None asks nothing.
        limits: of the accuracy, for the first metric.
        seed: of the interval.
    """

    rtol: float | None = None
    min_sqnr: float | None = None
    limits: Limits = field(default_factory=Limits)
    seed: int = 0


@dataclass(frozen=True)
class Problem:
    """Something beyond the limits: its kind (``nan``, ``rtol``, ...) and place, and a sentence."""

    kind: str
    place: str
    sentence: str

    @property
    def key(self) -> tuple[str, str]:
        """What is the same for two models that fail alike."""
        return self.kind, self.place


@dataclass(frozen=True)
class Judged:
    """Errors of the outputs, drops of the metrics (the first is the gate's), and what is beyond the limits."""

    outputs: tuple[ErrorOf, ...]
    drops: tuple[Drop, ...]
    problems: tuple[Problem, ...]


class Judge:
    """Compares models with a reference on the same samples, batch by batch: only sums and evidence are kept.

    Outputs that differ between two runs of the reference (random operators) are not compared.
    """

    def __init__(
        self, old: ir.Model, samples: Samples, metrics: Sequence[Metric], asked: Asked, target: Target, optimize: bool
    ) -> None:
        """Load the reference.

        Args:
            old: the reference.
            samples: what both are fed.
            metrics: of the accuracy; without any, none is measured.
            asked: the limits.
            target: where both run.
            optimize: with ONNX Runtime's own optimizations, as it will be run; off to compare what the files say.

        Raises:
            ModelError: if the reference does not load or run.
        """
        self.samples, self.metrics, self.asked, self.target, self.optimize = samples, metrics, asked, target, optimize
        self.session = Session(old, target, optimize=optimize)
        self.random = _random_outputs(self.session, samples)
        self._kept: list[Outputs] | None = None

    def load(self, model: ir.Model) -> Session:
        """A session like the reference's.

        Raises:
            ModelError: if the model does not load.
        """
        return Session(model, self.target, optimize=self.optimize)

    def judge(self, session: Session) -> Judged:
        """Run a model on all samples.

        Raises:
            ModelError: if it does not run.
            DataError: if a metric does not fit the outputs or lacks labels.
        """
        names = [name for name in self.session.outputs if name not in self.random]
        tallies = {name: Tally(name) for name in names}
        before: list[list[Array]] = [[] for _ in self.metrics]
        after: list[list[Array]] = [[] for _ in self.metrics]
        runs, done = zip(self.samples.run(session), self._reference(), strict=True), 0
        for (batch, got), expected in runs:
            done += batch.size
            progress.count("sample", done, len(self.samples))
            for name, tally in tallies.items():
                tally.add(expected[name], got[name])
            for metric, old, new in zip(self.metrics, before, after, strict=True):
                old.append(self._evidence(metric, batch, expected, expected))
                new.append(self._evidence(metric, batch, got, expected))
        drops = tuple(
            judged_drop(metric, np.concatenate(old), np.concatenate(new), self.asked.limits, self.asked.seed,
                        len(self.samples))
            for metric, old, new in zip(self.metrics, before, after, strict=True)
        )  # fmt: skip
        outputs = tuple(tally.result() for tally in tallies.values())
        return Judged(outputs, drops, (*_of_outputs(outputs, self.asked), *_of_accuracy(drops)))

    def on(self, samples: Samples) -> Judge:
        """The same judge on other samples, with the session that is loaded."""
        other = object.__new__(Judge)
        other.__dict__ = {**self.__dict__, "samples": samples, "_kept": None}
        return other

    def _evidence(self, metric: Metric, batch: Batch, outputs: Outputs, reference: Outputs) -> Array:
        outputs, reference = self.samples.judged(outputs), self.samples.judged(reference)
        return metric.evidence(outputs, batch.labels, reference, batch.feeds)

    def _reference(self) -> Iterator[Outputs]:
        """What the reference gives, batch by batch; kept for the next model where it is not too large."""
        if self._kept is not None:
            yield from self._kept
            return
        kept: list[Outputs] | None = []
        size = 0
        for _, outputs in self.samples.run(self.session):
            size += sum(np.asarray(output).nbytes for output in outputs.values() if not isinstance(output, list))
            kept = None if kept is None or size > KEPT_BYTES else [*kept, outputs]
            yield outputs
        self._kept = kept


def problems_of(error: ErrorOf, asked: Asked) -> Iterator[Problem]:
    """What is beyond the limits at one output."""
    name = error.name
    if error.clash:
        yield Problem("shape", name, f"output {name!r} is {error.clash}")
        return
    if error.appeared:
        yield Problem("nan", name, f"output {name!r} has {error.appeared} NaN or inf where the reference has numbers")
    elif asked.rtol is not None and error.relative == float("inf"):
        yield Problem("rtol", name, f"output {name!r} has other integers, or NaN or inf at other places")
    elif asked.rtol is not None and error.relative > asked.rtol:
        words = f"is off by {error.relative:.2g} of its largest magnitude (allowed {asked.rtol:.2g})"
        yield Problem("rtol", name, f"output {name!r} {words}")
    if asked.min_sqnr is not None and error.sqnr is not None and error.sqnr < asked.min_sqnr:
        words = f"has an SQNR of {error.sqnr:.1f} dB, under the {asked.min_sqnr:g} dB that are asked"
        yield Problem("sqnr", name, f"output {name!r} {words}")


def _of_outputs(outputs: Sequence[ErrorOf], asked: Asked) -> Iterator[Problem]:
    for error in outputs:
        yield from problems_of(error, asked)


def _of_accuracy(drops: Sequence[Drop]) -> Iterator[Problem]:
    for drop in drops[:1]:
        if not drop.passed:
            words = f"{drop.metric} drops by {drop.drop:.4f} [{drop.low:.4f}, {drop.high:.4f}], more than is allowed"
            yield Problem("drop", drop.metric, words)


def _random_outputs(session: Session, samples: Samples) -> frozenset[str]:
    """The outputs that a second run of the same session does not repeat."""
    feeds = samples.first()
    first, second = session.run(feeds), session.run(feeds)
    odd = set()
    for name, output in first.items():
        tally = Tally(name)
        tally.add(output, second[name])
        odd |= {name} if tally.relative else set()
    return frozenset(odd)
