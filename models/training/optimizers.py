"""Optimizers by name, and runs that switch from one to another.

``adamw`` is one optimizer throughout; ``adam:0.8,sgd:0.2`` takes the first four fifths of the steps with
Adam and the rest with SGD; ``adam:0.8@1e-3,sgd:0.2@1e-2`` gives each its own learning rate. The one that
takes over starts without memory of the gradients before.

Source of the switch: Keskar and Socher, "Improving Generalization Performance by Switching from Adam to
SGD", arXiv:1712.07628, 2017; there the moment and the learning rate are found while training, here they
are given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from onnxopt.core import suggestion
from onnxopt.errors import UsageError


@dataclass(frozen=True)
class Settings:
    """An optimizer and what it is given where nothing else is said."""

    build: Callable[..., torch.optim.Optimizer]
    learning_rate: float
    weight_decay: float = 0.0


OPTIMIZERS = {
    "sgd": Settings(torch.optim.SGD, learning_rate=0.1, weight_decay=5e-4),
    "nesterov": Settings(partial(torch.optim.SGD, momentum=0.9, nesterov=True), learning_rate=0.05, weight_decay=5e-4),
    "adagrad": Settings(torch.optim.Adagrad, learning_rate=1e-2),
    "rmsprop": Settings(torch.optim.RMSprop, learning_rate=1e-3),
    "adam": Settings(torch.optim.Adam, learning_rate=1e-3),
    "adamw": Settings(torch.optim.AdamW, learning_rate=2e-3, weight_decay=0.05),
}


@dataclass(frozen=True)
class Phase:
    """A part of the run with one optimizer: `share` of all steps, `learning_rate` before the schedule's factor."""

    optimizer: str
    share: float
    learning_rate: float
    weight_decay: float

    def build(self, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
        """A new optimizer, without state."""
        recipe = OPTIMIZERS[self.optimizer]
        return recipe.build(parameters, lr=self.learning_rate, weight_decay=self.weight_decay)


def parse(words: str, learning_rate: float | None = None, weight_decay: float | None = None) -> tuple[Phase, ...]:
    """Read ``name[:share][@learning rate]``, separated by commas; the shares are scaled to a sum of 1.

    Args:
        words: as on the command line.
        learning_rate: of the phases that name none; None for each optimizer's own.
        weight_decay: of all phases; None for each optimizer's own.

    Raises:
        UsageError: an unknown optimizer, or a share or rate that is no positive number.
    """
    phases = [_phase(word.strip(), learning_rate, weight_decay) for word in words.split(",")]
    total = sum(phase.share for phase in phases)
    return tuple(replace(phase, share=phase.share / total) for phase in phases)


def plan(
    parameters: Sequence[Tensor], phases: Sequence[Phase], factors: Sequence[float]
) -> Iterator[tuple[Phase, torch.optim.Optimizer]]:
    """The phase and the optimizer of each step, its learning rate set; there is a factor for each step."""
    for phase, steps in zip(phases, split(phases, len(factors)), strict=True):
        optimizer = phase.build(parameters)
        for step in steps:
            for group in optimizer.param_groups:
                group["lr"] = phase.learning_rate * factors[step]
            yield phase, optimizer


def split(phases: Sequence[Phase], steps: int) -> list[range]:
    """The steps of each phase.

    Raises:
        UsageError: a phase has none.
    """
    ends = [round(steps * share) for share in accumulate(phase.share for phase in phases)]
    parts = [range(start, end) for start, end in pairwise([0, *ends])]
    for phase, part in zip(phases, parts, strict=True):
        if not part:
            raise UsageError(f"{phase.optimizer!r} has a share of {phase.share:g}, which is no step of {steps}")
    return parts


def _phase(word: str, learning_rate: float | None, weight_decay: float | None) -> Phase:
    """One phase, its share not scaled yet."""
    head, at, rate = word.partition("@")
    name, colon, share = head.partition(":")
    if name not in OPTIMIZERS:
        raise UsageError(f"there is no optimizer {name!r}{suggestion(name, OPTIMIZERS)}")
    recipe = OPTIMIZERS[name]
    default = recipe.learning_rate if learning_rate is None else learning_rate
    return Phase(
        name,
        _positive(share, f"the share of {name!r}") if colon else 1.0,
        _positive(rate, f"the learning rate of {name!r}") if at else default,
        recipe.weight_decay if weight_decay is None else weight_decay,
    )


def _positive(word: str, what: str) -> float:
    try:
        number = float(word)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise UsageError(f"{what} is {word!r}, not a positive number")
    return number
