"""U-Net: a score for each pixel, from what is around it near and far.

Source: Ronneberger, Fischer, Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation",
MICCAI 2015, figure 1, with padded convolutions and batch normalization.

Parameters are named as in milesial/Pytorch-UNet, `UNet(n_channels=3, n_classes=2, bilinear=False)`, whose
width is 64 and whose convolutions have no bias (its oldest weights have one).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def unet(channels: int = 3, classes: int = 2, width: int = 32) -> UNet:
    """Build the network; by default it has 7,763,074 parameters, and 31,037,698 of width 64."""
    return UNet(channels, classes, width)


class UNet(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """Down in four steps, each half the size and twice the channels, and up again beside what was there.

    Shapes; height and width are multiples of 16, so that no step needs padding::

        image     [batch, channels, h, w]
        inc       [batch,      width, h,      w     ]
        down1, 4  [batch,  2 * width, h /  2, w /  2] to [batch, 16 * width, h / 16, w / 16]
        up1, 4    [batch,  8 * width, h /  8, w /  8] to [batch,      width, h,      w     ]
        scores    [batch, classes, h, w]                 before softmax
    """

    def __init__(self, channels: int, classes: int, width: int) -> None:
        super().__init__()
        self.inc = DoubleConv(channels, width)
        self.down1 = Down(width)
        self.down2 = Down(2 * width)
        self.down3 = Down(4 * width)
        self.down4 = Down(8 * width)
        self.up1 = Up(16 * width)
        self.up2 = Up(8 * width)
        self.up3 = Up(4 * width)
        self.up4 = Up(2 * width)
        self.outc = Out(width, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Compute scores."""
        full = self.inc(image)
        half = self.down1(full)
        quarter = self.down2(half)
        eighth = self.down3(quarter)
        x = self.up1(self.down4(eighth), eighth)
        x = self.up2(x, quarter)
        x = self.up3(x, half)
        return self.outc(self.up4(x, full))


class DoubleConv(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """Two 3x3 convolutions, each with norm and ReLU: ``[batch, before, h, w]`` to ``[batch, after, h, w]``."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.double_conv = nn.Sequential(*_conv(before, after), *_conv(after, after))

    def forward(self, x: Tensor) -> Tensor:
        """Compute the convolutions."""
        return self.double_conv(x)


class Down(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """Pool, then convolutions: ``[batch, before, h, w]`` to ``[batch, 2 * before, h / 2, w / 2]``."""

    def __init__(self, before: int) -> None:
        super().__init__()
        self.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), DoubleConv(before, 2 * before))

    def forward(self, x: Tensor) -> Tensor:
        """Compute the step down."""
        return self.maxpool_conv(x)


class Up(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """Transposed convolution, then convolutions over it and what was of that size on the way down.

    ``[batch, before, h, w]`` and ``[batch, before / 2, 2 * h, 2 * w]`` to ``[batch, before / 2, 2 * h, 2 * w]``.
    """

    def __init__(self, before: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(before, before // 2, kernel_size=2, stride=2)
        self.conv = DoubleConv(before, before // 2)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Compute the step up."""
        return self.conv(torch.cat([skip, self.up(x)], dim=1))


class Out(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """1x1 convolution: ``[batch, before, h, w]`` to ``[batch, classes, h, w]``."""

    def __init__(self, before: int, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, classes, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the convolution."""
        return self.conv(x)


def _conv(before: int, after: int) -> tuple[nn.Module, ...]:
    """3x3 convolution, norm, ReLU."""
    return nn.Conv2d(before, after, kernel_size=3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()
