"""A residual network for 32x32 images, small enough to ship.

Source: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016,
section 4.2 (the CIFAR networks of three stages), with projection shortcuts (option B of
section 4.1) and other widths: multiples of 16, as int8 kernels like them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

WIDTHS = (48, 64, 96)
DEPTHS = (2, 1, 1)


def resnet_tiny(
    channels: int = 1, classes: int = 10, widths: Sequence[int] = WIDTHS, depths: Sequence[int] = DEPTHS
) -> nn.Sequential:
    """Build the network: stem, one stage per width, mean over the image, linear layer.

    Shapes with the default widths and depths (297,754 parameters)::

        image   [batch, channels, 32, 32]
        stem    [batch, 48, 32, 32]
        stage1  [batch, 48, 32, 32]    2 blocks
        stage2  [batch, 64, 16, 16]    1 block with stride 2
        stage3  [batch, 96,  8,  8]    1 block with stride 2
        mean    [batch, 96]
        scores  [batch, classes]       before softmax
    """
    layers = OrderedDict(stem=_stem(channels, widths[0]))
    before = widths[0]
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True), start=1):
        layers[f"stage{stage}"] = _stage(before, width, depth, stride=1 if stage == 1 else 2)
        before = width
    layers["mean"] = Mean()
    layers["scores"] = nn.Linear(before, classes)
    return nn.Sequential(layers)


class Block(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """Two 3x3 convolutions beside a shortcut: ``relu(norm2(conv2(relu(norm1(conv1(x))))) + shortcut(x))``.

    ``[batch, before, h, w]`` to ``[batch, width, h / stride, w / stride]``. The shortcut is the
    identity, or where the shape changes a 1x1 convolution and its norm.
    """

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(before, width, stride)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width)
        self.norm2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.shortcut = nn.Identity() if (before, stride) == (width, 1) else _project(before, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block."""
        y = self.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return self.relu(y + self.shortcut(x))


class Mean(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """Mean over height and width: ``[batch, channels, h, w]`` to ``[batch, channels]``."""

    def forward(self, x: Tensor) -> Tensor:
        """Compute the mean."""
        return x.mean(dim=(2, 3))


def _stem(channels: int, width: int) -> nn.Sequential:
    """The first convolution, at full resolution."""
    return nn.Sequential(_conv(channels, width), nn.BatchNorm2d(width), nn.ReLU())


def _stage(before: int, width: int, depth: int, stride: int) -> nn.Sequential:
    """Blocks of one width, the first of which changes width and resolution."""
    first = Block(before, width, stride)
    return nn.Sequential(first, *(Block(width, width, stride=1) for _ in range(depth - 1)))


def _conv(before: int, width: int, stride: int = 1) -> nn.Conv2d:
    """3x3 convolution without bias: the norm after it has one."""
    return nn.Conv2d(before, width, kernel_size=3, stride=stride, padding=1, bias=False)


def _project(before: int, width: int, stride: int) -> nn.Sequential:
    """1x1 convolution and norm."""
    conv = nn.Conv2d(before, width, kernel_size=1, stride=stride, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width))
