"""Convolutions of groups, for kernels that want whole blocks of channels in a group, or one."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxopt.passes.convert.convolution import Convolution, convolution
from onnxopt.passes.convert.plan import Plan, Site, Writer


def grouped_to_depthwise(site: Site) -> Plan | str | None:
    """A Conv that makes several channels of each to a depthwise one, which reads each channel several times.

    ``Conv<group=C>(x, W)``, W [C n, 1, ...], to ``Conv<group=C n>(Gather(x, [0, 0, 1, 1, ...]), W)``.
    """
    found = convolution(site)
    if isinstance(found, str):
        return found
    times = len(found.weight) // found.group
    if found.group == 1 or found.weight.shape[1] != 1 or times < 2:
        return None
    places = np.repeat(np.arange(found.group), times)

    def write(new: Writer) -> ir.Value:
        return _written(
            site, found, new, new("Gather", [site.node.inputs[0], places], axis=1), found.weight, len(places)
        )

    return Plan((site.node,), write)


def merge_groups(site: Site) -> Plan | str | None:
    """A Conv whose groups are less than a block of channels to one of fewer groups, zeros between the old ones."""
    found = convolution(site)
    if isinstance(found, str):
        return found
    group, block = found.group, site.block
    given, read = len(found.weight) // group, found.weight.shape[1]
    if group == 1 or read == 1 or (read % block == 0 and given % block == 0):
        return None
    fits = [n for n in range(2, min(group, block) + 1) if group % n == 0 and n * read % block == n * given % block == 0]
    times = fits[0] if fits else group
    if times > block:
        return f"{group} groups of {read} channels do not make whole blocks of {block}"

    def write(new: Writer) -> ir.Value:
        return _written(site, found, new, site.node.inputs[0], _merged(found.weight, group, times), group // times)

    return Plan((site.node,), write)


def _merged(weight: np.ndarray, group: int, times: int) -> np.ndarray:
    """The weight ``[M, C / group, *kernel]`` for ``times`` as wide groups: zeros between old groups."""
    seen = weight.reshape(group // times, times, -1, *weight.shape[1:])
    found = np.zeros([*seen.shape[:3], times, *weight.shape[1:]], weight.dtype)
    for place in range(times):
        found[:, place, :, place] = seen[:, place]
    return found.reshape(len(weight), times * weight.shape[1], *weight.shape[2:])


def _written(
    site: Site, found: Convolution, new: Writer, x: ir.Value | None, weight: np.ndarray, group: int
) -> ir.Value:
    """The same convolution with another input, weight and number of groups."""
    return new(
        "Conv",
        [x, weight, *found.biases],
        kernel_shape=found.kernel,
        strides=found.strides,
        dilations=found.dilations,
        pads=found.pads,
        group=group,
    )
