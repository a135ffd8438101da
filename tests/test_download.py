"""The size of a compressed model."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import zstandard

from onnxopt import download, files
from onnxopt.download import download_bytes
from onnxopt.graph import constant
from onnxopt.testing import parse

RNG = np.random.default_rng(0)


def model_with(numbers: np.ndarray) -> ir.Model:
    """A model that adds a constant."""
    shape = ", ".join(map(str, numbers.shape))
    model = parse(f"g (float[{shape}] x) => (float[{shape}] y) {{ y = Neg(x) }}")
    node = ir.node("Add", [model.graph.inputs[0], constant(model.graph, "w", numbers)])
    model.graph.insert_before(model.graph[0], node)
    model.graph[1].replace_input_with(0, node.outputs[0])
    return model


def test_is_the_size_of_the_file_after_zstd() -> None:
    model = model_with(RNG.normal(size=(100, 100)).astype(np.float32))
    contents = zstandard.ZstdDecompressor()
    packed = zstandard.ZstdCompressor(level=9).compress(files.to_bytes(model))
    assert contents.decompress(packed) == files.to_bytes(model)
    assert abs(download_bytes(model) - len(packed)) < 20  # a stream does not say its length in front


def test_pruned_weights_gain() -> None:
    dense = RNG.normal(size=(200, 200)).astype(np.float32)
    pruned = np.where(RNG.random(dense.shape) < 0.8, np.float32(0), dense)
    assert download_bytes(model_with(pruned)) < 0.5 * download_bytes(model_with(dense))
    assert len(files.to_bytes(model_with(pruned))) == len(files.to_bytes(model_with(dense)))


def test_external_weights_are_counted(tmp_path: Path) -> None:
    model = model_with(RNG.normal(size=(100, 100)).astype(np.float32))
    inside = download_bytes(model)
    outside = ir.external_data.unload_from_model(model.clone(), tmp_path, "w.data", size_threshold_bytes=0)
    assert download_bytes(outside) == inside


@pytest.mark.parametrize("shared", [False, True])
def test_weights_beyond_one_file_are_streamed(shared: bool, monkeypatch) -> None:
    model = model_with(RNG.normal(size=(100, 100)).astype(np.float32))
    inside = download_bytes(model)
    if shared:
        value = model.graph.initializers["w"]
        twin = ir.Value(name="v", type=value.type, shape=value.shape, const_value=value.const_value)
        model.graph.register_initializer(twin)
    monkeypatch.setattr(download.files, "SINGLE_FILE_LIMIT", 1000)
    monkeypatch.setattr(download, "LARGE", 1000)
    assert abs(download_bytes(model) - inside) < 0.02 * inside
