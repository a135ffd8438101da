"""``onnxopt.toml``: which models, against what, within which limits.

::

    version = 1

    [ci]                                  # what is written, and when to stop
    markdown = "out/ci.md"

    [defaults]                            # of every model, unless it says otherwise
    fail_if_slower = "5%"

    [[model]]
    name = "digits"
    path = "models/digits.onnx"
    baseline = "base/models/digits.onnx"
    eval_data = "models/digits_eval.npz"
    max_drop = 0.01

``KEYS``, ``WHERE`` and ``CI`` below are all there is; ``docs/ci.md`` explains each.
"""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from onnxopt.ci import schema
from onnxopt.ci.schema import Place, Read
from onnxopt.errors import UsageError

VERSION = 1
"""Of the file. 1: first."""
STORED = ".json"
"""The ending of a baseline that is not a model, but what an earlier run of ``onnxopt ci`` wrote."""


@dataclass(frozen=True)
class Entry:
    """A model, and what is asked of it. Keys of the file have the same names.

    Attributes:
        name: of the model in every report.
        path: the model.
        line: of its table in the file.
        baseline: a model that the new one is timed and compared with, or what an earlier run stored (.json).
        baseline_optional: whether a baseline that is not there is a note instead of an error.
        force_baseline: whether to use stored times of another processor.
        reference: what accuracy is compared with; None: the baseline, or what was optimized.
        optimize: whether the model is optimized first; the result is then what is judged.
        recipe, passes: in place of the default recipe.
        output: where the optimized model goes.
        data, eval_data, preprocess, metric, state: as of ``onnxopt optimize``.
        goal, prune, allow_contrib, time_limit, seed: as of ``onnxopt optimize``.
        max_drop: largest drop of the accuracy, absolute, on data.
        rtol: without data, largest difference of an output relative to its largest magnitude.
        min_sqnr: least signal-to-noise ratio of each output, dB.
        fail_if_slower: share of the baseline's time that a run may take more; None asks nothing.
        min_ratio: the least that the interval of baseline's time over the model's may begin at.
        max_size: bytes of the model's file, external data included.
        provider, threads, batch: each combination is timed.
        shapes: of dynamic inputs.
        seconds: of one timing, at least.
        max_seconds: of one timing, where its limit is not decided before.
    """

    name: str
    path: Path
    line: int
    baseline: Path | None = None
    baseline_optional: bool = False
    force_baseline: bool = False
    reference: Path | None = None
    optimize: bool = False
    recipe: Path | None = None
    passes: tuple[str, ...] = ()
    output: Path = Path()
    data: str | None = None
    eval_data: str | None = None
    preprocess: str | None = None
    metric: str | None = None
    state: Mapping[str, str] = field(default_factory=dict)
    goal: str = "latency"
    prune: bool = False
    allow_contrib: bool = False
    time_limit: float | None = None
    seed: int = 0
    max_drop: float = 0.01
    rtol: float | None = None
    min_sqnr: float | None = None
    fail_if_slower: float | None = 0.05
    min_ratio: float | None = None
    max_size: int | None = None
    provider: tuple[str, ...] = ("cpu",)
    threads: tuple[int, ...] = (1,)
    batch: tuple[int, ...] = ()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    seconds: float | None = None
    max_seconds: float = 30.0

    @property
    def stored(self) -> Path | None:
        """The baseline, where it is no model."""
        return self.baseline if self.baseline and self.baseline.suffix == STORED else None

    @property
    def judged_on(self) -> str | None:
        """The samples that accuracy is measured on."""
        return self.eval_data or self.data

    def places(self) -> Iterator[tuple[str, int, int | None]]:
        """Provider, threads and batch of each timing."""
        yield from itertools.product(self.provider, self.threads, self.batch or (None,))


@dataclass(frozen=True)
class Config:
    """A file, read.

    Attributes:
        path: of the file.
        models: in its order.
        markdown, junit, json, smaller: what is written, and where; None is not.
        stop_at_first_failure: whether models after the first that fails are left out.
    """

    path: Path
    models: tuple[Entry, ...]
    markdown: Path | None = None
    junit: Path | None = None
    json: Path | None = None
    smaller: Path | None = None
    stop_at_first_failure: bool = False

    @property
    def written(self) -> dict[str, Path]:
        """Kind of summary to where it goes."""
        kinds = ("json", "markdown", "junit", "smaller")
        return {kind: path for kind in kinds if (path := getattr(self, kind))}


KEYS: Mapping[str, Read] = {
    "baseline_optional": schema.flag,
    "force_baseline": schema.flag,
    "optimize": schema.flag,
    "passes": schema.several(schema.text),
    "preprocess": schema.text,
    "state": schema.words,
    "goal": schema.choice("latency", "size"),
    "prune": schema.flag,
    "allow_contrib": schema.flag,
    "time_limit": schema.positive,
    "seed": schema.whole,
    "max_drop": schema.number,
    "rtol": schema.number,
    "min_sqnr": schema.limit(schema.number),
    "fail_if_slower": schema.limit(schema.share),
    "min_ratio": schema.limit(schema.positive),
    "max_size": schema.limit(schema.size),
    "provider": schema.several(schema.choice("cpu", "cuda")),
    "threads": schema.several(schema.count),
    "batch": schema.several(schema.count),
    "shapes": schema.shapes,
    "seconds": schema.positive,
    "max_seconds": schema.positive,
}
"""Of ``[[model]]`` and ``[defaults]``."""
SOURCES = ("data", "eval_data", "metric")
FILES = ("recipe",)
"""Of both, too: what is a path."""
ONE = ("path", "baseline", "reference", "output")
"""Paths that only one model has."""
SUMMARIES = ("markdown", "junit", "json", "smaller")


def read(path: Path) -> Config:
    """Read the file.

    Raises:
        UsageError: with the place of what is wrong: not TOML, an unknown key, a value of the wrong kind, a path
            that leaves the folder of the file, two models of one name.
    """
    content = _toml(path)
    place = Place(path.parent, str(path))
    known = ("version", "ci", "defaults", "model")
    schema.table(content, dict.fromkeys(known, lambda value: value), place)
    if content.get("version") != VERSION:
        raise place.error(f"version = {content.get('version')!r}: this onnxopt reads version = {VERSION}")
    ci, place, out = _ci(content.get("ci", {}), place)
    defaults = schema.table(content.get("defaults", {}), _keys(place), _at(place, "[defaults]"))
    tables = content.get("model", [])
    if not isinstance(tables, list) or not tables:
        raise place.error("there is no [[model]]; add one with a name and a path")
    lines = _lines(path)
    models = tuple(_entry(each, i, defaults, lines, place, out) for i, each in enumerate(tables))
    _check_apart(path, models, ci, place)
    return Config(path, models, **ci)


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"there is no file {path}; write one as docs/ci.md says, or give its path") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from error


def _ci(values: Any, place: Place) -> tuple[dict[str, Any], Place, Path]:
    """``[ci]``: fields of Config, the place with what it says of paths, and the folder of optimized models."""
    at = _at(place, "[ci]")
    outside = isinstance(values, dict) and values.get("allow_outside") is True
    place = Place(place.folder, place.words, outside)
    path = partial(schema.inside, place=place)
    known: dict[str, Read] = {
        "out": path,
        "allow_outside": schema.flag,
        "stop_at_first_failure": schema.flag,
        **dict.fromkeys(SUMMARIES, path),
    }
    found = schema.table(values, known, at)
    found.pop("allow_outside", None)
    return found, place, found.pop("out", place.folder / "out")


def _keys(place: Place) -> dict[str, Read]:
    """The readers of what models and defaults share."""
    return {
        **KEYS,
        **dict.fromkeys(SOURCES, partial(schema.source, place=place)),
        "metric": _metric(place),
        **dict.fromkeys(FILES, partial(schema.inside, place=place)),
    }


def _metric(place: Place) -> Read:
    """The name of one, or a function; whether it exists is asked when it is used."""
    return lambda value: schema.source(value, place) if ":" in str(value) else schema.text(value)


def _entry(values: Any, index: int, defaults: Mapping[str, Any], lines: list[int], place: Place, out: Path) -> Entry:
    called = values.get("name") if isinstance(values, dict) else None
    at = _at(place, f"[[model]] {called!r}" if isinstance(called, str) else f"[[model]] number {index + 1}")
    path = partial(schema.inside, place=place)
    known: dict[str, Read] = {**_keys(place), "name": schema.name, **dict.fromkeys(ONE, path)}
    given = schema.table(values, known, at)
    if "path" not in given:
        raise at.error("path is missing: give the model's file")
    if "name" not in given:
        raise at.error("name is missing: give one that stays the same when the file moves")
    given = {**_inherited(defaults, given), **given}
    if given.get("recipe") and given.get("passes"):
        raise at.error("recipe and passes are two ways to say the same; give one of them")
    _check_optimize(given, at)
    if "output" in given and not given.get("optimize"):
        raise at.error("output is where an optimized model goes; say optimize = true, or leave it out")
    given.setdefault("output", out / f"{given['name']}.onnx")
    entry = Entry(line=lines[index] if index < len(lines) else 1, **given)
    _check(entry, given, at)
    return entry


def _inherited(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults without those that what is given contradicts."""
    against = {"recipe": "passes", "passes": "recipe"}
    left = {key: value for key, value in defaults.items() if against.get(key) not in given}
    if given.get("optimize") is False:
        left = {key: value for key, value in left.items() if key not in against}
    return left


def _check_optimize(given: dict[str, Any], at: Place) -> None:
    """A recipe or passes say that it is optimized."""
    if given.get("recipe") or given.get("passes"):
        if given.get("optimize") is False:
            raise at.error("optimize = false contradicts recipe or passes; leave one out")
        given["optimize"] = True
    if given.get("prune") and given.get("passes"):
        raise at.error("prune is for the default recipe; in passes write prune-channels:macs=0.3..0.95")


def _check(entry: Entry, given: Mapping[str, Any], at: Place) -> None:
    """What is asked must be possible."""
    if entry.judged_on is None:
        for key in ("metric", "preprocess"):
            if getattr(entry, key):
                raise at.error(f"{key} needs data to measure on: add eval_data or data")
    elif "rtol" in given:
        raise at.error("rtol is for random inputs; with data the accuracy is judged: use max_drop")
    if not (entry.optimize or entry.baseline or entry.reference or entry.max_size):
        raise at.error("there is nothing to compare with: give baseline, reference or max_size, or optimize = true")
    if entry.min_ratio is not None and not (entry.optimize or entry.baseline):
        raise at.error("min_ratio compares times: give a baseline, or optimize = true")


def _check_apart(path: Path, models: tuple[Entry, ...], ci: Mapping[str, Any], place: Place) -> None:
    """No two models of one name, nothing written twice, nothing that is read written over."""
    names = [model.name for model in models]
    for name in names:
        if names.count(name) > 1:
            raise place.error(f"two models are called {name!r}; give each a name of its own")
    written = [(f"the optimized {model.name!r}", model.output) for model in models if model.optimize]
    written += [(key, ci[key]) for key in SUMMARIES if key in ci]
    schema.apart(written, place)
    sources = (model.data for model in models), (model.eval_data for model in models)
    files = ((model.path, model.baseline, model.reference, model.recipe) for model in models)
    reads = {file for group in files for file in group if file}
    reads |= {Path(source) for group in sources for source in group if source}
    taken = {each.resolve() for each in (*reads, path)}
    for what, target in written:
        if target.resolve() in taken:
            raise place.error(f"{target}, where {what} would go, is read as input; choose another name")


def _lines(path: Path) -> list[int]:
    """The line of each ``[[model]]``, from 1: where an annotation points."""
    lines = path.read_text("utf-8").splitlines()
    return [number for number, line in enumerate(lines, 1) if re.match(r"\s*\[\[\s*model\s*\]\]", line)]


def _at(place: Place, words: str) -> Place:
    return Place(place.folder, f"{place.words}: {words}", place.outside)
