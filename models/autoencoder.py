"""A dense autoencoder that hears when a machine runs as it has not run before.

Source: Koizumi et al., "Description and Discussion on DCASE2020 Challenge Task 2: Unsupervised
Anomalous Sound Detection for Machine Condition Monitoring", DCASE 2020 (the baseline),
as in Banbury et al., "MLPerf Tiny Benchmark", NeurIPS 2021 (Datasets and Benchmarks).

The public weights are TensorFlow's; the names here are our own, in the same order.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise

from torch import nn

WIDTHS = (128, 128, 128, 128, 8, 128, 128, 128, 128)
EPSILON = 1e-3
"""Of the norms, as in Keras."""


def autoencoder(features: int = 640) -> nn.Sequential:
    """Build the network: the features through a bottleneck of 8, and back.

    Shapes with the default features, 5 frames of 128 log-mel energies (267,928 parameters)::

        features          [batch, 640]
        hidden1..hidden4  [batch, 128]
        hidden5           [batch, 8]
        hidden6..hidden9  [batch, 128]
        reconstruction    [batch, 640]    its squared distance to the features is the anomaly score
    """
    widths = (features, *WIDTHS)
    layers = OrderedDict((f"hidden{number}", _hidden(*pair)) for number, pair in enumerate(pairwise(widths), start=1))
    layers["reconstruction"] = nn.Linear(widths[-1], features)
    return nn.Sequential(layers)


def _hidden(before: int, width: int) -> nn.Sequential:
    """Linear layer, norm and ReLU: ``[batch, before]`` to ``[batch, width]``."""
    return nn.Sequential(
        OrderedDict(dense=nn.Linear(before, width), norm=nn.BatchNorm1d(width, eps=EPSILON), relu=nn.ReLU())
    )
