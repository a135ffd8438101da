"""Orders and losses of channels that were found before, kept in the user's cache folder.

A search for the amount, and the next run with another one, need them again, and they take as long as all the rest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxopt import cache
from onnxopt.calibrate import content_key
from onnxopt.core import Context
from onnxopt.passes.prune.groups import Group
from onnxopt.passes.prune.widths import Prunable

RANKING = 1
"""Raise it when the same model and data shall give other orders or losses than before."""
KEPT = 64
"""Files at most, some 100 kB each; the oldest go."""


def place(model: ir.Model, stops: Mapping[str, tuple[int, ...]], context: Context) -> Path | None:
    """The file for a model, its groups with how many channels of each may go, and samples; None where none is kept."""
    folder = cache.folder("prune")
    if folder is None or context.calibration is None:
        return None
    names = [f"{name} {max(counts)}" for name, counts in stops.items()]
    key = content_key(model, context.calibration, names, context.target, f"prune {RANKING} seed {context.seed}")
    return None if key is None else folder / f"{key}.json"


def load(path: Path | None, groups: Sequence[Group], stops: Mapping[str, tuple[int, ...]]) -> list[Prunable] | None:
    """What was kept of the groups; None if there is nothing, or it is damaged or of other groups."""
    if path is None:
        return None
    try:
        content = json.loads(path.read_text())
        found = [_read(group, content[group.name], stops[group.name]) for group in groups]
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None
    return found if all(len(one.order) == max(one.stops) for one in found) else None


def _read(group: Group, content: Mapping[str, Sequence[float]], stops: tuple[int, ...]) -> Prunable:
    order, scores, loss = (np.array(content[name]) for name in ("order", "scores", "loss"))
    if not len(order) == len(scores) == len(loss) - 1 == len(np.unique(order)):
        raise ValueError(group.name)
    return Prunable(group, group.classes[order.astype(np.int64)], scores, loss, stops)


def keep(path: Path | None, found: Sequence[Prunable]) -> None:
    """Keep them for the next time; where that is not possible, nothing happens."""
    if path is None:
        return
    content = {
        one.group.name: {
            "order": [int(np.flatnonzero(one.group.classes == gone)[0]) for gone in one.order],
            "scores": one.scores.tolist(),
            "loss": one.loss.tolist(),
        }
        for one in found
    }
    cache.keep(path, content, KEPT)
