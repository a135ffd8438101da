"""Bytes of the parts of a graph, against the file itself."""

import numpy as np
import onnx_ir as ir
import pytest

from onnxopt import files
from onnxopt.graph import constant
from onnxopt.sizes import constant_bytes, node_bytes
from onnxopt.testing import parse

TEXT = "g (float[2,4] x) => (float[2,4] y) { a = Relu(x)  y = Neg(a) }"
LENGTHS = 4
"""Bytes by which the length of the graph itself, which the model holds, may be longer."""


@pytest.mark.parametrize("size", [0, 1, 15, 16, 100, 5000, 300_000])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int64, np.int8])
def test_a_constant_takes_what_the_file_grows_by(size: int, dtype: type[np.generic]) -> None:
    model = parse(TEXT)
    before = len(files.to_bytes(model))
    value = constant(model.graph, "some.weight", np.zeros((3, size), dtype))
    grown = len(files.to_bytes(model)) - before
    assert 0 <= grown - constant_bytes(value) <= LENGTHS


@pytest.mark.parametrize("typed", [True, False])
def test_a_node_takes_what_the_file_shrinks_by(typed: bool) -> None:
    model = parse(TEXT)
    first, last = model.graph
    middle = first.outputs[0]
    middle.type, middle.shape = (ir.TensorType(ir.DataType.FLOAT), ir.Shape([2, 4])) if typed else (None, None)
    before, held = len(files.to_bytes(model)), node_bytes([first])
    last.replace_input_with(0, model.graph.inputs[0])
    model.graph.remove(first, safe=True)
    renamed = len("a") - len("x")
    assert 0 <= before + renamed - len(files.to_bytes(model)) - held <= LENGTHS
