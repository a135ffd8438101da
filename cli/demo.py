"""``onnxopt demo``."""

from __future__ import annotations

from pathlib import Path

import click

from onnxopt.cli.common import MODEL, output_options


@click.command("demo")
@click.option("-o", "--output", type=MODEL, default=Path("demo.opt.onnx"), show_default=True)
@click.option("--report", "reports", type=MODEL, multiple=True, help="Also write a report: .html, .md or .json.")
@output_options
def command(output: Path, reports: tuple[Path, ...], as_json: bool) -> None:
    """Optimize a small ResNet trained on handwritten digits, with its accuracy measured; needs no network."""
    from onnxopt.cli.optimize import command as optimize
    from onnxopt.models.demo import demo_files

    files = demo_files()
    words = [str(files.model), "-o", str(output), "--data", str(files.data), "--eval-data", str(files.eval_data)]
    words += [word for path in reports for word in ("--report", str(path))]
    if not as_json:
        click.echo("$ onnxopt optimize " + " ".join(words))
    optimize.main([*words, *(["--json"] if as_json else [])], standalone_mode=False)
