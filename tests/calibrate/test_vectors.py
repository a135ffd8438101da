"""Vectors drawn from what a layer reads: multiplied with its rows they are what ONNX Runtime computes there."""

import numpy as np
import onnx_ir as ir
import pytest

from onnxopt.calibrate.vectors import places, samples_of, vectors, vectors_at
from onnxopt.layers import Layer, layers
from onnxopt.runtime import Session
from onnxopt.target import Target
from onnxopt.testing import parse

# what one sample is, the weight, the layer
LAYERS = {
    "convolution": ("4,9,7", "6,4,3,3", "Conv<pads=[1,0,2,1], strides=[2,1], dilations=[1,2]>(x, w)"),
    "positions that the stride leaves over": ("4,9,8", "6,4,2,3", "Conv<strides=[3,2]>(x, w)"),
    "padded more after": ("4,9,8", "6,4,3,2", 'Conv<auto_pad="SAME_UPPER", strides=[2,1]>(x, w)'),
    "padded more before": ("4,9,8", "6,4,3,2", 'Conv<auto_pad="SAME_LOWER", strides=[2,1]>(x, w)'),
    "not padded": ("4,9,8", "6,4,3,2", 'Conv<auto_pad="VALID", strides=[2,1]>(x, w)'),
    "one dimension": ("4,9", "6,4,3", "Conv<pads=[1,2], strides=[2]>(x, w)"),
    "three dimensions": ("2,4,5,3", "6,2,2,3,1", "Conv<pads=[0,1,0,1,0,0], strides=[1,2,1]>(x, w)"),
    "groups": ("6,8,8", "4,3,3,3", "Conv<group=2>(x, w)"),
    "depthwise": ("6,8,8", "6,1,3,3", "Conv<group=6, pads=[1,1,1,1]>(x, w)"),
    "Gemm": ("20", "20,5", "Gemm(x, w)"),
    "Gemm with transB": ("20", "5,20", "Gemm<transB=1>(x, w)"),
    "MatMul": ("3,20", "20,5", "MatMul(x, w)"),
    "MatMul of heads": ("2,3,20", "20,5", "MatMul(x, w)"),
    "tied to an embedding": ("3,20", "5,20", "MatMul(x, t)"),
}
COUNT = 8


def net(shape: str, weight: str, call: str) -> ir.Model:
    sizes = ",".join("abcd"[: shape.count(",") + 1])
    tied = "t = Transpose<perm=[1,0]>(w)" if "t)" in call else ""
    return parse(f"g (float[n,{shape}] x) => (float[n,{sizes}] y) <float[{weight}] w> {{ {tied} y = {call} }}")


def known(parts: tuple[str, str, str]) -> tuple[Layer, np.ndarray, np.ndarray]:
    """The layer, what it reads, and what it gives, channels last."""
    model, rng = net(*parts), np.random.default_rng(0)
    x = rng.normal(size=(COUNT, *map(int, parts[0].split(",")))).astype(np.float32)
    y = np.asarray(Session(model, Target(), optimize=False).run({"x": x})["y"])
    return layers(model)[0][0], x, np.moveaxis(y, 1, -1) if "Conv" in parts[2] else y


def products(layer: Layer, found: np.ndarray) -> np.ndarray:
    """``[vectors, channels]``."""
    rows = layer.rows().reshape(layer.group, -1, found.shape[2])
    return np.einsum("gvp,gcp->vgc", found, rows).reshape(found.shape[1], -1)


@pytest.mark.parametrize("parts", LAYERS.values(), ids=LAYERS.keys())
def test_rows_times_vectors_are_the_output_there(parts: tuple[str, str, str]) -> None:
    layer, x, y = known(parts)
    flat = y.reshape(-1, y.shape[-1])
    for count in (7, 10**6):
        chosen = places(layer, x.shape, count, np.random.default_rng(1))
        np.testing.assert_allclose(products(layer, vectors_at(layer, x, chosen)), flat[chosen], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(chosen, np.arange(len(flat)))


@pytest.mark.parametrize("parts", LAYERS.values(), ids=LAYERS.keys())
def test_each_place_knows_its_sample(parts: tuple[str, str, str]) -> None:
    layer, x, y = known(parts)
    chosen = places(layer, x.shape, 10**6, np.random.default_rng(1))
    wanted = np.repeat(np.arange(COUNT), np.prod(y.shape[1:-1], dtype=int))
    np.testing.assert_array_equal(samples_of(layer, x.shape, chosen), wanted)


@pytest.mark.parametrize("parts", LAYERS.values(), ids=LAYERS.keys())
def test_the_draw_is_sorted_without_repetition_and_by_its_seed(parts: tuple[str, str, str]) -> None:
    layer, x, _ = known(parts)
    chosen, again, other = (places(layer, x.shape, 5, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert chosen.dtype == np.int64
    assert len(chosen) == 5
    assert (np.diff(chosen) > 0).all()
    np.testing.assert_array_equal(chosen, again)
    assert chosen.tolist() != other.tolist()
    drawn = vectors(layer, x, 5, np.random.default_rng(3))
    np.testing.assert_array_equal(drawn, vectors_at(layer, x, chosen))


def test_a_single_vector_is_one_place_of_one_sample() -> None:
    layer = layers(parse("g (float[6] x) => (float[4] y) <float[6,4] w> { y = MatMul(x, w) }"))[0][0]
    x = np.arange(6, dtype=np.float32)
    chosen = places(layer, x.shape, 10, np.random.default_rng(0))
    assert (chosen.tolist(), samples_of(layer, x.shape, chosen).tolist()) == ([0], [0])
    np.testing.assert_array_equal(vectors_at(layer, x, chosen), x[None, None])


@pytest.mark.parametrize("parts", LAYERS.values(), ids=LAYERS.keys())
def test_where_a_mask_hides_all_there_are_no_vectors(parts: tuple[str, str, str]) -> None:
    layer, x, _ = known(parts)
    found = vectors_at(layer, x, np.zeros(0, np.int64))
    assert found.shape == (layer.group, 0, layer.rows().shape[1])
