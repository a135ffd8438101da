"""What the tests of cast-float16 share."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxopt import files
from onnxopt.core import Change, Context, Refusal
from onnxopt.data import open_dataset
from onnxopt.graph import initializers, walk
from onnxopt.passes.cast import cast_float16
from onnxopt.passes.cast.cast_float16 import CastFloat16
from onnxopt.passes.cast.half import HALVES
from onnxopt.passes.cast.kinds import FLOAT, kinds
from onnxopt.passes.cast.masks import Masks
from onnxopt.passes.cast.staying import Found
from onnxopt.runtime import Outputs, Session, input_specs
from onnxopt.samples import Samples
from onnxopt.target import Target
from onnxopt.testing import parse

CPU = Target()


def samples(model: ir.Model, folder: Path, **arrays: np.ndarray) -> Samples:
    """Samples with these inputs, each [samples, ...]."""
    np.savez(folder / "samples.npz", **arrays)
    return Samples(open_dataset(str(folder / "samples.npz"), input_specs(model)))


def cast(
    model: ir.Model, rewrite: CastFloat16 | None = None, given: Samples | None = None
) -> tuple[ir.Model, list[Change], dict[str, str]]:
    """A converted copy, the changes, and the refusals by node; valid, and nothing is left to do."""
    model, rewrite = model.clone(), rewrite or CastFloat16()
    said = rewrite.run(model, Context(CPU, given))
    onnx.checker.check_model(files.to_proto(model), full_check=True)
    before = files.to_bytes(model)
    again = [item for item in rewrite.run(model, Context(CPU, given)) if isinstance(item, Change)]
    assert again == [], "a second run changed something"
    assert files.to_bytes(model) == before
    refusals = {item.node: item.why for item in said if isinstance(item, Refusal)}
    return model, [item for item in said if isinstance(item, Change)], refusals


def run(model: ir.Model, **feeds: np.ndarray) -> Outputs:
    """The outputs, ONNX Runtime's own optimizations off."""
    return Session(model, CPU, optimize=False).run(feeds)


def model_with(text: str, opset: int = 20, **numbers: np.ndarray) -> ir.Model:
    """A model from text, with these numbers in its initializers."""
    model = parse(text, opset=opset)
    for name, array in numbers.items():
        model.graph.initializers[name].const_value = ir.Tensor(array, name=name)
    return model


def naive(model: ir.Model, monkeypatch: pytest.MonkeyPatch) -> ir.Model:
    """The model as a converter makes it that does not look at numbers: everything in float16, Casts at the edge."""
    with monkeypatch.context() as patch:
        patch.setattr(cast_float16, "staying", lambda *_: Found({}, Masks(frozenset(), frozenset()), {}))
        model = model.clone()
        assert CastFloat16().run(model, Context(CPU))
    return model


def emulated(model: ir.Model) -> ir.Model:
    """The same model in float32 with each value rounded to 16 bits where it has them.

    ONNX Runtime has no such kernels for layers on the CPU: it inserts Casts, and where two layers follow each other, it
    leaves out those between them, so that values are not rounded.
    """
    model = model.clone()
    known, halves = kinds(model), {half.dtype for half in HALVES.values()}
    for value in initializers(model):
        if value.dtype in halves and value.const_value is not None:
            value.const_value = ir.Tensor(value.const_value.numpy().astype(np.float32), name=value.name)
            value.type = ir.TensorType(FLOAT)
    for node in list(walk(model)):
        graph = node.graph
        assert isinstance(graph, ir.Graph)
        if node.op_type == "Cast" and node.attributes.get_int("to", 0) in halves:
            node.attributes["to"] = ir.AttrInt64("to", FLOAT)
        for attribute in list(node.attributes.values()):
            if attribute.type is ir.AttributeType.TENSOR and attribute.as_tensor().dtype in halves:
                numbers = attribute.as_tensor().numpy().astype(np.float32)
                node.attributes[attribute.name] = ir.AttrTensor(attribute.name, ir.Tensor(numbers))
        for value in node.outputs:
            half = known.dtype(value)
            if half not in halves:
                continue
            value.type = ir.TensorType(FLOAT)
            users, returned = list(value.uses()), value.is_graph_output()
            narrow = ir.node("Cast", [value], {"to": int(half)})
            wide = ir.node("Cast", [narrow.outputs[0]], {"to": int(FLOAT)})
            narrow.outputs[0].name, wide.outputs[0].name = f"{value.name}/narrow", f"{value.name}/wide"
            graph.insert_after(node, [narrow, wide])
            for user, index in users:
                user.replace_input_with(index, wide.outputs[0])
            for index, output in enumerate(graph.outputs):
                if returned and output is value:
                    wide.outputs[0].type, wide.outputs[0].shape = value.type, value.shape
                    graph.outputs[index] = wide.outputs[0]
    for graph in model.graphs():
        for value in graph.inputs:
            if value.dtype in halves:
                value.type = ir.TensorType(FLOAT)
    return model
