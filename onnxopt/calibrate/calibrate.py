"""Learn the range of every value from samples, in one streamed pass and flat memory.

What is kept of a value has a fixed size: two extremes and their averages, and a histogram for the methods that clip.
ONNX Runtime's graph optimizations stay on; values that are not asked for are not computed apart.

ONNX Runtime's own calibrator runs without graph optimizations, copies every activation out, and keeps them all for
its histograms: see ``make bench-calibration``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import onnx_ir as ir

from onnxopt import cache
from onnxopt.calibrate import store
from onnxopt.calibrate.estimators import Method, Range, automatic, estimate
from onnxopt.calibrate.observe import Seen, extremes, histograms
from onnxopt.calibrate.ranges import Ranges
from onnxopt.calibrate.readers import bias_weights
from onnxopt.samples import Samples
from onnxopt.target import Target


def calibrate(
    model: ir.Model, samples: Samples, names: Collection[str], target: Target, method: str = "min-max"
) -> Ranges:
    """The range of each named float value of the main graph; not learned again where it was learned before.

    Ranges are kept in the user's cache folder, by a hash of model, data, names and method. With ONNXOPT_NO_CACHE
    in the environment they are neither looked up nor kept.

    Args:
        model: not changed.
        samples: run in order, and read as they are needed; states are fed back.
        names: of float values: inputs, constants, results of nodes. Those that are always empty get no range.
        target: where to run.
        method: one of METHODS; ``percentile:99.9`` sets the share.

    Raises:
        DataError: if a value is NaN or infinite; names it and the sample.
        ModelError: if there is no value of a name, or it is not float.
        UsageError: if there is no such method.
    """
    asked, names, folder = Method.parse(method), frozenset(names), cache.folder("ranges")
    if not names or folder is None:
        return learn(model, samples, names, target, asked)
    key = store.key(model, samples, names, target, str(asked))
    known = store.find(folder, key) if key else None
    if known is not None:
        return known
    ranges = learn(model, samples, names, target, asked)
    if key:
        store.keep(folder, key, ranges)
    return ranges


def learn(model: ir.Model, samples: Samples, names: Collection[str], target: Target, method: Method) -> Ranges:
    """The same, without looking into the store."""
    if not names:
        return Ranges({}, len(samples), str(method))
    if method.needs_histogram:
        return _clipped(model, histograms(model, samples, names, target), len(samples), method)
    averaged = method.name == "moving-average"
    seen = extremes(model, samples, names, target, alone=averaged)
    bounds = {name: one.average if averaged else (one.low, one.high) for name, one in seen.items()}
    return Ranges(bounds, len(samples), str(method))


def _clipped(model: ir.Model, seen: Mapping[str, Seen], samples: int, method: Method) -> Ranges:
    """Ranges by a method that needs histograms."""
    if method.name != "auto":
        bounds = {name: estimate(one.histogram, method.name, method.percent) for name, one in seen.items()}
        return Ranges(bounds, samples, str(method))
    weights = bias_weights(model, seen)
    chosen: dict[str, tuple[str, Range]] = {
        name: automatic(one.histogram, method.percent, weights[name]) for name, one in seen.items()
    }
    bounds = {name: ends for name, (_, ends) in chosen.items()}
    return Ranges(bounds, samples, str(method), {name: estimator for name, (estimator, _) in chosen.items()})
