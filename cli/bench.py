"""``onnxopt bench``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxopt.cli.bench_text import print_result
from onnxopt.cli.common import GPU_WORDS, MODEL, RANGE, SHAPE, gpu_options, output_options, pairs, shape_of, target
from onnxopt.cli.printing import echo_json, working
from onnxopt.errors import BenchmarkFailed, UsageError

if TYPE_CHECKING:
    from onnxopt.speed import Gates, Options, Speed, Stored

PROVIDERS = ("cpu", "cuda")
SEVERAL = "1,2"
_POSITIVE = click.FloatRange(0, min_open=True)


@click.command("bench")
@click.argument("model", type=MODEL)
@click.argument("others", type=MODEL, nargs=-1, metavar="[OTHER]...")
@click.option("--data", help="Samples, of which the first are timed: .npz, a folder, module:function.")
@click.option("--preprocess", help="Of images: a preset (imagenet, ...) or resize=256,crop=224,...")
@click.option("--state", multiple=True, metavar="INPUT=OUTPUT", help="An input that starts at zero.")
@click.option("--provider", "providers", multiple=True, metavar="cpu,cuda", help="Where they run; default cpu.")
@gpu_options
@click.option("--threads", multiple=True, metavar=SEVERAL, help="Threads of one operator; default 1.")
@click.option("--batch", "batches", multiple=True, metavar="1,8", help="Sizes of a dynamic axis 0.")
@click.option("--sequence", "sequences", multiple=True, metavar="32,128", help="Sizes of the sequence dimension.")
@click.option("--shape", "shapes", multiple=True, metavar="NAME=1x3x224x224",
              help=f"{SHAPE} The same NAME again: one more setting.")  # fmt: skip
@click.option("--input-range", "ranges", multiple=True, metavar="NAME=LOW:HIGH", help=RANGE)
@click.option("--streams", multiple=True, metavar="2,4", help="Also samples per second of so many threads at once.")
@click.option("--fresh", "repeats", type=click.IntRange(0), default=5, show_default=True,
              help="Processes that measure loading and memory; 0: none.")  # fmt: skip
@click.option("--seconds", type=_POSITIVE, help="At least so long per pair.")
@click.option("--min-ratio", type=click.FloatRange(0), help="Exit 6 if an interval's low end is under this.")
@click.option("--not-slower", is_flag=True, help="Exit 6 if one is significantly slower than MODEL.")
@click.option("--fail-if-slower", "max_slowdown", metavar="3%",
              help="Exit 6 unless the interval shows that each takes at most so much more time.")  # fmt: skip
@click.option("--max-seconds", type=_POSITIVE, default=30.0, show_default=True,
              help="Per pair, where --fail-if-slower is not decided before.")  # fmt: skip
@click.option("--baseline", type=MODEL, help="Times that --save x.json wrote, to compare with.")
@click.option("--force", is_flag=True, help="Allow a --baseline of another processor.")
@click.option("--save", "saved", multiple=True, metavar="PATH",
              help="Also write it: .json, .md, .xml (JUnit), .smaller.json (customSmallerIsBetter).")  # fmt: skip
@output_options
def command(
    model: Path, others: tuple[Path, ...], min_ratio: float | None, not_slower: bool, max_slowdown: str | None,
    baseline: Path | None, force: bool, saved: tuple[str, ...], as_json: bool, **words: Any,
) -> None:  # fmt: skip
    """Time MODEL, or each OTHER against it.

    Two models take turns run by run; the ratio is the time of MODEL over that of OTHER: above 1, OTHER is
    faster. A ratio that could be noise is "not significant". Without --data a random input is timed that respects
    the model: indices lie within their tables, masks hide nothing. Where several values are given, every
    combination is a setting.
    """
    from onnxopt import speed

    gates = speed.Gates(min_ratio, not_slower, None if max_slowdown is None else _share(max_slowdown))
    if gates.asked and not others and baseline is None:
        raise UsageError("--min-ratio, --not-slower and --fail-if-slower compare: give two models, or --baseline")
    forms = [speed.form_of(word) for word in saved]
    read = [model, *others, *filter(None, (baseline, words["data"]))]
    _check_places([path for _, path in forms], read)
    stored = speed.stored(baseline, force=force) if baseline else None
    result = _measured((model, *others), _options(words, gates), stored, force, gates)
    for form, path in forms:
        speed.write(result, form, path)
    if as_json:
        echo_json(result.to_dict())
    else:
        print_result(result)
    if result.failures:
        raise BenchmarkFailed("; ".join(failure.sentence for failure in result.failures))


def _measured(paths: tuple[Path, ...], options: Options, stored: Stored | None, force: bool, gates: Gates) -> Speed:
    from onnxopt import speed

    with working("timing"):
        result = speed.measure(paths, options)
    if stored is not None:
        result = speed.against(result, stored, force=force)
    return speed.judged(result, gates)


def _options(words: dict[str, Any], gates: Gates) -> Options:
    from onnxopt.speed import Options

    providers = _providers(words["providers"])
    of_gpu = {word: words[word] for word in GPU_WORDS}
    return Options(
        words["data"],
        words["preprocess"],
        pairs(words["state"], "--state"),
        target("cuda" if "cuda" in providers else "cpu", 1, (), words["ranges"], **of_gpu),
        words["seconds"],
        providers=providers,
        threads=_numbers(words["threads"], "--threads"),
        shapes=tuple(_combined(words["shapes"])),
        batches=_numbers(words["batches"], "--batch"),
        sequences=_numbers(words["sequences"], "--sequence"),
        streams=_numbers(words["streams"], "--streams"),
        repeats=words["repeats"],
        max_slowdown=gates.max_slowdown,
        max_seconds=words["max_seconds"],
    )


def _check_places(paths: Iterable[Path], read: list[Path]) -> None:
    """What cannot be written is found out before anything is timed."""
    from onnxopt import files

    for path in paths:
        files.check_writable(path, source=None, force=True)
        files.check_apart(path, read)


def _split(words: Iterable[str]) -> list[str]:
    """``1,2`` and ``1`` ``2`` alike, each once."""
    return list(dict.fromkeys(part.strip() for word in words for part in word.split(",")))


def _providers(words: Iterable[str]) -> tuple[str, ...]:
    found = _split(words)
    if unknown := [word for word in found if word not in PROVIDERS]:
        raise UsageError(f"--provider {unknown[0]}: there are {' and '.join(PROVIDERS)}")
    return tuple(found)


def _numbers(words: Iterable[str], option: str) -> tuple[int, ...]:
    found = _split(words)
    if wrong := [word for word in found if not (word.isascii() and word.isdecimal() and 0 < int(word) < 10**6)]:
        raise UsageError(f"{option} {wrong[0]}: write whole numbers above 0, with commas between them")
    return tuple(map(int, found))


def _combined(words: Iterable[str]) -> Iterable[dict[str, tuple[int, ...]]]:
    """Every combination of the shapes that are given for each name."""
    found: list[dict[str, tuple[int, ...]]] = [{}] if words else []
    names: dict[str, list[tuple[int, ...]]] = {}
    for word in words:
        name, shape = shape_of(word)
        names.setdefault(name, []).append(shape)
    for name, shapes in names.items():
        found = [{**one, name: shape} for one in found for shape in dict.fromkeys(shapes)]
    return found


def _share(words: str) -> float:
    """``3%`` and ``0.03`` are the same.

    Raises:
        UsageError: for another form, and where it could be meant as percent.
    """
    number, percent, rest = words.partition("%")
    try:
        share = float(number) / (100 if percent else 1)
    except ValueError:
        share = -1.0
    if rest.strip() or not 0 <= share < (10 if percent else 1):
        raise UsageError(f"--fail-if-slower {words}: write 3% or 0.03")
    return share
