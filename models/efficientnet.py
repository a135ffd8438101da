"""EfficientNet-B0: inverted residuals with squeeze and excitation, and SiLU everywhere.

Source: Tan, Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019,
table 1. Its stochastic depth acts in training only and has no parameters; it is left out.

Parameters are named as in torchvision's `efficientnet_b0`.
"""

from __future__ import annotations

from torch import Tensor, nn

from onnxopt.models.inverted_residual import InvertedResidual, Shape, SqueezeExcitation, conv, normed

STAGES = (
    # expansion, channels, blocks, kernel, stride
    (1, 16, 1, 3, 1),
    (6, 24, 2, 3, 2),
    (6, 40, 2, 5, 2),
    (6, 80, 3, 3, 2),
    (6, 112, 3, 5, 1),
    (6, 192, 4, 5, 2),
    (6, 320, 1, 3, 1),
)


def efficientnet_b0(classes: int = 1000) -> EfficientNet:
    """EfficientNet-B0 (5,288,548 parameters)."""
    return EfficientNet(classes)


class EfficientNet(nn.Module):  # type: ignore[misc]  # torch is not typed here
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
        layers = [normed(conv(3, 32, kernel=3, stride=2), nn.SiLU())]
        before = 32
        for expansion, after, depth, kernel, stride in STAGES:
            first = Shape(before, expansion * before, after, kernel, stride)
            others = Shape(after, expansion * after, after, kernel, stride=1)
            layers.append(nn.Sequential(_block(first), *(_block(others) for _ in range(depth - 1))))
            before = after
        self.features = nn.Sequential(*layers, normed(conv(before, 1280), nn.SiLU()))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, classes))

    def forward(self, image: Tensor) -> Tensor:
        """Compute scores."""
        return self.classifier(self.features(image).mean(dim=(2, 3)))


def _block(shape: Shape) -> InvertedResidual:
    """An inverted residual that squeezes to a quarter of the channels before it."""
    excitation = SqueezeExcitation(shape.inside, shape.before // 4, nn.SiLU(), nn.Sigmoid())
    return InvertedResidual(shape, nn.SiLU, excitation)
