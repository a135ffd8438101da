"""Train the demo network and write the files that ship.

::

    python -m onnxopt.models.train digits --arch resnet_tiny --epochs 16 --seed 0 --out models/

The same command writes the same bytes on the same machine. The network of the last epoch is
kept: nothing is selected on the held-out samples.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from onnxopt.models import digits
from onnxopt.models.digits import Digits, Samples
from onnxopt.models.export import evaluate, export
from onnxopt.models.resnet_tiny import resnet_tiny

ARCHITECTURES: dict[str, Callable[[], nn.Module]] = {"resnet_tiny": resnet_tiny}
DATASETS: dict[str, Callable[[], Digits]] = {"digits": digits.load}


@dataclass(frozen=True)
class Settings:
    """What a training run is made of; each field is an option of the command line."""

    arch: str = field(default="resnet_tiny", metadata={"help": "network", "choices": [*ARCHITECTURES]})
    epochs: int = field(default=16, metadata={"help": "passes over the training samples"})
    batch: int = field(default=32, metadata={"help": "samples per step"})
    learning_rate: float = field(default=2e-3, metadata={"help": "of the first step; falls to 0 as a cosine"})
    weight_decay: float = field(default=0.05, metadata={"help": "of AdamW"})
    rotation: float = field(default=10.0, metadata={"help": "augmentation: degrees to either side"})
    shift: float = field(default=2.0, metadata={"help": "augmentation: pixels to each side"})
    seed: int = field(default=0, metadata={"help": "of weights, order and augmentation; not of the split"})
    threads: int = field(default=1, metadata={"help": "of PyTorch; another number gives other bits"})


@dataclass(frozen=True)
class Epoch:
    """How far the training is: mean loss over the epoch, top-1 on held-out samples after it."""

    number: int
    loss: float
    accuracy: float
    seconds: float


def fit(module: nn.Module, train: Samples, held_out: Samples, settings: Settings) -> Iterator[Epoch]:
    """Train in place, one epoch per step of the iterator."""
    module.to(memory_format=torch.channels_last)  # a quarter faster on a CPU
    steps = settings.epochs * math.ceil(len(train) / settings.batch)
    optimizer = torch.optim.AdamW(module.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for number in range(1, settings.epochs + 1):
        start = time.perf_counter()
        total = 0.0
        for image, labels in _batches(train, settings.batch):
            loss = _step(module, optimizer, augment(image, settings.rotation, settings.shift), labels)
            schedule.step()
            total += loss * len(labels)
        yield Epoch(number, total / len(train), accuracy(module, held_out), time.perf_counter() - start)


def augment(image: Tensor, rotation: float, shift: float) -> Tensor:
    """Turn and move each image ``[batch, channels, height, width]`` by its own random amount."""
    angle, right, down = torch.rand(3, len(image)).mul(2).sub(1).unbind()
    angle = angle * math.radians(rotation)
    right, down = right * 2 * shift / image.shape[3], down * 2 * shift / image.shape[2]
    rows = [angle.cos(), -angle.sin(), right, angle.sin(), angle.cos(), down]
    affine = torch.stack(rows, dim=1).reshape(-1, 2, 3)
    grid = functional.affine_grid(affine, list(image.shape), align_corners=False)
    return functional.grid_sample(image, grid, padding_mode="border", align_corners=False)


def accuracy(module: nn.Module, samples: Samples) -> float:
    """Top-1 of the module in evaluation mode, in which it is left."""
    module.eval()
    with torch.no_grad():
        scores = torch.cat([module(part) for part in torch.from_numpy(samples.image).split(64)])
    return top1(scores.numpy(), samples.labels)


def top1(scores: np.ndarray, labels: np.ndarray) -> float:
    """Share of the rows of ``[samples, classes]`` whose greatest score is the label's."""
    return float((scores.argmax(axis=1) == labels).mean())


def write(module: nn.Module, data: Digits, folder: Path, dataset: str, arch: str) -> float:
    """Write model and data to `folder`; return top-1 of the written model on the held-out samples."""
    folder.mkdir(parents=True, exist_ok=True)
    data.calibration.save(folder / f"{dataset}_calibration.npz")
    data.held_out.save(folder / f"{dataset}_eval.npz")
    module.to(memory_format=torch.contiguous_format)
    example = {"image": torch.from_numpy(data.held_out.image[:3])}
    model = export(module, folder / f"{dataset}_{arch}.onnx", example, ["scores"])
    (scores,) = evaluate(model, {"image": data.held_out.image})
    return top1(scores, data.held_out.labels)


def main(words: Sequence[str] | None = None) -> None:
    """Train, print each epoch, export."""
    known = vars(_parser().parse_args(words))
    dataset, folder = known.pop("dataset"), known.pop("out")
    settings = Settings(**known)
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    data, module = DATASETS[dataset](), ARCHITECTURES[settings.arch]()
    for epoch in fit(module, data.train, data.held_out, settings):
        print(
            f"epoch {epoch.number:3d}  loss {epoch.loss:.4f}  "
            f"held-out top-1 {epoch.accuracy:.2%}  {epoch.seconds:.1f} s",
            flush=True,
        )
    result = write(module, data, folder, dataset, settings.arch)
    print(f"exported to {folder}: held-out top-1 {result:.2%} of {len(data.held_out)} samples")


def _step(module: nn.Module, optimizer: torch.optim.Optimizer, image: Tensor, labels: Tensor) -> float:
    """One step of the optimizer; return the loss before it."""
    module.train()
    loss = functional.cross_entropy(module(image), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def _batches(samples: Samples, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The samples once, in random order."""
    image, labels = torch.from_numpy(samples.image), torch.from_numpy(samples.labels)
    for part in torch.randperm(len(samples)).split(size):
        yield image[part], labels[part]


def _parser() -> argparse.ArgumentParser:
    """The command line: an option for each field of `Settings`."""
    parser = argparse.ArgumentParser(
        prog="python -m onnxopt.models.train",
        description="Train a network and export it.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("dataset", choices=[*DATASETS])
    parser.add_argument("--out", type=Path, default=Path("models"), help="folder to write to")
    for option in fields(Settings):
        name = f"--{option.name.replace('_', '-')}"
        parser.add_argument(name, type=type(option.default), default=option.default, **option.metadata)
    return parser


if __name__ == "__main__":
    main()
