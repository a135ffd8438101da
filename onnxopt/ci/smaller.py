"""A run as ``customSmallerIsBetter``: the list that github-action-benchmark reads and draws over time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from onnxopt.ci.results import Outcome, Result, Speed


def smaller_is_better(result: Result) -> str:
    """The JSON."""
    values = [value for outcome in result.outcomes for value in _values(outcome)]
    return json.dumps(values, indent=2) + "\n"


def _values(outcome: Outcome) -> Iterator[dict[str, Any]]:
    for found in outcome.speed:
        yield _latency(outcome, found)
    if outcome.bytes:
        yield {"name": f"{outcome.name}: file", "unit": "bytes", "value": outcome.bytes[1]}
    score = outcome.accuracy.score if outcome.accuracy else None
    if score is not None and "drop" in score:
        yield {"name": f"{outcome.name}: drop of {score['metric']}", "unit": score["metric"], "value": score["drop"]}


def _latency(outcome: Outcome, found: Speed) -> dict[str, Any]:
    after = found.after
    half = max(after.high - after.median, after.median - after.low)
    return {
        "name": f"{outcome.name}: latency ({found.where})",
        "unit": "ms",
        "value": round(1e3 * after.median, 6),
        "range": f"± {1e3 * half:.3g}",
        "extra": found.line() + (f" against {found.baseline}" if found.baseline else ""),
    }
