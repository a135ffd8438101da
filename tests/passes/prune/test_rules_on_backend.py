"""Every rule on ONNX's own backend tests: without some positions of the inputs, the output is the same without them.

All inputs are constants, and the output may lose channels, so that every axis of every operator is tried that its
rule lets go. Operators whose test is written out in others ("expanded") try these together.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from exactness import CPU, TOLERANCE

from onnxopt.errors import ModelError
from onnxopt.graph import inferred, opset
from onnxopt.passes.prune.groups.groups import Groups
from onnxopt.passes.prune.groups.tracer import RULES, Tracer
from onnxopt.runtime import Outputs, Session

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import test_backend as backend

SHARE = 0.4
HALF = 1e-2
"""Tolerance of float16."""
RANDOM = "training_dropout"


def models() -> Iterator[tuple[str, ir.Model, list[str]]]:
    """Name, model without inputs, and the inputs that were: the first, and those of floats."""
    for case in backend.cases():
        model = ir.serde.deserialize_model(case.model)
        model.opset_imports[""] = min(model.opset_imports.get("", backend.NEWEST_OPSET), backend.NEWEST_OPSET)
        inputs = list(zip(model.graph.inputs, case.inputs, strict=False))
        numeric = all(isinstance(numbers, np.ndarray) and numbers.dtype.kind in "fiub" for _, numbers in inputs)
        if not numeric or not inputs or RANDOM in case.name or case.name.endswith("constants"):
            continue
        for value, numbers in inputs:
            value.const_value = ir.tensor(numbers, name=value.name)
            model.graph.inputs.remove(value)
            model.graph.register_initializer(value)
        yield (
            case.name,
            model,
            [value.name for i, (value, numbers) in enumerate(inputs) if i == 0 or numbers.dtype.kind == "f"],
        )


def found(model: ir.Model) -> Groups:
    """All classes, without those of outputs barred."""
    tracer = Tracer(inferred(model), opset(model))
    tracer.trace(model.graph)
    return Groups.of(tracer)


def choose(groups: Groups, axes: list[np.ndarray], seed: int) -> np.ndarray:
    """Of each class of these axes, whether it stays; one of each axis does, and those of others do."""
    free = np.unique(np.concatenate([np.zeros(0, np.int64), *axes]))
    free, stays = free[free > 0], np.ones(groups.count, bool)
    stays[free] = np.random.default_rng(seed).random(len(free)) > SHARE
    for axis in (axis for many in groups.axes.values() for axis in many if axis is not None and len(axis)):
        stays[axis[0]] |= not stays[axis].any()
    return stays


def without(outputs: Outputs, model: ir.Model, groups: Groups, stays: np.ndarray) -> Outputs:
    """The outputs without what goes."""
    cut = dict(outputs)
    for value in model.graph.outputs:
        for place, axis in enumerate(groups.axes.get(value, [])):
            if axis is not None:
                cut[value.name] = np.compress(stays[axis], cut[value.name], axis=place)
    return cut


def assert_same(expected: Outputs, got: Outputs) -> None:
    for name, numbers in expected.items():
        if not isinstance(numbers, np.ndarray) or numbers.dtype.kind != "f":
            np.testing.assert_array_equal(got[name], numbers)
        else:
            scale = np.abs(numbers[np.isfinite(numbers)]).max(initial=0)
            tolerance = scale * (HALF if numbers.dtype == np.float16 else TOLERANCE)
            np.testing.assert_allclose(got[name].astype(float), numbers.astype(float), rtol=0, atol=tolerance)


@pytest.mark.slow
def test_rules_do_what_operators_do() -> None:
    tried: set[str] = set()
    for name, model, inputs in models():
        try:
            Session(model, CPU, optimize=False).run({})
        except ModelError:
            continue
        for seed in range(2):
            try:
                tried |= one(model.clone(), inputs, seed)
            except Exception as error:
                error.add_note(name)
                raise
    assert len(tried & {op for domain, op in RULES if not domain}) > 100


def one(model: ir.Model, inputs: list[str], seed: int) -> set[str]:
    """The operators of a model that lost something; and it computes the rest as before."""
    groups = found(model)
    axes = [axis for name in inputs for axis in groups.axes.get(model.graph.initializers[name], []) if axis is not None]
    stays = choose(groups, axes, seed)
    gone = np.flatnonzero(~stays)
    if not len(gone):
        return set()
    groups.zero(gone)
    zeroed = Session(model, CPU, optimize=False).run({})
    groups.remove(gone)
    assert_same(without(zeroed, model, groups, stays), Session(model, CPU, optimize=False).run({}))
    return {node.op_type for node in model.graph}
