"""Scores of real models over what is left of their multiply-accumulates: plain, fitted to what is read, refitted."""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from contenders import Settings
from factorize_rows import Row, applied, line, numbers, rows_of
from int8 import interval
from prune_cases import Ground, Subject

from onnxopt import files
from onnxopt.pipeline import compare_speed
from onnxopt.target import Target

PLAIN, AWARE, REFITTED = "plain", "aware", "refitted"
OPTIONS: Mapping[str, str] = {PLAIN: "whiten=no,repair=none", AWARE: "repair=none", REFITTED: ""}
TITLES: Mapping[str, str] = {
    PLAIN: "singular values of weights",
    AWARE: "fitted to what is read",
    REFITTED: "the same, and refitted",
}
COLUMNS = ("tool", "asked", "macs", "numbers", "score", "drop", "low", "high", "seconds", "bytes")


@dataclass(frozen=True)
class Curve:
    """What is drawn of a model.

    Attributes:
        subject: the model.
        shares: of the multiply-accumulates that are asked for.
        words: options for all of its rows.
        limit: the share of ``REFITTED`` of which the drop is limited, and to what.
        timed: shares at which the refitted file is timed.
    """

    subject: Subject
    shares: Sequence[float]
    words: str
    limit: tuple[float, float]


_LIST = (
    Curve(Subject("resnet56_cifar10"), (0.9, 0.85, 0.8, 0.7, 0.6, 0.5), "multiple=1,forms=tucker", (0.85, 0.012)),
    Curve(Subject("minilm_l6", metric="spearman-cosine"), (0.83, 0.75, 0.65, 0.5), "", (0.65, 0.01)),
)
CURVES = {one.subject.name: one for one in _LIST}
HEADER = """
Curves: scores on samples held out; the drop has a paired bootstrap interval of 95 %. Ranks are chosen over all layers
at once for the share of multiply-accumulates that is asked for, calibrated on another split without labels. Wanted of
the refitted: MiniLM loses at most 0.01 at 0.65, ResNet-56 at most 0.012 at 0.85.

| model | tool | asked | MACs left | weights left | score | drop | speed-up | s | reached |
|---|---|---|---|---|---|---|---|---|---|"""


def curves(names: Sequence[str], settings: Settings, rows: list[Row]) -> Iterator[str]:
    """The lines of the table; ``rows`` grows with them, and a CSV file of each model."""
    yield HEADER
    for name in names:
        mine: list[Row] = []
        for row in rows_of(name, functools.partial(drawn, CURVES[name], settings), mine):
            yield line(row, [] if row["error"] else cells(row))
        write_csv(settings.work / f"{name}.csv", mine)
        rows += mine


def drawn(curve: Curve, settings: Settings) -> Iterator[Row]:
    """The rows of a model."""
    ground = Ground(curve.subject, settings)
    whole = numbers(ground.model)
    for share in curve.shares:
        for tool in OPTIONS:
            words = ",".join(filter(None, [f"factorize:macs={share:g}", curve.words, OPTIONS[tool]]))
            model, _, seconds = applied(words, ground.model, ground.context)
            path = settings.work / curve.subject.name / f"{tool}-{share:g}.onnx"
            files.save(model, path)
            row: Row = {
                "tool": tool,
                "words": words,
                "asked": share,
                "macs": 1 - ground.cut(model),
                "numbers": numbers(model) / whole,
                "bytes": path.stat().st_size,
                "drop": ground.gate.measure(model).to_dict(),
                "seconds": seconds,
                "wanted": tool == REFITTED,
            }
            if tool == REFITTED and share == curve.limit[0]:
                samples = ground.context.calibration
                assert samples is not None
                speed = compare_speed(ground.model, model, samples, Target())
                row |= {"gain": [speed.ratio, speed.low, speed.high]}
            yield row | {"missed": list(missed(curve, row))}


def missed(curve: Curve, row: Row) -> Iterator[str]:
    """What of the wanted is not there."""
    share, limit = curve.limit
    if row["tool"] == REFITTED and row["asked"] == share and row["drop"]["drop"] > limit:
        yield f"drop over {limit:g}"
    if row["macs"] > row["asked"] + 1e-9 and row["numbers"] > row["asked"]:
        yield "the share"


def cells(row: Row) -> list[str]:
    """Of the table."""
    drop = row["drop"]
    return [
        TITLES[row["tool"]],
        f"{row['asked']:.2f}",
        f"{row['macs']:.3f}",
        f"{row['numbers']:.3f}",
        f"{drop['metric']} {drop['before']:.4f} -> {drop['after']:.4f}",
        f"{drop['drop']:+.4f} [{drop['low']:+.4f}, {drop['high']:+.4f}]",
        interval(row["gain"]) if "gain" in row else "-",
        f"{row['seconds']:.0f}",
    ]


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """One line for each row that did not fail."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows({**row, **row["drop"], "score": row["drop"]["after"]} for row in rows if not row["error"])
