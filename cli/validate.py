"""``onnxopt validate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from onnxopt.cli.common import MODEL, output_options, pairs, target_options
from onnxopt.cli.printing import console, echo_json
from onnxopt.errors import GateRefused, UsageError

if TYPE_CHECKING:
    from onnxopt.target import Target
    from onnxopt.validation import Options, Validation


@click.command("validate")
@click.argument("reference", type=MODEL)
@click.argument("model", type=MODEL)
@click.option("--data", help="Samples, all used: .npz, a folder, module:function; without, random inputs.")
@click.option("--metric", help="Or module:function; default top1 where there are labels, else agreement.")
@click.option("--max-drop", type=float, help="Largest accuracy drop, absolute, with --data.  [default: 0.01]")
@click.option("--confidence", type=click.FloatRange(0.5, 0.999), help="Ask it of the drop's interval.")
@click.option("--rtol", type=click.FloatRange(0), help="Largest difference without --data.  [default: 0.001]")
@click.option("--preprocess", help="Of images: a preset (imagenet, ...) or resize=256,crop=224,...")
@click.option("--state", multiple=True, metavar="INPUT=OUTPUT", help="An output fed back as the next input.")
@target_options
@click.option("--seed", type=int, default=0, show_default=True)
@output_options
def command(
    reference: Path, model: Path, data: str | None, metric: str | None, max_drop: float | None,
    confidence: float | None, rtol: float | None, preprocess: str | None, state: tuple[str, ...],
    target: Target, seed: int, as_json: bool,
) -> None:  # fmt: skip
    """Compare MODEL with REFERENCE: same inputs and outputs, and the same results.

    Without --data each output is compared on random inputs: it may differ by --rtol of its largest magnitude.
    With --data the accuracy may drop by --max-drop. Exit 4 if MODEL is beyond these limits.
    """
    from onnxopt.gate import Limits
    from onnxopt.validation import RTOL, Options, validate

    _check_words(data, {"--max-drop": max_drop, "--confidence": confidence, "--preprocess": preprocess}, rtol)
    limits = Limits(
        max_drop=0.01 if max_drop is None else max_drop,
        strict_interval=confidence is not None,
        confidence=confidence or 0.95,
    )
    tolerance = RTOL if rtol is None else rtol
    options = Options(data, preprocess, metric, limits, tolerance, pairs(state, "--state"), target, seed)
    result = validate(reference, model, options)
    if as_json:
        echo_json(result.to_dict())
    else:
        _print(result, options)
    if result.problems:
        raise GateRefused(f"{model} cannot take the place of {reference}: {'; '.join(result.problems)}")


def _check_words(data: str | None, with_data: dict[str, float | str | None], rtol: float | None) -> None:
    """Words that would be ignored are refused."""
    for word, value in with_data.items():
        if data is None and value is not None:
            raise UsageError(f"{word} needs data to measure on: add --data")
    if data is not None and rtol is not None:
        raise UsageError("--rtol is for random inputs; with --data the accuracy is judged: use --max-drop")


def _print(result: Validation, options: Options) -> None:
    from rich.table import Table
    from rich.text import Text

    out = console()
    same = "not the same" if result.signature else "the same"
    for name, line in (("reference", result.reference), ("model", result.model), ("signature", same)):
        out.print(f"{name:10} {line}", markup=False)
    if not result.signature:
        out.print(f"{'data':10} {result.data}", markup=False)
    if result.drop is not None:
        out.print(f"{'accuracy':10} {_accuracy(result, options)}", markup=False)
    if result.differences:
        table = Table("output", "difference", "allowed", "", box=None, pad_edge=False)
        for found in result.differences:
            verdict = "ok" if found.ok else "too far"
            table.add_row(Text(found.output), f"{found.relative:.2g}", f"{found.allowed:.2g}", verdict)
        out.print()
        out.print(table)
        out.print("differences are relative to the largest magnitude of the output")
    for note in result.notes:
        out.print(f"note: {note}", markup=False)


def _accuracy(result: Validation, options: Options) -> str:
    drop = result.drop
    assert drop is not None
    return (
        f"{drop.metric} {drop.before:.4f} -> {drop.after:.4f}, drop {drop.drop:+.4f} "
        f"[{drop.low:+.4f}, {drop.high:+.4f}] on {drop.samples} samples (allowed {options.limits.max_drop:g})"
    )
