"""``onnxopt export``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxopt.cli.common import MODEL, output_options, pairs, shape_of
from onnxopt.cli.printing import console, echo_json, readable, working
from onnxopt.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

    from onnxopt.export.export import Exported
    from onnxopt.export.inputs import Input
    from onnxopt.export.weights import Loaded
    from onnxopt.inspection import ValueInfo
    from onnxopt.models.zoo import Network

SHOWN = 6
"""Inputs and outputs that are listed."""


@click.command("export")
@click.argument("module", required=False, metavar="[NAME|package.module:name|file.py:name]")
@click.option("--list", "listed", is_flag=True, help="List the networks of the zoo.")
@click.option("-o", "--output", type=MODEL, help="The file to write; default NAME.onnx.")
@click.option("--shape", "shapes", multiple=True, metavar="x=1,3,224,224", help="An input and its example shape.")
@click.option("--dtype", "dtypes", multiple=True, metavar="x=int64", help="Of an input; default float32.")
@click.option("--range", "ranges", multiple=True, metavar="x=0:999", help="Of an input's random numbers.")
@click.option("--dynamic", multiple=True, metavar="x:0=batch", help="A dynamic axis, and what it is called.")
@click.option("--static", is_flag=True, help="Make every dimension of a zoo network fixed.")
@click.option("--output-names", metavar="A,B", help="Default: the keys of a dict, else output_0, output_1, ...")
@click.option("--arg", "arguments", multiple=True, metavar="classes=10", help="Of the function or class.")
@click.option("--weights", type=MODEL, help="A .safetensors file or a state dict; default: random, by --seed.")
@click.option("--strict/--no-strict", default=True, show_default=True, help="Whether all names of --weights must fit.")
@click.option("--exporter", type=click.Choice(["dynamo", "torchscript"]), default="dynamo", show_default=True)
@click.option("--opset", type=click.IntRange(7), default=20, show_default=True, help="Version of the operators.")
@click.option("--optimize", is_flag=True, help="Run the exact passes of `onnxopt optimize` on the result.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of random weights and inputs.")
@output_options
def command(
    module: str | None,
    listed: bool,
    output: Path | None,
    weights: Path | None,
    strict: bool,
    seed: int,
    as_json: bool,
    **words: Any,
) -> None:
    r"""Export a PyTorch module to ONNX, and compare the file with the module at two sizes of every dynamic axis.

    A network of the zoo by its NAME (see --list), or your own: a function that returns a module, a class, or
    a module.

    \b
        onnxopt export resnet50 --weights resnet50.safetensors
        onnxopt export net.py:Net --shape x=1,3,224,224 --dynamic x:0=batch -o net.onnx
    """
    if listed:
        _list(as_json)
        return
    if module is None:
        raise UsageError("name a network of the zoo (onnxopt export --list), or your own as package.module:name")
    _need_torch()
    from onnxopt.export.convert import Exporter
    from onnxopt.export.export import Settings, export
    from onnxopt.export.locate import literals

    arguments = literals(pairs(words["arguments"], "--arg"))
    with working(f"exporting {module}"):
        built, inputs, outputs, loaded = _built(module, words, arguments, weights, strict=strict, seed=seed)
        settings = Settings(
            exporter=Exporter(words["exporter"]),
            opset=words["opset"],
            outputs=_names(words["output_names"]) or outputs,
            optimize=words["optimize"],
            seed=seed,
        )
        path = output or Path(f"{module.rpartition(':')[2]}.onnx")
        found = export(built, path, inputs, settings)
    _print(found, loaded, seed, as_json=as_json, is_zoo=":" not in module)


def _built(
    words: str,
    options: Mapping[str, Any],
    arguments: Mapping[str, Any],
    weights: Path | None,
    *,
    strict: bool,
    seed: int,
) -> tuple[nn.Module, Sequence[Input], Sequence[str], Loaded | None]:
    """The module with its weights, its inputs, and names for its outputs if the zoo knows them."""
    from onnxopt.models import zoo

    if ":" not in words:
        network = zoo.find(words)
        inputs = _inputs(network.inputs, options)
        built, loaded = zoo.load(network, arguments, weights, strict=strict, seed=seed)
        return built, inputs, network.outputs, loaded
    import torch

    from onnxopt.export.inputs import Input
    from onnxopt.export.locate import load_module
    from onnxopt.export.weights import load_weights

    given = [Input(name, shape) for name, shape in _shapes(options["shapes"]).items()]
    if not given:
        raise UsageError("give the shape of every input of the module: --shape x=1,3,224,224")
    inputs = _inputs(given, {**options, "shapes": ()})
    torch.manual_seed(seed)
    built = load_module(words, arguments)
    return built, inputs, (), load_weights(built, weights, strict=strict) if weights else None


def _inputs(known: Sequence[Input], options: Mapping[str, Any]) -> tuple[Input, ...]:
    """Inputs with what the options say of them."""
    from onnxopt.export.inputs import changed

    dynamic: dict[str, dict[int, str]] = {}
    for name, axis, dimension in map(_dynamic, options["dynamic"]):
        dynamic.setdefault(name, {})[axis] = dimension
    if options["static"]:
        if dynamic:
            raise UsageError("--static and --dynamic contradict each other; give one")
        dynamic = {one.name: {} for one in known}
    ranges = {name: _range(name, word) for name, word in pairs(options["ranges"], "--range").items()}
    return changed(known, _shapes(options["shapes"]), pairs(options["dtypes"], "--dtype"), ranges, dynamic)


def _shapes(words: Iterable[str]) -> dict[str, tuple[int, ...]]:
    return dict(shape_of(word) for word in words)


def _dynamic(word: str) -> tuple[str, int, str]:
    """``x:0=batch``.

    Raises:
        UsageError: for another form.
    """
    found = re.fullmatch(r"(.+):(\d+)=(.+)", word)
    if found is None:
        raise UsageError(f"--dynamic {word}: write --dynamic name:axis=dimension, for example x:0=batch")
    return found[1], int(found[2]), found[3]


def _range(name: str, word: str) -> tuple[float, float]:
    low, colon, high = word.partition(":")
    try:
        return (float(low), float(high)) if colon else (0.0, float(low))
    except ValueError:
        raise UsageError(f"--range {name}={word}: write --range name=lowest:highest") from None


def _names(words: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in words.split(",")) if words else ()


def _need_torch() -> None:
    """Say how to get what export needs, before anything else.

    Raises:
        UsageError: if PyTorch is not installed.
    """
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"PyTorch is not installed, or does not load ({error}): pip install 'onnxopt[torch]'"
        ) from error


def _list(as_json: bool) -> None:
    from onnxopt.models.zoo import ZOO

    if as_json:
        echo_json({name: _facts(network) for name, network in ZOO.items()})
        return
    from rich.table import Table

    table = Table("network", "parameters", "MACs", "inputs", "what", "weights of")
    for column in table.columns[1:3]:
        column.justify = "right"
    for name, network in ZOO.items():
        numbers = readable(network.parameters), readable(network.macs)
        table.add_row(name, *numbers, _brief(network.inputs), network.about, network.checkpoint)
    console().print(table)


def _facts(network: Network) -> dict[str, Any]:
    inputs = {one.name: {"shape": one.shape, "dtype": one.dtype, "dynamic": one.dynamic} for one in network.inputs}
    return {
        "about": network.about,
        "parameters": network.parameters,
        "macs": network.macs,
        "inputs": inputs,
        "outputs": network.outputs,
        "checkpoint": network.checkpoint,
    }


def _brief(inputs: Sequence[Input]) -> str:
    """Inputs with their shapes; those of one shape (keys and values of the past) together."""
    groups: dict[str, list[str]] = {}
    for one in inputs:
        groups.setdefault("x".join(map(str, one.shape)), []).append(one.name)
    parts = (names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more" for names in groups.values())
    return ", ".join(f"{part} {shape}" for part, shape in zip(parts, groups, strict=True))


def _print(found: Exported, loaded: Loaded | None, seed: int, *, as_json: bool, is_zoo: bool) -> None:
    """What was written, and how near it is to the module."""
    size = sum(path.stat().st_size for path in found.paths)
    if as_json:
        echo_json(
            {
                "files": [str(path) for path in found.paths],
                "bytes": size,
                "opset": found.model.opset_imports.get(""),
                "inputs": [str(value.name) for value in found.model.graph.inputs],
                "outputs": [str(value.name) for value in found.model.graph.outputs],
                "weights": loaded and {**loaded.__dict__, "path": str(loaded.path)},
                "checks": [{"sizes": dict(sizes), **check.to_dict()} for sizes, check in found.checks],
                "passes": [step.to_dict() for step in found.steps],
                "seconds": round(found.seconds, 3),
            }
        )
        return
    from onnxopt.inspection import input_infos, output_infos

    lines = [
        ("written", f"{_joined(found.paths)}: {readable(size, 'B')}, opset {found.model.opset_imports['']}"),
    ]
    lines += [("input", line) for line in _values(input_infos(found.model))]
    lines += [("output", line) for line in _values(output_infos(found.model))]
    lines.append(("weights", _about_weights(loaded, seed, is_zoo=is_zoo)))
    lines += [("passes", f"{step.words}: {step.why}") for step in found.steps if step.kept]
    for sizes, check in found.checks:
        where = ", ".join(f"{name}={size}" for name, size in sizes.items()) or "random inputs"
        lines.append(("checked", f"{where}: largest relative difference to the module {check.relative:.1e}"))
    for label, line in lines:
        console().print(f"{label:8} {line}", markup=False)


def _joined(paths: Iterable[Path]) -> str:
    return ", ".join(map(str, paths))


def _values(values: Sequence[ValueInfo]) -> list[str]:
    """Name and shape of the first, and how many more there are."""
    lines = [f"{value.name} {value}" for value in values[:SHOWN]]
    return lines if len(values) <= SHOWN else [*lines, f"and {len(values) - SHOWN} more"]


def _about_weights(loaded: Loaded | None, seed: int, *, is_zoo: bool) -> str:
    if loaded is None:
        return f"random, seed {seed}" if is_zoo else "as the module has them"
    words = f"{loaded.count} tensors of {loaded.path}"
    if loaded.prefix:
        words += f", prefix {loaded.prefix[1:]!r} {'removed' if loaded.prefix[0] == '-' else 'added'}"
    for kind, names in (("missing", loaded.missing), ("left over", loaded.unexpected)):
        words += f"; {len(names)} {kind}" if names else ""
    return words
