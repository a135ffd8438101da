"""What every pass must survive: sparse weights, weights in another file, odd signatures, old and new opsets."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxopt import files
from onnxopt.core import Change, Context, Exactness, Pass
from onnxopt.graph import signature
from onnxopt.passes import PASSES
from onnxopt.passes.simplify.simplify import Simplify
from onnxopt.sparse import SparseTensor
from onnxopt.target import Target
from onnxopt.testing import assert_same_outputs, parse, run_pass

EXACT = [rewrite for rewrite in PASSES if rewrite.exactness is Exactness.EXACT]
KEEPING = [rewrite for rewrite in PASSES if rewrite.exactness is not Exactness.LOSSY and rewrite is not Simplify]
each_pass = pytest.mark.parametrize("rewrite", KEEPING, ids=lambda rewrite: rewrite.name)
CONTEXT = Context(Target())


def sparse_file(path: Path) -> Path:
    """``y = (x @ w) + relu(x @ w)`` with a sparse w, which is in the file of each subgraph reader too."""
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> g (bool c, float[2,32] x) => (float[2,32] y) {
        a = MatMul(x, w)  b = Identity(a)  d = Relu(b)  e = Add(b, d)
        y = If(c) <then_branch = t () => (float[2,32] o) { o = MatMul(e, w) }, else_branch = e () => (float[2,32] p) { p = Neg(e) }> }"""
    )
    values = onnx.numpy_helper.from_array(np.float32([1, 2, 3]), "w")
    indices = onnx.numpy_helper.from_array(np.int64([0, 40, 1023]), "w_indices")
    proto.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, indices, [32, 32]))
    path.write_bytes(proto.SerializeToString())
    return path


@each_pass
def test_sparse_weights_stay_sparse(rewrite: type[Pass], tmp_path: Path) -> None:
    model = files.load(sparse_file(tmp_path / "sparse.onnx"))
    before = model.clone()
    run_pass(rewrite(), model)
    assert [isinstance(one.const_value, SparseTensor) for one in model.graph.initializers.values()].count(True) == 1
    assert len(files.to_proto(model).graph.sparse_initializer) == 1
    assert_same_outputs(before, model)


@each_pass
def test_weights_in_another_file_stay_whole(rewrite: type[Pass], tmp_path: Path) -> None:
    proto = files.to_proto(
        parse(
            """g (float[2,32] x) => (float[2,32] y) <float[32,32] v, float[32,32] w>
            { a = MatMul(x, v)  b = Identity(a)  d = Transpose<perm=[1,0]>(w)  y = MatMul(b, d) }"""
        )
    )
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0)
    model = files.load(tmp_path / "m.onnx")
    before = model.clone()
    run_pass(rewrite(), model)
    assert_same_outputs(before, model)


ODD = {
    "an output is an input": "g (float[4] x, float[2] u) => (float[4] y, float[2] u) { a = Identity(x)  y = Relu(a) }",
    "an output is a weight": "g (float[4] x) => (float[4] y, float[400] w) <float[400] w, float[400] v> { y = Relu(x) }",
    "an output is a constant": "g (float[4] x) => (float[4] y, float[1] c) { c = Constant<value_floats = [1.0]>()  y = Relu(x) }",
    "an output twice computed": "g (float[4] x) => (float[4] y, float[4] z) { y = Neg(x)  a = Neg(x)  z = Identity(a) }",
    "an optional input left out": "g (float[4] x) => (float[4] y) <float m = {1}> { a = Clip(x, , m)  b = Clip(x, , m)  y = Add(a, b) }",
    "a scan reads outer values": """g (float[3,4] x) => (float[3,4] y) <float[4] w> { h = Neg(w)
        y = Scan<num_scan_inputs = 1, body = b (float[4] s) => (float[4] r) { t = Identity(s)  u = Add(t, h)  r = Add(u, w) }>(x) }""",
    "a loop reads outer values": """g (float[4] x) => (float[4] y) <int64 n = {3}, bool t = {1}, float[4] w> { h = Neg(x)
        y = Loop(n, t, x) <body = b (int64 i, bool c, float[4] v) => (bool d, float[4] r)
        { d = Identity(c)  k = Identity(h)  l = Add(v, k)  r = Mul(l, w) }> }""",
    "nested branches": """g (bool c, float[4] x) => (float[4] y) { a = Identity(x)
        y = If(c) <then_branch = t () => (float[4] o) {
          o = If(c) <then_branch = q () => (float[4] m) { b = Identity(a)  m = Neg(b) }, else_branch = r () => (float[4] n) { n = Relu(a) }> },
          else_branch = e () => (float[4] p) { p = Abs(a) }> }""",
}


@pytest.mark.parametrize("opset", [9, 13, 17, 21, 26])
@pytest.mark.parametrize("text", ODD.values(), ids=ODD.keys())
def test_all_exact_passes_one_after_the_other(text: str, opset: int) -> None:
    if opset < 12 and ("Clip" in text or "value_floats" in text):
        pytest.skip("this form is of a later opset")
    before = parse(text, opset=opset)
    model = before.clone()
    for rewrite in [*EXACT, *EXACT]:
        found = rewrite().run(model, CONTEXT)
        assert signature(model) == signature(before)
        onnx.checker.check_model(files.to_proto(model), full_check=True)
        assert not [item for item in rewrite().run(model, CONTEXT) if isinstance(item, Change)], found
    assert_same_outputs(before, model, rtol=0.0)
