"""Channels that are constant or not read, proven from the weights. Read ``interval.py`` first, then ``proof.py``."""

from onnxopt.passes.prune.dead import moving, pointwise, products  # each registers its rules
from onnxopt.passes.prune.dead.analysis import RULES, Intervals, intervals
from onnxopt.passes.prune.dead.interval import Interval
from onnxopt.passes.prune.dead.proof import Evidence, examine, shift

__all__ = [
    "RULES",
    "Evidence",
    "Interval",
    "Intervals",
    "examine",
    "intervals",
    "moving",
    "pointwise",
    "products",
    "shift",
]
