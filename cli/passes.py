"""``onnxopt passes``."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import click

from onnxopt.cli.common import output_options
from onnxopt.cli.printing import console, echo_json

if TYPE_CHECKING:
    from onnxopt.core import Option, Pass

EXACTNESS = "exact: the same bits; rounding: the same up to float rounding; lossy: the accuracy gate decides"


@click.group("passes", invoke_without_command=True)
@output_options
@click.pass_context
def command(context: click.Context, as_json: bool) -> None:
    """List the passes, or show one with its options (onnxopt passes show NAME)."""
    if context.invoked_subcommand is not None:
        return
    from onnxopt.passes import PASSES

    if as_json:
        echo_json([described(found) for found in PASSES])
        return
    from rich.table import Table

    table = Table("pass", "exactness", "what it does", box=None, pad_edge=False)
    for found in PASSES:
        table.add_row(found.name, found.exactness.value, first_line(found))
    out = console()
    out.print(table, markup=False)
    out.print(f"\n{EXACTNESS}\nonnxopt passes show NAME tells the options of one")


@command.command("show")
@click.argument("name")
@output_options
def show(name: str, as_json: bool) -> None:
    """Show what the pass NAME does, what it leaves alone, and its options."""
    from onnxopt.passes import by_name

    found = by_name(name)
    if as_json:
        echo_json(described(found))
        return
    click.echo(f"{found.name} ({found.exactness.value})\n\n{inspect.getdoc(found)}")
    if found.options():
        click.echo("\nOptions:")
    for option in found.options():
        click.echo(f"  {spelled(option)} ({kind(option)}; default {default(option) or 'none'})")
        click.echo(f"      {option.doc}")
    click.echo(f"\nTo run it: onnxopt optimize MODEL --pass {example(found)}")


def described(found: type[Pass]) -> dict[str, Any]:
    """A pass, ready for JSON."""
    options = [
        {
            "name": spelled(option),
            "type": option.type.__name__,
            "default": list(option.default) if isinstance(option.default, tuple) else option.default,
            "doc": option.doc,
            "choices": list(option.choices),
            "low": option.low,
            "high": option.high,
        }
        for option in found.options()
    ]
    doc = inspect.getdoc(found) or ""
    return {"name": found.name, "exactness": found.exactness.value, "doc": doc, "options": options}


def first_line(found: type[Pass]) -> str:
    """What the pass does, in one line."""
    return (inspect.getdoc(found) or "").partition("\n")[0]


def spelled(option: Option) -> str:
    """The name of an option as typed."""
    return option.name.replace("_", "-")


def word(value: Any) -> str:
    """A value as typed after ``--pass``."""
    if isinstance(value, tuple):
        return "+".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def default(option: Option) -> str:
    """The default as typed; ``all`` where it is all that is allowed."""
    return "all" if option.choices and option.default == option.choices else word(option.default)


def kind(option: Option) -> str:
    """The type and the allowed values, in words."""
    if option.choices:
        choices = ", ".join(option.choices)
        return f"any of {choices}, joined by +" if option.type is tuple else f"one of {choices}"
    names = {"bool": "true or false", "int": "a whole number", "float": "a number", "tuple": "a list, a+b+c"}
    words = names.get(option.type.__name__, "a word")
    low, high = (None if limit is None else f"{limit:g}" for limit in (option.low, option.high))
    if low is not None and high is not None:
        return f"{words} from {low} to {high}"
    if low is not None:
        return f"{words}, at least {low}"
    return words if high is None else f"{words}, at most {high}"


def example(found: type[Pass]) -> str:
    """``name:option=value``, with a value that may be given to the first option."""
    for option in found.options():
        value = not option.default if option.type is bool else option.default
        value = option.choices[:2] if option.type is tuple and option.choices else value
        if word(value):
            return f"{found.name}:{spelled(option)}={word(value)}"
    return found.name
