"""``onnxopt inspect``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from onnxopt.cli.common import MODEL, SHAPE, output_options, target
from onnxopt.cli.groups import print_groups
from onnxopt.cli.printing import console, counted, echo_json, readable, working

if TYPE_CHECKING:
    from rich.console import Console

    from onnxopt.inspection import Inspection, Layer, ValueInfo
    from onnxopt.passes.prune.listing import GroupListing
    from onnxopt.target import Target

ASSUMED = 4
"""Inputs that are listed with the shapes they were given."""
HEAVIEST = 10
QUANTIZED = ("int8", "uint8", "int4", "uint4", "int2", "uint2")


@click.command("inspect")
@click.argument("model", type=MODEL)
@click.option("--layers", is_flag=True, help="Show every layer, not only the ten with the most MACs.")
@click.option("--groups", is_flag=True, help="Show which channels prune-channels can remove together.")
@click.option("-v", "--verbose", is_flag=True, help="With --groups: also show what each group is made of.")
@click.option("--shape", "shapes", multiple=True, metavar="NAME=1x3x224x224", help=SHAPE)
@output_options
def command(model: Path, layers: bool, groups: bool, verbose: bool, shapes: tuple[str, ...], as_json: bool) -> None:
    """Show what MODEL is made of: inputs, operators, parameters, multiply-accumulates (MACs), bytes.

    Dynamic inputs count with 1 on axis 0, or as --shape says. ONNX Runtime is not needed (but to measure the time of
    --groups), and operators that it does not know are listed like the others.
    """
    from onnxopt.inspection import inspect

    where = target("cpu", 1, shapes)
    with working(f"reading {model}"):
        found = inspect(model, where.shapes)
        listed = _listing(model, where) if groups else None
    if as_json:
        echo_json({**found.to_dict(), **({"groups": listed.to_dict()} if listed else {})})
        return
    out = console()
    for name, line in _facts(found):
        out.print(f"{name:11} {line}", markup=False)
    if listed is None or layers:
        _table(out, found, all_layers=layers)
    if listed is not None:
        print_groups(out, listed, members=verbose)


def _listing(model: Path, where: Target) -> GroupListing:
    from onnxopt import files
    from onnxopt.passes.prune.listing import listing

    return listing(files.load(model), where)


def _facts(found: Inspection) -> Iterable[tuple[str, str]]:
    """Label and line, the first the most asked for."""
    about = [readable(found.size, "B"), *(f"{domain} {version}" for domain, version in found.opsets.items())]
    about += [f"IR {found.ir_version}", *([f"by {found.producer}"] if found.producer else [])]
    yield "model", f"{found.source}: {', '.join(about)}"
    yield from (("input", _value(value)) for value in found.inputs)
    yield from (("output", _value(value)) for value in found.outputs)
    yield "parameters", _parameters(found)
    yield "MACs", _macs(found)
    each = (f"{c.dtype} {readable(c.size, 'B')} ({readable(c.elements)})" for c in found.constants)
    yield "constants", ", ".join(each) or "none"
    yield "operators", f"{sum(found.operators.values())}: {counted(dict(found.operators))}"
    if found.functions:
        yield "functions", f"{', '.join(found.functions)} (inlined in what is counted here)"
    if found.subgraphs:
        yield "subgraphs", f"{found.subgraphs}; the body of a loop or branch counts once"
    if found.external:
        yield "external", ", ".join(f"{name} {readable(size, 'B')}" for name, size in found.external.items())
    if found.custom_domains:
        yield "custom", f"{counted(dict(found.custom_domains))} (nodes by domain)"


def _value(value: ValueInfo) -> str:
    dynamic = f"   dynamic: {', '.join(dict.fromkeys(value.dynamic))}" if value.dynamic else ""
    return f"{value.name} {value}{dynamic}"


def _parameters(found: Inspection) -> str:
    """Float constants, and weights that are quantized already."""
    small = [f"{readable(c.elements)} {c.dtype}" for c in found.constants if c.dtype in QUANTIZED]
    return ", ".join([readable(found.parameters) + (" float" if small else ""), *small])


def _macs(found: Inspection) -> str:
    """The sum, the shapes it holds for, and what is not in it."""
    unknown = found.uncounted
    known = any(layer.macs for layer in found.layers)
    line = readable(found.macs) if known or not unknown else "unknown"
    if found.assumed:
        more = f" and {len(found.assumed) - ASSUMED} more" if len(found.assumed) > ASSUMED else ""
        line += f" for {', '.join(f'{value.name} {value}' for value in found.assumed[:ASSUMED])}{more}"
    if "shape" in unknown:
        line += f"; not counted, shapes unknown: {counted(unknown['shape'])}{_advice(found)}"
    if "operator" in unknown:
        line += f"; not counted, no formula: {counted(unknown['operator'])}"
    return line


def _advice(found: Inspection) -> str:
    """Which input to give a shape."""
    open_inputs = [value for value in found.assumed if value.dynamic or value.shape is None]
    if not open_inputs:
        return ""
    example = "x".join(str(dim) if isinstance(dim, int) else "N" for dim in open_inputs[0].shape or ("N",))
    return f" (give the shape: --shape {open_inputs[0].name}={example})"


def _table(out: Console, found: Inspection, *, all_layers: bool) -> None:
    """All layers, or the heaviest."""
    layers: Sequence[Layer] = found.layers if all_layers else found.heaviest(HEAVIEST)
    if not layers:
        return
    from rich.table import Table
    from rich.text import Text

    busy = sum(1 for layer in found.layers if layer.macs)
    title = f"all {len(layers)}" if all_layers else f"{len(layers)} heaviest of {busy}"
    table = Table(box=None, pad_edge=False)
    for heading in ("layer", "operator", "output"):
        table.add_column(heading)
    for heading in ("parameters", "MACs", "share"):
        table.add_column(heading, justify="right")
    for layer in layers:
        table.add_row(Text(layer.name), Text(layer.op), *_cells(layer, found.macs))
    out.print(f"\n{title} layers{'' if all_layers else ' with MACs'}")
    out.print(table)


def _cells(layer: Layer, total: int) -> tuple[str, str, str, str]:
    """Output shape, parameters, MACs, share."""
    shape = "?" if layer.shape is None else "x".join(map(str, layer.shape)) or "scalar"
    parameters = readable(layer.parameters) if layer.parameters else ""
    if not layer.macs:
        return shape, parameters, "" if layer.macs == 0 else "?", ""
    return shape, parameters, readable(layer.macs), f"{layer.macs / total:.1%}"
