"""Limits on what was measured, and sentences on those that are missed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from onnxopt.benchmark import Comparison, Verdict
from onnxopt.speed.baseline import Against
from onnxopt.speed.result import Speed


@dataclass(frozen=True)
class Gates:
    """What is asked of every model but the first, in every setting; with a baseline, of all.

    Attributes:
        min_ratio: the interval of the ratio must not begin under this.
        not_slower: it must not be significantly slower.
        max_slowdown: the share of time more (0.03: 3 %) that the upper end of the interval may have.
    """

    min_ratio: float | None = None
    not_slower: bool = False
    max_slowdown: float | None = None

    @property
    def asked(self) -> bool:
        """Whether anything is."""
        return self.min_ratio is not None or self.not_slower or self.max_slowdown is not None


@dataclass(frozen=True)
class Failure:
    """A limit that was missed: by a model, in a setting, and a sentence with the numbers."""

    model: str
    setting: str
    sentence: str

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return dataclasses.asdict(self)


def judged(result: Speed, gates: Gates) -> Speed:
    """The same, with the limits that were missed."""
    return dataclasses.replace(result, failures=tuple(_failures(result, gates)))


def _failures(result: Speed, gates: Gates) -> Iterator[Failure]:
    for found in result.measurements if len(result.models) > 1 else ():  # settings of one model have no limit
        if found.comparison is None or found.against is None:
            continue
        words = f"{found.model} against {found.against[0]} ({found.setting.label})"
        for sentence in missed(found.comparison, gates):
            yield Failure(found.model, found.setting.label, f"{words}: {sentence}")
    for ratio in result.baseline.ratios if result.baseline else ():
        for sentence in missed(ratio, gates):
            yield Failure(
                ratio.model, ratio.setting, f"{ratio.model} against its stored time ({ratio.setting}): {sentence}"
            )


def missed(found: Comparison | Against, gates: Gates) -> Iterator[str]:
    """Sentences on the limits that an interval of a ratio misses."""
    if gates.min_ratio is not None and found.low < gates.min_ratio:
        yield f"{found.summary()}; the low end is under {gates.min_ratio:g}"
    if gates.not_slower and found.verdict is Verdict.SLOWER:
        yield found.summary()
    if gates.max_slowdown is not None:
        yield from _too_slow(found, gates.max_slowdown)


def _too_slow(found: Comparison | Against, limit: float) -> Iterator[str]:
    """The slowdown is the time of the new over that of the old, less 1: that of ratio r is 1 / r - 1."""
    least, slowdown = 1 / found.high - 1, 1 / found.ratio - 1
    most = 1 / found.low - 1 if found.low > 0 else float("inf")
    interval = f"{slowdown:+.1%} of the time [{least:+.1%}, {most:+.1%}]"
    if least > limit:
        yield f"is slower: {interval}, allowed are {limit:.3g} of it ({limit:.1%})"
    elif most > limit:
        load = found.environment.foreign_load if isinstance(found, Comparison) else None
        busy = "" if load is None else f"; other processes used {load:.0%} of a CPU meanwhile"
        yield (
            f"could not be shown to be within {limit:.1%}: {interval}{busy}; "
            "measure longer (--max-seconds) or on a quiet machine"
        )
