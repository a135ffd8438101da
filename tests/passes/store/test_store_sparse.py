"""StoreSparse."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from stored import CPU, LENGTH, model_with

from onnxopt import files, recipes
from onnxopt.core import Change, Context, Refusal
from onnxopt.graph import array, initializers
from onnxopt.passes.store.store_sparse import StoreSparse
from onnxopt.pipeline import Goal
from onnxopt.runtime import Session
from onnxopt.sparse import SparseTensor, dense, sparse
from onnxopt.testing import assert_refuses, assert_same_outputs, run_pass

RNG = np.random.default_rng(0)
MLP = """g (float[2,64] x) => (float[2,24] y) <float[64,48] w, float[48] b, float[24,48] v>
{ h = MatMul(x, w)  i = Add(h, b)  j = Relu(i)  y = Gemm<transB=1>(j, v) }"""


def mostly_zero(*shape: int, share: float = 0.9) -> np.ndarray:
    numbers = RNG.normal(size=shape).astype(np.float32)
    return np.where(RNG.random(shape) < share, np.float32(0), numbers)


def sparse_mlp() -> ir.Model:
    """A model whose weights are all mostly zero."""
    return model_with(MLP, w=mostly_zero(64, 48), b=mostly_zero(48), v=mostly_zero(24, 48))


def test_a_model_whose_weights_are_all_sparse(tmp_path: Path) -> None:
    before = sparse_mlp()
    model = before.clone()
    changes = run_pass(StoreSparse(min_bytes=64), model)
    assert [change.node for change in changes] == ["h", "i", "y"]
    path = files.save(model, tmp_path / "m.onnx")[0]
    proto = onnx.load(path)
    onnx.checker.check_model(proto)
    onnx.shape_inference.infer_shapes(proto)
    assert not proto.graph.initializer
    assert len(proto.graph.sparse_initializer) == 3
    again = files.load(path)
    for value in initializers(again):
        assert isinstance(value.const_value, SparseTensor)
        np.testing.assert_array_equal(array(value), array(before.graph.initializers[value.name or ""]))
    assert files.to_bytes(again) == path.read_bytes()
    assert_same_outputs(before, again, rtol=0.0)
    assert run_pass(StoreSparse(min_bytes=64), again) == []


def test_the_bytes_are_those_that_were_counted() -> None:
    model = sparse_mlp()
    before = len(files.to_bytes(model))
    changes = run_pass(StoreSparse(min_bytes=64), model)
    counted = sum(change.saved.file for change in changes if change.saved)
    assert counted > 0
    assert abs(before - len(files.to_bytes(model)) - counted) <= LENGTH
    assert {change.saved.session for change in changes if change.saved} == {0}


WEIGHTS = {
    "MatMul": ("g (float[2,64] x) => (float[2,48] y) <float[64,48] w> { y = MatMul(x, w) }", (64, 48)),
    "Gemm": ("g (float[2,64] x) => (float[2,48] y) <float[48,64] w> { y = Gemm<transB=1>(x, w) }", (48, 64)),
    "Conv": ("g (float[1,16,8,8] x) => (float[1,16,6,6] y) <float[16,16,3,3] w> { y = Conv(x, w) }", (16, 16, 3, 3)),
    "Gather": ("g (int64[3] i) => (float[3,48] y) <float[64,48] w> { y = Gather(w, i) }", (64, 48)),
    "Add": ("g (float[64,48] x) => (float[64,48] y) <float[64,48] w> { y = Add(x, w) }", (64, 48)),
    "a branch": (
        """g (bool c, float[64,48] x) => (float[64,48] y) <float[64,48] w> { y = If(c) <
        then_branch = t () => (float[64,48] o) { o = Add(x, w) }, else_branch = e () => (float[64,48] p) { p = Neg(x) }> }""",
        (64, 48),
    ),
}


@pytest.mark.parametrize(("text", "shape"), WEIGHTS.values(), ids=WEIGHTS.keys())
def test_onnx_runtime_reads_them(text: str, shape: tuple[int, ...]) -> None:
    before = model_with(text, w=mostly_zero(*shape))
    model = before.clone()
    (change,) = run_pass(StoreSparse(), model)
    assert "'w' by" in change.what
    assert_same_outputs(before, model, rtol=0.0)
    Session(model, CPU)


@settings(derandomize=True, deadline=None, max_examples=100, database=None)
@given(st.data())
def test_what_is_written_and_read_is_the_same_to_the_bit(data: st.DataObject) -> None:
    """Any bits at all: NaN with its payload, -0.0, the least numbers."""
    kind = data.draw(
        st.sampled_from([np.float32, np.float64, np.float16, np.int8, np.int32, np.uint16, np.int64, bool])
    )
    bits = np.dtype(f"u{np.dtype(kind).itemsize}")
    some = st.integers(0, 1) if kind is bool else st.integers(0, np.iinfo(bits).max)
    shape = data.draw(st.sampled_from([(1,), (7,), (3, 5), (2, 3, 2)]))
    numbers = data.draw(arrays(bits, shape, elements=st.one_of(st.just(0), some), fill=st.just(0))).view(kind)
    proto = sparse(numbers, ir.DataType.from_numpy(np.dtype(kind)), "w")
    onnx.checker.check_sparse_tensor(proto)
    again = dense(onnx.SparseTensorProto.FromString(proto.SerializeToString()))
    assert again.dtype == numbers.dtype
    assert again.shape == numbers.shape
    assert again.tobytes() == numbers.tobytes()
    assert proto.values.dims[0] == np.count_nonzero(numbers.view(bits))


def test_minus_zero_and_nan_come_through_onnx_runtime() -> None:
    weight = np.zeros((64, 48), np.float32)
    weight[1, 2], weight[3, 4], weight[5, 6], weight[7, 8] = -0.0, np.nan, np.inf, 1e-45
    before = model_with(WEIGHTS["Gather"][0].replace("[3]", "[64]").replace("[3,48]", "[64,48]"), w=weight)
    model = before.clone()
    assert run_pass(StoreSparse(), model)
    got = Session(model, CPU).run({"i": np.arange(64)})["y"]
    assert got.tobytes() == weight.tobytes()


@pytest.mark.parametrize("share", [0.6, 0.7])
def test_a_third_is_the_limit(share: float) -> None:
    model = model_with(WEIGHTS["MatMul"][0], w=mostly_zero(64, 48, share=share))
    assert len(run_pass(StoreSparse(), model)) == (1 if share > 2 / 3 else 0)


def test_is_no_third_for_doubles() -> None:
    text = "g (double[2,64] x) => (double[2,48] y) <double[64,48] w> { y = MatMul(x, w) }"
    model = model_with(text, w=mostly_zero(64, 48, share=0.6).astype(np.float64))
    assert len(run_pass(StoreSparse(), model)) == 1


ZEROS = ", ".join(["0"] * 1024)
LEFT_ALONE = {
    "a weight that a caller may override": (
        f"g (float[2,32] x, float[32,32] w) => (float[2,32] y) <float[32,32] w = {{{ZEROS}}}> {{ y = MatMul(x, w) }}",
        "can be overridden",
    ),
    "a weight that is returned": (
        f"g (float[2,32] x) => (float[2,32] y, float[32,32] w) <float[32,32] w = {{{ZEROS}}}> {{ y = MatMul(x, w) }}",
        "is an output of the graph",
    ),
    "a weight inside a branch": (
        f"""g (bool c, float[2,32] x) => (float[2,32] y) {{ y = If(c) <
        then_branch = t () => (float[2,32] o) <float[32,32] w = {{{ZEROS}}}> {{ o = MatMul(x, w) }},
        else_branch = e () => (float[2,32] p) {{ p = Neg(x) }}> }}""",
        "is a constant of a subgraph",
    ),
    "dense weights": (MLP, None),
    "small weights": ("g (float[4] x) => (float[4] y) <float[4] w = {0,0,0,0}> { y = Add(x, w) }", None),
}


@pytest.mark.parametrize(("text", "why"), LEFT_ALONE.values(), ids=LEFT_ALONE.keys())
def test_leaves(text: str, why: str | None) -> None:
    assert_refuses(StoreSparse(), text, why)


def test_what_onnx_runtime_does_not_load_is_refused() -> None:
    text = """<ir_version: 8, opset_import: ["" : 20, "nowhere" : 1]>
    g (float[2,64] x) => (float[2,48] y) <float[64,48] w> { h = MatMul(x, w)  y = nowhere.Unknown(h) }"""
    model = model_with(text, w=mostly_zero(64, 48))
    before = files.to_bytes(model)
    (refusal,) = StoreSparse().run(model, Context(CPU))
    assert isinstance(refusal, Refusal)
    assert files.to_bytes(model) == before


def test_beside_a_file_of_weights_they_stay_sparse(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(files, "SINGLE_FILE_LIMIT", 1000)
    monkeypatch.setattr(files, "SMALL_TENSOR", 64)
    model = model_with(MLP, w=mostly_zero(64, 48))
    before = model.clone()
    assert len([item for item in StoreSparse().run(model, Context(CPU)) if isinstance(item, Change)]) == 1
    path, weights = files.save(model, tmp_path / "m.onnx")
    again = files.load(path)
    assert isinstance(again.graph.initializers["w"].const_value, SparseTensor)
    assert isinstance(again.graph.initializers["v"].const_value, ir.ExternalTensor)
    assert weights.stat().st_size == 48 * 4 + 24 * 48 * 4
    assert_same_outputs(before, again, rtol=0.0)


def test_passes_that_do_not_rewrite_them_keep_them_sparse() -> None:
    weight = mostly_zero(24, 48)
    weight[np.arange(48) % 24, np.arange(48)] = 1  # no channel is dead
    model = model_with(MLP, w=mostly_zero(64, 48), v=weight)
    assert run_pass(StoreSparse(), model)
    contents = files.to_bytes(model)
    for rewrite in recipes.default(model, Goal.LATENCY, CPU, has_data=False):
        if not rewrite.for_speed:  # type: ignore[union-attr]  # what the clock decides may rewrite them
            rewrite.run(model, Context(CPU))  # type: ignore[union-attr]
    assert files.to_bytes(model) == contents
