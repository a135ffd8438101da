"""The curves of ``benchmarks/prune.py`` as files: a table and a picture for each model."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prune_cases import TITLES

Rows = Sequence[Mapping[str, Any]]
COLUMNS = ("tool", "asked", "cut", "score", "drop", "low", "high", "seconds", "bytes")


def write_csv(path: Path, rows: Rows) -> None:
    """One line for each row that did not fail."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows({**row, **row["drop"], "score": row["drop"]["after"]} for row in rows if not row["error"])


def draw(path: Path, name: str, rows: Rows) -> None:
    """Score over the share of MACs that is gone, a line for each tool, with the intervals of the drops."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    good = [row for row in rows if not row["error"]]
    for tool in dict.fromkeys(row["tool"] for row in good):
        mine = sorted((row for row in good if row["tool"] == tool), key=lambda row: float(row["cut"]))
        drops = [row["drop"] for row in mine]
        bars = [[drop["high"] - drop["drop"] for drop in drops], [drop["drop"] - drop["low"] for drop in drops]]
        cuts, scores = [100 * row["cut"] for row in mine], [drop["after"] for drop in drops]
        axes.errorbar(cuts, scores, bars, label=TITLES[tool], marker="o", markersize=4, capsize=3)
    if good:
        axes.axhline(good[0]["drop"]["before"], color="gray", linestyle=":", label="original")
        axes.set(title=name, xlabel="MACs cut, % of the whole network", ylabel=good[0]["drop"]["metric"])
        axes.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
