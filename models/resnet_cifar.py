"""ResNet for 32x32 images, of 20 and 56 layers, with shortcuts that have no parameters.

Source: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2:
three stages of equal depth, and option A of section 4.1 where the shape changes.

Parameters are named as in akamaster/pytorch_resnet_cifar10, whose files have `module.` before each name.
"""

from __future__ import annotations

from torch import Tensor, nn


def resnet20_cifar(classes: int = 10) -> ResNetCifar:
    """20 layers (269,722 parameters)."""
    return ResNetCifar(depth=3, classes=classes)


def resnet56_cifar(classes: int = 10) -> ResNetCifar:
    """56 layers (853,018 parameters)."""
    return ResNetCifar(depth=9, classes=classes)


class ResNetCifar(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """Stem, three stages of `depth` blocks, mean over the image, linear layer.

    Shapes::

        image   [batch, 3, 32, 32]
        stem    [batch, 16, 32, 32]
        layer1  [batch, 16, 32, 32]
        layer2  [batch, 32, 16, 16]
        layer3  [batch, 64,  8,  8]
        scores  [batch, classes]       before softmax
    """

    def __init__(self, depth: int, classes: int) -> None:
        super().__init__()
        self.conv1 = _conv(3, 16)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.layer1 = _stage(16, 16, depth, stride=1)
        self.layer2 = _stage(16, 32, depth, stride=2)
        self.layer3 = _stage(32, 64, depth, stride=2)
        self.linear = nn.Linear(64, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Compute scores."""
        x = self.relu(self.bn1(self.conv1(image)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean(dim=(2, 3)))


class Block(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """Two 3x3 convolutions beside a shortcut.

    ``[batch, before, h, w]`` to ``[batch, width, h / stride, w / stride]``.
    """

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(before, width, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.shortcut = nn.Identity() if stride == 1 else Subsample((width - before) // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + self.shortcut(x))


class Subsample(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """Every second pixel, with channels of zeros before and after: the shortcut without parameters.

    ``[batch, before, h, w]`` to ``[batch, before + 2 * zeros, h / 2, w / 2]``.
    """

    def __init__(self, zeros: int) -> None:
        super().__init__()
        self.zeros = zeros

    def forward(self, x: Tensor) -> Tensor:
        """Take the pixels, add the channels."""
        return nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.zeros, self.zeros))


def _stage(before: int, width: int, depth: int, stride: int) -> nn.Sequential:
    """Blocks of one width, the first of which changes width and resolution."""
    return nn.Sequential(Block(before, width, stride), *(Block(width, width, stride=1) for _ in range(depth - 1)))


def _conv(before: int, width: int, stride: int = 1) -> nn.Conv2d:
    """3x3 convolution without bias: the norm after it has one."""
    return nn.Conv2d(before, width, kernel_size=3, stride=stride, padding=1, bias=False)
