"""``onnxopt report``."""

from __future__ import annotations

from pathlib import Path

import click

from onnxopt.cli.common import MODEL, output_options
from onnxopt.cli.printing import echo_json


@click.command("report")
@click.argument("stored", metavar="RESULT.json", type=MODEL)
@click.option("-o", "--output", type=MODEL, help="Where it goes: .html, .md or .json; default RESULT.html.")
@output_options
def command(stored: Path, output: Path | None, as_json: bool) -> None:
    """Show a report that was stored with onnxopt optimize --report RESULT.json: as a page, or as Markdown.

    With --json it is printed once it is checked, and a file is written only with -o.
    """
    from onnxopt import files, report
    from onnxopt.report.stored import read

    if output is None and not as_json:
        output = stored.with_suffix(".html")
    if output is not None:
        report.check_form(output)
        files.check_writable(output, source=None, force=True)
        files.check_apart(output, [stored])
    content = read(stored)
    if output is not None:
        report.write_content(content, output)
    if as_json:
        echo_json(content)
    else:
        click.echo(output)
