"""The block of mobile networks: wide inside, narrow outside. Used by MobileNet and EfficientNet.

Source: Sandler, Howard, Zhu, Zhmoginov, Chen, "MobileNetV2: Inverted Residuals and Linear Bottlenecks",
CVPR 2018, section 3, with squeeze and excitation inside as in Tan et al., "MnasNet", CVPR 2019,
figure 7 (the squeezing itself: Hu, Shen, Sun, "Squeeze-and-Excitation Networks", CVPR 2018).

Parameters are named as in torchvision.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    """Channels before, inside and after a block, and the kernel and stride of its depthwise convolution."""

    before: int
    inside: int
    after: int
    kernel: int
    stride: int

    @property
    def keeps(self) -> bool:
        """Whether what goes in can be added to what comes out."""
        return (self.before, self.stride) == (self.after, 1)


class InvertedResidual(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """1x1 convolution to more channels, depthwise convolution, excitation if any, 1x1 to few channels.

    ``[batch, before, h, w]`` to ``[batch, after, h / stride, w / stride]``, plus the input where the
    shapes are equal. No first convolution where ``inside == before``, no activation after the last.
    """

    def __init__(self, shape: Shape, activation: type[nn.Module], excitation: nn.Module | None) -> None:
        super().__init__()
        layers = [*inside(shape, activation)]
        if excitation is not None:
            layers.append(excitation)
        self.block = nn.Sequential(*layers, normed(conv(shape.inside, shape.after)))
        self.keeps = shape.keeps

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block."""
        y = self.block(x)
        return x + y if self.keeps else y


class SqueezeExcitation(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """Scale each channel by what two 1x1 convolutions make of all channels' means; the shape stays."""

    def __init__(self, channels: int, squeezed: int, activation: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeezed, kernel_size=1)
        self.activation = activation
        self.fc2 = nn.Conv2d(squeezed, channels, kernel_size=1)
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        """Compute the scaled channels."""
        return x * self.gate(self.fc2(self.activation(self.fc1(self.avgpool(x)))))


def inside(shape: Shape, activation: type[nn.Module]) -> list[nn.Sequential]:
    """The convolutions to and within ``shape.inside`` channels, each with norm and activation."""
    depthwise = conv(shape.inside, shape.inside, shape.kernel, shape.stride, groups=shape.inside)
    layers = [normed(depthwise, activation())]
    if shape.inside != shape.before:
        layers.insert(0, normed(conv(shape.before, shape.inside), activation()))
    return layers


def normed(convolution: nn.Conv2d, *activation: nn.Module) -> nn.Sequential:
    """Convolution, norm, activation if any."""
    return nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels), *activation)


def conv(before: int, after: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Convolution that keeps the size but for its stride, without bias: the norm after it has one."""
    return nn.Conv2d(before, after, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
