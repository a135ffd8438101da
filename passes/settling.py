"""Constants in another form: written, tried, and taken back where ONNX Runtime makes nothing good of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxopt.core import Change, Refusal, Saved
from onnxopt.errors import ModelError
from onnxopt.folding import unfolded
from onnxopt.passes.constants import refusal
from onnxopt.target import Target


@dataclass(frozen=True, eq=False)
class Stored(ABC):
    """An initializer of the main graph in another form.

    Attributes:
        name: of the initializer, and of the value that takes its place.
        what: how it is stored, for the report.
    """

    name: str
    what: str

    @property
    @abstractmethod
    def must_fold(self) -> bool:
        """Whether the value must be computed when the model is loaded, and is not worth it otherwise."""

    @abstractmethod
    def write(self, model: ir.Model) -> Change:
        """Put it into the place of the initializer; says what that saves."""

    def settled(self, change: Change, *, left: bool) -> Change:
        """What was done, once it is known whether a node still gives the value at each run."""
        return change


def settle(model: ir.Model, stored: Sequence[Stored], target: Target) -> list[Change | Refusal]:
    """Write, in place, those that save bytes, load, and are folded; the others are refused."""
    if not stored:
        return []
    copy = model.clone()
    gains = {one: (one.write(copy).saved or Saved(0, 0)).file for one in stored}
    why = {one: f"would be {-gain} bytes larger so" for one, gain in gains.items() if gain <= 0}
    try:
        trial = _tried(model, [one for one in stored if one not in why], target)
    except ModelError as error:
        return [Refusal("", str(error))]
    why |= trial.why
    refusals = [refusal(model.graph.initializers[one.name], why[one]) for one in stored if one in why]
    kept = [one for one in stored if one not in why]
    return [*(one.settled(one.write(model), left=one.name in trial.left) for one in kept), *refusals]


@dataclass(frozen=True)
class _Trial:
    """What ONNX Runtime does with constants in their new form.

    Attributes:
        why: it does not take some, or not as they are meant.
        left: names of those that are decoded at each run.
    """

    why: Mapping[Stored, str]
    left: Collection[str] = ()


def _tried(model: ir.Model, stored: Sequence[Stored], target: Target) -> _Trial:
    """Write them in a copy, and load it; where that fails, find out which of them are at fault.

    Raises:
        ModelError: if ONNX Runtime does not load the model as it is.
    """
    if not stored:
        return _Trial({})
    copy = model.clone()
    for one in stored:
        one.write(copy)
    try:
        left = unfolded(copy, target, {one.name for one in stored})
        why = {one: "is not decoded when the model is loaded, but at each run" for one in stored if one.name in left}
        return _Trial({one: reason for one, reason in why.items() if one.must_fold}, left)
    except ModelError as error:
        reason = f"is not loaded so: {error}"
    unfolded(model, target, ())
    if len(stored) == 1:
        return _Trial({stored[0]: reason})
    middle = len(stored) // 2
    found = {**_tried(model, stored[:middle], target).why, **_tried(model, stored[middle:], target).why}
    if not found:
        return _Trial(dict.fromkeys(stored, reason))
    rest = _tried(model, [one for one in stored if one not in found], target)
    return _Trial({**found, **rest.why}, rest.left)
