"""Dataset: a source of samples and the numbers of those that are seen; Batch: what one run is fed."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from onnxopt.core import suggestion
from onnxopt.data.arrays import Column, Part
from onnxopt.data.spec import Array, InputSpec, cast, check_dtype, kind, takes_whole_feeds
from onnxopt.errors import DataError, UsageError

LABELS = "labels"


@dataclass(frozen=True, eq=False)
class Batch:
    """What one run of the model is fed.

    Attributes:
        feeds: input name to array, ready for the model.
        labels: (size, ...), None where the data have none.
        size: number of samples.
    """

    feeds: dict[str, Array]
    labels: Array | None
    size: int


@dataclass(frozen=True, eq=False)
class Source:
    """All samples of one place, checked against the model's inputs.

    Attributes:
        origin: the path or name as the user gave it.
        inputs: those that are fed, in the order of the model.
        columns: input name to its array.
        labels: None where there are none.
        whole: inputs whose elements on axis 0 are complete feeds.
        exact: the only possible number of samples per batch, None if any will do.
        synthetic: random, so that claims on it are void.
        notes: what else the report should say.
    """

    origin: str
    inputs: tuple[InputSpec, ...]
    columns: Mapping[str, Column]
    labels: Column | None
    whole: frozenset[str]
    exact: int | None
    synthetic: bool
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.columns[self.inputs[0].name])

    def batch(self, rows: Array) -> Batch:
        """The samples with these numbers.

        Raises:
            DataError: for NaN, inf, integers that do not fit, a file that can no longer be read.
        """
        labels = None if self.labels is None else self.labels.read(rows)
        if labels is not None and kind(labels.dtype) == "floats" and not np.isfinite(labels).all():
            raise DataError(f"{self.origin}: the labels have NaN or inf; correct them or leave them out")
        return Batch({spec.name: self._feed(spec, rows) for spec in self.inputs}, labels, len(rows))

    def _feed(self, spec: InputSpec, rows: Array) -> Array:
        array = cast(spec, self.columns[spec.name].read(rows), rows, self.origin)
        return array[0, ...] if spec.name in self.whole else array


@dataclass(frozen=True, eq=False)
class Dataset:
    """An immutable view: a source and the numbers of the samples that are seen, in the order they come.

    If the model takes exactly d samples at a time, every view holds a multiple of d.

    Attributes:
        source: where the samples are read, when they are asked for.
        index: (samples,) numbers of the samples in the source.
        group: this many samples in a row belong together (sentence pairs: 2).
    """

    source: Source
    index: Array
    group: int = 1

    def __len__(self) -> int:
        return len(self.index)

    @property
    def has_labels(self) -> bool:
        """Whether batches carry labels."""
        return self.source.labels is not None

    @property
    def has_class_labels(self) -> bool:
        """Whether the labels are one whole number per sample."""
        labels = self.source.labels
        return labels is not None and all(kind(p.dtype) == "integers" and len(p.shape) == 1 for p in labels.parts)

    @property
    def synthetic(self) -> bool:
        """Whether the samples are random: claims on them are void."""
        return self.source.synthetic

    @property
    def about(self) -> str:
        """One line for the report: where, how many, and what was done to them."""
        total = len(self.source)
        count = f"{len(self)} of {total}" if len(self) < total else f"{total}"
        what = f"{self.source.origin}: {count} sample{'' if total == 1 else 's'}"
        return "; ".join([what, *self.source.notes])

    def batches(self, size: int = 32) -> Iterator[Batch]:
        """The samples in order, read as they are asked for.

        Args:
            size: samples per batch, where model and group leave a choice; the last batch may be smaller.

        Raises:
            DataError: see :meth:`Source.batch`.
            UsageError: if ``size`` is under 1.
        """
        if size < 1:
            raise UsageError(f"a batch of {size} samples is not possible; give 1 or more")
        step = self.source.exact or max(self.group, size - size % self.group)
        return (self.source.batch(self.index[i : i + step]) for i in range(0, len(self), step))

    def grouped(self, group: int) -> Dataset:
        """The same samples, where ``group`` in a row are never parted by split, take or batches.

        (Batches of a model with a fixed batch size can part them still.)
        """
        together = replace(self, group=group)
        return together.take(len(self))

    def take(self, count: int) -> Dataset:
        """The first ``count`` samples (fewer if there are fewer; whole batches and groups, at least one).

        Raises:
            UsageError: if ``count`` is under 1.
            DataError: if not even one group is there.
        """
        if count < 1:
            raise UsageError(f"{count} samples are too few; take 1 or more")
        count = min(max(count, self._unit), len(self))
        if count < self._unit:
            raise DataError(f"{self.source.origin} has {len(self)} samples; at least {self._unit} are needed")
        return replace(self, index=self.index[: count - count % self._unit])

    def split(self, fraction: float, seed: int, *, ordered: bool = False) -> tuple[Dataset, Dataset]:
        """Calibration samples and held-out samples, each at least one.

        Args:
            fraction: share of the calibration part, between 0 and 1.
            seed: of the permutation that decides which samples go where.
            ordered: cut in time order instead, as recurrent models need.

        Raises:
            DataError: if there are too few samples for two parts.
            UsageError: if ``fraction`` is not between 0 and 1.
        """
        if not 0 < fraction < 1:
            raise UsageError(f"a split of {fraction} is not between 0 and 1")
        units = len(self) // self._unit
        if units < 2:
            raise DataError(
                f"{self.source.origin} has {len(self)} sample{'' if len(self) == 1 else 's'}, too few for a "
                f"calibration and a held-out part; give at least {2 * self._unit}"
            )
        cut = self._unit * min(max(round(units * fraction), 1), units - 1)
        index = self.index if ordered else self._permuted(seed)
        return replace(self, index=index[:cut]), replace(self, index=index[cut:])

    @cached_property
    def _unit(self) -> int:
        """Views hold a multiple of this many samples."""
        return math.lcm(self.source.exact or 1, self.group)

    def _permuted(self, seed: int) -> Array:
        groups = self.index.reshape(-1, self.group)
        return np.random.default_rng(seed).permutation(groups).reshape(-1)


def assemble(
    origin: str,
    inputs: Sequence[InputSpec],
    shards: Sequence[tuple[str, Mapping[str, Part]]],
    *,
    optional: Collection[str] = (),
    synthetic: bool = False,
    notes: Sequence[str] = (),
) -> Dataset:
    """A data set from shards (where it lies, array name to array), each with all arrays.

    Raises:
        DataError: if names, shapes, dtypes or lengths do not fit the inputs, or there is no sample.
    """
    kinds = {check_shard(arrays, inputs, optional, where) for where, arrays in shards}
    fed = tuple(spec for spec in inputs if spec.name not in optional)
    if len(kinds) > 1:
        raise DataError(f"{origin}: arrays have different ranks in different files; give all the same rank")
    whole = kinds.pop() if kinds else frozenset()
    tables = [arrays for _, arrays in shards if arrays[fed[0].name].shape[0]]
    if not tables:
        raise DataError(f"{origin} has no samples; give at least one")
    if len({LABELS in table for table in tables}) > 1:
        raise DataError(f"{origin}: some files have labels and some do not; give all or none")
    columns = {s.name: Column(s.name, tuple(table[s.name] for table in tables)) for s in fed}
    has_labels = LABELS in tables[0] and LABELS not in [s.name for s in inputs]
    labels = Column(LABELS, tuple(table[LABELS] for table in tables)) if has_labels else None
    exact = _exact_batch(fed, whole, origin)
    source = Source(origin, fed, columns, labels, whole, exact, synthetic, tuple(notes))
    return _in_whole_batches(source)


def check_shard(
    arrays: Mapping[str, Part], inputs: Sequence[InputSpec], optional: Collection[str], where: str
) -> frozenset[str]:
    """Check one shard against the inputs; return the inputs whose elements are complete feeds.

    Raises:
        DataError: if names, shapes, dtypes or lengths do not fit.
    """
    fed = [spec for spec in inputs if spec.name not in optional]
    _check_names(arrays, [s.name for s in inputs], [s.name for s in fed], where)
    for spec in fed:
        check_dtype(spec, arrays[spec.name].dtype, where)
    whole = frozenset(s.name for s in fed if takes_whole_feeds(s, arrays[s.name].shape, where))
    _check_lengths({name: a for name, a in arrays.items() if name not in optional}, where)
    return whole


def _check_names(arrays: Mapping[str, Part], inputs: Sequence[str], fed: Sequence[str], where: str) -> None:
    if not fed:
        raise DataError(f"{where}: the model has no input that data could fill")
    known = [*inputs, LABELS]
    for name in arrays:
        if name not in known:
            raise DataError(f"{where}: the model has no input {name!r}{suggestion(name, known)}")
    for name in fed:
        if name not in arrays:
            there = ", ".join(map(repr, arrays)) or "none"
            raise DataError(f"{where}: no array for the input {name!r} (there are: {there}); add it")


def _check_lengths(arrays: Mapping[str, Part], where: str) -> None:
    lengths = {name: array.shape[0] if array.shape else 0 for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{name!r} {length}" for name, length in lengths.items())
        raise DataError(f"{where}: arrays have different numbers of samples ({counts}); give all the same")


def _exact_batch(fed: Sequence[InputSpec], whole: Collection[str], origin: str) -> int | None:
    """The one possible batch size, None if the model leaves it open."""
    fixed = {s.name: s.fixed_batch for s in fed if s.name not in whole and s.fixed_batch is not None}
    fixed |= dict.fromkeys(whole, 1)
    if len(set(fixed.values())) > 1:
        sizes = ", ".join(f"{name!r} {size}" for name, size in fixed.items())
        raise DataError(
            f"{origin}: inputs take different numbers of samples at a time ({sizes}); "
            "give every array one axis more, each element a complete feed"
        )
    return next(iter(fixed.values()), None)


def _in_whole_batches(source: Source) -> Dataset:
    """All samples, less a tail too short for a model with a fixed batch size."""
    total, exact = len(source), source.exact or 1
    if total < exact:
        raise DataError(f"{source.origin} has {total} samples, but the model takes exactly {exact} at a time; add some")
    if tail := total % exact:
        note = f"the last {tail} left out, since the model takes exactly {exact} at a time"
        source = replace(source, notes=(*source.notes, note))
    return Dataset(source, np.arange(total - tail))
