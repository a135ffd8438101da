"""The speed that pruned channels buy: ResNet-50 with half of them, the same in int8, and the files of the curves."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir
from contenders import Case, Given, Settings, prepare
from int8 import WANTED_ON, cell, features, interval
from prune_cases import OURS, Subject, file_of, tidied
from turns import Job, times

from onnxopt import files, passes
from onnxopt.benchmark import LOAD_LIMIT
from onnxopt.core import Change, Context
from onnxopt.given import gather
from onnxopt.graph import array, label, nodes
from onnxopt.options import Options
from onnxopt.target import Target

HALF, INT8 = "prune-channels:ratio=0.5,importance=l1,repair=none", "quantize-int8:rounding=nearest"
GRID = 16
"""Channel counts are to be multiples of this: a register of AVX-512 holds as many floats."""
GAIN, INT8_GAIN, SIZE, SECONDS = 3.2, 7.0, 0.3, 20.0
"""Wanted of ResNet-50: time of the original over that of the pruned file, and over that in int8; bytes of the pruned
file over those of the original. Of ResNet-50 and BERT-base: seconds of group analysis and pruning."""
FP32, PRUNED, QUANTIZED = "fp32", "pruned", "pruned, then int8"
HEADER = f"""
Speed: batch 1, one thread; time of the original over that of the file, with an interval of 95 % over 3 loads of all
files of a model, which are timed one iteration each in turn on the first calibration sample. ResNet-50 and BERT-base
have random weights; pruned is {HALF}, int8 is {INT8}.

| model | file | speed-up | share of the bytes | s | foreign load | reached |
|---|---|---|---|---|---|---|"""

Row = dict[str, Any]


def speeds(subjects: Sequence[Subject], cuts: Sequence[float], settings: Settings, rows: list[Row]) -> Iterator[str]:
    """The lines of the table; ``rows`` grows with them."""
    yield HEADER
    works: dict[str, Callable[[], list[Row]]] = {
        "resnet50": functools.partial(resnet50, settings),
        "bert_base": functools.partial(bert_base, settings),
        **{subject.name: functools.partial(curve, subject, cuts, settings) for subject in subjects},
    }
    for name, work in works.items():
        try:
            found = work()
        except Exception as error:  # a row must never take the table down with it
            found = [{"name": name, "file": "", "error": f"{type(error).__name__}: {error}", "missed": []}]
        rows += found
        yield from map(line, found)


def resnet50(settings: Settings) -> list[Row]:
    """Half of the channels of every group; and that in int8."""
    given = prepare(Case("resnet50", real=False), settings)
    original, folder = files.load(given.model), given.model.parent
    model = files.load(tidied(original, folder))
    samples = gather(original, Options(data=str(given.calib), eval_data=str(given.held_out), metric="relative-error"))
    context = Context(Target(), samples.calibration)
    pruned, seconds = applied(HALF, model, context)
    quantized, more = applied(INT8, pruned, context)
    paths = {FP32: given.model, PRUNED: folder / "pruned.onnx", QUANTIZED: folder / "pruned-int8.onnx"}
    files.save(pruned, paths[PRUNED])
    files.save(quantized, paths[QUANTIZED])
    found = timed(given, paths, settings)
    found[PRUNED] |= {"seconds": seconds, "missed": list(missed(found[PRUNED], seconds, off_grid(model, pruned)))}
    slow = set(features()) >= WANTED_ON and found[QUANTIZED]["gain"][0] < INT8_GAIN
    found[QUANTIZED] |= {"seconds": more, "missed": [f"under {INT8_GAIN}x"] if slow else []}
    return [{"name": "resnet50", **row} for row in found.values()]


def missed(row: Row, seconds: float, off: Sequence[str]) -> Iterator[str]:
    """What of ResNet-50's wanted numbers is not there."""
    if row["gain"][0] < GAIN:
        yield f"under {GAIN}x"
    if row["size"] > SIZE:
        yield f"over {SIZE:.0%} of the bytes"
    if seconds >= SECONDS:
        yield f"over {SECONDS:g} s"
    if off:
        yield f"off the grid: {', '.join(off[:3])}"


def bert_base(settings: Settings) -> list[Row]:
    """Seconds alone."""
    given = prepare(Case("bert_base", real=False), settings)
    model = files.load(tidied(files.load(given.model), given.model.parent))
    _, seconds = applied(HALF, model, Context(Target()))
    late = [f"over {SECONDS:g} s"] if seconds >= SECONDS else []
    return [{"name": "bert_base", "file": PRUNED, "error": None, "seconds": seconds, "missed": late}]


def curve(subject: Subject, cuts: Sequence[float], settings: Settings) -> list[Row]:
    """Our files of the curve, made by this run or an earlier one."""
    given = prepare(Case(subject.name), settings)
    made = {f"{cut:.0%} cut": file_of(settings, subject.name, OURS, cut) for cut in cuts}
    paths = {FP32: given.model, **{name: path for name, path in made.items() if path.exists()}}
    if len(paths) == 1:
        raise RuntimeError("there are no pruned files yet: run without --latency first")
    return [{"name": subject.name, **row} for row in timed(given, paths, settings).values()]


def applied(words: str, model: ir.Model, context: Context) -> tuple[ir.Model, float]:
    """A copy that a pass has changed, and its seconds.

    Raises:
        RuntimeError: if it changed nothing.
    """
    copy, started = model.clone(), time.perf_counter()
    found = passes.parse(words).run(copy, context)
    seconds = time.perf_counter() - started
    if not any(isinstance(one, Change) for one in found):
        raise RuntimeError(f"{words} changed nothing: {'; '.join(map(str, found[:3]))}")
    return copy, seconds


def off_grid(before: ir.Model, after: ir.Model, grid: int = GRID) -> list[str]:
    """The layers with a channel count that is another than before and no multiple of ``grid``."""
    old, new = (
        {label(node): shape_of(node) for node in nodes(model, "Conv", "Gemm", "MatMul")} for model in (before, after)
    )
    return [
        f"{name} {new[name]}"
        for name in old.keys() & new.keys()
        if any(one != other and other % grid for one, other in zip(old[name], new[name], strict=True))
    ]


def shape_of(node: ir.Node) -> tuple[int, ...]:
    """Of the constant weight; empty where there is none."""
    weight = array(node.inputs[1])
    return () if weight is None else weight.shape


def timed(given: Given, paths: Mapping[str, Path], settings: Settings) -> dict[str, Row]:
    """A row for each file but the first, against which they are timed."""
    names, last = {name: str(path) for name, path in paths.items()}, list(paths)[-1]
    job = Job(names, last, str(given.calib), str(given.held_out), state=given.state, min_seconds=settings.seconds)
    found = times(job)
    full, load = paths[FP32].stat().st_size, found["environment"]["foreign_load"]
    return {
        name: {
            "file": name,
            "error": None,
            "gain": gain,
            "size": paths[name].stat().st_size / full,
            "foreign_load": load,
            "missed": [],
        }
        for name, gain in found["gain"].items()
    }


def line(row: Row) -> str:
    """A row of the table."""
    if row["error"]:
        return f"| {row['name']} | failed: {cell(row['error'])} |"
    load = row.get("foreign_load")
    cells = [
        row["name"],
        row["file"],
        interval(row["gain"]) if "gain" in row else "-",
        f"{row['size']:.3f}" if "size" in row else "-",
        f"{row['seconds']:.1f}" if "seconds" in row else "-",
        "-" if load is None else f"{load:.0%}{' !' if load > LOAD_LIMIT else ''}",
        "no: " + "; ".join(row["missed"]) if row["missed"] else "yes",
    ]
    return f"| {' | '.join(map(cell, cells))} |"
