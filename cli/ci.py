"""``onnxopt ci``."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxopt.cli.common import MODEL, output_options
from onnxopt.cli.printing import echo_json, quiet, working

if TYPE_CHECKING:
    from onnxopt.ci import Result


@click.command("ci")
@click.argument("config", type=MODEL, default=Path("onnxopt.toml"))
@click.option("--model", "only", multiple=True, metavar="NAME", help="Only these of the file.")
@click.option("--fail-if-slower", metavar="3%", help="In place of what the file says, for every model.")
@click.option("--force-baseline", is_flag=True, help="Use stored times although they are of another processor.")
@click.option("--stop-at-first-failure", is_flag=True, help="Leave out what comes after a model that fails.")
@click.option("--save", "saved", multiple=True, metavar="PATH",
              help="In place of [ci]: .json, .md, .xml (JUnit), .smaller.json (customSmallerIsBetter).")  # fmt: skip
@output_options
def command(
    config: Path, only: tuple[str, ...], fail_if_slower: str | None, force_baseline: bool,
    stop_at_first_failure: bool, saved: tuple[str, ...], as_json: bool,
) -> int:  # fmt: skip
    """Optimize, compare and time the models that CONFIG declares, against their baselines.

    CONFIG is onnxopt.toml unless given; docs/ci.md says what stands in it. All models are gone through. Exit 4 if
    one is less accurate, 6 if one is slower (or too large), 3 or 2 if one could not be read or asked, 0 if all pass.
    In GitHub Actions failures are also annotations, and the summary is added to that of the step.
    """
    from onnxopt import ci
    from onnxopt.ci.github import annotated, append_summary, complaint
    from onnxopt.ci.markdown import markdown
    from onnxopt.ci.written import prepare, write
    from onnxopt.errors import OnnxoptError
    from onnxopt.speed import form_of

    try:
        asked = ci.read(config)
        places = asked.written | dict(form_of(words) for words in saved)
        choices = ci.Choices(only, _share(fail_if_slower), force_baseline, stop_at_first_failure)
        prepare(places)
        with working("reading", silent=as_json), _terminated():
            result = ci.run(asked, choices, lambda so_far: write(so_far, places))
    except OnnxoptError as error:
        if line := complaint(config, str(error), os.environ):
            click.echo(line, err=True)
        raise
    append_summary(markdown(result), os.environ)
    _print(result, places, as_json)
    for line in annotated(result, os.environ):
        click.echo(line, err=as_json)
    return result.exit_code


def _print(result: Result, places: dict[str, Path], as_json: bool) -> None:
    from onnxopt.ci.text import text

    if as_json:
        echo_json(result.to_dict())
    elif not quiet():
        click.echo(text(result, places))
    else:
        for outcome in result.outcomes:
            for finding in outcome.findings:
                click.echo(f"onnxopt: {outcome.name}: {finding.sentence}", err=True)
    if "--debug" in sys.argv:
        for trace in filter(None, (outcome.trace for outcome in result.outcomes)):
            click.echo(trace, err=True)


def _share(words: str | None) -> float | None:
    from onnxopt.ci.schema import share
    from onnxopt.errors import UsageError

    try:
        return None if words is None else share(words)
    except ValueError as error:
        raise UsageError(f"--fail-if-slower {words}: give {error}") from None


@contextlib.contextmanager
def _terminated() -> Iterator[None]:
    """A workflow that is cancelled ends its processes by SIGTERM: then as if a key had been pressed."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
