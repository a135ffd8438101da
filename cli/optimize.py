"""``onnxopt optimize``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxopt.cli.common import MODEL, data_options, output_options, pairs, target_options
from onnxopt.cli.printing import echo_json, working
from onnxopt.cli.summary import print_summary
from onnxopt.errors import GateRefused, PassBroke, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from onnxopt.pipeline import Step
    from onnxopt.report import Report
    from onnxopt.stages import Stage
    from onnxopt.target import Target


@click.command("optimize")
@click.argument("model", type=MODEL)
@click.option("-o", "--output", type=MODEL, help="Where the result goes; default MODEL.opt.onnx beside the model.")
@data_options
@click.option("--max-drop", type=float, default=0.01, show_default=True, help="Largest accuracy drop, absolute.")
@click.option("--min-score", type=float, help="Score the result must reach, in place of --max-drop.")
@click.option("--confidence", type=click.FloatRange(0.5, 0.999), help="Ask it of the drop's interval, not the point.")
@click.option("--goal", type=click.Choice(["latency", "size"]), default="latency", show_default=True)
@click.option(
    "--max-slowdown",
    type=click.FloatRange(0, min_open=True),
    default=1.05,
    show_default=True,
    help="With --goal size, how many times as long as the original's a run may take; under 1: faster.",
)
@target_options
@click.option("--pass", "words", multiple=True, metavar="NAME[:OPTION=VALUE,...]",
              help="Run these, in this order; 'a + b' is judged as one, of 'a | b' the best is kept, "
                   "of a range (macs=0.3..0.95) the boldest that the gate lets through.")  # fmt: skip
@click.option("--prune", is_flag=True, help="Also remove channels and heads, as many as the accuracy gate allows.")
@click.option("--recipe", type=MODEL, help="Run the passes of a recipe file.")
@click.option("--save-recipe", type=MODEL, help="Write the passes that were kept as a recipe file.")
@click.option("--time-limit", type=click.FloatRange(0, min_open=True), metavar="SECONDS", help="Then take the best.")
@click.option("--report", "reports", type=MODEL, multiple=True, help="Also write a report: .html, .md or .json.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--strict", is_flag=True, help="Exit 4 if the gate refused, 5 if a pass broke the model.")
@click.option("--force", is_flag=True, help="Allow the output to replace the input.")
@click.option("--allow-contrib", is_flag=True, help="Also use operators that only ONNX Runtime has (com.microsoft).")
@click.option("-v", "--verbose", is_flag=True, help="Show what each pass changed and left alone.")
@output_options
def command(**words: Any) -> None:
    """Optimize MODEL and write the result.

    Without --data only exact passes run, and no accuracy is measured. With --data, lossy passes are kept if the
    accuracy on held-out samples drops by at most --max-drop and the result is measurably faster (or smaller,
    with --goal size).
    """
    optimize_command(**words)


def optimize_command(
    *, model: Path, output: Path | None, reports: tuple[Path, ...], save_recipe: Path | None, strict: bool,
    verbose: bool, as_json: bool, target: Target, **words: Any,
) -> Report:  # fmt: skip
    """Turn words into options, run the optimization, print, and exit by the verdict."""
    from onnxopt import files, recipes, report
    from onnxopt.optimize import optimize

    for path in reports:
        report.check_form(path)
    for path in (*reports, *filter(None, [save_recipe])):
        files.check_writable(path, source=None, force=True)
        files.check_apart(path, [model, *filter(None, [words["data"], words["eval_data"], words["recipe"]])])
    output = output or model.with_name(f"{model.stem}.opt.onnx")
    with working(f"reading {model}", silent=as_json) as lines:
        asked = _options(target, details=bool(reports), **words)
        result = optimize(model, output, asked, partial(_print_step, lines))
    for path in reports:
        report.write(result, path)
    if save_recipe:
        from onnxopt.passes import parse_stage

        kept = [parse_stage(step.words) for step in result.steps if step.kept]
        files.write_text(save_recipe, recipes.dump(kept))
    if as_json:
        echo_json(result.to_dict())
    else:
        print_summary(result, verbose=verbose)
    if strict and result.broken:
        step = result.broken[0]
        raise PassBroke(f"{step.words}: {step.why} (undone; {output} holds the best model without it)")
    if strict and result.refused_by_gate:
        raise GateRefused(f"the accuracy gate refused every lossy pass; {output} holds the exact passes only")
    return result


def _print_step(out: Console, step: Step) -> None:
    from rich.markup import escape

    mark = "[green]+[/]" if step.kept else "[dim]-[/]"
    out.print(f"{mark} {escape(step.words)} [dim]{step.outcome.value}, {step.seconds:.1f} s[/]")


def _options(
    target: Target, *, data: str | None, eval_data: str | None, preprocess: str | None, metric: str | None,
    state: tuple[str, ...], max_drop: float, min_score: float | None, confidence: float | None, goal: str,
    words: tuple[str, ...], recipe: Path | None, time_limit: float | None, seed: int, force: bool,
    allow_contrib: bool, prune: bool, max_slowdown: float, details: bool = False,
) -> Any:  # fmt: skip
    from onnxopt.gate import Limits
    from onnxopt.optimize import Options
    from onnxopt.pipeline import Goal

    limits = Limits(max_drop, min_score, confidence is not None, confidence or 0.95)
    return Options(
        data, eval_data, preprocess, metric, limits, Goal(goal), target, pairs(state, "--state"),
        _passes(words, recipe), time_limit, seed, force, allow_contrib, max_slowdown, prune, details,
    )  # fmt: skip


def _passes(words: tuple[str, ...], recipe: Path | None) -> tuple[Stage, ...] | None:
    from onnxopt import passes, recipes

    if words and recipe:
        raise UsageError("--pass and --recipe are two ways to say the same; give one of them")
    if recipe:
        return recipes.load(recipe)
    return tuple(passes.parse_stage(word) for word in words) or None
