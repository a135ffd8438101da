"""Random weights with which a network still computes something.

Passes are tried on networks that nobody has trained. The numbers need no meaning for that, but they must neither
die out nor explode on their way through the layers: then every error would look like none, or like a great one.

Source: He, Zhang, Ren, Sun, "Delving Deep into Rectifiers", ICCV 2015, section 2.2; for the statistics of the
norms Ioffe, Szegedy, "Batch Normalization", ICML 2015, section 3.1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvTransposeNd

GAIN = math.sqrt(2)
"""Of a weight: ReLU lets half of the squares through, and what other activations let through is not far from it."""
EMBEDDING_STD = 0.1
"""Of an embedding; an output layer that shares the weight gives scores of a few units."""
TOKEN_STD = 0.02
"""Of a parameter that is no weight: class token, positions."""
STREAM = 1 << 31
"""Added to the seed: examples that a caller draws with the same seed must not be the weights' numbers."""


def initialise(module: nn.Module, inputs: Mapping[str, Tensor], seed: int = 0) -> None:
    """Give the module random weights, in place, and leave it in evaluation mode.

    What a parameter becomes follows from its name, its rank and its owner::

        bias                       0
        weight of one dimension    1                      the scale of a norm
        embedding                  N(0, 0.1 ** 2)
        any other weight           N(0, 2 / fan_in)
        any other parameter        N(0, 0.02 ** 2)

    Then each batch norm takes mean and variance from one pass over `inputs`. The same seed gives the same
    weights; PyTorch's own random state is neither read nor changed.

    Args:
        module: any network. A parameter of two owners is filled once, for the first.
        inputs: an example of each input, in the order of `forward`. They should give each channel of a batch
            norm some dozens of numbers: the statistics of two or four make a deep network explode on others.
        seed: of the weights.
    """
    generator = torch.Generator().manual_seed(seed + STREAM)
    filled: set[nn.Parameter] = set()
    with torch.no_grad():
        for owner in module.modules():
            for name, parameter in owner.named_parameters(recurse=False):
                if parameter not in filled:
                    parameter.copy_(_values(owner, name, parameter, generator))
                    filled.add(parameter)
        module.eval()
        _measure(module, inputs)


def _values(owner: nn.Module, name: str, parameter: nn.Parameter, generator: torch.Generator) -> Tensor:
    """What to fill `parameter` with, which `owner` knows as `name`."""
    if "bias" in name:
        return torch.zeros(parameter.shape)
    if "weight" in name and parameter.ndim == 1:
        return torch.ones(parameter.shape)
    return torch.randn(parameter.shape, generator=generator) * _std(owner, name, parameter)


def _std(owner: nn.Module, name: str, parameter: nn.Parameter) -> float:
    """Standard deviation of what is drawn."""
    if "weight" not in name:
        return TOKEN_STD
    if isinstance(owner, nn.Embedding):
        return EMBEDDING_STD
    return GAIN / math.sqrt(_fan_in(owner, parameter))


def _fan_in(owner: nn.Module, weight: nn.Parameter) -> float:
    """How many products make one number of the output.

    A bias says how many outputs there are, whether the weight is ``[out, in]`` or, as in GPT-2, ``[in, out]``;
    without one they are axis 0. A transposed convolution spreads its products over ``stride`` outputs an axis.
    """
    if isinstance(owner, _ConvTransposeNd):
        outputs = owner.out_channels * math.prod(owner.stride)
    else:
        bias = getattr(owner, "bias", None)
        outputs = len(bias if isinstance(bias, Tensor) else weight)
    return float(weight.numel() / outputs)


def _measure(module: nn.Module, inputs: Mapping[str, Tensor]) -> None:
    """Set the statistics of the batch norms, they alone in training mode, to those of `inputs`."""
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the passes, here of one
        norm.train()
    if norms:
        module(*inputs.values())
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
