"""Whether a rewritten model still computes the same: outputs before and after, and where they part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt.core import Exactness
from onnxopt.runtime import Outputs, Session
from onnxopt.samples import Samples
from onnxopt.target import Target

TOLERANCE: Mapping[str, float] = {"float64": 1e-6, "float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
"""Largest allowed difference after a ROUNDING pass, relative to the largest magnitude of the output."""


@dataclass(frozen=True)
class Difference:
    """The largest difference over all outputs and samples.

    Attributes:
        output: the output where it is.
        relative: relative to the largest magnitude of that output; infinite where shapes or integers differ.
        allowed: what was allowed there.
    """

    output: str
    relative: float
    allowed: float

    @property
    def ok(self) -> bool:
        """Whether it is within what was allowed."""
        return self.relative <= self.allowed

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {**self.__dict__, "ok": self.ok}


class Checker:
    """Runs models on the same samples, ONNX Runtime's own optimizations off, and compares.

    Outputs that differ between two runs of the same model (random operators) are not compared.
    """

    def __init__(self, samples: Samples, target: Target) -> None:
        """Keep the samples."""
        self.samples, self.target = samples, target

    def outputs(self, model: ir.Model) -> list[Outputs]:
        """The outputs of every batch.

        Raises:
            ModelError: if the model does not load or run.
        """
        session = Session(model, self.target, optimize=False)
        return [outputs for _, outputs in self.samples.run(session)]

    def reproducible(self, model: ir.Model) -> tuple[list[Outputs], frozenset[str]]:
        """The outputs of a model, and the names of those that a second run repeats bit by bit.

        Both runs share a session: ONNX Runtime seeds random operators alike in every new one.
        """
        session = Session(model, self.target, optimize=False)
        first, second = ([outputs for _, outputs in self.samples.run(session)] for _ in range(2))
        same = {name for name in (first[0] if first else {}) if largest(first, second, {name}, exact=True).ok}
        return first, frozenset(same)

    def first_different_value(
        self, before: ir.Model, after: ir.Model, exactness: Exactness
    ) -> tuple[str, Difference] | None:
        """The first value, in the order of the graph, that both models have and that differs.

        Looks at every value of the main graph; None if they all agree.
        """
        kept = {value.name for node in after.graph for value in node.outputs}
        names = [v.name for node in before.graph for v in node.outputs if v.name and v.name in kept]
        old, new = (self.outputs(_exposed(model, names)) for model in (before, after))
        for name in names:
            difference = largest(old, new, {name}, exact=exactness is Exactness.EXACT)
            if not difference.ok:
                return name, difference
        return None


def largest(
    before: list[Outputs], after: list[Outputs], names: frozenset[str] | set[str], *, exact: bool
) -> Difference:
    """The difference that exceeds what is allowed the most, else the largest."""
    found = Difference("", 0.0, 0.0)
    for old, new in zip(before, after, strict=True):
        for name in sorted(names):
            for expected, got in _arrays(old[name], new.get(name)):
                relative = _relative(expected, got)
                allowed = 0.0 if exact else TOLERANCE.get(str(np.asarray(expected).dtype), 0.0)
                candidate = Difference(name, relative, allowed)
                if (candidate.ok, -relative) < (found.ok, -found.relative):
                    found = candidate
    return found


def _arrays(expected: Any, got: Any) -> Iterator[tuple[Any, Any]]:
    """Pairs of arrays; sequences of tensors are compared one by one."""
    if isinstance(expected, list):
        same = isinstance(got, list) and len(expected) == len(got)
        yield from zip(expected, got, strict=True) if same else [(np.zeros(1), None)]
    else:
        yield expected, got


def _relative(expected: Any, got: Any) -> float:
    if got is None or np.shape(expected) != np.shape(got) or np.asarray(expected).dtype != np.asarray(got).dtype:
        return float("inf")
    expected, got = np.asarray(expected), np.asarray(got)
    if not _is_float(expected):
        return 0.0 if np.array_equal(expected, got) else float("inf")
    expected, got = expected.astype(np.float64), got.astype(np.float64)
    same = (expected == got) | (np.isnan(expected) & np.isnan(got))
    if same.all():
        return 0.0
    with np.errstate(invalid="ignore"):
        gap = np.abs(expected - got)[~same].max()
    scale = np.max(np.abs(expected), initial=0.0, where=np.isfinite(expected))
    return float(gap / scale) if scale > 0 and np.isfinite(gap) else float("inf")


def _is_float(numbers: np.ndarray) -> bool:
    return str(numbers.dtype) in TOLERANCE


def _exposed(model: ir.Model, names: list[str]) -> ir.Model:
    """A copy that returns every named value of the main graph."""
    model = model.clone()
    values = {value.name: value for node in model.graph for value in node.outputs}
    returned = {value.name for value in model.graph.outputs}
    model.graph.outputs.extend(values[name] for name in names if name not in returned)
    return model
