"""Dynamic dimensions, each at two sizes: a model may run at one and fail at another.

The inputs of the first sample are cut, or repeated, along a dimension; so they stay what the model takes (rows of an
embedding, masks), whether they come from data or at random. One dimension changes at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxopt.data import InputSpec
from onnxopt.dimensions import dimension
from onnxopt.errors import ModelError
from onnxopt.runtime import Outputs, Session
from onnxopt.samples import Samples
from onnxopt.validation.errors import ErrorOf, Tally
from onnxopt.validation.judge import Asked, Judge, Problem, problems_of

MOST = 8
"""Dynamic dimensions that are tried."""


@dataclass(frozen=True)
class Trial:
    """One dimension at another size than before.

    Attributes:
        dimension: its name (``sequence``), or where it has none the input and the axis (``x axis 1``).
        size: that was tried.
        usual: the size with which everything else was compared.
        feeds: the inputs.
    """

    dimension: str
    size: int
    usual: int
    feeds: Outputs

    @property
    def words(self) -> str:
        """``sequence=64``."""
        return f"{self.dimension}={self.size}"


@dataclass(frozen=True)
class Tried:
    """What came of one trial.

    Attributes:
        dimension, size, usual: as in :class:`Trial`.
        outputs: their errors; empty where one of the models did not run.
        problems: what is beyond the limits.
        note: why nothing was compared: the reference does not run either.
    """

    dimension: str
    size: int
    usual: int
    outputs: tuple[ErrorOf, ...] = ()
    problems: tuple[Problem, ...] = ()
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "dimension": self.dimension,
            "size": self.size,
            "usual": self.usual,
            "outputs": [error.to_dict() for error in self.outputs],
            "problems": [problem.sentence for problem in self.problems],
            "note": self.note,
        }


def trials(specs: Sequence[InputSpec], samples: Samples, given: set[str]) -> list[Trial]:
    """Inputs with each dynamic dimension at a second size: 2 instead of 1, else the half, rounded down.

    Args:
        specs: the inputs of the model, states included.
        samples: the first of them is taken.
        given: inputs and dimensions whose size the user chose; those stay.
    """
    feeds = samples.first()
    found = []
    for name, usual in _dynamic(specs, feeds, given).items():
        size = 2 if usual == 1 else usual // 2
        changed = {s.name: _resized(s, feeds[s.name], name, size, feeds, specs) for s in specs}
        if all(np.asarray(array).size for array in changed.values()) and size:
            found.append(Trial(name, size, usual, changed))
    return found[:MOST]


def tried(trial: Trial, judge: Judge, new: Session, asked: Asked) -> Tried:
    """Run both models on one trial."""
    where = trial.dimension, trial.size, trial.usual
    try:
        before = judge.session.run(trial.feeds)
    except ModelError as error:
        return Tried(*where, note=f"the reference does not run with {trial.words} either: {_sentence(error)}")
    try:
        after = new.run(trial.feeds)
    except ModelError as error:
        words = f"with {trial.words} the reference runs and the model does not: {_sentence(error)}"
        return Tried(*where, problems=(Problem("size", trial.words, words),))
    errors = tuple(_error(name, before[name], after[name]) for name in before if name not in judge.random)
    found = [problem for error in errors for problem in problems_of(error, asked)]
    said = [Problem("size", trial.words, f"with {trial.words}, {problem.sentence}") for problem in found]
    return Tried(*where, outputs=errors, problems=tuple(said))


def _error(name: str, before: Any, after: Any) -> ErrorOf:
    tally = Tally(name)
    tally.add(before, after)
    return tally.result()


def _sentence(error: ModelError) -> str:
    return str(error).removeprefix("ONNX Runtime cannot run the model on these inputs: ")


def _dynamic(specs: Sequence[InputSpec], feeds: Outputs, given: set[str]) -> dict[str, int]:
    """Each dynamic dimension with its size in these inputs; dimensions of one name are one."""
    found: dict[str, int] = {}
    for spec in specs:
        if spec.shape is None or spec.name in given:
            continue
        for axis, dim in enumerate(spec.shape):
            if not isinstance(dim, int) and not (dim and "+" in dim):
                found.setdefault(_name(spec, axis, specs), np.asarray(feeds[spec.name]).shape[axis])
    return {name: size for name, size in found.items() if name not in given}


def _name(spec: InputSpec, axis: int, specs: Sequence[InputSpec]) -> str:
    """The dimension's own name; the batch is one for all inputs that do not name it."""
    dim = (spec.shape or ())[axis]
    if isinstance(dim, str) and dim:
        return dim
    return "batch" if axis == 0 and len(specs) > 1 else f"{spec.name} axis {axis}"


def _resized(
    spec: InputSpec, array: Any, name: str, size: int, feeds: Outputs, specs: Sequence[InputSpec]
) -> np.ndarray:
    """The input with every axis of that dimension cut or repeated."""
    for axis, dim in enumerate(spec.shape or ()):
        if isinstance(dim, int):
            continue
        wanted = size if _name(spec, axis, specs) == name else None
        if isinstance(dim, str) and "+" in dim:
            sizes = dict(_sizes(specs, feeds)) | {name: size}
            wanted = dimension(dim, sizes) if name in map(str.strip, dim.split("+")) else None
        if wanted is not None:
            array = np.take(array, np.arange(wanted) % array.shape[axis], axis=axis)
    return np.asarray(array)


def _sizes(specs: Sequence[InputSpec], feeds: Outputs) -> Iterator[tuple[str, int]]:
    """Each named dimension and its size in these inputs; those that are sums of others left out."""
    for spec in specs:
        for axis, dim in enumerate(spec.shape or ()):
            if isinstance(dim, str) and "+" not in dim:
                yield dim, np.asarray(feeds[spec.name]).shape[axis]
