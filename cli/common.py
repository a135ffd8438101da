"""Options that several commands share, and how words become values."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from onnxopt.errors import UsageError

if TYPE_CHECKING:
    from onnxopt.target import Target

QUIET = "onnxopt.quiet"
"""Where the context of click keeps ``--quiet``."""
F = TypeVar("F", bound=Callable[..., Any])

SHAPE = "Shape of a dynamic input, or the size of a dimension: sequence=64."
OF_PROVIDER = "Of ONNX Runtime's CUDA provider: use_tf32=0, prefer_nhwc=1, cudnn_conv_algo_search=HEURISTIC, ..."
GPU_WORDS = ("provider_options", "device_id", "cuda_graph", "require_gpu")
RANGE = "Of the numbers of a random input, both ends included."
MODEL = click.Path(path_type=Path)


def output_options(function: F) -> F:
    """``--json``, ``--quiet`` and ``--debug``: what is printed, and how errors are."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text."),
        click.option("--quiet", "-q", is_flag=True, expose_value=False, callback=_quiet, help="Print only errors."),
        click.option("--debug", is_flag=True, expose_value=False, help="Print the traceback of an error."),
    ):
        function = option(function)
    return function


def _quiet(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        context.find_root().meta[QUIET] = True


def gpu_options(function: F) -> F:
    """``--provider-option``, ``--device-id``, ``--cuda-graph``, ``--require-gpu`` (``GPU_WORDS``)."""
    for option in (
        click.option("--provider-option", "provider_options", multiple=True, metavar="NAME=VALUE", help=OF_PROVIDER),
        click.option("--device-id", type=click.IntRange(0), default=0, help="Which GPU.  [default: 0]"),
        click.option("--cuda-graph", is_flag=True, help="Time replays of a CUDA graph (fixed shapes, all on the GPU)."),
        click.option("--require-gpu", is_flag=True, help="Refuse a model of which nodes run on the CPU all the same."),
    ):
        function = option(function)
    return function


def target_options(function: F) -> F:
    """``--provider``, ``--threads``, ``--shape``, ``--input-range`` and what is for the GPU alone: one ``target``."""

    @click.option("--provider", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
    @gpu_options
    @click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads of one operator.")
    @click.option("--shape", "shapes", multiple=True, metavar="NAME=1x3x224x224", help=SHAPE)
    @click.option("--input-range", "ranges", multiple=True, metavar="NAME=LOW:HIGH", help=RANGE)
    @functools.wraps(function)
    def wrapped(
        *args: Any, provider: str, threads: int, shapes: tuple[str, ...], ranges: tuple[str, ...], **rest: Any
    ) -> Any:
        of_gpu = {word: rest.pop(word) for word in GPU_WORDS}
        return function(*args, target=target(provider, threads, shapes, ranges, **of_gpu), **rest)

    return wrapped  # type: ignore[return-value]


def data_options(function: F) -> F:
    """``--data``, ``--eval-data``, ``--preprocess``, ``--metric``, ``--state``."""
    for option in (
        click.option("--data", help="Samples: .npz, folder of .npy/.npz/images/test_data_set_*, module:function."),
        click.option("--eval-data", help="Held-out samples; without it, part of --data is held out."),
        click.option("--preprocess", help="Of images: a preset (imagenet, ...) or resize=256,crop=224,..."),
        click.option("--metric", help="Accuracy metric, or module:function; default top1 with labels, else agreement."),
        click.option("--state", multiple=True, metavar="INPUT=OUTPUT", help="An output fed back as the next input."),
    ):
        function = option(function)
    return function


def target(
    provider: str,
    threads: int,
    shapes: Iterable[str],
    ranges: Iterable[str] = (),
    *,
    provider_options: Iterable[str] = (),
    **of_gpu: Any,
) -> Target:
    """The Target of ``--provider``, ``--threads``, ``--shape``, ``--input-range``, and of what is for the GPU alone."""
    from onnxopt.provider_options import read
    from onnxopt.target import Target

    sizes, numbers = dict(shape_of(words) for words in shapes), dict(range_of(words) for words in ranges)
    options = read(provider_options)
    return Target(provider, threads, sizes, ranges=numbers, provider_options=options, **of_gpu)


def pairs(words: Iterable[str], option: str) -> dict[str, str]:
    """``a=b`` words as a dictionary.

    Raises:
        UsageError: for a word without ``=``.
    """
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals and value):
            raise UsageError(f"{option} {word}: write {option} name=value")
        found[name] = value
    return found


def shape_of(words: str) -> tuple[str, tuple[int, ...]]:
    """``x=1x3x224x224`` or ``x=1,3,224,224`` as a name and a shape.

    Raises:
        UsageError: for another form.
    """
    name, _, sizes = words.rpartition("=")
    if not name or not re.fullmatch(r"\d+([x,]\d+)*|scalar", sizes):
        raise UsageError(f"--shape {words}: write --shape name=1x3x224x224")
    return name, () if sizes == "scalar" else tuple(int(size) for size in re.split("[x,]", sizes))


def range_of(words: str) -> tuple[str, tuple[float, float]]:
    """``ids=0:30521`` as a name and the smallest and largest number.

    Raises:
        UsageError: for another form.
    """
    name, _, ends = words.rpartition("=")
    try:
        low, high = map(float, ends.split(":"))
    except ValueError:
        name = ""
    if not name:
        raise UsageError(f"--input-range {words}: write --input-range name=0:30521, the smallest and largest number")
    return name, (low, high)
