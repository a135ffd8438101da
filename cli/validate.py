"""``onnxopt validate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from onnxopt.cli.common import MODEL, output_options, pairs, target_options
from onnxopt.cli.printing import echo_json, working
from onnxopt.errors import GateRefused, UsageError

if TYPE_CHECKING:
    from onnxopt.target import Target


@click.command("validate")
@click.argument("reference", type=MODEL)
@click.argument("model", type=MODEL)
@click.option("--data", help="Samples, all used: .npz, a folder, module:function; without, random inputs.")
@click.option("--metric", "metrics", multiple=True,
              help="Or module:function; default top1 where there are labels, else agreement. "
                   "May be given again: the first is asked of, the others are shown.")  # fmt: skip
@click.option("--max-drop", type=float, help="Largest accuracy drop, absolute, with --data.  [default: 0.01]")
@click.option("--confidence", type=click.FloatRange(0.5, 0.999), help="Ask it of the drop's interval.")
@click.option("--rtol", type=click.FloatRange(0), help="Largest difference without --data.  [default: 0.001]")
@click.option("--min-sqnr", type=float, metavar="DB", help="Least SQNR of each output; in place of --rtol.")
@click.option("--layers", is_flag=True, help="Compare the values inside: where does the error grow?")
@click.option("--bisect", is_flag=True, help="Where MODEL fails: find the smallest set of changes to blame.")
@click.option("--preprocess", help="Of images: a preset (imagenet, ...) or resize=256,crop=224,...")
@click.option("--state", multiple=True, metavar="INPUT=OUTPUT", help="An output fed back as the next input.")
@target_options
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--save", "saved", type=MODEL, multiple=True, help="Also write the result: .json or .md.")
@output_options
def command(
    reference: Path, model: Path, data: str | None, metrics: tuple[str, ...], max_drop: float | None,
    confidence: float | None, rtol: float | None, min_sqnr: float | None, layers: bool, bisect: bool,
    preprocess: str | None, state: tuple[str, ...], target: Target, seed: int, saved: tuple[Path, ...],
    as_json: bool,
) -> None:  # fmt: skip
    """Compare MODEL with REFERENCE: same inputs and outputs, and the same results.

    Without --data each output is compared on random inputs: it may differ by --rtol of its largest magnitude.
    With --data the accuracy may drop by --max-drop. NaN or inf where REFERENCE has numbers always fail, and each
    dynamic dimension is tried at two sizes. Exit 4 if MODEL is beyond these limits.
    """
    from onnxopt import files
    from onnxopt.cli.validate_text import show
    from onnxopt.gate import Limits
    from onnxopt.validation import Options, forms, validate

    _check_words(data, {"--max-drop": max_drop, "--confidence": confidence, "--preprocess": preprocess}, rtol)
    for path in saved:
        forms.check_form(path)
        files.check_writable(path, source=None, force=True)
        files.check_apart(path, [reference, model, *filter(None, [data])])
    limits = Limits(
        max_drop=0.01 if max_drop is None else max_drop,
        strict_interval=confidence is not None,
        confidence=confidence or 0.95,
    )
    options = Options(
        data, preprocess, next(iter(metrics), None), limits, rtol, pairs(state, "--state"), target, seed,
        metrics[1:], min_sqnr, layers, bisect,
    )  # fmt: skip
    with working("comparing", silent=as_json):
        result = validate(reference, model, options)
    for path in saved:
        forms.write(result, path)
    if as_json:
        echo_json(result.to_dict())
    else:
        show(result)
    if result.problems:
        raise GateRefused(f"{model} cannot take the place of {reference}: {'; '.join(result.problems)}")


def _check_words(data: str | None, with_data: dict[str, float | str | None], rtol: float | None) -> None:
    """Words that would be ignored are refused."""
    for word, value in with_data.items():
        if data is None and value is not None:
            raise UsageError(f"{word} needs data to measure on: add --data")
    if data is not None and rtol is not None:
        raise UsageError(
            "--rtol is for random inputs; with --data the accuracy is judged: use --max-drop or --min-sqnr"
        )
