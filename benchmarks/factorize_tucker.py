"""Tucker-2 of 3x3 convolutions: the error of their outputs, fitted to what they read and by the higher-order SVD."""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from contenders import Settings
from factorize_rows import Row, line, rows_of
from prune_cases import Ground, Subject

from onnxopt.calibrate.inputs import input_moments
from onnxopt.calibrate.moments import Moment
from onnxopt.calibrate.sensitivity import output_error
from onnxopt.layers import Weight, weights
from onnxopt.passes.factorize.candidates import parted
from onnxopt.passes.factorize.fit import fitted
from onnxopt.passes.factorize.split import Shape, Split

TUCKER = ("squeezenet11", "resnet56_cifar10")
FRACTIONS = (0.25, 0.375, 0.5, 0.625, 0.75)
NARROWEST = 16
"""Channels: the first convolution of a network has three."""
HOSVD, PLAIN, AWARE = "hosvd", "plain", "aware"
HEADER = """
Tucker-2 of 3x3 convolutions, ranks a share of the channels on both sides: what is lost of the variance of a layer's
outputs on calibration samples that nothing was fitted on, the geometric mean over the layers. Wanted: less than by the
higher-order SVD, in every layer.

| model | layers | share | higher-order SVD | in turns, on weights | in turns, on what is read | less in | reached |
|---|---|---|---|---|---|---|---|"""


def errors(names: Sequence[str], settings: Settings, rows: list[Row]) -> Iterator[str]:
    """The lines of the table; ``rows`` grows with them, and a CSV file of each model, layer by layer."""
    yield HEADER
    for name in names:
        for row in rows_of(name, functools.partial(compared, name, settings), rows):
            yield line(row, [] if row["error"] else cells(row))


def compared(name: str, settings: Settings) -> Iterator[Row]:
    """The rows of a model."""
    ground = Ground(Subject(name), settings)
    chosen = [weight for weight in weights(ground.model)[0] if _suits(weight)]
    pairs = zip(*(input_moments(ground.model, chosen, part) for part in parted(ground.context)), strict=True)
    found: dict[float, list[dict[str, float]]] = {share: [] for share in FRACTIONS}
    layers: list[dict[str, object]] = []
    for (weight, fit), (_, held) in pairs:
        for share in FRACTIONS:
            each = lost(weight, share, fit, held)
            found[share].append(each)
            layers.append({"layer": weight.name, "share": share, **each})
    write_csv(settings.work / f"tucker-{name}.csv", layers)
    for share, many in found.items():
        means = {tool: float(np.exp(np.mean([np.log(one[tool]) for one in many]))) for tool in many[0]}
        less = sum(one[AWARE] < one[HOSVD] for one in many)
        missed = [] if less == len(many) else [f"not less in {len(many) - less} layers"]
        yield {"share": share, "layers": len(many), "less": less, **means, "missed": missed}


def _suits(weight: Weight) -> bool:
    layer = weight.layers[0]
    shape = layer.numbers().shape
    return layer.node.op_type == "Conv" and layer.group == 1 and shape[2:] == (3, 3) and min(shape[:2]) >= NARROWEST


def lost(weight: Weight, share: float, fit: Moment, held: Moment) -> dict[str, float]:
    """The error of each tool."""
    shape = Shape.of(weight.layers[0])
    split = Split(((), (0, 1), ()), (round(share * shape.inputs), round(share * shape.outputs)))
    made: Mapping[str, np.ndarray] = {
        HOSVD: hosvd(weight, split),
        PLAIN: fitted(weight, split, None).rows,
        AWARE: fitted(weight, split, fit).rows,
    }
    return {tool: max(output_error(weight, rows, held), 1e-12) for tool, rows in made.items()}


def hosvd(weight: Weight, split: Split) -> np.ndarray:
    """The rows that the leading singular vectors of both unfoldings span, as De Lathauwer et al. (2000) have it."""
    rows = weight.rows.astype(np.float64)
    cube = rows.reshape(len(rows), -1, weight.inputs)  # [outputs, positions, inputs]
    for axis, rank in ((2, split.between[0]), (0, split.between[1])):
        unfolded = np.moveaxis(rows.reshape(cube.shape), axis, 0).reshape(cube.shape[axis], -1)
        basis = np.linalg.svd(unfolded, full_matrices=False)[0][:, :rank]
        cube = np.moveaxis(np.tensordot(basis @ basis.T, cube, axes=(1, axis)), 0, axis)
    return cube.reshape(rows.shape)


def cells(row: Row) -> list[str]:
    """Of the table."""
    return [
        str(row["layers"]),
        f"{row['share']:g}",
        *(f"{row[tool]:.4f}" for tool in (HOSVD, PLAIN, AWARE)),
        f"{row['less']} of {row['layers']}",
    ]


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """One line for each layer and share."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
