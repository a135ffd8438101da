"""MobileNetV3, the small one: inverted residuals, squeeze and excitation, hard swish.

Source: Howard et al., "Searching for MobileNetV3", ICCV 2019, table 2.

Parameters are named as in torchvision's `mobilenet_v3_small`.
"""

from __future__ import annotations

from torch import Tensor, nn

from onnxopt.models.inverted_residual import InvertedResidual, Shape, SqueezeExcitation, conv, normed

BLOCKS = (
    # shape, channels of the squeeze (a quarter of those inside, in multiples of 8; 0: none), activation
    (Shape(16, 16, 16, kernel=3, stride=2), 8, nn.ReLU),
    (Shape(16, 72, 24, kernel=3, stride=2), 0, nn.ReLU),
    (Shape(24, 88, 24, kernel=3, stride=1), 0, nn.ReLU),
    (Shape(24, 96, 40, kernel=5, stride=2), 24, nn.Hardswish),
    (Shape(40, 240, 40, kernel=5, stride=1), 64, nn.Hardswish),
    (Shape(40, 240, 40, kernel=5, stride=1), 64, nn.Hardswish),
    (Shape(40, 120, 48, kernel=5, stride=1), 32, nn.Hardswish),
    (Shape(48, 144, 48, kernel=5, stride=1), 40, nn.Hardswish),
    (Shape(48, 288, 96, kernel=5, stride=2), 72, nn.Hardswish),
    (Shape(96, 576, 96, kernel=5, stride=1), 144, nn.Hardswish),
    (Shape(96, 576, 96, kernel=5, stride=1), 144, nn.Hardswish),
)
EPSILON = 1e-3
"""Of the norms, as in the paper's TensorFlow code."""


def mobilenet_v3_small(classes: int = 1000) -> MobileNetV3:
    """MobileNetV3-Small of width 1 (2,542,856 parameters)."""
    return MobileNetV3(classes)


class MobileNetV3(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """Stem, blocks, 1x1 convolution, mean over the image, two linear layers.

    Shapes for images of 224 pixels::

        image     [batch, 3, 224, 224]
        stem      [batch,  16, 112, 112]
        blocks    [batch,  96,   7,   7]
        features  [batch, 576,   7,   7]
        hidden    [batch, 1024]
        scores    [batch, classes]          before softmax
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            normed(conv(3, 16, kernel=3, stride=2), nn.Hardswish()),
            *(_block(*row) for row in BLOCKS),
            normed(conv(96, 576), nn.Hardswish()),
        )
        self.classifier = nn.Sequential(nn.Linear(576, 1024), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(1024, classes))
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = EPSILON

    def forward(self, image: Tensor) -> Tensor:
        """Compute scores."""
        return self.classifier(self.features(image).mean(dim=(2, 3)))


def _block(shape: Shape, squeezed: int, activation: type[nn.Module]) -> InvertedResidual:
    """An inverted residual, with excitation where it squeezes."""
    excitation = SqueezeExcitation(shape.inside, squeezed, nn.ReLU(), nn.Hardsigmoid()) if squeezed else None
    return InvertedResidual(shape, activation, excitation)
