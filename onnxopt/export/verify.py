"""Whether the exported file computes what the module does, at more than the sizes it was traced with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.passes.common import ShapeInferencePass

from onnxopt.check import Difference, largest
from onnxopt.errors import ModelError
from onnxopt.export.calling import Call
from onnxopt.export.inputs import Input, Sizes, draw, other_sizes
from onnxopt.runtime import Session
from onnxopt.target import Target

Outputs = dict[str, np.ndarray]


def compare(
    call: Call, model: ir.Model, inputs: Sequence[Input], sizes: Sizes, seed: int, integers: int
) -> list[tuple[Sizes, Difference]]:
    """The largest difference between module and model on random inputs, at two sizes of every dynamic dimension.

    Dynamic dimensions of the outputs are then called as those of the inputs.

    Args:
        call: the module with its inputs.
        model: what was exported of it.
        inputs: shapes, ranges, dynamic dimensions.
        sizes: the first; the second are ``other_sizes`` of them.
        seed: of the random inputs.
        integers: the greatest random integer where an input does not say.

    Raises:
        ModelError: for the first output beyond the tolerance of ``check.TOLERANCE``.
    """
    session = Session(model, Target())
    if [*session.inputs] != [*call.names]:
        raise ModelError(f"the exported file has the inputs {', '.join(session.inputs)}, not {', '.join(call.names)}")
    checks, shapes = [], []
    for number, at in enumerate((sizes, other_sizes(sizes)), start=1):
        where = ", ".join(f"{name}={size}" for name, size in at.items()) or f"random input {number}"
        feeds = draw(inputs, at, seed + number, integers)
        wanted = _wanted(call, feeds, session.outputs)
        difference = _difference(session, feeds, wanted, where)
        checks.append((at, difference))
        shapes.append({name: array.shape for name, array in wanted.items()})
    _name_dimensions(model, shapes, [at for at, _ in checks])
    return checks


def _wanted(call: Call, feeds: Mapping[str, np.ndarray], names: Sequence[str]) -> Outputs:
    tensors = {name: torch.from_numpy(array) for name, array in feeds.items()}
    return {name: tensor.numpy() for name, tensor in call(tensors, names).items()}


def _difference(session: Session, feeds: Mapping[str, np.ndarray], wanted: Outputs, where: str) -> Difference:
    try:
        got = session.run(feeds)
    except ModelError as error:
        raise ModelError(f"the exported file does not run at {where}, where the module does: {error}") from error
    found = largest([wanted], [got], set(wanted), exact=False)
    if not found.ok:
        how = "has another shape or type" if found.relative == float("inf") else f"is off by {found.relative:.2g}"
        raise ModelError(
            f"the exported file is not what the module computes: output {found.output!r} at {where} {how} "
            f"(allowed {found.allowed:.0e}, relative to its largest value)"
        )
    return found


def _name_dimensions(model: ir.Model, shapes: Sequence[Mapping[str, tuple[int, ...]]], sizes: Sequence[Sizes]) -> None:
    """Call a dynamic dimension of an output as the input dimension that has its size in every run.

    The old exporter makes up names, and the new one says that an LSTM's output is as long as it was traced. Where
    none fits, or several, the exporter's name stays.
    """
    stale = False
    for value in model.graph.outputs:
        dims = list(value.shape or ())
        for axis, dim in enumerate(dims):
            seen = [shape[value.name or ""][axis] for shape in shapes]
            fitting = [name for name in sizes[0] if [at[name] for at in sizes] == seen]
            wrong = isinstance(dim, int) and set(seen) != {dim}
            if wrong or not isinstance(dim, int):
                dims[axis] = ir.SymbolicDim(fitting[0]) if len(fitting) == 1 else ir.SymbolicDim(None) if wrong else dim
            stale |= wrong
        value.shape = ir.Shape(dims) if value.shape is not None else None
    if stale:
        _forget_shapes(model)


def _forget_shapes(model: ir.Model) -> None:
    """Drop what the exporter says of the values inside, and infer it again."""
    for node in model.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None
    ShapeInferencePass()(model)
