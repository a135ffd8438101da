"""The result as a file: JSON, or Markdown fit for a pull request; and the words that both forms of text share."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from onnxopt import files
from onnxopt.errors import UsageError
from onnxopt.gate import Drop
from onnxopt.metrics.fidelity import SQNR_CAP
from onnxopt.validation.bisect import Bisection
from onnxopt.validation.layers import Layer, Layers
from onnxopt.validation.pair import QUANTIZED
from onnxopt.validation.result import Validation
from onnxopt.validation.sizes import Tried

FORMS = (".json", ".md")
SHOWN = 24
"""Rows of layers in text: those with the largest errors of their own. JSON has all."""


def check_form(path: Path) -> None:
    """Find out before the work that a result of this kind cannot be written.

    Raises:
        UsageError: for an ending other than .json or .md.
    """
    if path.suffix not in FORMS:
        raise UsageError(f"--save {path}: the ending says the form; there are {' and '.join(FORMS)}")


def write(result: Validation, path: Path) -> None:
    """Write the result in the form that the ending of the path names.

    Raises:
        UsageError: for another ending, or where it cannot be written.
    """
    check_form(path)
    in_json = path.suffix == ".json"
    files.write_text(path, json.dumps(result.to_dict(), indent=2) + "\n" if in_json else to_markdown(result))


def to_markdown(result: Validation) -> str:
    """As Markdown."""
    return "\n\n".join(_sections(result)) + "\n"


def accuracy_line(drop: Drop) -> str:
    """A metric in one sentence."""
    return (
        f"{drop.metric} {drop.before:.4f} -> {drop.after:.4f}, drop {drop.drop:+.4f} "
        f"[{drop.low:+.4f}, {drop.high:+.4f}] on {drop.samples} samples"
    )


def output_cells(result: Validation) -> Iterator[list[str]]:
    """A row for each output: name, what it holds, errors, NaN and inf, verdict."""
    for error in result.outputs:
        yield [
            error.name,
            f"{error.dtype} {error.shape}",
            f"{error.largest:.2g}",
            f"{error.relative:.2g}",
            "" if error.sqnr is None else f"{error.sqnr:.1f}",
            "" if error.cosine is None else f"{error.cosine:.6f}",
            "/".join(map(str, error.not_finite)),
            result.verdict(error),
        ]


OUTPUT_HEADINGS = ("output", "type", "max abs", "relative", "dB", "cosine", "NaN/inf", "verdict")


def size_line(tried: Tried) -> str:
    """What came of another size."""
    verdict = "not compared" if tried.note else "failed" if tried.problems else "ok"
    return f"{tried.dimension} {tried.size} (beside {tried.usual}): {verdict}"


def shown(layers: Layers) -> list[Layer]:
    """The rows with the largest errors of their own, in the order of the graph."""
    chosen = {id(row) for row in layers.worst_first[:SHOWN]}
    return [row for row in layers.rows if id(row) in chosen]


def layer_cells(row: Layer) -> list[str]:
    """Value, operator, dB, own dB, what it grows by, a mark at the worst."""
    numbers = ["" if one is None else "exact" if one == SQNR_CAP else f"{one:.1f}" for one in (row.sqnr, row.own)]
    first = row.sqnr is not None and row.grows is not None and row.sqnr + row.grows >= SQNR_CAP > row.sqnr
    numbers.append("first" if first else "" if row.grows is None else f"{row.grows:.1f}")
    odd = "another shape" if row.clash else f"{row.appeared} NaN or inf" if row.appeared else ""
    return [row.value.removesuffix(QUANTIZED), row.op, *numbers, odd or ("<- worst" if row.worst else "")]


LAYER_HEADINGS = ("value", "operator", "dB", "own dB", "grows", "")


def layers_line(layers: Layers) -> str:
    """What was compared."""
    some = "" if len(layers.rows) <= SHOWN else f"; the {SHOWN} with the largest errors of their own"
    return (
        f"{len(layers.rows)} values inside ({layers.nodes[0]} and {layers.nodes[1]} nodes, matched by {layers.how}), "
        f"{layers.samples} samples{some}"
    )


def bisection_lines(found: Bisection) -> list[str]:
    """What explains the failure, and how that was found."""
    first = (
        f"{found.changes} change{'' if found.changes == 1 else 's'}, graphs cut at {found.matched} values: "
        f"{found.runs} mixed models, {found.samples} samples, {found.seconds:.1f} s"
    )
    lines = [first]
    for group in found.groups:
        lines += [unit.words for unit in group[:1]] + [f"  and with it {unit.words}" for unit in group[1:]]
    if found.complete is not None:
        many = "these changes" if len(found.units) > 1 else "this change"
        ends = "passes" if found.complete else "still fails: there is more than could be told"
        lines.append(f"without {many} the model {ends}")
    return lines + ([found.note] if found.note else [])


def _sections(result: Validation) -> Iterator[str]:
    verdict = "cannot take the place of" if result.problems else "can take the place of"
    yield f"# onnxopt validate: {'failed' if result.problems else 'passed'}"
    yield f"`{result.model}` {verdict} `{result.reference}`."
    if result.problems:
        yield "\n".join(f"- {sentence}" for sentence in result.problems)
    if result.drops:
        yield _drops(result)
    if result.outputs:
        yield _table(OUTPUT_HEADINGS, output_cells(result))
    if result.sizes:
        yield "\n".join(f"- {size_line(tried)}" for tried in result.sizes)
    if result.bisection is not None:
        lines = bisection_lines(result.bisection)
        yield "\n".join(["## What explains it", "", *(f"- {line.strip()}" for line in lines)])
    if result.layers is not None:
        yield f"## Where the error grows\n\n{layers_line(result.layers)}."
        yield _table(LAYER_HEADINGS, map(layer_cells, shown(result.layers)))
    notes = [result.layers.note] if result.layers and result.layers.note else []
    if result.notes or notes:
        yield "\n".join(f"- note: {note}" for note in (*result.notes, *notes))
    if not result.signature:
        yield f"Data: {result.data}."


def _drops(result: Validation) -> str:
    limits = result.asked.limits
    rows = [
        [d.metric, f"{d.before:.4f}", f"{d.after:.4f}", f"{d.drop:+.4f}", f"[{d.low:+.4f}, {d.high:+.4f}]",
         f"{limits.max_drop:g}" if d is result.drop else "", str(d.samples)]
        for d in result.drops
    ]  # fmt: skip
    return _table(
        ("metric", "reference", "model", "drop", f"{limits.confidence:.0%} interval", "allowed", "samples"), rows
    )


def _table(headings: Sequence[str], rows: Iterator[list[str]] | list[list[str]]) -> str:
    lines = [_row(headings), "|---" * len(headings) + "|", *(_row(row) for row in rows)]
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
