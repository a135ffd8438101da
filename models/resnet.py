"""ResNet for ImageNet: residual networks of 18, 34 and 50 layers.

Source: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, table 1, with
projection shortcuts where the shape changes (option B). The stride of a bottleneck lies in its 3x3
convolution (Goyal et al., "Accurate, Large Minibatch SGD", arXiv 1706.02677, section 5.1).

Parameters are named as in torchvision's `resnet18`, `resnet34` and `resnet50`.
"""

from __future__ import annotations

from torch import Tensor, nn

WIDTHS = (64, 128, 256, 512)


def resnet18(classes: int = 1000) -> ResNet:
    """18 layers (11,689,512 parameters)."""
    return ResNet(Basic, (2, 2, 2, 2), classes)


def resnet34(classes: int = 1000) -> ResNet:
    """34 layers (21,797,672 parameters)."""
    return ResNet(Basic, (3, 4, 6, 3), classes)


def resnet50(classes: int = 1000) -> ResNet:
    """50 layers, with bottlenecks (25,557,032 parameters)."""
    return ResNet(Bottleneck, (3, 4, 6, 3), classes)


class ResNet(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """Stem, four stages of blocks, mean over the image, linear layer.

    Shapes for images of 224 pixels, where `e` is 1 (basic blocks) or 4 (bottlenecks)::

        image   [batch, 3, 224, 224]
        stem    [batch,  64,     56, 56]
        layer1  [batch,  64 * e, 56, 56]
        layer2  [batch, 128 * e, 28, 28]
        layer3  [batch, 256 * e, 14, 14]
        layer4  [batch, 512 * e,  7,  7]
        scores  [batch, classes]            before softmax
    """

    def __init__(self, block: type[Basic | Bottleneck], depths: tuple[int, int, int, int], classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        before = 64
        for number, (width, depth) in enumerate(zip(WIDTHS, depths, strict=True), start=1):
            first = block(before, width, stride=1 if number == 1 else 2)
            before = block.expansion * width
            self.add_module(f"layer{number}", nn.Sequential(first, *(block(before, width) for _ in range(depth - 1))))
        self.fc = nn.Linear(before, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Compute scores."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(image))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean(dim=(2, 3)))


class Basic(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """Two 3x3 convolutions beside a shortcut.

    ``[batch, before, h, w]`` to ``[batch, width, h / stride, w / stride]``.
    """

    expansion = 1

    def __init__(self, before: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = _conv(before, width, kernel=3, stride=stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, kernel=3)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.downsample = _shortcut(before, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """1x1, 3x3 and 1x1 convolution beside a shortcut.

    ``[batch, before, h, w]`` to ``[batch, 4 * width, h / stride, w / stride]``.
    """

    expansion = 4

    def __init__(self, before: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = _conv(before, width, kernel=1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, kernel=3, stride=stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = _conv(width, 4 * width, kernel=1)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU()
        self.downsample = _shortcut(before, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


def _shortcut(before: int, after: int, stride: int) -> nn.Sequential | None:
    """1x1 convolution and norm where the shape changes; None, the identity, where it does not."""
    if (before, stride) == (after, 1):
        return None
    return nn.Sequential(_conv(before, after, kernel=1, stride=stride), nn.BatchNorm2d(after))


def _conv(before: int, after: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """Convolution that keeps the size but for its stride, without bias: the norm after it has one."""
    return nn.Conv2d(before, after, kernel, stride, padding=kernel // 2, bias=False)
