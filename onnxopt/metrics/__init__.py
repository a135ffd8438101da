"""How good the outputs of a model are, sample by sample, and how much worse another model's are.

A metric turns each batch into *evidence*, float64 (n, k), one row per sample, small enough to keep for a
whole run; ``score`` makes one number of all rows. Task metrics compare with labels, fidelity metrics with the
outputs of the original model (the reference; the original's own evidence is that against itself).

NaN and inf never help: they count as a wrong answer for top1, top5 and agreement, and as the worst value
otherwise. Several float outputs: the worst one counts.
"""

from onnxopt.metrics.base import Metric
from onnxopt.metrics.compare import drop, drop_interval
from onnxopt.metrics.finding import METRICS, find_metric

__all__ = ["METRICS", "Metric", "drop", "drop_interval", "find_metric"]
