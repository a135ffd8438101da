"""The shapes that values really have when the model runs: dynamic sizes included."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from onnxopt.calibrate import tap
from onnxopt.macs import Shape
from onnxopt.runtime import Session
from onnxopt.samples import Samples
from onnxopt.target import Target


def observed_shapes(model: ir.Model, samples: Samples, names: Collection[str], target: Target) -> dict[str, Shape]:
    """The shape of each named tensor on the first sample, which is what is timed.

    Args:
        model: not changed.
        samples: the first is run, alone.
        names: of inputs, constants and results of nodes of the main graph; other names are passed over.
        target: where to run.
    """
    copy, wanted = model.clone(), set(names)
    copy.graph.outputs.clear()
    known: dict[str, str] = {}
    for value in [value for value in tap.values(copy.graph) if value.name in wanted]:
        output = f"onnxopt/shape/{value.name}"
        copy.graph.outputs.append(tap.add(copy.graph, "Shape", [value], [], output, ir.DataType.INT64))
        known[output] = value.name or ""
    if not known:
        return {}
    outputs = Session(copy, target).run(samples.first())
    return {known[name]: tuple(map(int, shape)) for name, shape in outputs.items()}
