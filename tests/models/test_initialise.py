"""Random weights: the same for a seed, and nothing dies out or explodes on the way."""

from collections.abc import Callable
from pathlib import Path
from runpy import run_path

import pytest

torch = pytest.importorskip("torch")
from torch import Tensor, nn  # noqa: E402

from onnxopt.models.initialise import GAIN, initialise  # noqa: E402
from onnxopt.models.resnet_cifar import resnet20_cifar  # noqa: E402
from onnxopt.models.unet import unet  # noqa: E402

NETWORKS = run_path(str(Path(__file__).with_name("public_names.py")))["NETWORKS"] | {"unet": unet}
SIZES = {"resnet20_cifar": 32, "resnet56_cifar": 32, "vit_small_patch16": 224}
LARGE = {"resnet34", "resnet50", "vgg11_bn", "vit_small_patch16"}


class Affine(nn.Module):
    """GPT-2's linear layer, whose weight is [in, out]."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(before, after))
        self.bias = nn.Parameter(torch.ones(after))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


class Tied(nn.Module):
    """Output layer and embedding of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.zeros(1, 50, 64))
        self.embedding = nn.Embedding(1000, 64)
        self.norm = nn.LayerNorm(64)
        self.scores = nn.Linear(64, 1000, bias=False)
        self.scores.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.scores(self.norm(self.embedding(tokens) + self.place))


def images(size: int, seed: int, batch: int = 4) -> dict[str, Tensor]:
    return {"image": torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))}


LAYERS = {
    "linear": (lambda: nn.Linear(256, 300), (64, 256)),
    "square linear without bias": (lambda: nn.Linear(256, 256, bias=False), (64, 256)),
    "linear with the weight of GPT-2": (lambda: Affine(256, 512), (64, 256)),
    "convolution": (lambda: nn.Conv2d(32, 48, 3), (2, 32, 16, 16)),
    "convolution in groups": (lambda: nn.Conv2d(32, 64, 3, groups=4, bias=False), (4, 32, 16, 16)),
    "depthwise convolution": (lambda: nn.Conv2d(256, 256, 3, groups=256), (2, 256, 8, 8)),
    "transposed convolution": (lambda: nn.ConvTranspose2d(64, 32, 2, stride=2), (2, 64, 8, 8)),
    "transposed convolution, overlapping": (lambda: nn.ConvTranspose2d(64, 32, 4, stride=2), (2, 64, 32, 32)),
    "transposed convolution in groups": (lambda: nn.ConvTranspose2d(64, 128, 2, stride=2, groups=4), (2, 64, 8, 8)),
}


@pytest.mark.parametrize(("build", "shape"), LAYERS.values(), ids=LAYERS.keys())
def test_a_layer_multiplies_the_standard_deviation_by_the_gain(
    build: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    layer, x = build(), torch.randn(shape, generator=torch.Generator().manual_seed(0))
    initialise(layer, {"x": x})
    with torch.no_grad():
        assert float(layer(x).std()) == pytest.approx(GAIN, rel=0.1)


def test_biases_norms_embeddings_and_tokens() -> None:
    module = Tied()
    tokens = torch.arange(100).reshape(2, 50)
    initialise(module, {"tokens": tokens})
    assert float(module.embedding.weight.detach().std()) == pytest.approx(0.1, rel=0.02)
    assert module.scores.weight is module.embedding.weight
    assert float(module.place.detach().std()) == pytest.approx(0.02, rel=0.1)
    assert bool((module.norm.weight == 1).all())
    assert bool((module.norm.bias == 0).all())


def test_recurrent_layers_neither_forget_nor_saturate() -> None:
    lstm = nn.LSTM(64, 64, num_layers=2, batch_first=True)
    x = torch.randn(2, 100, 64, generator=torch.Generator().manual_seed(0))
    initialise(lstm, {"x": x})
    with torch.no_grad():
        hidden, _ = lstm(x)
    assert 0.05 < float(hidden[:, -1].abs().mean()) < 0.6


def test_a_seed_gives_the_weights() -> None:
    states = []
    for seed in (3, 3, 4):
        module = resnet20_cifar()
        initialise(module, images(32, seed=1), seed)
        states.append(module.state_dict())
    first, again, other = states
    assert all(torch.equal(first[name], again[name]) for name in first)
    drawn = [name for name, value in first.items() if value.ndim > 1 or "running" in name]
    assert not [name for name in drawn if torch.equal(first[name], other[name])]


def test_pytorchs_random_state_stays() -> None:
    module = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.LSTM(8, 8, 2, dropout=0.5))
    before = torch.get_rng_state()
    initialise(module, {"x": torch.ones(4, 8).cumsum(0)})
    assert torch.equal(torch.get_rng_state(), before)


def test_norms_know_the_examples_and_the_module_evaluates() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Dropout(0.9), nn.BatchNorm2d(8, momentum=0.2))
    inputs = images(16, seed=1)
    initialise(module, inputs)
    with torch.no_grad():
        y = module(inputs["image"])
    assert not any(part.training for part in module.modules())
    assert module[2].momentum == 0.2
    assert float(y.mean(dim=(0, 2, 3)).abs().max()) < 1e-5
    assert float((y.std(dim=(0, 2, 3)) - 1).abs().max()) < 1e-2


def test_one_number_a_channel_is_too_few() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        initialise(module, {"x": torch.ones(1, 4)})
