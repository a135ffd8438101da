"""Factors that balance the channels of what layers read against the weights that read them.

A layer's input has one scale for all channels, its weight one for all inputs of an output channel. A channel that is
much greater than the others takes the steps from them; dividing it by ``f``, and multiplying the weights that read it
with ``f``, moves the trouble from the input to the weight. With ``a`` the greatest magnitude of a channel and ``w`` the
greatest weight that reads it, ``a / f`` and ``w * f`` are equal to powers of ``u = a * w``, whatever factors a model
came with, for::

    f = a^alpha / w^(1 - alpha)        a / f = u^(1 - alpha)        w * f = u^alpha

So balancing what is balanced changes nothing. Factors are rounded to powers of two, which change no bit in float and
cost nothing measurable in int8. ``w`` counts weights relative to the output they make, so that factors of the output do
not matter. Source: SmoothQuant (Xiao et al., ICML 2023), equation 4; with alpha = 0.5 it is cross-layer equalization
(Nagel et al., ICCV 2019, equation 11) with the ranges of activations in place of those of the weights before them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from onnxopt.calibrate import Channels
from onnxopt.passes.quantize.grids.grid import LEVELS, WEIGHT_MAX
from onnxopt.passes.quantize.scaling.scaling import Classes, Factors, Reader, Scaling

Array = npt.NDArray[np.float64]
ROUNDED = 0.6
"""Exponents are rounded to whole numbers; one that is off by less stays, so that no half step is taken to and fro."""
BOUND = 64.0
"""Factors are at most 2^64, so that float32 holds what they make."""


def axes(readers: Iterable[Reader]) -> dict[str, int]:
    """Name of what each layer reads to the axis of its channels."""
    found = {}
    for reader in readers:
        source = reader.node.inputs[0]
        assert source is not None
        found[source.name or ""] = 1 if reader.node.op_type in ("Conv", "ConvTranspose") else -1
    return found


def factors(scaling: Scaling, groups: Iterable[Classes], known: Mapping[str, Channels], alpha: float) -> Factors:
    """A power of two for each class, geometric mean about 1 in each group; 1 for channels that are always 0.

    Args:
        scaling: what can be scaled.
        groups: of classes, each to be balanced by itself; all others keep factor 1.
        known: what the layers read.
        alpha: 0 makes all weights alike, 1 all activations.
    """
    activations, weights = _greatest(scaling, known)
    exponents = np.zeros(scaling.count)
    for group in groups:
        live = group[(activations[group] > 0) & (weights[group] > 0)]
        if not live.size:
            continue
        wanted = alpha * np.log2(activations[live]) - (1 - alpha) * np.log2(weights[live])
        exponents[live] = np.clip(_whole(wanted), -BOUND, BOUND)
    return np.exp2(exponents).astype(np.float32)


def _whole(wanted: Array) -> Array:
    """Whole exponents near the wanted ones less their mean; what is left of these would be rounded to 0."""
    left, taken = wanted - wanted.mean(), np.zeros_like(wanted)
    while np.abs(left).max() > ROUNDED:
        step = np.where(np.abs(left) > ROUNDED, np.rint(left), 0)
        taken, left = taken + step, left - step
        left -= left.mean()
    return taken


def _greatest(scaling: Scaling, known: Mapping[str, Channels]) -> tuple[Array, Array]:
    """The greatest activation, and the greatest weight, of each class; 0 where none is known."""
    activations, weights = np.zeros(scaling.count), np.zeros(scaling.count)
    for reader in scaling.readers:
        source = reader.node.inputs[0]
        channels = known.get(source.name or "") if source is not None else None
        if channels is None or not reader.classes.any():
            continue
        magnitude = np.maximum(-channels.low, channels.high)
        weight = column_weights(reader, channels)
        share = (magnitude * weight).max()  # no factor changes it, so values of all sizes can be compared
        if share > 0:
            np.maximum.at(activations, reader.classes, magnitude / share)
            np.maximum.at(weights, reader.classes, weight)
    return activations, weights


def column_weights(reader: Reader, channels: Channels) -> Array:
    """``[K]``: the greatest weight that reads each channel, relative to the root mean square of the output it makes.

    The output's mean square is estimated as if channels were independent: ``sum_i W_i^2 E[x_i^2]``.
    """
    rows = reader.rows()
    power = (np.square(rows).sum(axis=2) * channels.square[reader.places]).sum(axis=1)
    relative = np.abs(rows).max(axis=2) / np.sqrt(np.where(power > 0, power, np.inf))[:, None]
    if len(reader.places) == 1:
        return np.asarray(relative.max(axis=0), np.float64)
    greatest = np.zeros(len(reader.classes))
    np.maximum.at(greatest, reader.places, relative)
    return greatest


def noise(readers: Iterable[Reader], channels: Channels, divided: Array) -> float:
    """Estimated noise that int8 adds to what layers make of one value, relative to their outputs, mean over these.

    Rounding errors are uniform and independent: a twelfth of the squared step of the input, ``sum_i W_i^2`` times, and
    of that of the weight, ``sum_i E[x_i^2]`` times.

    Args:
        readers: layers that read the value.
        channels: of the value.
        divided: factors ``[K]`` that the channels are divided by, and the weights multiplied with.
    """
    step = ((channels.high / divided).max(initial=0) - (channels.low / divided).min(initial=0)) / LEVELS
    powers, parts = channels.square / divided**2, []
    for reader in readers:
        rows = reader.rows() * divided[reader.places][..., None]
        squares = np.square(rows).sum(axis=2)
        output = (squares * powers[reader.places]).sum(axis=1)
        steps = np.abs(rows).max(axis=(1, 2)) / WEIGHT_MAX
        noise = step**2 * squares.sum(axis=1) + steps**2 * powers[reader.places].sum(axis=1) * rows.shape[2]
        parts.append(noise[output > 0] / (12 * output[output > 0]))
    together = np.concatenate(parts)
    return float(together.mean()) if together.size else 0.0
