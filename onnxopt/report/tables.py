"""The tables of a report, as rows of cells: words, and numbers with their places. All forms show the same."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from onnxopt.report.numbers import NOTHING, Content, number
from onnxopt.report.sentences import Sentence
from onnxopt.report.stairs import ORIGINAL

Row = tuple[Sentence, ...]
"""One cell for each column."""

MEMORY = (("resident", "memory after loading and one run", "bytes"), ("peak", "memory at most", "bytes"),
          ("load", "time to load", "seconds"))  # fmt: skip
PERCENTILES = {"p50": "half of the runs (p50)", "p90": "9 of 10 (p90)", "p99": "99 of 100 (p99)"}


def before_and_after(content: Content) -> list[Row]:
    """What was measured: its name, before, after, and the change."""
    return [*_accuracy(content), *_latency(content), *_sizes(content), *_memory(content), _nodes(content)]


def _accuracy(content: Content) -> Iterator[Row]:
    found = content["accuracy"]
    if found is None:
        return
    before, after = (number(content, "score", "accuracy", end) for end in ("before", "after"))
    yield [f"accuracy: {found['metric']}"], [before], [after], drop(content, "accuracy")


def drop(content: Content, *path: str | int) -> Sentence:
    """A drop with its interval."""
    by, low, high = (number(content, "signed", *path, name) for name in ("drop", "low", "high"))
    return ["drop ", by, " [", low, ", ", high, "]"]


def _latency(content: Content) -> Iterator[Row]:
    if content["latency"] is None or content["speed"] is None:
        return
    ratio = [number(content, "times", "speed", name) for name in ("ratio", "low", "high")]
    change: Sentence = [ratio[0], "x as fast [", ratio[1], ", ", ratio[2], "], ", content["speed"]["verdict"]]
    for name in PERCENTILES:
        said: Sentence = change if name == "p50" else [""]
        cells = [_interval(content, "seconds", "value", "latency", end, name) for end in ("before", "after")]
        yield [f"time of a run, {name}"], cells[0], cells[1], said


def _interval(content: Content, form: str, value: str, *path: str | int) -> Sentence:
    middle, low, high = (number(content, form, *path, name) for name in (value, "low", "high"))
    return [middle] if low.text == high.text == middle.text else [middle, " [", low, ", ", high, "]"]


def _sizes(content: Content) -> Iterator[Row]:
    for name, words in (("bytes", "file"), ("download_bytes", "download (file after zstd)")):
        before, after = (number(content, "bytes", end, name) for end in ("before", "after"))
        yield [words], [before], [after], [number(content, "percent", "ratios", name), " of before"]


def _memory(content: Content) -> Iterator[Row]:
    for name, words, form in MEMORY if content["memory"] else ():
        cells = [_interval(content, form, "median", "memory", end, name) for end in ("before", "after")]
        share: Sentence = [""]
        if name == "resident":
            share = [number(content, "percent", "ratios", name), " of before"]
        yield [words], cells[0], cells[1], share


def _nodes(content: Content) -> Row:
    before, after = (number(content, "count", end, "nodes") for end in ("before", "after"))
    return ["nodes of the graph"], [before], [after], [""]


def percentile_rows(content: Content) -> list[Row]:
    """Percentiles of the latencies with their intervals."""
    ends = ("before", "after")
    return [
        ([words], *(_interval(content, "seconds", "value", "latency", end, name) for end in ends))
        for name, words in PERCENTILES.items()
    ]


def step_rows(content: Content) -> list[Row]:
    """Every step: words, outcome, what it gave in time, bytes and accuracy, why, and how long it took."""
    return list(_step_rows(content))


def _step_rows(content: Content) -> Iterator[Row]:
    stairs = itertools.count()  # those of the kept steps, in their order
    for place, step in enumerate(content["steps"]):
        at = ("steps", place)
        size: Sentence = [NOTHING]
        if step["outcome"] == "kept" and step["bytes"] and (stair := next(stairs)) < len(content["stairs"]["bytes"]):
            size = [number(content, "signed bytes", "stairs", "bytes", stair, "by")]
        yield (
            [step["pass"]],
            [step["outcome"]],
            _ratio(content, step, place),
            size,
            drop(content, *at, "drop") if step["drop"] else [NOTHING],
            [step["why"]],
            [number(content, "seconds", *at, "seconds")],
        )


def _ratio(content: Content, step: dict[str, Any], place: int) -> Sentence:
    if step["speed"] is None:
        return [NOTHING]
    ratio, low, high = (number(content, "times", "steps", place, "speed", name) for name in ("ratio", "low", "high"))
    rival = "" if not step["against"] else " than the original" if step["against"] == ORIGINAL else " than its rival"
    return [ratio, "x as fast", rival, " [", low, ", ", high, "]"]


def layer_rows(content: Content) -> list[Row]:
    """Every layer: name, planned and real kernel, seconds before and after, sensitivity, and what steps said of it."""
    return [_layer_row(content, place, layer) for place, layer in enumerate(content["layers"]["rows"])]


def _layer_row(content: Content, place: int, layer: dict[str, Any]) -> Row:
    at = ("layers", "rows", place)
    return (
        [layer["name"]],
        [layer["planned"] or "gone"],
        [_kernel(layer)],
        [number(content, "seconds", *at, "seconds_before")],
        [number(content, "seconds", *at, "seconds")],
        [number(content, "decibel", *at, "sqnr_db")],
        ["; ".join(said(layer))],
    )


def said(layer: dict[str, Any]) -> list[str]:
    """What steps did to a layer, and which left it alone, and why."""
    return [*layer["changes"], *(f"left alone by {why}" for why in layer["refusals"])]


def _kernel(layer: dict[str, Any]) -> str:
    """What runs; where that is another kernel than before, both."""
    before, after = layer["kernel_before"], layer["kernel"]
    if before and after and before != after:
        return f"{before} → {after}"
    return after or ("gone" if layer["planned"] is None else "within another")
