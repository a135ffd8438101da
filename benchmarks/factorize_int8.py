"""Does low rank gain anything in front of int8? Candidates in a contest of ``onnxopt optimize``: the clock decides."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

from contenders import Case, Settings, prepare
from factorize_rows import Row, line, rows_of

from onnxopt.gate import Limits
from onnxopt.optimize import optimize
from onnxopt.options import Options
from onnxopt.passes import parse_stage
from onnxopt.pipeline import Step
from onnxopt.recipes import EXACT

QUANTIZE = "quantize-int8:rounding=nearest"
FLAT = f"flatten-matmul + {QUANTIZE}"
INT8 = {
    "resnet56_cifar10": (f"{QUANTIZE} | factorize:macs=0.85 + {QUANTIZE}", None, 0.02),
    "minilm_l6": (
        f"{FLAT} | factorize:macs=0.65 + {FLAT} | factorize:macs=0.85,int8=yes + {FLAT}",
        "spearman-cosine",
        0.03,
    ),
}
"""What competes on a model, its metric, and the drop that is allowed, generous, so that the clock decides."""
HEADER = """
In front of int8: what competes, and what the clock says of it; the first against float, the others against the best
before them. Nothing is wanted: what low rank gains in front of int8 is what the clock says.

| model | passes | outcome | why | drop |  |
|---|---|---|---|---|---|"""


def contests(names: Sequence[str], settings: Settings, rows: list[Row]) -> Iterator[str]:
    """The lines of the table; ``rows`` grows with them."""
    yield HEADER
    for name in names:
        for row in rows_of(name, functools.partial(contest, name, settings), rows):
            yield line(row, [] if row["error"] else cells(row))


def contest(name: str, settings: Settings) -> Iterator[Row]:
    """The steps of a model."""
    given, (words, metric, drop) = prepare(Case(name), settings), INT8[name]
    options: dict[str, Any] = {"data": str(given.calib), "eval_data": str(given.held_out), "metric": metric}
    steps = tuple(map(parse_stage, (*EXACT, words)))
    report = optimize(
        given.model,
        settings.work / name / "int8.onnx",
        Options(**options, limits=Limits(drop), passes=steps, force=True),
    )
    yield from (found(step) for step in report.steps if "quantize" in step.words)


def found(step: Step) -> Row:
    """A candidate."""
    drop = step.drop.drop if step.drop else None
    return {"words": step.words, "outcome": step.outcome.value, "why": step.why, "drop": drop, "wanted": False}


def cells(row: Row) -> list[str]:
    """Of the table."""
    return [row["words"], row["outcome"], row["why"], "-" if row["drop"] is None else f"{row['drop']:+.4f}"]
