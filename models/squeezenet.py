"""SqueezeNet 1.1: AlexNet's accuracy with a fiftieth of its parameters.

Source: Iandola, Han, Moskewicz, Ashraf, Dally, Keutzer, "SqueezeNet", arXiv 1602.07360, sections 3 and 4,
in the cheaper arrangement 1.1 that the authors published afterwards.

Parameters are named as in torchvision's `squeezenet1_1`. The authors' Caffe network has names and a border of
its own: it pads the last 1x1 convolution by one pixel, which adds a border of its bias.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def squeezenet1_1(classes: int = 1000) -> SqueezeNet:
    """SqueezeNet 1.1 (1,235,496 parameters)."""
    return SqueezeNet(classes)


class SqueezeNet(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """Stem, fire modules and pools, then a 1x1 convolution and the mean of each class over the image.

    Shapes for images of 224 pixels::

        image     [batch, 3, 224, 224]
        stem      [batch,  64, 55, 55]
        features  [batch, 512, 13, 13]
        scores    [batch, classes]        before softmax, none below 0
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, kernel_size=3, stride=2),
            nn.ReLU(),
            _pool(),
            Fire(64, 16, 64),
            Fire(128, 16, 64),
            _pool(),
            Fire(128, 32, 128),
            Fire(256, 32, 128),
            _pool(),
            Fire(256, 48, 192),
            Fire(384, 48, 192),
            Fire(384, 64, 256),
            Fire(512, 64, 256),
        )
        self.classifier = nn.Sequential(nn.Dropout(), nn.Conv2d(512, classes, kernel_size=1), nn.ReLU())

    def forward(self, image: Tensor) -> Tensor:
        """Compute scores."""
        return self.classifier(self.features(image)).mean(dim=(2, 3))


class Fire(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """1x1 convolution to few channels, from there 1x1 and 3x3 side by side.

    ``[batch, before, h, w]`` to ``[batch, 2 * expanded, h, w]``.
    """

    def __init__(self, before: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(before, squeezed, kernel_size=1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, kernel_size=1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, kernel_size=3, padding=1)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Compute the module."""
        x = self.relu(self.squeeze(x))
        return torch.cat([self.relu(self.expand1x1(x)), self.relu(self.expand3x3(x))], dim=1)


def _pool() -> nn.MaxPool2d:
    """Greatest of 3x3, every second; the last one may hang over the border."""
    return nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True)
