"""The inputs of a module: names, shapes, dynamic dimensions, and random numbers that fit them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from onnxopt.core import suggestion
from onnxopt.data.spec import Array
from onnxopt.dimensions import dimension, split_sizes
from onnxopt.errors import UsageError

DTYPES = ("float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
INTEGERS = 99
"""The greatest random integer where an input does not say."""

SHORT = 16
"""Size down to which a dimension is halved for tracing."""

Sizes = Mapping[str, int]
"""Dimension name to size."""


@dataclass(frozen=True)
class Input:
    """One input of a module.

    Attributes:
        name: in the file; a parameter of ``forward`` where it has one of that name.
        shape: of an example.
        dtype: one of ``DTYPES``.
        low: the least random number; without it, floats are N(0, 1) and integers start at 0.
        high: the greatest (integers may be equal to it).
        dynamic: axis to the name of its dimension, ``batch`` or a sum of others, ``past+sequence``.

    Raises:
        UsageError: for an unknown dtype, an axis that is not there, an empty range or dimension.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    low: float | None = None
    high: float | None = None
    dynamic: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check what a user may have mistyped."""
        if self.dtype not in DTYPES:
            raise UsageError(f"input {self.name}: there is no dtype {self.dtype!r}; there are {', '.join(DTYPES)}")
        if min(self.shape, default=1) < 1:
            raise UsageError(f"input {self.name}: every size of {self.shape} must be 1 or more")
        for axis in self.dynamic:
            if not 0 <= axis < len(self.shape):
                raise UsageError(f"input {self.name}: there is no axis {axis} in the shape {self.shape}")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise UsageError(f"input {self.name}: the range {self.low}:{self.high} is empty")

    def sized(self, sizes: Sizes) -> tuple[int, ...]:
        """The shape where dynamic dimensions have these sizes."""
        named = {axis: dimension(name, sizes) for axis, name in self.dynamic.items()}
        return tuple(named.get(axis) or size for axis, size in enumerate(self.shape))

    def draw(self, sizes: Sizes, seed: Sequence[int], integers: int = INTEGERS) -> Array:
        """Random numbers.

        Args:
            sizes: of the dynamic dimensions.
            seed: of the numbers.
            integers: the greatest random integer where ``high`` is not given.
        """
        random, shape = np.random.default_rng(seed), self.sized(sizes)
        if not self.dtype.startswith("float"):
            greatest = 1 if self.dtype == "bool" else integers
            return random.integers(int(self.low or 0), int(_or(self.high, greatest)) + 1, shape).astype(self.dtype)
        if self.low is None and self.high is None:
            return np.asarray(random.standard_normal(shape)).astype(self.dtype)
        return np.asarray(random.uniform(self.low or 0, _or(self.high, 1), shape)).astype(self.dtype)


def _or(number: float | None, default: float) -> float:
    return default if number is None else number


def draw(inputs: Iterable[Input], sizes: Sizes, seed: int, integers: int = INTEGERS) -> dict[str, Array]:
    """Random numbers for all inputs; the same seed gives the same."""
    return {one.name: one.draw(sizes, (seed, place), integers) for place, one in enumerate(inputs)}


def example_sizes(inputs: Sequence[Input]) -> dict[str, int]:
    """The sizes of the dynamic dimensions in the examples.

    Raises:
        UsageError: if one name has two sizes, or a sum is not what its parts give.
    """
    named = [(one, axis, name) for one in inputs for axis, name in one.dynamic.items()]
    sizes: dict[str, int] = {}
    for one, axis, name in named:
        if "+" not in name:
            sizes.setdefault(name, one.shape[axis])
    for one, axis, name in named:
        size = dimension(name, sizes)
        if size is None:
            raise UsageError(f"dimension {name} of input {one.name} is a sum, but not all its parts are dimensions")
        if size != one.shape[axis]:
            raise UsageError(f"dimension {name} has size {size} and, in input {one.name}, {one.shape[axis]}")
    return sizes


def tracing_sizes(sizes: Sizes) -> dict[str, int]:
    """Sizes at which to trace a module: 2 or more, and no two the same.

    ``torch.export`` takes a size of 0 or 1 for a constant, and may take dimensions of one size for one.
    """
    chosen: dict[str, int] = {}
    for name, size in sizes.items():
        near = (size + step for distance in itertools.count() for step in (-distance, distance))
        chosen[name] = next(one for one in near if one >= 2 and one not in chosen.values())
    return chosen


def short_sizes(sizes: Sizes) -> dict[str, int]:
    """The same, long ones halved while they are even, down to 16: a trace unrolls loops over them.

    An LSTM over 100 steps takes 41 s to trace, over 25 steps 12 s (torch 2.13); halves keep most multiples.
    """
    return {name: _short(size) for name, size in sizes.items()}


def _short(size: int) -> int:
    return _short(size // 2) if size % 2 == 0 and size >= 2 * SHORT else size


def other_sizes(sizes: Sizes) -> dict[str, int]:
    """Other sizes to check at: half of an even one from 4 on; else a greater one, 1 to 3, as 2 may be traced."""
    return {name: _other(size) for name, size in sizes.items()}


def _other(size: int) -> int:
    if size >= 4 and size % 2 == 0:
        return size // 2
    return 3 if size == 1 else size + 1


def changed(
    inputs: Sequence[Input],
    shapes: Mapping[str, tuple[int, ...]],
    dtypes: Mapping[str, str],
    ranges: Mapping[str, tuple[float, float]],
    dynamic: Mapping[str, Mapping[int, str]],
) -> tuple[Input, ...]:
    """Inputs with what a user says of some of them; a new size of a dynamic dimension holds wherever it is.

    Raises:
        UsageError: for a name that is no input, another rank, or what ``Input`` refuses.
    """
    known = [one.name for one in inputs]
    shapes, chosen = split_sizes(shapes, {one.name: [*one.dynamic.values()] for one in inputs})
    for name in (*shapes, *dtypes, *ranges, *dynamic):
        if name not in known:
            raise UsageError(f"there is no input {name!r}{suggestion(name, known)}")
    sizes = example_sizes(inputs) | chosen
    for one in inputs:
        if len(shape := shapes.get(one.name, one.shape)) != len(one.shape):
            raise UsageError(f"input {one.name} has {len(one.shape)} axes, {one.shape}; {shape} has {len(shape)}")
        sizes |= {name: shape[axis] for axis, name in one.dynamic.items() if one.name in shapes and "+" not in name}
    return tuple(
        replace(
            one,
            shape=shapes.get(one.name) or one.sized(sizes),
            dtype=dtypes.get(one.name, one.dtype),
            low=ranges.get(one.name, (one.low, one.high))[0],
            high=ranges.get(one.name, (one.low, one.high))[1],
            dynamic=dynamic.get(one.name, {} if dynamic else one.dynamic),
        )
        for one in inputs
    )
