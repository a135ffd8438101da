"""MobileNetV2: inverted residuals.

Source: Sandler, Howard, Zhu, Zhmoginov, Chen, "MobileNetV2: Inverted Residuals and Linear Bottlenecks",
CVPR 2018, table 2.

Parameters are named as in torchvision's `mobilenet_v2`. Weights from TensorFlow have the same shapes, but
its convolutions of stride 2 pad right and below only.
"""

from __future__ import annotations

from torch import Tensor, nn

from onnxopt.models.inverted_residual import Shape, conv, inside, normed

STAGES = (
    # expansion, channels, blocks, stride
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def mobilenet_v2(classes: int = 1000) -> MobileNetV2:
    """MobileNetV2 of width 1 (3,504,872 parameters)."""
    return MobileNetV2(classes)


class MobileNetV2(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """Stem, seven stages of blocks, 1x1 convolution, mean over the image, linear layer.

    Shapes for images of 224 pixels::

        image     [batch, 3, 224, 224]
        stem      [batch,   32, 112, 112]
        stages    [batch,  320,   7,   7]
        features  [batch, 1280,   7,   7]
        scores    [batch, classes]           before softmax
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [normed(conv(3, 32, kernel=3, stride=2), nn.ReLU6())]
        before = 32
        for expansion, after, depth, stride in STAGES:
            for number in range(depth):
                layers.append(Block(Shape(before, expansion * before, after, 3, stride if number == 0 else 1)))
                before = after
        self.features = nn.Sequential(*layers, normed(conv(before, 1280), nn.ReLU6()))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, classes))

    def forward(self, image: Tensor) -> Tensor:
        """Compute scores."""
        return self.classifier(self.features(image).mean(dim=(2, 3)))


class Block(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """An inverted residual, its last convolution and norm unnested as in the public weights.

    ``[batch, before, h, w]`` to ``[batch, after, h / stride, w / stride]``.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        last = conv(shape.inside, shape.after)
        self.conv = nn.Sequential(*inside(shape, nn.ReLU6), last, nn.BatchNorm2d(shape.after))
        self.keeps = shape.keeps

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block."""
        y = self.conv(x)
        return x + y if self.keeps else y
