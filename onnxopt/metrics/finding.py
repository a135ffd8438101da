"""Metrics by name: the built-in ones, and functions of the user."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from onnxopt.core import load_function, suggestion
from onnxopt.errors import DataError, OnnxoptError, UsageError
from onnxopt.metrics.base import Array, Arrays, Metric, batch_rows, column
from onnxopt.metrics.fidelity import DISTANCES, Agreement, Sqnr
from onnxopt.metrics.task import SpearmanCosine, TopK

_BUILT_IN: tuple[Metric, ...] = (
    TopK("top1", 1),
    TopK("top5", 5),
    Agreement(),
    *DISTANCES,
    Sqnr(),
    SpearmanCosine(),
)
_FLAGS = ("higher_is_better", "needs_labels")
METRICS: Mapping[str, Metric] = MappingProxyType({metric.name: metric for metric in _BUILT_IN})


def find_metric(name: str | None, has_labels: bool, *, class_labels: bool = True) -> Metric:
    """The metric of this name, or ``package.module:function`` (see :class:`UserMetric`).

    Args:
        name: None chooses top1 where the labels are class numbers, else agreement with the original.
        has_labels: whether the data have labels.
        class_labels: whether these are one whole number per sample; read only where ``name`` is None.

    Raises:
        UsageError: if there is no such metric or function.
        DataError: if the metric needs labels and there are none.
    """
    if name is None:
        return METRICS["top1" if has_labels and class_labels else "agreement"]
    if ":" not in name and name not in METRICS:
        raise UsageError(f"no metric is called {name!r}{suggestion(name, METRICS)}")
    metric = METRICS[name] if name in METRICS else _user_metric(name)
    if metric.needs_labels and not has_labels:
        raise DataError(f"metric {name} needs labels; add an array 'labels' to the data, or use another metric")
    return metric


@dataclass(frozen=True)
class UserMetric(Metric):
    """A function of the user, ``f(outputs, labels, reference)``, called for each batch.

    It returns one number per sample, (n,); the score is their mean. Its attributes ``higher_is_better``
    (True unless set) and ``needs_labels`` (False unless set) are honoured. NaN and inf become the worst.
    """

    name: str
    function: Callable[[Arrays, Array | None, Arrays], Any] = field(repr=False)
    higher_is_better: bool = True
    needs_labels: bool = False

    def evidence(self, outputs: Arrays, labels: Array | None, reference: Arrays, feeds: Arrays) -> Array:
        """(n, 1): what the function returned."""
        try:
            values = np.asarray(self.function(outputs, labels, reference), np.float64)
        except OnnxoptError:
            raise
        except Exception as error:
            raise DataError(f"metric {self.name} failed with {type(error).__name__}: {error}") from error
        n = batch_rows(reference) if labels is None else len(labels)
        if values.shape != (n,):
            raise DataError(
                f"metric {self.name} returned shape {values.shape} for {n} samples; "
                f"return one number per sample, ({n},)"
            )
        return column(np.where(np.isfinite(values), values, -np.inf if self.higher_is_better else np.inf))


def _user_metric(name: str) -> UserMetric:
    function = load_function(name)
    flags = {flag: bool(getattr(function, flag)) for flag in _FLAGS if hasattr(function, flag)}
    return UserMetric(name, function, **flags)
