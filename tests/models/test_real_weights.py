"""Trained weights from ONNX files, in our networks: the same scores as the file."""

import os
from collections.abc import Iterator
from pathlib import Path
from runpy import run_path

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
from torch import Tensor, nn  # noqa: E402

from onnxopt.models.mobilenet_v2 import mobilenet_v2  # noqa: E402
from onnxopt.models.resnet_cifar import resnet56_cifar  # noqa: E402
from onnxopt.models.squeezenet import squeezenet1_1  # noqa: E402
from onnxopt.runtime import Session  # noqa: E402
from onnxopt.target import Target  # noqa: E402

SHARED = Path(os.environ.get("ONNXOPT_SHARED", Path(__file__).resolve().parents[3] / "shared")) / "data"
TOLERANCE = 1e-4

pytestmark = pytest.mark.skipif(
    not (SHARED / "load.py").exists(), reason=f"no models and images in {SHARED}; set ONNXOPT_SHARED"
)


def images(name: str) -> np.ndarray:
    """Eight real images, preprocessed as the file wants them, ``[8, 3, height, width]``."""
    arrays, _ = run_path(str(SHARED / "load.py"))["samples"](name, limit=8)
    return arrays["input"]


def path(name: str) -> Path:
    return SHARED / "models" / f"{name}.onnx"


def weights(model: onnx.ModelProto) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Name of the weight, weight and bias of each Conv and Gemm, in the order in which they run."""
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    layers = (node.input for node in model.graph.node if node.op_type in ("Conv", "Gemm"))
    return [(weight, arrays[weight], arrays[bias]) for _, weight, bias in layers]


def layers(module: nn.Module) -> Iterator[tuple[str, nn.Module, tuple[str, nn.BatchNorm2d] | None]]:
    """Name and module of each convolution and linear layer, and its norm, if one follows, with its name."""
    parts = [item for item in module.named_modules() if isinstance(item[1], (nn.Conv2d, nn.Linear, nn.BatchNorm2d))]
    for (name, part), after in zip(parts, [*parts[1:], ("", None)], strict=True):
        if not isinstance(part, nn.BatchNorm2d):
            yield name, part, after if isinstance(after[1], nn.BatchNorm2d) else None


def pure_bias(norm: nn.BatchNorm2d, bias: Tensor) -> dict[str, Tensor]:
    """State of a norm that adds `bias` and does no more: what is left of one folded into its convolution."""
    ones = torch.ones_like(bias)
    return {
        "weight": ones,
        "bias": bias,
        "running_mean": torch.zeros_like(bias),
        "running_var": ones - norm.eps,
        "num_batches_tracked": torch.tensor(0),
    }


def load(module: nn.Module, model: onnx.ModelProto) -> nn.Module:
    """Copy the file's weights, layer by layer; a linear layer takes those of a 1x1 convolution."""
    state: dict[str, Tensor] = {}
    for (name, layer, norm), (_, weight, bias) in zip(layers(module), weights(model), strict=True):
        assert weight.squeeze().shape == tuple(layer.weight.squeeze().shape), name
        state[f"{name}.weight"] = torch.from_numpy(weight.copy()).reshape(layer.weight.shape)
        bias = torch.from_numpy(bias.copy())
        if norm is None:
            state[f"{name}.bias"] = bias
        else:
            state |= {f"{norm[0]}.{key}": value for key, value in pure_bias(norm[1], bias).items()}
    module.load_state_dict(state, strict=True)
    return module.eval()


def assert_same_scores(got: Tensor, want: np.ndarray) -> None:
    assert len(set(want.argmax(axis=1))) > 1, "the images are all of one class"
    assert np.abs(got.numpy() - want).max() < TOLERANCE * np.abs(want).max()
    np.testing.assert_array_equal(got.numpy().argmax(axis=1), want.argmax(axis=1))


def run(name: str, image: np.ndarray) -> np.ndarray:
    return Session(path(name), Target()).run({"input": image})["output"]


def test_resnet56() -> None:
    """The file keeps the names of the public weights."""
    model, image = onnx.load(path("resnet56_cifar10")), images("resnet56_cifar10")
    module = load(resnet56_cifar(), model)
    assert [f"{name}.weight" for name, _, _ in layers(module)] == [name for name, _, _ in weights(model)]
    with torch.no_grad():
        assert_same_scores(module(torch.from_numpy(image)), run("resnet56_cifar10", image))


def test_mobilenet_v2() -> None:
    """The file comes from TensorFlow: its convolutions of stride 2 pad right and below only."""
    model, image = onnx.load(path("mobilenet_v2_100_224")), images("mobilenet_v2_100_224")
    module = load(mobilenet_v2(classes=1001), model)
    strided = [part for part in module.modules() if isinstance(part, nn.Conv2d) and part.stride == (2, 2)]
    assert len(strided) == 5
    for part in strided:
        part.padding = (0, 0)
        part.register_forward_pre_hook(lambda part, given: nn.functional.pad(given[0], (0, 1, 0, 1)))
    with torch.no_grad():
        assert_same_scores(module(torch.from_numpy(image)), run("mobilenet_v2_100_224", image))


def test_squeezenet() -> None:
    """The file is the authors' Caffe network: its last, 1x1 convolution pads by one pixel.

    So 14x14 scores have a border of ``relu(bias)`` around them, which counts in the mean over 16x16.
    """
    model, image = onnx.load(path("squeezenet11")), images("squeezenet11")
    module = load(squeezenet1_1(), model)
    border = module.classifier[1].bias.relu()
    with torch.no_grad():
        scores = module(torch.from_numpy(image))
        assert module.features(torch.from_numpy(image[:1])).shape[2:] == (14, 14)
        assert_same_scores((14 * 14 * scores + (16 * 16 - 14 * 14) * border) / (16 * 16), run("squeezenet11", image))
