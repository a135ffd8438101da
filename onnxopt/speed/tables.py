"""The numbers of a result as people read them: one table for each question, for the terminal and for Markdown."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from onnxopt.benchmark import Comparison, Environment
from onnxopt.fresh import Spread
from onnxopt.speed.baseline import Against
from onnxopt.speed.options import Setting, size
from onnxopt.speed.result import Measurement, Speed, reason

SECONDS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"))
BYTES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))
NEAR = 0.05
"""Ratios nearer to 1 than this have a digit more."""


_Cells = tuple[Measurement, tuple[str, ...]]


@dataclass(frozen=True)
class Row:
    """What one model in one setting has in the columns of a table."""

    setting: str
    model: str
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """Numbers that belong together; every interval is in brackets behind its number."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


_Rows = Callable[[Iterable[_Cells]], tuple[Row, ...]]


def tables(result: Speed) -> list[Table]:
    """All that have a row."""
    name = {found.path: shown for found, shown in zip(result.models, names(result), strict=True)}
    labels = settings_in_short(result.settings)

    def rows(cells: Iterable[_Cells]) -> tuple[Row, ...]:
        return tuple(Row(labels[each.setting.label], name[each.model], words) for each, words in cells)

    compared = [(each, each.comparison) for each in result.measurements if each.comparison is not None]
    through = list(_throughput(result.measurements))
    found = [
        _latency(result.measurements, rows),
        Table(
            "ratio",
            ("ratio", "verdict", "because the interval"),
            rows((each, (ratio(pair), pair.verdict.value, reason(pair))) for each, pair in compared),
        ),
        Table("throughput", ("streams", "samples/s", "ratio", "verdict"), rows(through)),
        *_fresh(result.measurements, rows),
        _stored(result, name, labels),
    ]
    return [table for table in found if table.rows]


def names(result: Speed) -> list[str]:
    """Of the models: their file names, where these tell them apart; else their paths."""
    short = [Path(model.path).name for model in result.models]
    return short if len(set(short)) == len({model.path for model in result.models}) else [m.path for m in result.models]


def settings_in_short(settings: Sequence[Setting]) -> dict[str, str]:
    """Label to what is not the same in all settings; empty where there is one."""
    words = [setting.words() for setting in settings]
    return {
        setting.label: ", ".join(word for word in own if any(word not in other for other in words))
        for setting, own in zip(settings, words, strict=True)
    }


def ratio(found: Comparison | Against) -> str:
    """``2.02x [1.99, 2.05]``; with three decimals near 1."""
    places = 3 if abs(found.ratio - 1) < NEAR else 2
    high = "?" if math.isinf(found.high) else f"{found.high:.{places}f}"
    return f"{found.ratio:.{places}f}x [{found.low:.{places}f}, {high}]"


def with_interval(value: float, low: float, high: float, factor: float = 1.0) -> str:
    """``1.23 [1.22, 1.25]``: three digits; ``?`` where the interval has no end."""
    places = max(0, 2 - math.floor(math.log10(value / factor))) if value > 0 else 0
    places = min(places, 3)
    ends = ("?" if math.isinf(end) else f"{end / factor:.{places}f}" for end in (low, high))
    return f"{value / factor:.{places}f} [{', '.join(ends)}]"


def unit_of(values: Iterable[float], units: Sequence[tuple[float, str]]) -> tuple[float, str]:
    """The largest unit of which each value has at least one; the smallest where there is none."""
    least = min((value for value in values if value > 0), default=0.0)
    return next((unit for unit in units if least >= unit[0]), units[-1])


def input_line(result: Speed) -> str:
    """The shapes of the inputs of the first setting, and where they came from."""
    shapes = ", ".join(f"{name} {size(shape)}" for name, shape in result.measurements[0].shapes.items())
    several = " in the first setting" if len(result.settings) > 1 else ""
    return f"{shapes}{several} ({result.data})"


def environment_line(found: Environment) -> str:
    """Where it was measured."""
    threads = f"{found.threads} thread{'' if found.threads == 1 else 's'}"
    where = found.provider if found.gpu is None else f"{found.provider} ({found.gpu})"
    return (
        f"{found.processor}, {found.cores} cores, {where}, {threads}, ONNX Runtime {found.onnxruntime}, "
        f"Python {found.python}, others used {found.foreign_load:.0%} of a CPU"
    )


def model_lines(result: Speed) -> list[str]:
    """Path, size and hash of each model."""
    factor, unit = unit_of((model.size for model in result.models), BYTES)
    return [f"{model.path} ({model.size / factor:.3g} {unit}, sha256 {model.sha256[:12]})" for model in result.models]


def _latency(measurements: Sequence[Measurement], rows: _Rows) -> Table:
    factor, unit = unit_of((each.timing.median for each in measurements), SECONDS)
    columns = tuple(f"p{percent} ({unit})" for percent in measurements[0].percentiles)
    cells = (
        (each, tuple(with_interval(*found, factor) for found in each.percentiles.values())) for each in measurements
    )
    return Table("latency", columns, rows(cells))


def _throughput(measurements: Sequence[Measurement]) -> Iterator[_Cells]:
    for each in measurements:
        for found in each.streams:
            pair = found.comparison
            judged = ("", "") if pair is None else (ratio(pair), pair.verdict.value)
            yield each, (str(found.streams), with_interval(*found.per_second), *judged)


def _fresh(measurements: Sequence[Measurement], rows: _Rows) -> list[Table]:
    measured = [(each, each.fresh) for each in measurements if each.fresh is not None]
    seconds, second = unit_of((found.load.median for _, found in measured), SECONDS)
    first, first_unit = unit_of((found.first_run.median for _, found in measured), SECONDS)
    bytes_, byte = unit_of((found.resident.median for _, found in measured), BYTES)
    loading = ((each, (_spread(found.load, seconds), _spread(found.first_run, first))) for each, found in measured)
    held = ((each, (_spread(found.resident, bytes_), _spread(found.peak, bytes_))) for each, found in measured)
    return [
        Table("loading, fresh process", (f"load ({second})", f"first run ({first_unit})"), rows(loading)),
        Table("memory, fresh process", (f"memory ({byte})", f"peak memory ({byte})"), rows(held)),
    ]


def _spread(found: Spread, factor: float) -> str:
    return with_interval(found.median, found.low, found.high, factor)


def _stored(result: Speed, name: dict[str, str], labels: dict[str, str]) -> Table:
    ratios = result.baseline.ratios if result.baseline else ()
    rows = tuple(Row(labels[each.setting], name[each.model], (ratio(each), each.verdict.value)) for each in ratios)
    return Table("against the stored times", ("ratio", "verdict"), rows)
