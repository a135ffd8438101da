"""Time two contenders against each other: alternating iterations, an interval, and "not significant".

Ratios are the time of ``a`` over the time of ``b``: above 1, ``b`` is faster. Seconds everywhere.

Protocol (measured on ONNX Runtime, facts/ort_cpu_limits.md section 6): single iterations alternate A B B A,
so that clock changes and load hit neighbours alike; alternating blocks is 3 to 20 times worse, and minima are
the worst statistic. Sources: Kalibera and Jones, "Rigorous benchmarking in reasonable time" (ISMM 2013), for
an interval on the ratio and for asking at which level the doubt arises; Künsch (1989), and Politis and Romano
(1992), for resampling blocks of correlated values.
"""

from onnxopt.benchmark.intervals import LOADS_FLOOR, interval, judge, load_interval
from onnxopt.benchmark.loads import (
    LOADS,
    LOADS_SECONDS,
    MIN_LOADS,
    PATIENCE,
    PRECISION,
    Load,
    compare_loads,
)
from onnxopt.benchmark.turns import (
    MAX_REPEATS,
    MIN_SECONDS,
    NOISE_FLOOR,
    SLOT_SECONDS,
    THREADED_FLOOR,
    WARM_SECONDS,
    Clock,
    Run,
    compare,
)
from onnxopt.benchmark.value import LOAD_LIMIT, Comparison, Environment, Interval, Timing, Verdict, measured_in

__all__ = [
    "LOADS",
    "LOADS_FLOOR",
    "LOADS_SECONDS",
    "LOAD_LIMIT",
    "MAX_REPEATS",
    "MIN_LOADS",
    "MIN_SECONDS",
    "NOISE_FLOOR",
    "PATIENCE",
    "PRECISION",
    "SLOT_SECONDS",
    "THREADED_FLOOR",
    "WARM_SECONDS",
    "Clock",
    "Comparison",
    "Environment",
    "Interval",
    "Load",
    "Run",
    "Timing",
    "Verdict",
    "compare",
    "compare_loads",
    "interval",
    "judge",
    "load_interval",
    "measured_in",
]
