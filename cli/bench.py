"""``onnxopt bench``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from onnxopt.cli.common import MODEL, output_options, pairs, target_options
from onnxopt.cli.printing import console, echo_json, readable, working
from onnxopt.errors import BenchmarkFailed, UsageError

if TYPE_CHECKING:
    from onnxopt.benchmark import Environment, Timing
    from onnxopt.speed import Speed
    from onnxopt.target import Target


@click.command("bench")
@click.argument("model", type=MODEL)
@click.argument("others", type=MODEL, nargs=-1, metavar="[OTHER]...")
@click.option("--data", help="Samples, of which the first is timed: .npz, a folder, module:function.")
@click.option("--preprocess", help="Of images: a preset (imagenet, ...) or resize=256,crop=224,...")
@click.option("--state", multiple=True, metavar="INPUT=OUTPUT", help="An input that starts at zero.")
@target_options
@click.option("--seconds", type=click.FloatRange(0, min_open=True), help="At least so long per pair.")
@click.option("--min-ratio", type=click.FloatRange(0), help="Exit 6 if an interval's low end is under this.")
@click.option("--not-slower", is_flag=True, help="Exit 6 if one is significantly slower than MODEL.")
@output_options
def command(
    model: Path, others: tuple[Path, ...], data: str | None, preprocess: str | None, state: tuple[str, ...],
    target: Target, seconds: float | None, min_ratio: float | None, not_slower: bool, as_json: bool,
) -> None:  # fmt: skip
    """Time MODEL, or each OTHER against it.

    Two models take turns run by run; the ratio is the time of MODEL over that of OTHER: above 1, OTHER is
    faster. A ratio that could be noise is "not significant". Without --data a random input is timed.
    """
    from onnxopt.speed import Options, measure

    if not others and (min_ratio is not None or not_slower):
        raise UsageError("--min-ratio and --not-slower compare models: give at least two")
    options = Options(data, preprocess, pairs(state, "--state"), target, seconds)
    with working("timing"):
        result = measure((model, *others), options)
    if as_json:
        echo_json(result.to_dict())
    else:
        _print(result)
    if failures := list(result.failures(min_ratio, not_slower=not_slower)):
        raise BenchmarkFailed("; ".join(failures))


def _print(result: Speed) -> None:
    out = console()
    if result.comparisons:
        _print_table(result)
    else:
        out.print(f"{'model':12} {result.models[0]}", markup=False)
        out.print(f"{'median':12} {_time(result.timing.median)}")
        out.print(f"{'p5 .. p95':12} {_spread(result.timing)}")
    if result.memory:
        before, after = (readable(size, "B") for size in result.memory)
        out.print(f"{'memory':12} {after} in this process, {before} of it before the model was loaded")
    shapes = ", ".join(f"{name} {'x'.join(map(str, s)) or 'scalar'}" for name, s in result.shapes.items())
    out.print(f"{'input':12} {shapes} ({result.data})", markup=False)
    out.print(f"{'environment':12} {_environment(result.environment)}", markup=False)
    for warning in result.warnings:
        out.print(f"warning: {warning}", markup=False)


def _print_table(result: Speed) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("model", box=None, pad_edge=False)
    for heading in ("median", "p5 .. p95", "ratio"):
        table.add_column(heading, justify="right")
    table.add_column("verdict")
    table.add_row(Text(result.models[0]), _time(result.timing.median), _spread(result.timing), "1.00x", "")
    for path, found in zip(result.models[1:], result.comparisons, strict=True):
        ratio = Text(f"{found.ratio:.2f}x [{found.low:.2f}, {found.high:.2f}]")
        table.add_row(Text(path), _time(found.b.median), _spread(found.b), ratio, found.verdict.value)
    out = console()
    out.print(table)
    out.print()


def _spread(timing: Timing) -> str:
    return f"{_time(timing.percentile(5))} .. {_time(timing.percentile(95))}"


def _time(seconds: float) -> str:
    """Three digits: ``1.23 ms``, ``45.6 us``, ``2.5 s``."""
    for factor, unit in ((1, "s"), (1e-3, "ms")):
        if seconds >= factor:
            return f"{seconds / factor:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"


def _environment(found: Environment) -> str:
    threads = f"{found.threads} thread{'' if found.threads == 1 else 's'}"
    return (
        f"{found.processor}, {found.cores} cores, {threads}, ONNX Runtime {found.onnxruntime}, "
        f"Python {found.python}, others used {found.foreign_load:.0%} of a CPU"
    )
