"""The table of ``onnxopt inspect --groups``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxopt.cli.printing import readable

if TYPE_CHECKING:
    from rich.console import Console

    from onnxopt.passes.prune.listing import GroupInfo, GroupListing

NAMED = 3
"""Layers of one reason that are named."""


def print_groups(out: Console, found: GroupListing, *, members: bool) -> None:
    """The groups in a table, what each is made of if asked for, and the layers that keep their channels."""
    from rich.table import Table
    from rich.text import Text

    out.print(f"\n{len(found.groups)} groups of channels that go together")
    table = Table(box=None, pad_edge=False)
    table.add_column("group")
    for heading in ("channels", "layers", "MACs", "share", "bytes", "time"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for info in found.groups:
        table.add_row(Text(info.group.name), *_cells(info, found), Text(_note(info)))
    if found.groups:
        out.print(table)
    for info in found.groups if members else ():
        out.print(f"\n{info.group}", markup=False)
    out.print()
    for why, layers in found.staying.items():
        out.print(f"keep their channels: {_some(layers)}: {why}", markup=False)
    if found.frozen:
        out.print(f"{found.frozen} weights are inputs, too, and taken as constants here, as freeze-weights makes them")
    if found.unmeasured:
        out.print(f"time not measured: {found.unmeasured}", markup=False)


def _cells(info: GroupInfo, found: GroupListing) -> tuple[str, ...]:
    """Channels, layers that make them, MACs, their share, bytes, share of the time."""
    channels = f"{len(info.group)} x {info.group.each}" if info.group.each > 1 else str(len(info.group))
    makers = len({role.node for role in info.group.writers})
    macs = (readable(info.macs), f"{info.macs / found.macs:.1%}") if found.macs else ("?", "")
    time = f"{info.seconds / found.seconds:.1%}" if info.seconds is not None and found.seconds else "?"
    return channels, str(makers), *macs, readable(info.size, "B"), time


def _note(info: GroupInfo) -> str:
    """What is to be known of it."""
    beside = f"{info.group.fixed} more stay: {info.group.why}" if info.group.fixed else ""
    asked = f"only with normalised=yes: {info.group.inexact}" if info.group.inexact else ""
    return "; ".join(filter(None, (beside, asked)))


def _some(names: tuple[str, ...]) -> str:
    """The first of them, and how many more."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more}"
