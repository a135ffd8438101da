"""Whether one model can take the place of another: signature, then outputs or accuracy.

Without data the outputs are compared on random inputs. With data the accuracy gate is asked, on all of them:
nothing is calibrated here, so nothing has to be held out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from onnxopt import files
from onnxopt.check import Checker, Difference, largest
from onnxopt.data import InputSpec, open_dataset
from onnxopt.errors import ModelError, UsageError
from onnxopt.gate import Drop, Gate, Limits
from onnxopt.inspection import ValueInfo, input_infos, output_infos
from onnxopt.metrics import find_metric
from onnxopt.runtime import check_state, input_specs
from onnxopt.runtime import notes as placement_notes
from onnxopt.samples import random_samples, with_state
from onnxopt.target import Target

VERSION = 1
"""Of the JSON form. 1: first."""
RTOL = 1e-3
"""Of the largest magnitude of an output: more than other kernels or another order of sums explain."""
SAMPLES = 4
"""Random inputs on which outputs are compared."""

_Dims = tuple[int | str | None, ...] | None


@dataclass(frozen=True)
class Options:
    """What is asked of the new model.

    Attributes:
        data: samples; None compares outputs on random inputs.
        preprocess: how images become inputs (see ``onnxopt.data``).
        metric: name of the accuracy metric; None takes top-1 where there are labels, else agreement.
        limits: what the accuracy gate asks, with data.
        rtol: largest difference of an output relative to its largest magnitude, without data.
        state: state input name to the output that feeds it.
        target: where the models run.
        seed: of the random inputs and of the interval.
    """

    data: str | None = None
    preprocess: str | None = None
    metric: str | None = None
    limits: Limits = field(default_factory=Limits)
    rtol: float = RTOL
    state: Mapping[str, str] = field(default_factory=dict)
    target: Target = field(default_factory=Target)
    seed: int = 0


@dataclass(frozen=True)
class Validation:
    """What was compared, and what came out.

    Attributes:
        reference, model: paths.
        signature: sentences on inputs and outputs that are not the same; then nothing else was compared.
        data: where the samples came from.
        differences: per output, on random inputs.
        drop: of the accuracy, on data.
        notes: what does not refuse the model and should be known.
    """

    reference: str
    model: str
    signature: tuple[str, ...]
    data: str = "none"
    differences: tuple[Difference, ...] = ()
    drop: Drop | None = None
    notes: tuple[str, ...] = ()

    @property
    def problems(self) -> tuple[str, ...]:
        """Sentences on what is beyond the limits; none where the model can take the reference's place."""
        found = list(self.signature)
        found += [_too_far(difference) for difference in self.differences if not difference.ok]
        found += [_too_low(self.drop)] if self.drop is not None and not self.drop.passed else []
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "version": VERSION,
            "reference": self.reference,
            "model": self.model,
            "passed": not self.problems,
            "problems": list(self.problems),
            "data": self.data,
            "differences": [difference.to_dict() for difference in self.differences],
            "accuracy": self.drop and self.drop.to_dict(),
            "notes": list(self.notes),
        }


def validate(reference: Path, model: Path, options: Options | None = None) -> Validation:
    """Compare a model with a reference.

    Raises:
        ModelError: if one of them cannot be read or run.
        DataError: if the data do not fit the models or the metric.
        UsageError: for a metric without data.
    """
    options = options or Options()
    if options.metric and options.data is None:
        raise UsageError("--metric needs data to measure it on: add --data")
    old, new = files.load(reference), files.load(model)
    signature, notes = signature_differences(old, new), _narrowed(old, new)
    result = Validation(str(reference), str(model), signature, notes=notes)
    if result.signature:
        return result
    check_state(old, options.state)
    result = replace(result, notes=(*notes, *placement_notes(new, options.target)))
    try:
        return _accuracy(result, old, new, options) if options.data else _outputs(result, old, new, options)
    except ModelError as error:
        raise ModelError(f"comparing {reference} and {model}: {error}") from error


def signature_differences(old: ir.Model, new: ir.Model) -> tuple[str, ...]:
    """Sentences on inputs and outputs of which name, dtype, rank or a fixed dimension is not the same."""
    outputs = list(_differences("output", output_infos(old), output_infos(new)))
    before, after = ([info.name for info in output_infos(model)] for model in (old, new))
    if not outputs and before != after:
        outputs.append(f"the outputs come in the order {', '.join(after)} instead of {', '.join(before)}")
    return (*input_differences(old, new), *outputs)


def input_differences(old: ir.Model, new: ir.Model) -> tuple[str, ...]:
    """Those of ``signature_differences`` on inputs: without any, both models take the same samples."""
    return tuple(_differences("input", input_infos(old), input_infos(new)))


def _differences(word: str, old: tuple[ValueInfo, ...], new: tuple[ValueInfo, ...]) -> Iterator[str]:
    before, after = {info.name: info for info in old}, {info.name: info for info in new}
    yield from (f"there is no {word} {name!r} ({before[name]})" for name in before if name not in after)
    yield from (f"there is another {word} {name!r} ({after[name]})" for name in after if name not in before)
    for name in before:
        if name in after and not _alike(before[name], after[name]):
            yield f"{word} {name!r} is {after[name]} instead of {before[name]}"


def _alike(a: ValueInfo, b: ValueInfo) -> bool:
    if a.dtype != b.dtype:
        return False
    if a.shape is None or b.shape is None:
        return True
    pairs = zip(a.shape, b.shape, strict=False)
    clash = any(isinstance(m, int) and isinstance(n, int) and m != n for m, n in pairs)
    return len(a.shape) == len(b.shape) and not clash


def _narrowed(old: ir.Model, new: ir.Model) -> tuple[str, ...]:
    """Notes on inputs with dimensions that were dynamic and are fixed."""
    after = {info.name: info for info in input_infos(new)}
    both = [(info, after[info.name]) for info in input_infos(old) if info.name in after]
    return tuple(f"input {a.name!r} was {a} and is {b}" for a, b in both if len(b.dynamic) < len(a.dynamic))


def _outputs(result: Validation, old: ir.Model, new: ir.Model, options: Options) -> Validation:
    """Compare on random inputs, ONNX Runtime's own optimizations off."""
    fixed = _fixed_shapes(spec for spec in _strictest(old, new) if spec.name not in options.state)
    target = replace(options.target, shapes={**fixed, **options.target.shapes})
    samples = random_samples(old, target, options.state, count=SAMPLES, seed=options.seed)
    checker = Checker(samples, target)
    before, comparable = checker.reproducible(old)
    after = checker.outputs(new)
    names = [info.name for info in output_infos(old)]
    differences = tuple(
        Difference(name, largest(before, after, {name}, exact=True).relative, options.rtol)
        for name in names
        if name in comparable
    )
    random = [f"output {name!r} is random and was not compared" for name in names if name not in comparable]
    notes = (*result.notes, *random)
    return replace(result, data=samples.data.about, differences=differences, notes=notes)


def _accuracy(result: Validation, old: ir.Model, new: ir.Model, options: Options) -> Validation:
    """Ask the gate, on all of the data."""
    assert options.data is not None
    specs = _strictest(old, new)
    data = open_dataset(options.data, specs, preprocess=options.preprocess, optional=options.state)
    metric = find_metric(options.metric, data.has_labels, class_labels=data.has_class_labels)
    samples = with_state(data.grouped(metric.group), old, options.state)
    gate = Gate(old, metric, samples, options.limits, options.target, options.seed)
    return replace(result, data=data.about, drop=gate.measure(new))


def _strictest(old: ir.Model, new: ir.Model) -> tuple[InputSpec, ...]:
    """The inputs with each dimension fixed that one of the models fixes."""
    after = {spec.name: spec.shape for spec in input_specs(new)}
    return tuple(replace(spec, shape=_fixed(spec.shape, after[spec.name])) for spec in input_specs(old))


def _fixed(a: _Dims, b: _Dims) -> _Dims:
    if a is None or b is None:
        return b if a is None else a
    return tuple(n if isinstance(n, int) else m for m, n in zip(a, b, strict=True))


def _fixed_shapes(specs: Iterable[InputSpec]) -> dict[str, tuple[int, ...]]:
    """Input name to shape, of those without a dynamic dimension."""
    found = {}
    for spec in specs:
        dims = tuple(dim for dim in spec.shape or () if isinstance(dim, int))
        if spec.shape is not None and len(dims) == len(spec.shape):
            found[spec.name] = dims
    return found


def _too_far(difference: Difference) -> str:
    name = difference.output
    if difference.relative == float("inf"):
        return f"output {name!r} has another shape, or other integers, NaN or inf"
    return (
        f"output {name!r} is off by {difference.relative:.2g} of its largest magnitude "
        f"(allowed {difference.allowed:.2g})"
    )


def _too_low(drop: Drop) -> str:
    return f"{drop.metric} drops by {drop.drop:.4f} [{drop.low:.4f}, {drop.high:.4f}], more than is allowed"
