"""Modules that tests export; read as a file of a user, too."""

from typing import Any

import torch
from torch import Tensor, nn


class Ranker(nn.Module):
    """Integer and float inputs, one by keyword; a dict with a dict in it as output."""

    def __init__(self, vocab: int = 50, width: int = 8) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab, width)
        self.score = nn.Linear(width + 3, 1)

    def forward(self, tokens: Tensor, *, features: Tensor) -> dict[str, Any]:
        pooled = self.embed(tokens).mean(1)
        return {"score": self.score(torch.cat([pooled, features], 1)), "hidden": {"pooled": pooled}}


class Recurrent(nn.Module):
    """An LSTM, which torch.export unrolls."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x)[0]


class Branch(nn.Module):
    """What it does depends on the numbers: no exporter can say that with a trace."""

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x + 1
        return x - 1


class Fixed(nn.Module):
    """Runs on a batch of two alone."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(2, -1) * 2


class Frozen(nn.Module):
    """Takes the batch of the trace for a constant."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.ones(int(x.shape[0]), 1)


class Unknown(nn.Module):
    """An operator that ONNX has not."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigvals(x).real


def small(classes: int = 4) -> nn.Module:
    """A factory."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, classes))


INSTANCE = small()
NOTHING = 3


def broken() -> nn.Module:
    raise ValueError("no such thing")
