"""Estimators: from what was seen of a value to the range that its quantized type shall cover.

Beside ``min_max`` and ``moving_average`` they clip: numbers outside the range are lost, and the others get a finer
grid. The grid always holds 0, so an end on the near side of 0 is never clipped (after a Relu ``low`` stays 0).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from onnxopt.calibrate.entropy import entropy
from onnxopt.calibrate.histogram import Histogram
from onnxopt.calibrate.squared_error import LEVELS, errors, least
from onnxopt.core import suggestion
from onnxopt.errors import UsageError

ESTIMATORS = ("min-max", "percentile", "entropy", "mse")
"""Those that need a histogram and no more; among them ``auto`` chooses."""
METHODS = (*ESTIMATORS, "moving-average", "auto")
PERCENT = 99.99
"""Wu et al., "Integer quantization for deep learning inference" (arXiv 2004.09602), tried 99.9 to 99.9999."""

ALIKE = 1.01
"""Effects up to so many times the least count as the least."""

Range = tuple[float, float]


@dataclass(frozen=True)
class Method:
    """How ranges are estimated.

    Attributes:
        name: one of METHODS.
        percent: of the numbers that ``percentile`` keeps inside.
    """

    name: str
    percent: float = PERCENT

    @classmethod
    def parse(cls, words: str) -> Method:
        """``entropy``, ``percentile``, ``percentile:99.9`` and so on.

        Raises:
            UsageError: if there is no such method, or the number is not above 50 and at most 100.
        """
        name, _, number = words.partition(":")
        if name not in METHODS:
            raise UsageError(f"there is no calibration method {name!r}{suggestion(name, METHODS)}")
        try:
            percent = float(number) if number else PERCENT
        except ValueError:
            percent = math.nan
        if not 50 < percent <= 100 or (number and name != "percentile"):
            raise UsageError(f"{words!r} is not a calibration method; percentile alone takes a number, 50 to 100")
        return cls(name, percent)

    @property
    def needs_histogram(self) -> bool:
        """Whether the extremes of the numbers are not enough."""
        return self.name not in ("min-max", "moving-average")

    def __str__(self) -> str:
        """As it is parsed."""
        return f"{self.name}:{self.percent:g}" if self.name == "percentile" else self.name


def estimate(histogram: Histogram, name: str, percent: float = PERCENT) -> Range:
    """The range by one of ESTIMATORS; of a histogram that is not empty.

    ========== =================================================================================
    min-max    all that was seen
    percentile all but the outermost ``100 - percent`` percent, half of them on either side
    entropy    what loses the least information (see ``onnxopt.calibrate.entropy``)
    mse        what has the least mean squared error (see ``onnxopt.calibrate.squared_error``)
    ========== =================================================================================
    """
    match name:
        case "percentile":
            return percentile(histogram, percent)
        case "entropy":
            return entropy(histogram, LEVELS)
        case "mse":
            return least(histogram)
    return histogram.low, histogram.high


def percentile(histogram: Histogram, percent: float) -> Range:
    """Cut ``(100 - percent) / 2`` percent of the numbers on either side, to a fraction of a bin.

    Source: ONNX Runtime's PercentileCalibrater cuts either side of an asymmetric range like this.
    """
    edges, counts = histogram.density()
    below = np.concatenate([[0], np.cumsum(counts)])
    cut = (100 - percent) / 200 * below[-1]
    low, high = np.interp([cut, below[-1] - cut], below, edges)
    return (
        float(min(low, 0.0)) if histogram.low < 0 else histogram.low,
        float(max(high, 0.0)) if histogram.high > 0 else histogram.high,
    )


def automatic(histogram: Histogram, percent: float, bias_weight: float) -> tuple[str, Range]:
    """The estimator whose range moves the output of the layers that read the value the least (``auto``).

    Let a linear layer have the outputs ``y_o = sum over k of w_ok x_k``, and let the quantization errors of the
    ``x_k`` be independent, with mean ``m`` and variance ``v``, both known from the histogram. Then the expected
    squared error of y_o is its variance plus its squared mean,

        E[(sum_k w_ok e_k)^2] = v sum_k w_ok^2 + m^2 (sum_k w_ok)^2 .

    Summed over the outputs of all layers that read x, and divided by ``A = sum_ok w_ok^2``, that is

        v + bias_weight m^2     with     bias_weight = sum_o (sum_k w_ok)^2 / A .

    Rounding errors cancel in the sum, a bias does not. Clipping causes one: it makes large numbers smaller, never
    larger. With ``bias_weight`` 1 (weights whose signs cancel, or a reader that is not linear) the criterion is
    ``v + m^2 = E[e^2]``, which ``mse`` minimizes; the more the weights of an output agree in sign, the less is
    clipped. With 8 bits this seldom decides: where a share p of the numbers is clipped by d, the bias adds
    ``bias_weight p^2 d^2`` to ``p d^2``, and p is 1e-4 or less.

    Neglected: that errors of neighbours are correlated, padding at borders, what the layers after these make of
    the error, and that different layers matter differently.

    Returns:
        The name of the estimator and its range. Within 1 % of the least, which is what a histogram can tell, the
        first of ESTIMATORS: ``min-max`` is safest on data not seen.
    """
    ranges = {name: estimate(histogram, name, percent) for name in ESTIMATORS}
    lows, highs = np.array(list(ranges.values())).T
    mean, square = errors(histogram, lows, highs)
    effect = square + (bias_weight - 1) * mean**2
    return list(ranges.items())[int(np.argmax(effect <= ALIKE * effect.min()))]
