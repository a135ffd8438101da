"""DS-CNN: depthwise separable convolutions that spot a spoken keyword.

Source: Zhang, Suda, Lai, Chandra, "Hello Edge: Keyword Spotting on Microcontrollers", arXiv
1711.07128, section 3.5, in the size of Banbury et al., "MLPerf Tiny Benchmark", NeurIPS 2021
(Datasets and Benchmarks), without its dropout and its softmax.

The public weights are TensorFlow's; the names here are our own, in the same order.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from onnxopt.models.resnet_tiny import Mean

EPSILON = 1e-3
"""Of the norms, as in Keras."""


def dscnn(classes: int = 12, channels: int = 64, blocks: int = 4) -> nn.Sequential:
    """Build the network: stem, depthwise separable blocks, mean over the image, linear layer.

    Shapes with the default arguments (23,756 parameters)::

        image   [batch, 1, 49, 10]     10 cepstral coefficients in each of 49 frames: one second
        stem    [batch, 64, 25, 5]
        block1  [batch, 64, 25, 5]     4 blocks
        mean    [batch, 64]
        scores  [batch, classes]       before softmax
    """
    layers = OrderedDict(stem=_stem(channels))
    layers |= {f"block{number}": _block(channels) for number in range(1, blocks + 1)}
    layers["mean"] = Mean()
    layers["scores"] = nn.Linear(channels, classes)
    return nn.Sequential(layers)


def _stem(channels: int) -> nn.Sequential:
    """10x4 convolution with stride 2: ``[batch, 1, 49, 10]`` to ``[batch, channels, 25, 5]``.

    TensorFlow's "same" padding gives ``ceil(49 / 2) = 25`` frames, for which the kernel covers
    ``24 * 2 + 10 = 58``: 9 more than there are, 4 of them before and 5 behind; and of the
    coefficients ``4 * 2 + 4 = 12``, 2 more, one on each side.
    """
    return nn.Sequential(
        OrderedDict(
            pad=nn.ZeroPad2d((1, 1, 4, 5)),
            conv=nn.Conv2d(1, channels, kernel_size=(10, 4), stride=2),
            norm=nn.BatchNorm2d(channels, eps=EPSILON),
            relu=nn.ReLU(),
        )
    )


def _block(channels: int) -> nn.Sequential:
    """3x3 convolution within each channel, then 1x1 over the channels; the shape stays."""
    return nn.Sequential(
        OrderedDict(
            depthwise=nn.Conv2d(channels, channels, kernel_size=3, padding=1, groups=channels),
            norm1=nn.BatchNorm2d(channels, eps=EPSILON),
            relu1=nn.ReLU(),
            pointwise=nn.Conv2d(channels, channels, kernel_size=1),
            norm2=nn.BatchNorm2d(channels, eps=EPSILON),
            relu2=nn.ReLU(),
        )
    )
