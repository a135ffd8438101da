"""What the ledger says of memory, against the memory of a process that loads the model."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from onnxopt import files, passes
from onnxopt.core import Change, Context
from onnxopt.target import Target
from onnxopt.testing import parse

ROWS, COLUMNS = 1024, 2048
BYTES = ROWS * COLUMNS * 4
MEASURE = """
import ctypes, sys, onnxruntime
def resident():
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return int(open("/proc/self/statm").read().split()[1]) * 4096
def load(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
small = load(sys.argv[1])
before = resident()
model = load(sys.argv[2])
print(resident() - before)
"""
PRODUCTS = f"""g (float[n,{ROWS}] x, float[m,{ROWS}] u) => (float[n,{COLUMNS}] y, float[m,{COLUMNS}] z)
<float[{ROWS},{COLUMNS}] v, float[{ROWS},{COLUMNS}] w> {{ y = MatMul(x, v)  z = MatMul(u, w) }}"""
SUMS = f"""g (float[{ROWS},{COLUMNS}] x) => (float[{ROWS},{COLUMNS}] y) <float[{ROWS},{COLUMNS}] v, float[{ROWS},{COLUMNS}] w>
{{ a = Add(x, v)  y = Mul(a, w) }}"""
TURNED = f"""g (float[n,{ROWS}] x) => (float[n,{ROWS}] y) <float[{ROWS},{COLUMNS}] v, float[{COLUMNS},{ROWS}] w>
{{ a = MatMul(x, v)  y = MatMul(a, w) }}"""
RESHAPED = f"""g (int64[k] i) => (float[k,{COLUMNS}] y, float[k,{2 * COLUMNS}] z)
<float[{ROWS},{COLUMNS}] v, float[{ROWS // 2},{2 * COLUMNS}] w> {{ y = Gather(v, i)  z = Gather(w, i) }}"""
LOOKUP = f"g (int64[k] i) => (float[k,{COLUMNS}] y) <float[{ROWS},{COLUMNS}] v> {{ y = Gather(v, i) }}"
PRODUCT = f"g (float[n,{ROWS}] x) => (float[n,{COLUMNS}] y) <float[{ROWS},{COLUMNS}] v> {{ y = MatMul(x, v) }}"

CASES = {
    "equal weights of two products": ("share-initializers", PRODUCTS, 0.0),
    "equal weights that are added": ("share-initializers", SUMS, 1.0),
    "a weight and its transpose": ("share-initializers", TURNED, 0.0),
    "a table in two shapes": ("share-initializers", RESHAPED, 0.0),
    "near weights of two products": ("share-similar", PRODUCTS, 1.0),
    "near weights that are added": ("share-similar", SUMS, 1.0),
    "a table of halves": ("store-half", LOOKUP, 0.5),
    "a product with halves": ("store-half", PRODUCT, 0.0),
    "a table of 8 bits": ("store-int8", LOOKUP, 0.75),
    "a product with 8 bits": ("store-int8", PRODUCT, 0.0),
    "a product with 8 bits, dequantized": ("store-int8:form=dequantize", PRODUCT, 0.625),
}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
@pytest.mark.parametrize(("words", "text", "share"), CASES.values(), ids=CASES.keys())
def test_the_memory_is_as_the_ledger_says(words: str, text: str, share: float, tmp_path: Path) -> None:
    """``share`` of the bytes of one weight are saved: so the ledger says, and so it is."""
    before = parse(text, opset=20)
    numbers = np.random.default_rng(0).normal(size=(ROWS, COLUMNS)).astype(np.float32)
    for name, value in before.graph.initializers.items():
        shape = value.shape.numpy()  # type: ignore[union-attr]
        own = numbers.T if shape == (COLUMNS, ROWS) else numbers.reshape(shape)
        near = np.float32(1.001 if name == "w" and words == "share-similar" else 1)
        value.const_value = ir.Tensor(np.ascontiguousarray(own) * near, name=name)
    model = before.clone()
    changes = [item for item in passes.parse(words).run(model, Context(Target())) if isinstance(item, Change)]
    saved = sum(change.saved.session for change in changes if change.saved)
    assert len(changes) == 1
    assert abs(saved - share * BYTES) < 0.02 * BYTES
    assert abs(resident(before, tmp_path) - resident(model, tmp_path) - saved) < 0.1 * BYTES


def resident(model: ir.Model, folder: Path) -> int:
    """Bytes that a process takes more when it has loaded a model."""
    small = files.save(parse("g (float[2] x) => (float[2] y) { y = Neg(x) }"), folder / "small.onnx")[0]
    path = files.save(model, folder / "m.onnx")[0]
    command = [sys.executable, "-c", MEASURE, str(small), str(path)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
