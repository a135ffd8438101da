"""Random inputs: for timing and for comparing two models where no data were given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from onnxopt.core import suggestion
from onnxopt.data.dataset import Dataset, assemble
from onnxopt.data.spec import Array, InputSpec, kind
from onnxopt.dimensions import dimension, split_sizes
from onnxopt.errors import DataError, UsageError
from onnxopt.roles import Bounds

_WORDS = ("abc", "def", "ghi", "jkl", "mno")
_NO_BOUNDS: Mapping[str, Bounds] = MappingProxyType({})


@dataclass(frozen=True, eq=False)
class RandomArray:
    """Random complete feeds, each drawn from its own seed, so that any order gives the same samples."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    seed: tuple[int, int]
    high: int
    bounds: Bounds | None = None

    def rows(self, index: Array) -> Array:
        return np.stack([self._draw(int(row)) for row in index])

    def _draw(self, row: int) -> Array:
        random, shape = np.random.default_rng([*self.seed, row]), self.shape[1:]
        low, high = (0, self.high - 1) if self.bounds is None else (self.bounds.low, self.bounds.high)
        match kind(self.dtype):
            case "floats" if self.bounds is not None:
                return np.asarray(random.uniform(low, high, shape)).astype(self.dtype)
            case "floats":
                return np.asarray(random.standard_normal(shape)).astype(self.dtype)
            case "integers":
                low, high = _within(self.dtype, low, high)
                return np.asarray(random.integers(low, high, shape, endpoint=True)).astype(self.dtype)
            case "bool":
                low, high = (0, 1) if self.bounds is None else (bool(low), bool(high))
                return np.asarray(random.integers(low, high, shape, endpoint=True)).astype(bool)
            case "strings":
                return np.asarray(random.choice(_WORDS, shape))
        raise DataError(f"random {self.dtype} inputs are not supported; give data")


def random_dataset(
    inputs: Sequence[InputSpec],
    shapes: Mapping[str, tuple[int, ...]],
    *,
    count: int,
    seed: int,
    fill: int = 1,
    high: int = 100,
    batch: int = 1,
    bounds: Mapping[str, Bounds] = _NO_BOUNDS,
) -> Dataset:
    """Random samples, each one complete feed (so batches have size 1): floats N(0, 1), integers in [0, high).

    Args:
        inputs: of the model.
        shapes: input name to the shape of one feed, or name of a dynamic dimension to ``(size,)``, where chosen.
        count: number of samples.
        seed: of the numbers.
        fill: size of dynamic dimensions that ``shapes`` does not give; axis 0 becomes ``batch``. A dimension with a
            name has one size everywhere.
        high: bound of integers (exclusive), lowered to what the dtype holds.
        batch: size of a dynamic axis 0.
        bounds: input name to the smallest and largest number, where they are not as said above; floats are then
            uniform.

    Raises:
        UsageError: if ``shapes`` or ``bounds`` name no input or do not fit one, ``count`` or ``high`` is under 1.
        DataError: if an input's rank is unknown and no shape is given.
    """
    if min(count, high) < 1:
        raise UsageError(f"count ({count}) and high ({high}) of random inputs must be 1 or more")
    shapes, chosen = split_sizes(shapes, {spec.name: spec.shape for spec in inputs})
    for name in (*shapes, *bounds):
        if name not in (known := [spec.name for spec in inputs]):
            raise UsageError(f"the model has no input {name!r}{suggestion(name, known)}")
    for spec in inputs:
        _check_bounds(spec, bounds.get(spec.name))
    sizes = _named_sizes(inputs, shapes, fill, batch) | chosen
    feeds = [_feed_shape(spec, shapes.get(spec.name), sizes, (batch, fill)) for spec in inputs]
    arrays = {
        spec.name: RandomArray(_stored(spec), (count, *feed), (seed, place), high, bounds.get(spec.name))
        for place, (spec, feed) in enumerate(zip(inputs, feeds, strict=True))
    }
    ranked = [_with_rank(spec, feed) for spec, feed in zip(inputs, feeds, strict=True)]
    origin = f"random inputs (seed {seed})"
    notes = [f"{name} {limits}" for name, limits in bounds.items()]
    return assemble(origin, ranked, [(origin, arrays)], synthetic=True, notes=notes)


def _check_bounds(spec: InputSpec, bounds: Bounds | None) -> None:
    """Given bounds must be of numbers that the input can hold."""
    if bounds is None:
        return
    word = f"--input-range {spec.name}={bounds.low:g}:{bounds.high:g}"
    if kind(spec.dtype) == "strings":
        raise UsageError(f"{word}: the input is {spec}; only numbers have a range")
    if not (np.isfinite([bounds.low, bounds.high]).all() and bounds.low <= bounds.high):
        raise UsageError(f"{word}: write the smaller number first, and neither NaN nor inf")
    if kind(spec.dtype) != "integers":
        return
    if _within(spec.dtype, bounds.low, bounds.high) != (bounds.low, bounds.high):
        raise UsageError(f"{word}: the input is {spec}; give whole numbers that it can hold")


def _named_sizes(
    inputs: Sequence[InputSpec], shapes: Mapping[str, tuple[int, ...]], fill: int, batch: int
) -> dict[str, int]:
    """Sizes of named dimensions: ``batch`` for a name found on axis 0, else ``fill``, or what a given shape says."""
    sizes = {dim: fill for spec in inputs for dim in spec.shape or () if isinstance(dim, str) and "+" not in dim}
    sizes |= {spec.shape[0]: batch for spec in inputs if spec.shape and isinstance(spec.shape[0], str)}
    for spec in inputs:
        given = zip(spec.shape or (), shapes.get(spec.name, ()), strict=False)
        sizes |= {dim: size for dim, size in given if isinstance(dim, str)}
    return sizes


def _feed_shape(
    spec: InputSpec, given: tuple[int, ...] | None, sizes: Mapping[str, int], defaults: tuple[int, int]
) -> tuple[int, ...]:
    """The shape of one feed: the one given, or the model's with its dynamic dimensions filled: axis 0, and others."""
    if given is not None:
        _check_given(spec, given)
        return given
    if spec.shape is None:
        raise DataError(f"input {spec.name!r} has no known rank; give its shape, or data")
    return tuple(
        dim if isinstance(dim, int) else dimension(dim or "", sizes) or defaults[min(axis, 1)]
        for axis, dim in enumerate(spec.shape)
    )


def _check_given(spec: InputSpec, given: tuple[int, ...]) -> None:
    wanted = given if spec.shape is None else spec.shape
    if len(given) != len(wanted) or any(isinstance(w, int) and w != g for w, g in zip(wanted, given, strict=True)):
        raise UsageError(f"shape {given} does not fit the input {spec.name!r}, which is {spec}")


def _with_rank(spec: InputSpec, shape: tuple[int, ...]) -> InputSpec:
    return InputSpec(spec.name, spec.dtype, spec.shape if spec.shape is not None else shape)


def _stored(spec: InputSpec) -> np.dtype[Any]:
    return np.dtype("U3") if kind(spec.dtype) == "strings" else spec.dtype


def _within(dtype: np.dtype[Any], low: float, high: float) -> tuple[int, int]:
    """Whole numbers that the dtype holds, in the bounds."""
    try:
        info = np.iinfo(dtype)
        least, most = int(info.min), int(info.max)
    except ValueError:  # 4-bit integers, which numpy does not know
        least, most = 0, 7
    return min(max(int(low), least), most), max(min(int(high), most), least)
