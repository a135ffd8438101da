"""How much of the machine other processes use while something is timed."""

from __future__ import annotations

import time
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
    """Counts from when it is made."""

    _before: tuple[float, float] = field(default_factory=cpu_seconds)
    _started: float = field(default_factory=time.perf_counter)

    def share(self) -> float:
        """The share of one CPU that other processes have used since; above 1, more than one CPU."""
        busy, used = (now - before for now, before in zip(cpu_seconds(), self._before, strict=True))
        return max(0.0, busy - used) / max(time.perf_counter() - self._started, 1e-9)
