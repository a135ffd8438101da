"""``onnxopt report``."""

from __future__ import annotations

from pathlib import Path

import click

from onnxopt.cli.common import MODEL


@click.command("report")
@click.argument("stored", metavar="RESULT.json", type=MODEL)
@click.option("-o", "--output", type=MODEL, help="Where it goes: .html, .md or .json; default RESULT.html.")
@click.option("--debug", is_flag=True, expose_value=False, help="Print the traceback of an error.")
def command(stored: Path, output: Path | None) -> None:
    """Show a report that was stored with onnxopt optimize --report RESULT.json: as a page, or as Markdown."""
    from onnxopt import files, report
    from onnxopt.report.stored import read

    output = output or stored.with_suffix(".html")
    report.check_form(output)
    files.check_writable(output, source=None, force=True)
    files.check_apart(output, [stored])
    report.write_content(read(stored), output)
    click.echo(output)
