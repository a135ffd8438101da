"""Inputs and outputs of two models: names, dtypes, ranks, fixed dimensions, order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import onnx_ir as ir

from onnxopt.data import InputSpec
from onnxopt.inspection import ValueInfo, input_infos, output_infos
from onnxopt.runtime import input_specs

_Dims = tuple[int | str | None, ...] | None


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


def signature_notes(old: ir.Model, new: ir.Model) -> tuple[str, ...]:
    """What is no difference and should be known: dimensions that became fixed, inputs in another order."""
    before, after = input_infos(old), {info.name: info for info in input_infos(new)}
    both = [(info, after[info.name]) for info in before if info.name in after]
    notes = [f"input {a.name!r} was {a} and is {b}" for a, b in both if len(b.dynamic) < len(a.dynamic)]
    names = [info.name for info in before]
    if sorted(names) == sorted(after) and names != list(after):
        notes.append(f"the inputs come in the order {', '.join(after)}; they are fed by name")
    return tuple(notes)


def strictest(old: ir.Model, new: ir.Model) -> tuple[InputSpec, ...]:
    """The inputs with each dimension fixed that one of the models fixes."""
    after = {spec.name: spec.shape for spec in input_specs(new)}
    return tuple(replace(spec, shape=_fixed(spec.shape, after[spec.name])) for spec in input_specs(old))


def fixed_shapes(specs: Iterable[InputSpec]) -> dict[str, tuple[int, ...]]:
    """Input name to shape, of those without a dynamic dimension."""
    found = {}
    for spec in specs:
        dims = tuple(dim for dim in spec.shape or () if isinstance(dim, int))
        if spec.shape is not None and len(dims) == len(spec.shape):
            found[spec.name] = dims
    return found


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


def _fixed(a: _Dims, b: _Dims) -> _Dims:
    if a is None or b is None:
        return b if a is None else a
    return tuple(n if isinstance(n, int) else m for m, n in zip(a, b, strict=True))
