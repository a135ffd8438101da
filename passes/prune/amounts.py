"""How much goes: from what the user asks (a share, a threshold, a budget) to how many channels of each group."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

import numpy as np
import onnx_ir as ir

from onnxopt import benchmark, progress
from onnxopt.core import Context
from onnxopt.errors import UsageError
from onnxopt.graph import label
from onnxopt.passes.prune import costs
from onnxopt.passes.prune.costs import Costs
from onnxopt.passes.prune.groups import Group, Groups, find
from onnxopt.passes.prune.widths import Prunable, below, budgeted, uniform
from onnxopt.runtime import Session
from onnxopt.samples import random_samples
from onnxopt.stopwatch import node_seconds

TRIES = 4
"""Widths that are tried on the clock for a share of the time."""
CLOSE = 0.03
"""How far the time may be off what is asked, as a share."""
SECONDS = 2.0
"""Of each timing."""
BLOCKS = {True: 16, False: 8}
"""Channels that a convolution's kernel computes at once, with AVX-512 and without (MlasNchwcGetBlockSize)."""


def by_share(groups: Sequence[Prunable], shares: Sequence[str], this_time: Callable[[float], float]) -> list[int]:
    """Of each group the share of the first pattern that it fits.

    Args:
        groups: that may lose channels.
        shares: as PATTERN:SHARE.
        this_time: from what stays in the end to what stays of what is there now.
    """
    pairs = [_pair(word) for word in shares]
    going = {
        one.group.name: next((share for pattern, share in pairs if fits(one.group, (pattern,))), 0.0) for one in groups
    }
    return uniform(groups, {name: 1 - this_time(1 - share) for name, share in going.items()})


def fits(group: Group, patterns: Sequence[str]) -> bool:
    """Whether one of the patterns is that of the group, of a layer that makes its channels, or of such a weight."""
    names = {
        group.name,
        *(label(role.node) for role in group.writers),
        *(role.value.name or "" for role in group.writers),
    }
    return any(fnmatch(name, pattern) for name in names for pattern in patterns)


def _pair(word: str) -> tuple[str, float]:
    """``layer1*:0.5``.

    Raises:
        UsageError: if it is not a pattern and a share.
    """
    pattern, _, number = word.rpartition(":")
    if not pattern or not re.fullmatch(r"0?\.?\d+", number) or not 0 <= float(number) < 1:
        raise UsageError(f"option ratios: {word!r} is not PATTERN:SHARE, with a share below 1")
    return pattern, float(number)


def by_threshold(groups: Sequence[Prunable], threshold: float, *, relative: bool) -> list[int]:
    """Channels, in their order, up to the first whose importance is not below the threshold."""
    counts = []
    for one in groups:
        limit = threshold * float(one.scores.max(initial=0)) if relative else threshold
        above = np.flatnonzero(one.scores >= limit)
        counts.append(int(above[0]) if len(above) else len(one.scores))
    return below(groups, counts)


@dataclass(frozen=True)
class Clock:
    """Chooses widths for a share of the time.

    Attributes:
        model: that the groups are of.
        groups: of it.
        costs: seconds of its nodes.
        context: where to run, and on what.
        normalised: as the groups were found.
    """

    model: ir.Model
    groups: Groups
    costs: Costs
    context: Context
    normalised: bool

    @classmethod
    def of(cls, model: ir.Model, groups: Groups, context: Context, *, normalised: bool) -> Clock:
        """Time the nodes of the model."""
        times, rest = node_seconds(model, feeds_of(model, context), context.target)
        found = costs.seconds(model, groups, times, rest, BLOCKS[context.target.has_avx512])
        return cls(model, groups, found, context, normalised)

    def counts(self, groups: Sequence[Prunable], share: float) -> list[int]:
        """Of each group, how many go. Widths are tried on the clock, and the budget corrected by what it says."""
        asked, best = share, None
        for _ in range(TRIES):
            counts = budgeted(groups, self.costs, asked, self.groups.count)
            measured = self._measured(groups, counts)
            if best is None or abs(measured - share) < abs(best[0] - share):
                best = measured, counts
            if abs(measured - share) < CLOSE * share or not any(counts):
                break
            asked = min(1.0, max(0.01, asked * share / measured))
        assert best is not None
        return best[1]

    def _measured(self, groups: Sequence[Prunable], counts: Sequence[int]) -> float:
        """The time without so many channels, as a share of that with all: the weights do not matter here."""
        progress.detail("timing widths")
        smaller = self.model.clone()
        find(smaller, normalised=self.normalised).remove(going_of(groups, counts))
        feeds = feeds_of(self.model, self.context)
        sessions = [Session(one, self.context.target) for one in (smaller, self.model)]
        runs = [functools.partial(session.run, feeds) for session in sessions]
        return 1 / benchmark.compare(runs[1], runs[0], threads=self.context.target.threads, max_seconds=SECONDS).ratio


def going_of(groups: Sequence[Prunable], counts: Sequence[int]) -> np.ndarray:
    """The classes that go."""
    return np.concatenate(
        [np.zeros(0, np.int64), *(one.order[:count] for one, count in zip(groups, counts, strict=True))]
    )


def feeds_of(model: ir.Model, context: Context) -> Mapping[str, np.ndarray]:
    """The inputs of one sample; random ones where there are none."""
    samples = context.calibration or random_samples(model, context.target, {}, seed=context.seed)
    return samples.first()
