"""Load and save: what comes back, what is written, and files that mean harm."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnxopt import files
from onnxopt.errors import ModelError, UsageError
from onnxopt.graph import array
from onnxopt.runtime import Session
from onnxopt.target import Target
from onnxopt.testing import assert_same_outputs, parse

TEXT = """g (float[2,300] x) => (float[2,4] y) <float[300,4] w, float[4] b, int64[2] s = {2, 4}>
{ h = MatMul(x, w)  k = Add(h, b)  y = Reshape(k, s) }"""
SMALL = 1000
"""Bytes of weights, in place of 1.8 GB: the model above has 4 kB."""


@pytest.fixture
def model() -> ir.Model:
    return parse(TEXT)


@pytest.fixture
def proto(model: ir.Model) -> onnx.ModelProto:
    return files.to_proto(model)


@pytest.fixture
def large(model: ir.Model, monkeypatch: pytest.MonkeyPatch) -> ir.Model:
    """A model over the limit."""
    monkeypatch.setattr(files, "SINGLE_FILE_LIMIT", SMALL)
    return model


def load(message: onnx.ModelProto, folder: Path) -> ir.Model:
    (folder / "m.onnx").write_bytes(message.SerializeToString())
    return files.load(folder / "m.onnx")


def scaled(model: ir.Model, by: float) -> ir.Model:
    """A copy with other weights."""
    model = model.clone()
    weight = model.graph.initializers["w"]
    numbers = array(weight)
    assert numbers is not None
    weight.const_value = ir.Tensor(numbers * by, name="w")
    return model


# --- one file ---


def test_a_model_comes_back_as_it_was(model: ir.Model, tmp_path: Path) -> None:
    assert files.save(model, tmp_path / "m.onnx") == [tmp_path / "m.onnx"]
    again = files.load(str(tmp_path / "m.onnx"))
    assert files.to_bytes(again) == files.to_bytes(model) == (tmp_path / "m.onnx").read_bytes()
    assert os.listdir(tmp_path) == ["m.onnx"]


def test_a_file_has_the_permissions_of_any_other(model: ir.Model, tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    files.save(model, tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_nodes_are_sorted(proto: onnx.ModelProto, tmp_path: Path) -> None:
    nodes = list(proto.graph.node)[::-1]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    assert [node.op_type for node in load(proto, tmp_path).graph] == ["MatMul", "Add", "Reshape"]


def test_a_value_of_the_outer_graph_may_be_read_in_a_branch(tmp_path: Path) -> None:
    text = """g (float[2] x, bool c) => (float[2] y) <float[2] w>
    { h = Relu(x)  y = If (c) <then_branch = t () => (float[2] p) { p = Add(h, w) },
                               else_branch = e () => (float[2] q) { q = Neg(x) }> }"""
    assert len(list(files.load(files.save(parse(text), tmp_path / "m.onnx")[0]).graph)) == 2


FUNCTION = """<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
g (float[2] x) => (float[2] y) { y = own.twice(x) }
<domain: "own", opset_import: ["" : 17]> twice (a) => (b) { b = Add(a, a) }"""


def test_functions_are_kept(tmp_path: Path) -> None:
    model = files.load(files.save(parse(FUNCTION), tmp_path / "m.onnx")[0])
    assert [name for _, name, _ in model.functions] == ["twice"]


HASHES = """
import hashlib, sys, numpy as np
from onnxopt import files, passes
from onnxopt.core import Context
from onnxopt.runtime import input_specs
from onnxopt.samples import random_samples
from onnxopt.target import Target
model = files.load(sys.argv[1])
samples = random_samples(model, Target(), {}, count=4)
for word in ("fold-batch-norm", "quantize-int8:placement=everywhere", "share-initializers"):
    passes.parse(word).run(model, Context(Target(), samples))
print(hashlib.sha256(files.to_bytes(model)).hexdigest())
"""


def test_another_process_writes_the_same_bytes(conv_net_file: Path) -> None:
    """Whatever the order of its sets."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", HASHES, str(conv_net_file)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        for seed in "12"
    ]
    first, second = (process.communicate()[0] for process in started)
    assert len(first) == 65
    assert first == second


# --- external data ---


def test_external_weights_are_drawn_in(model: ir.Model, proto: onnx.ModelProto, tmp_path: Path) -> None:
    source = tmp_path / "a" / "m.onnx"
    source.parent.mkdir()
    onnx.save(proto, source, save_as_external_data=True, location="w.data", size_threshold=0)
    loaded = files.load(source)
    assert files.external_files(loaded) == {source.parent / "w.data"}
    assert_same_outputs(model, files.load(files.save(loaded, tmp_path / "m.onnx")[0]))
    assert not onnx.load(tmp_path / "m.onnx", load_external_data=False).graph.initializer[0].external_data


def test_external_attributes_are_drawn_in(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    message = files.to_proto(parse("g (float[4] x) => (float[4] y) { k = Constant()  y = Add(x, k) }"))
    numbers = numpy_helper.from_array(np.arange(1, 5, dtype=np.float32), "k")
    message.graph.node[0].attribute.append(helper.make_attribute("value", numbers))
    source = tmp_path / "a" / "m.onnx"
    onnx.save(message, source, save_as_external_data=True, location="k.data", size_threshold=0, convert_attribute=True)
    saved = files.save(files.load(source), tmp_path / "m.onnx")[0]
    assert Session(saved, Target()).run({"x": np.zeros(4, np.float32)})["y"].tolist() == [1, 2, 3, 4]


def test_the_models_own_data_are_not_written_over(proto: onnx.ModelProto, tmp_path: Path) -> None:
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="w.data", size_threshold=0)
    before = (tmp_path / "w.data").read_bytes()
    with pytest.raises(UsageError, match="would be lost"):
        files.save(files.load(tmp_path / "m.onnx"), tmp_path / "w.data")
    assert (tmp_path / "w.data").read_bytes() == before


def test_a_hard_link_is_refused(proto: onnx.ModelProto, tmp_path: Path) -> None:
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="w.data", size_threshold=0)
    os.link(tmp_path / "w.data", tmp_path / "other.data")
    with pytest.raises(ModelError, match="hard link"):
        files.load(tmp_path / "m.onnx")


def test_weights_over_the_limit_go_beside_the_model(large: ir.Model, tmp_path: Path) -> None:
    path, data = files.save(large, tmp_path / "m.onnx")
    assert sorted(os.listdir(tmp_path)) == sorted([path.name, data.name])
    assert data.name.startswith("m.")
    assert data.suffix == ".data"
    assert data.stat().st_size == 4800  # w alone: b and s stay in the model
    x = np.ones((2, 300), np.float32)
    np.testing.assert_array_equal(
        Session(path, Target()).run({"x": x})["y"], Session(large, Target()).run({"x": x})["y"]
    )
    assert_same_outputs(large, files.load(path))
    with pytest.raises(ModelError, match="needs external data"):
        files.to_bytes(large)


def test_older_data_stay_until_the_new_model_is_there(
    large: ir.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, older = files.save(large, tmp_path / "m.onnx")
    before = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}
    replace = os.replace

    def full(source: str, target: str) -> None:
        if Path(target) == path:
            raise OSError(28, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(UsageError, match="the disk is full"):
            files.save(scaled(large, 2), path)
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == before

    newer = files.save(scaled(large, 2), path)[1]
    assert newer != older
    assert_same_outputs(scaled(large, 2), files.load(path))


def test_saved_over_itself(large: ir.Model, tmp_path: Path) -> None:
    path, data = files.save(large, tmp_path / "m.onnx")
    assert files.save(files.load(path), path) == [path, data]
    assert_same_outputs(large, files.load(path))


def test_a_text_file_is_whole_or_not_there(tmp_path: Path) -> None:
    files.write_text(tmp_path / "r.md", "größer")
    assert (tmp_path / "r.md").read_text(encoding="utf-8") == "größer"
    with pytest.raises(UsageError, match="cannot be written"):
        files.write_text(tmp_path / "no" / "r.md", "")


# --- files that mean harm ---


def weight_of(message: onnx.ModelProto) -> TensorProto:
    """``w``, 300x4 floats."""
    return next(tensor for tensor in message.graph.initializer if tensor.name == "w")


def weight(**fields: Any) -> Callable[[onnx.ModelProto], None]:
    """Fields of the weight."""

    def change(message: onnx.ModelProto) -> None:
        tensor = weight_of(message)
        for name, value in fields.items():
            if isinstance(value, list):
                tensor.ClearField("raw_data" if name == "float_data" else name)
                getattr(tensor, name).extend(value)
            else:
                setattr(tensor, name, value)

    return change


def attribute(**fields: Any) -> Callable[[onnx.ModelProto], None]:
    def change(message: onnx.ModelProto) -> None:
        message.graph.node[0].attribute.add(name="a", **fields)

    return change


def cycle(message: onnx.ModelProto) -> None:
    message.graph.node[0].input[0] = "k"


def unmade(message: onnx.ModelProto) -> None:
    message.graph.output[0].name = "z"


def not_text(message: onnx.ModelProto) -> bytes:
    message.graph.name = "a name of a graph"
    return bytes(message.SerializeToString().replace(b"a name of", b"\xff name of"))


HUGE = helper.make_tensor("t", TensorProto.FLOAT, [1], [1.0])
HUGE.dims[:] = [10**12]
HARMFUL: dict[str, tuple[Callable[[onnx.ModelProto], bytes | None], str]] = {
    "a size of 10**12": (weight(dims=[10**12]), "the file is damaged"),
    "a size beyond all numbers": (weight(dims=[2**62] * 40), "the file is damaged"),
    "a negative size": (weight(dims=[-1]), "negative dimension"),
    "fewer numbers than declared": (weight(float_data=[1.0]), "should have 1200 numbers and has 1"),
    "no numbers at all": (weight(float_data=[]), "should have 1200 numbers and has 0"),
    "an unknown type": (weight(data_type=77), "unknown data type 77"),
    "no type": (weight(data_type=0), "unknown data type 0"),
    "a huge attribute": (attribute(type=onnx.AttributeProto.TENSOR, t=HUGE), "the file is damaged"),
    "a huge attribute in a list": (attribute(type=onnx.AttributeProto.TENSORS, tensors=[HUGE]), "is damaged"),
    "an attribute without its tensor": (attribute(type=onnx.AttributeProto.TENSOR), "unknown data type 0"),
    "a cycle": (cycle, "not valid ONNX"),
    "an output that nothing makes": (unmade, "'z' is read, but nothing makes it"),
    "a name that is not text": (not_text, "not UTF-8"),
    "no graph": (lambda message: message.ClearField("graph"), "holds no graph"),
    "opset 0": (lambda message: setattr(message.opset_import[0], "version", 0), "asks for opset 0"),
}


@pytest.mark.parametrize(("change", "said"), HARMFUL.values(), ids=HARMFUL.keys())
def test_harmful_files_are_refused_before_memory_is_taken(
    change: Callable[[onnx.ModelProto], bytes | None], said: str, proto: onnx.ModelProto, tmp_path: Path
) -> None:
    contents = change(proto)
    (tmp_path / "m.onnx").write_bytes(contents or proto.SerializeToString())
    tracemalloc.start()
    try:
        with pytest.raises(ModelError, match=said):
            files.load(tmp_path / "m.onnx")
        assert tracemalloc.get_traced_memory()[1] < 10 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("offset", "4", "needs 4800 bytes at 4"),
        ("offset", "-8", "needs 4800 bytes at -8"),
        ("offset", "9" * 30, "which has 4800"),
        ("offset", "x", "unreadable offset"),
        ("length", "100", "needs 4800 bytes"),
        ("location", "", "outside the model's folder"),
        ("location", "sub/../../w.data", "outside the model's folder"),
        ("location", "/dev/zero", "outside the model's folder"),
        ("location", "sub", "is missing"),
        ("location", "circle", "outside the model's folder"),
        ("location", "n" * 300, "is missing"),
    ],
)
def test_harmful_external_data_are_refused(
    key: str, value: str, said: str, proto: onnx.ModelProto, tmp_path: Path
) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "circle").symlink_to("circle")
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="w.data", size_threshold=1000)
    message = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    next(entry for entry in weight_of(message).external_data if entry.key == key).value = value
    with pytest.raises(ModelError, match=said):
        load(message, tmp_path)


SEED = """g (float[n,4] x, bool c) => (float[n,4] y)
<float[4,4] w, float[4] b, int8[2,2] q = {1, 2, 3, 4}>
{ h = MatMul(x, w)
  k = Constant<value = float[1] {2.0}>()
  t = If (c) <then_branch = a () => (float[n,4] p) { p = Mul(h, k) },
              else_branch = e () => (float[n,4] o) { o = Relu(h) }>
  y = Add(t, b) }"""
EDITS = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 3), st.binary(max_size=4)), min_size=1, max_size=4
)


def mutated(contents: bytes, edits: list[tuple[float, int, bytes]]) -> bytes:
    """At each place (a share of the length) so many bytes go, and those come."""
    changed = bytearray(contents)
    for place, gone, come in edits:
        start = int(place * len(changed))
        changed[start : start + gone] = come
    return bytes(changed)


@settings(
    max_examples=150, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(EDITS)
def test_any_damage_is_a_model_or_a_model_error(tmp_path: Path, edits: list[tuple[float, int, bytes]]) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(mutated(files.to_bytes(parse(SEED)), edits))
    try:
        model = files.load(path)
        files.to_bytes(model.clone())
    except ModelError as error:
        assert str(error)  # noqa: PT017
