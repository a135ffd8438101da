"""VGG of 11 layers, with batch normalization.

Source: Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015,
table 1, column A, with the norms of Ioffe, Szegedy, "Batch Normalization", ICML 2015.

Parameters are named as in torchvision's `vgg11_bn`.
"""

from __future__ import annotations

from torch import Tensor, nn

STAGES = ((64,), (128,), (256, 256), (512, 512), (512, 512))
"""Channels of the convolutions between two pools."""


def vgg11_bn(classes: int = 1000) -> VGG:
    """VGG-11 (132,868,840 parameters, most of them in the first linear layer)."""
    return VGG(classes)


class VGG(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """Convolutions and pools, mean of each of 7x7 fields, three linear layers.

    Shapes for images of 224 pixels; others work too, but ONNX has the mean only for multiples of 224::

        image     [batch, 3, 224, 224]
        features  [batch, 512, 7, 7]
        flat      [batch, 25088]
        hidden    [batch, 4096]           twice
        scores    [batch, classes]        before softmax
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for widths in STAGES:
            for width in widths:
                convolution = nn.Conv2d(before, width, kernel_size=3, padding=1)
                layers += [convolution, nn.BatchNorm2d(width), nn.ReLU()]
                before = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, 4096),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(4096, classes),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Compute scores."""
        return self.classifier(self.avgpool(self.features(image)).flatten(1))
