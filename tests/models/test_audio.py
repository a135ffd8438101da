"""DS-CNN and autoencoder: with the public weights of MLPerf Tiny they are the public networks."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

from torch import Tensor, nn  # noqa: E402

from onnxopt.models.autoencoder import autoencoder  # noqa: E402
from onnxopt.models.dscnn import dscnn  # noqa: E402
from onnxopt.runtime import Session  # noqa: E402
from onnxopt.target import Target  # noqa: E402

SHARED = Path(os.environ.get("ONNXOPT_SHARED", Path(__file__).resolve().parents[3] / "shared")) / "data"
KWS, AD = SHARED / "models" / "kws_dscnn.onnx", SHARED / "zoo" / "ad01.onnx"
COMMANDS = SHARED / "data" / "kws.npz"

with_shared = pytest.mark.skipif(
    not (KWS.exists() and AD.exists() and COMMANDS.exists()), reason=f"no models in {SHARED}; set ONNXOPT_SHARED"
)


def weights(path: Path, operators: set[str]) -> Iterator[Tensor]:
    """The numbers that these operators read, in the order of the file."""
    graph = onnx.load(path).graph
    found = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    for node in graph.node:
        if node.op_type in operators:
            yield from (torch.from_numpy(found[name].copy()) for name in node.input if name in found)


def neutral(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
    """Mean 0, variance 1 with epsilon: the norm is its scale and its bias alone."""
    norm.running_mean.zero_()
    norm.running_var.fill_(1 - norm.eps)


@with_shared
def test_dscnn_is_the_public_one() -> None:
    network = dscnn().eval()
    stored = weights(KWS, {"Conv", "MatMul", "Add"})  # the file has its norms in the convolutions
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                neutral(layer)
            elif isinstance(layer, nn.Conv2d | nn.Linear):
                weight = next(stored)
                layer.weight.copy_(weight.T if isinstance(layer, nn.Linear) else weight)
                layer.bias.copy_(next(stored))
    assert next(stored, None) is None

    with np.load(COMMANDS, allow_pickle=False) as data:
        features = (data["eval.input_1"][:200].astype(np.float32) - 83) * np.float32(0.5847029)
        labels = data["eval.labels"][:200]
    with torch.no_grad():
        scores = network(torch.from_numpy(features).permute(0, 3, 1, 2))
    expected = Session(KWS, Target(threads=1)).run({"input_1": features})["dense"]
    np.testing.assert_allclose(scores.softmax(dim=1).numpy(), expected, rtol=1e-4, atol=1e-6)
    assert (scores.argmax(dim=1).numpy() == labels).mean() > 0.85


@with_shared
def test_autoencoder_is_the_public_one() -> None:
    network = autoencoder().eval()
    stored = weights(AD, {"MatMul", "Mul", "Add"})  # MatMul and Add are a layer, Mul and Add its norm
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.Linear):
                layer.weight.copy_(next(stored).T)
                layer.bias.copy_(next(stored))
            elif isinstance(layer, nn.BatchNorm1d):
                neutral(layer)
                layer.weight.copy_(next(stored))
                layer.bias.copy_(next(stored))
    assert next(stored, None) is None

    features = np.random.default_rng(0).normal(-20, 10, (50, 640)).astype(np.float32)
    with torch.no_grad():
        got = network(torch.from_numpy(features)).numpy()
    expected = Session(AD, Target(threads=1)).run({"input": features})["dense_9"]
    assert np.abs(got - expected).max() < 1e-5 * np.abs(expected).max()


def test_stem_pads_as_tensorflow() -> None:
    """25 frames begin at -4, -2, ..., 44: the last kernel reaches 5 beyond the 49th."""
    image = torch.arange(490.0).reshape(1, 1, 49, 10)
    padded = dscnn().stem.pad(image)
    assert padded.shape == (1, 1, 58, 12)
    assert padded[0, 0, 4, 1] == 0
    assert padded[0, 0, 4, 2] == 1
    assert dscnn().stem(image).shape == (1, 64, 25, 5)
