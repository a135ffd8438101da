"""How much of the machine other processes use while something is timed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field


def cpu_seconds() -> tuple[float, float]:
    """CPU seconds used so far by the whole machine, and by this process."""
    import psutil

    times = psutil.cpu_times()
    kinds = ("user", "nice", "system", "irq", "softirq", "steal")
    own = psutil.Process().cpu_times()
    return sum(getattr(times, kind, 0.0) for kind in kinds), own.user + own.system


@dataclass
class ForeignLoad:
    """Counts from when it is made.

    Attributes:
        clock: seconds; another one in tests.
    """

    clock: Callable[[], float] = time.perf_counter
    _before: tuple[float, float] = field(default_factory=lambda: cpu_seconds())
    _started: float = field(init=False)

    def __post_init__(self) -> None:
        """Begin."""
        self._started = self.clock()

    def share(self) -> float:
        """The share of one CPU that other processes have used since; above 1, more than one CPU."""
        busy, used = (now - before for now, before in zip(cpu_seconds(), self._before, strict=True))
        return max(0.0, busy - used) / max(self.clock() - self._started, 1e-9)
