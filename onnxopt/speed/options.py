"""What is timed, and in which settings."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from onnxopt import fresh
from onnxopt.data import InputSpec
from onnxopt.errors import UsageError
from onnxopt.target import Target

Shapes = Mapping[str, tuple[int, ...]]

MAX_SECONDS = 30.0
"""For each pair of models, where a limit is asked for that the first seconds do not decide."""


@dataclass(frozen=True)
class Options:
    """What is timed, and where.

    The settings are all combinations of ``providers``, ``threads``, ``shapes``, ``batches`` and ``sequences``; what
    is empty is as ``target`` says.

    Attributes:
        data: samples, of which the first are timed; None times a random input that respects the model.
        preprocess: how images become inputs (see ``onnxopt.data``).
        state: state input name to the output that feeds it; it starts at zero.
        target: where the models run.
        seconds: at least so long per pair of models; None takes what ``benchmark.compare_loads`` does.
        providers: ``cpu``, ``cuda``.
        threads: of one operator.
        shapes: as in ``Target``.
        batches: sizes of a dynamic axis 0.
        sequences: sizes of the dimension that is the sequence, by its name.
        streams: how many threads call one session at the same time, each a measurement of its own.
        repeats: fresh processes in which loading is measured; 0 leaves it out.
        max_slowdown: the share of time more that will be allowed: what that does not decide is measured longer.
        max_seconds: for each pair of models, then.
    """

    data: str | None = None
    preprocess: str | None = None
    state: Mapping[str, str] = field(default_factory=dict)
    target: Target = field(default_factory=Target)
    seconds: float | None = None
    providers: tuple[str, ...] = ()
    threads: tuple[int, ...] = ()
    shapes: tuple[Shapes, ...] = ()
    batches: tuple[int, ...] = ()
    sequences: tuple[int, ...] = ()
    streams: tuple[int, ...] = ()
    repeats: int = fresh.REPEATS
    max_slowdown: float | None = None
    max_seconds: float = MAX_SECONDS


@dataclass(frozen=True)
class Setting:
    """One combination.

    Attributes:
        target: provider, threads, and all sizes but that of the batch.
        batch: size of a dynamic axis 0; None: 1.
        sequence: for the label; the target has it by the name of its dimension.
        shapes: for the label, those of which there are several.
    """

    target: Target
    batch: int | None = None
    sequence: int | None = None
    shapes: Shapes = field(default_factory=dict)

    @property
    def label(self) -> str:
        """``cpu, 1 thread, batch 8, sequence 128``: by it a stored measurement is found again."""
        return ", ".join(self.words())

    def words(self) -> list[str]:
        """The parts of the label."""
        found = [self.target.provider, f"{self.target.threads} thread{'' if self.target.threads == 1 else 's'}"]
        found += [f"batch {self.batch}"] if self.batch else []
        found += [f"sequence {self.sequence}"] if self.sequence else []
        return found + [f"{name} {size(shape)}" for name, shape in self.shapes.items()]


def size(shape: Sequence[int]) -> str:
    """``1x3x224x224``."""
    return "x".join(map(str, shape)) or "scalar"


def settings(options: Options, specs: Sequence[InputSpec]) -> tuple[Setting, ...]:
    """All combinations, in the order in which they are given.

    Args:
        options: what is asked.
        specs: the inputs of the model: which of their dimensions is the sequence?

    Raises:
        UsageError: for a batch or sequence where the model has no dimension for it.
    """
    if options.data and (options.sequences or len(options.shapes) > 1 or options.target.ranges):
        raise UsageError("--sequence, --input-range and several --shape are for random inputs: leave out --data")
    if options.batches and not any(spec.shape and not isinstance(spec.shape[0], int) for spec in specs):
        raise UsageError("--batch: no input of the model has a dynamic axis 0; leave it out, or export it with one")
    sequence = _sequence(specs) if options.sequences else []
    varied = {name for shapes in options.shapes for name in shapes if _differs(name, options.shapes)}
    return tuple(
        Setting(
            dataclasses.replace(target, shapes={**target.shapes, **shapes, **dict.fromkeys(sequence, (length or 1,))}),
            batch,
            length,
            {name: shape for name, shape in shapes.items() if name in varied},
        )
        for target, shapes, batch, length in itertools.product(
            _targets(options), options.shapes or ({},), options.batches or (None,), options.sequences or (None,)
        )
    )


def _targets(options: Options) -> Iterator[Target]:
    """Every provider with every number of threads; what is only for a GPU is left out on the CPU."""
    base = options.target
    for provider, threads in itertools.product(
        options.providers or (base.provider,), options.threads or (base.threads,)
    ):
        if provider == base.provider or provider != "cpu":
            yield dataclasses.replace(base, provider=provider, threads=threads)
        else:
            yield Target(provider, threads, base.shapes, base.features, ranges=base.ranges)


def _differs(name: str, alternatives: Sequence[Shapes]) -> bool:
    return any(shapes.get(name) != alternatives[0].get(name) for shapes in alternatives)


def _sequence(specs: Sequence[InputSpec]) -> list[str]:
    """The names of the dimensions that are the sequence: those that say so, or the only one beside the batch."""
    batch = {spec.shape[0] for spec in specs if spec.shape}
    named = {dim for spec in specs for dim in spec.shape or () if isinstance(dim, str) and "+" not in dim} - batch
    said = sorted(dim for dim in named if "seq" in dim.lower() and "past" not in dim.lower())
    if said or len(named) == 1:
        return said or sorted(named)
    there = ", ".join(sorted(named)) or "none"
    raise UsageError(
        f"--sequence: which dimension is the sequence? (dynamic dimensions with a name: {there}) "
        "Give its size by its name: --shape NAME=32 --shape NAME=128"
    )
