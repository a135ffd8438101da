"""``onnxopt``: finds the command, imports only that one, and turns errors into sentences and exit codes."""

from __future__ import annotations

import importlib
import sys
import traceback
import warnings
from typing import Any, NoReturn

import click

from onnxopt import __version__
from onnxopt.errors import OnnxoptError

COMMANDS = {
    "optimize": "Make a model faster or smaller, keeping only what a measurement supports.",
    "inspect": "Show operators, parameters, MACs, bytes, dynamic dimensions, and each layer.",
    "validate": "Compare the outputs or the accuracy of a model with a reference.",
    "bench": "Time models against each other, with an interval on the ratio.",
    "report": "Show a stored report as a page, as Markdown, or as JSON.",
    "export": "Export a PyTorch module, or a network of the zoo, and compare the file with it.",
    "passes": "List the passes, or show one with its options.",
    "demo": "Optimize a small trained network that comes with onnxopt.",
}
INTERRUPTED = 130
DEBUG = "--debug"


class LazyGroup(click.Group):
    """Commands are listed from the table above and imported when one is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The click command of ``onnxopt.cli.<name>``."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"onnxopt.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with the nearest command for a wrong word."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from onnxopt.core import suggestion

            raise click.UsageError(f"there is no command {args[0]!r}{suggestion(args[0], COMMANDS)}", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, "-V", "--version", prog_name="onnxopt")
def cli() -> None:
    """Optimize exported ONNX models for ONNX Runtime; every step is measured and kept only if it pays.

    Exit codes: 0 done, 2 usage, 3 unreadable model or data, 4 the accuracy gate refused (with --strict),
    5 a pass broke the model (with --strict), 6 a benchmark gate failed.
    """


def main() -> NoReturn:
    """Run the command line; errors become one sentence and an exit code."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            result = cli.main(standalone_mode=False)
        code = result if isinstance(result, int) else 0
    except OnnxoptError as error:
        code = _complain(error, error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = error.exit_code
    except click.ClickException as error:
        code = _complain(error, error.exit_code, error.format_message())
    except (KeyboardInterrupt, click.Abort) as error:
        code = _complain(error, INTERRUPTED, "interrupted; nothing was written")
    except BrokenPipeError:
        sys.stderr.close()
        code = 0
    except MemoryError as error:
        code = _complain(error, 3, "not enough memory for this model and data")
    except Exception as error:
        what = f"{type(error).__name__}: {_head(error)}"
        sentence = f"this is a bug in onnxopt ({what}); run again with {DEBUG} and report it"
        code = _complain(error, 1, sentence)
    sys.exit(code)


def _warn(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """A warning in one sentence, without the line of the source it comes from; those of libraries stay silent."""
    if category is not UserWarning:
        return
    click.echo(f"onnxopt: warning: {message}", err=True)


def _head(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:200]


def _complain(error: BaseException, code: int, sentence: str | None = None) -> int:
    if DEBUG in sys.argv:
        traceback.print_exception(error)
    click.echo(f"onnxopt: {sentence or error}", err=True)
    return code


if __name__ == "__main__":
    main()
