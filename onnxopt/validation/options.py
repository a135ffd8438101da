"""What is asked of the new model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from onnxopt.gate import Limits
from onnxopt.target import Target

RTOL = 1e-3
"""Of the largest magnitude of an output: more than other kernels or another order of sums explain."""


@dataclass(frozen=True)
class Options:
    """What is asked of the new model.

    Attributes:
        data: samples; None compares outputs on random inputs.
        preprocess: how images become inputs (see ``onnxopt.data``).
        metric: name of the accuracy metric that the gate asks; None takes top-1 where there are labels, else agreement.
        limits: what the accuracy gate asks, with data.
        rtol: largest difference of an output relative to its largest magnitude, without data; None is 0.001, or no
            limit where ``min_sqnr`` is the one.
        state: state input name to the output that feeds it.
        target: where the models run.
        seed: of the random inputs and of the interval.
        metrics: more of them, measured and shown beside the first.
        min_sqnr: dB that each output of floats must reach; None asks nothing.
        layers: also compare the values inside, and tell where the error grows.
        bisect: where a gate fails, find the smallest set of changes that explains it.
    """

    data: str | None = None
    preprocess: str | None = None
    metric: str | None = None
    limits: Limits = field(default_factory=Limits)
    rtol: float | None = None
    state: Mapping[str, str] = field(default_factory=dict)
    target: Target = field(default_factory=Target)
    seed: int = 0
    metrics: tuple[str, ...] = ()
    min_sqnr: float | None = None
    layers: bool = False
    bisect: bool = False

    @property
    def tolerance(self) -> float | None:
        """What is really asked of the largest difference; None: nothing."""
        if self.data is not None:
            return None
        return RTOL if self.rtol is None and self.min_sqnr is None else self.rtol
