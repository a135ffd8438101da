"""The road of a comparison: signature, outputs and accuracy, sizes, the values inside, the changes to blame."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from onnxopt import files, progress
from onnxopt.data import open_dataset
from onnxopt.errors import ModelError, UsageError
from onnxopt.metrics import Metric, find_metric
from onnxopt.runtime import check_state
from onnxopt.samples import Samples, random_samples, with_state
from onnxopt.target import Target
from onnxopt.validation.bisect import bisect
from onnxopt.validation.judge import Asked, Judge, Judged
from onnxopt.validation.layers import Layers, compared
from onnxopt.validation.options import Options
from onnxopt.validation.pair import Pair, pair
from onnxopt.validation.result import Validation
from onnxopt.validation.signature import fixed_shapes, signature_differences, signature_notes, strictest
from onnxopt.validation.sizes import Trial, trials, tried
from onnxopt.validation.units import units

SAMPLES = 4
"""Random inputs on which outputs are compared."""


def validate(reference: Path, model: Path, options: Options | None = None) -> Validation:
    """Compare a model with a reference.

    Raises:
        ModelError: if one of them cannot be read or run.
        DataError: if the data do not fit the models or the metric.
        UsageError: for a metric without data.
    """
    options = options or Options()
    if (options.metric or options.metrics) and options.data is None:
        raise UsageError("--metric needs data to measure it on: add --data")
    old, new = files.load(reference), files.load(model)
    signature, notes = signature_differences(old, new), signature_notes(old, new)
    result = Validation(str(reference), str(model), signature, notes=notes)
    if result.signature:
        return result
    check_state(old, options.state)
    try:
        return _compared(result, old, new, options)
    except ModelError as error:
        raise ModelError(f"comparing {reference} and {model}: {error}") from error


def _compared(result: Validation, old: ir.Model, new: ir.Model, options: Options) -> Validation:
    progress.stage("comparing")
    samples, metrics, target = _samples(old, new, options)
    asked = Asked(options.tolerance, options.min_sqnr, options.limits, options.seed)
    judge = Judge(old, samples, metrics, asked, target, optimize=options.data is not None)
    session = judge.load(new)
    judged = judge.judge(session)
    chosen = set(options.target.shapes) | set(options.state)
    sized = trials(strictest(old, new), samples, chosen)
    sizes = tuple(tried(trial, judge, session, asked) for trial in sized)
    found = (*judged.problems, *(problem for one in sizes for problem in one.problems))
    random = [f"output {name!r} is random and was not compared" for name in sorted(judge.random)]
    result = replace(
        result,
        data=samples.data.about,
        samples=len(samples),
        asked=asked,
        outputs=judged.outputs,
        drops=judged.drops,
        sizes=sizes,
        found=found,
        notes=(*result.notes, *random, *(one.note for one in sizes if one.note)),
    )
    judged = replace(judged, problems=found)
    failing = [trial for trial, one in zip(sized, sizes, strict=True) if one.problems]
    return _explained(result, pair(old, new), judge, judged, failing, options) if _inside(options, judged) else result


def _inside(options: Options, judged: Judged) -> bool:
    """Whether to look into the models."""
    return options.layers or (options.bisect and bool(judged.problems))


def _explained(
    result: Validation, both: Pair, judge: Judge, judged: Judged, failing: list[Trial], options: Options
) -> Validation:
    """With the values inside, and the changes to blame."""
    blame = options.bisect and judged.problems
    layers = None
    if options.layers or len(units(both)) > 1:  # with one change there is nothing to put in order
        both, layers = _layers(both, judge, options)
    bisection = bisect(both, layers, judge, judged, failing) if blame else None
    return replace(result, layers=layers if options.layers else None, bisection=bisection)


def _layers(both: Pair, judge: Judge, options: Options) -> tuple[Pair, Layers]:
    """The values inside; matched by the order of operators where values of one name turn out to be others."""
    try:
        return compared(both, judge.samples, judge.target, options.seed)
    except ModelError:
        other = pair(both.old, both.new, by_name=False)
        try:
            return compared(other, judge.samples, judge.target, options.seed)
        except ModelError as error:
            nothing = other.without({match.old for match in other.matches})
            return nothing, Layers((), 0, other.how, (0, 0), f"the values inside cannot be compared: {error}")


def _samples(old: ir.Model, new: ir.Model, options: Options) -> tuple[Samples, tuple[Metric, ...], Target]:
    """What both are fed, the metrics, and where they run."""
    specs = strictest(old, new)
    if options.data is None:
        fixed = fixed_shapes(spec for spec in specs if spec.name not in options.state)
        target = replace(options.target, shapes={**fixed, **options.target.shapes})
        return random_samples(old, target, options.state, count=SAMPLES, seed=options.seed), (), target
    data = open_dataset(options.data, specs, preprocess=options.preprocess, optional=options.state)
    names = [options.metric, *options.metrics]
    labels = {"has_labels": data.has_labels, "class_labels": data.has_class_labels}
    metrics = tuple({metric.name: metric for metric in (find_metric(name, **labels) for name in names)}.values())
    group = math.lcm(*(metric.group for metric in metrics))
    return with_state(data.grouped(group), old, options.state), metrics, options.target
