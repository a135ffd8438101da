"""Random views of an image: turned, moved, cropped, mirrored.

Each change is a matrix ``[batch, 3, 3]`` that says where in the source a pixel of the result is read.
Both places are in the coordinates of `torch.nn.functional.affine_grid`: right and down, -1 to 1 from edge
to edge. The matrices are multiplied, and the image is resampled once: a blur once, not one per change.

Source of the crop: Szegedy and others, "Going Deeper with Convolutions", CVPR 2015, section 6; here with
the proportions of the image.
"""

from __future__ import annotations

import math
from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional

FLIPS = {"none": 0.0, "horizontal": 0.5}


def augment(image: Tensor, rotation: float = 0, shift: float = 0, crop: float = 0, flip: float = 0) -> Tensor:
    """Change each image of ``[batch, channels, height, width]`` by its own random amounts.

    Args:
        image: the batch; returned as it is if all amounts are 0.
        rotation: degrees, at most, to either side.
        shift: pixels, at most, to each side.
        crop: share of the area, at most, that is cut away; what is left is enlarged.
        flip: probability of a mirror image, left for right.
    """
    count, _, height, width = image.shape
    changes = []
    if rotation:
        changes.append(turn(_spread(math.radians(rotation), count), height, width))
    if shift:
        changes.append(move(_spread(shift, count), _spread(shift, count), height, width))
    if crop:
        side = torch.sqrt(1 - crop * torch.rand(count))
        changes.append(window(side, (1 - side) * _spread(1, count), (1 - side) * _spread(1, count)))
    if flip:
        changes.append(mirror(torch.rand(count) < flip))
    return warp(image, reduce(lambda before, change: change @ before, changes)) if changes else image


def turn(angle: Tensor, height: int, width: int) -> Tensor:
    """Turn counter-clockwise by `angle` in radians ``[batch]``; proportions are kept."""
    ratio = width / height
    zero = torch.zeros_like(angle)
    return _matrix(angle.cos(), -angle.sin() / ratio, zero, angle.sin() * ratio, angle.cos(), zero)


def move(right: Tensor, down: Tensor, height: int, width: int) -> Tensor:
    """Read so many pixels ``[batch]`` further right and down: the picture moves left and up."""
    zero, one = torch.zeros_like(right), torch.ones_like(right)
    return _matrix(one, zero, right * 2 / width, zero, one, down * 2 / height)


def window(side: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """Enlarge a window of `side` times the image's sides whose centre is at `right`, `down` (each ``[batch]``)."""
    zero = torch.zeros_like(side)
    return _matrix(side, zero, right, zero, side, down)


def mirror(mirrored: Tensor) -> Tensor:
    """Swap left and right where bool ``[batch]`` says so."""
    zero, one = torch.zeros(len(mirrored)), torch.ones(len(mirrored))
    return _matrix(torch.where(mirrored, -one, one), zero, zero, zero, one, zero)


def warp(image: Tensor, matrix: Tensor) -> Tensor:
    """Resample, bilinear; outside of the image its edge continues."""
    grid = functional.affine_grid(matrix[:, :2], list(image.shape), align_corners=False)
    return functional.grid_sample(image, grid, padding_mode="border", align_corners=False)


def _matrix(*upper: Tensor) -> Tensor:
    """``[batch, 3, 3]`` from the six numbers of the upper rows, each ``[batch]``."""
    zero, one = torch.zeros_like(upper[0]), torch.ones_like(upper[0])
    return torch.stack([*upper, zero, zero, one], dim=1).reshape(-1, 3, 3)


def _spread(amount: float, count: int) -> Tensor:
    """Uniform in ``[-amount, amount]``."""
    return torch.rand(count).mul(2).sub(1) * amount
