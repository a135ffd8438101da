"""What was found out of the layers of a model before, kept in the user's cache folder.

A search for the amount, and the next run with another one, need it again, and it takes as long as all the rest.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

from onnxopt import cache
from onnxopt.calibrate import content_key
from onnxopt.core import Context
from onnxopt.layers import Weight
from onnxopt.passes.factorize.candidates import Ways
from onnxopt.passes.factorize.split import Split

SEARCH = 1
"""Raise it when the same model and data shall give other losses than before."""
KEPT = 64
"""Files at most, up to some MB each; the oldest go."""

Judged = list[tuple[Ways, float]]
"""The ways of each weight, and the divergence that its loss makes."""


def place(model: ir.Model, chosen: Sequence[Weight], context: Context, asked: object) -> Path | None:
    """The file for a model, some of its weights, samples, and all that was asked; None where none is kept."""
    folder = cache.folder("factorize")
    if folder is None or context.calibration is None:
        return None
    names = [weight.name for weight in chosen]
    words = f"factorize {SEARCH} seed {context.seed} {asked!r}"
    key = content_key(model, context.calibration, names, context.target, words)
    return None if key is None else folder / f"{key}.json"


def load(path: Path | None, chosen: Sequence[Weight]) -> Judged | None:
    """What was kept of the weights; None if there is nothing, or it is damaged or of other weights."""
    if path is None:
        return None
    try:
        content = json.loads(path.read_text())
        return [_read(weight, content[weight.name]) for weight in chosen]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _read(weight: Weight, content: dict[str, Any]) -> tuple[Ways, float]:
    losses = {
        Split(tuple(tuple(map(int, one)) for one in axes), tuple(map(int, between))): float(loss)
        for axes, between, loss in content["losses"]
    }
    if any(len(split.axes) != len(split.between) + 1 for split in losses):
        raise ValueError(weight.name)
    return Ways(weight, losses, [int(fall) for fall in content["falls"]]), float(content["gain"])


def keep(path: Path | None, found: Judged) -> None:
    """Keep it for the next time; where that is not possible, nothing happens."""
    if path is None:
        return
    content = {
        ways.weight.name: {
            "gain": gain,
            "falls": list(ways.falls),
            "losses": [[split.axes, split.between, loss] for split, loss in ways.losses.items()],
        }
        for ways, gain in found
    }
    cache.keep(path, content, KEPT)
