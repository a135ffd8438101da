"""The smallest file by onnxopt beside what other tools make: bytes, bytes after zstd, accuracy, speed; one table each.

    python benchmarks/size.py [NAME ...] [--parts files fast uniform] [--reuse others|all] [--json out.json]
    python benchmarks/size.py --prepare              # beforehand: models, data, the others' files; then --reuse others

``files``: ``--goal size``, within a point (0.01 Spearman). ``fast``: as small as can be with int8's speed. ``uniform``:
what codes of 4 bits for all weights do to the outputs, beside rounding to nearest and plain k-means. How a file is made
is chosen on calibration samples; scores are on others. The processor must be quiet. About an hour; parts and
models can be run apart.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contenders import HERE, OTHERS, OURS, Case, Given, Settings, called, commands, last_line, made, prepare
from int8 import cell, interval, within
from size_uniform import uniform

from onnxopt import files
from onnxopt.benchmark import LOAD_LIMIT
from onnxopt.download import download_bytes
from onnxopt.gate import Limits
from onnxopt.runtime import version
from onnxopt.target import processor

VERSION = 1
"""Of the JSON form. 1: first."""
POINT = Limits(0.01)
HALF = "float16"
RIVALS = (*OTHERS[1:], HALF)
NOT_SLOWER, OF_INT8 = 0.97, 0.95
"""Of the original's speed, and of the int8 engine's, that is wanted."""
SLACK = 0.98
"""The clock asks for so much of that, so that its noise does not decide."""


@dataclass(frozen=True)
class Wanted:
    """A model, and the shares of the original's bytes that are wanted.

    Attributes:
        case: the model.
        size: with ``--goal size``.
        fast: the same with int8's speed; None where nothing is wanted.
        fast_limits: what that may lose.
    """

    case: Case
    size: float
    fast: float | None = None
    fast_limits: Limits = POINT


def real(name: str, metric: str | None = None) -> Case:
    """A model of the manifest that may lose a point."""
    return Case(name, ours=POINT, others=POINT, metric=metric)


MODELS = (
    Wanted(real("minilm_l6", "spearman-cosine"), 0.115),
    Wanted(real("resnet56_cifar10"), 0.13, 0.17),
    Wanted(real("squeezenet11"), 0.145, 0.16, Limits(0.015)),
    Wanted(real("mobilenet_v2_100_224"), 0.17),
    Wanted(real("mobilenet_v1_025_128"), 0.175),
)
"""Issue 6, section "Must reach"."""
Row = dict[str, Any]


def main() -> int:
    """Print the tables row by row; 1 if a row failed, or what is wanted is not reached."""
    names = [wanted.case.name for wanted in MODELS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--work", type=Path, default=Path("out/size"), help="where the files go, and stay")
    parser.add_argument("--prepare", action="store_true", help="make all but our files, and measure nothing")
    parser.add_argument("--reuse", choices=["others", "all"], help="take files that an earlier run here has made")
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds for each tool")
    parser.add_argument("--json", type=Path)
    words = parser.parse_args()
    if unknown := set(words.names) - set(names):
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    chosen = [wanted for wanted in MODELS if not words.names or wanted.case.name in words.names]
    reuse = {None: (), "others": RIVALS, "all": (*RIVALS, OURS, "int8", "fast")}[words.reuse]
    settings = Settings(words.work, reuse, limit=words.limit)
    if words.prepare:
        for wanted in chosen:
            others(wanted.case, prepare(wanted.case, settings), settings)
        return 0
    print(f"ONNX Runtime {version()}, {processor()}; batch 1, one thread.\n")
    rows: list[Row] = []
    for part in words.parts:
        header, make, line = PARTS[part]
        print(header)
        for wanted in chosen:
            if part == "fast" and wanted.fast is None:
                continue
            rows.append(row(part, wanted, settings, make))
            print(
                f"| {wanted.case.name} | failed: {rows[-1]['error']} |" if rows[-1]["error"] else line(wanted, rows[-1])
            )
            sys.stdout.flush()
            if words.json:
                found = {"version": VERSION, "processor": processor(), "onnxruntime": version(), "rows": rows}
                words.json.write_text(json.dumps(found, indent=2) + "\n")
        print()
    return int(any(row["error"] or row["missed"] for row in rows))


def row(part: str, wanted: Wanted, settings: Settings, make: Callable[[Wanted, Given, Settings], Row]) -> Row:
    """All there is to say of a model in a part; a failure is said, too."""
    empty = {"part": part, "name": wanted.case.name, "error": None, "missed": []}
    try:
        return {**empty, **make(wanted, prepare(wanted.case, settings), settings)}
    except Exception as error:  # a row must never take the table down with it
        return {**empty, "error": f"{type(error).__name__}: {last_line(str(error))}"}


# --- files ---


def others(case: Case, given: Given, settings: Settings) -> dict[str, dict[str, Any]]:
    """What each rival makes, or why it does not."""
    half = [str(HERE / "peers.py"), HALF, str(given.model), str(given.calib)]
    tools = {**{tool: command for tool, command in commands(case, given, settings) if tool in RIVALS}, HALF: half}
    return {tool: made(tool, command, case, settings) for tool, command in tools.items()}


def optimized(tool: str, case: Case, given: Given, settings: Settings, *words: str, limits: Limits) -> dict[str, Any]:
    """What ``onnxopt optimize`` makes with these words."""
    data = ["--data", str(given.calib), "--eval-data", str(given.held_out), "--max-drop", str(limits.max_drop)]
    metric = ["--metric", case.metric] if case.metric else []
    command = ["-m", "onnxopt.cli.main", "optimize", str(given.model), *data, *metric, *words, "--json", "-o"]
    return made(tool, command, case, settings)


def smallest(wanted: Wanted, given: Given, settings: Settings) -> Row:
    """``--goal size`` beside the rivals."""
    case = wanted.case
    tools = {
        **others(case, given, settings),
        OURS: optimized(OURS, case, given, settings, "--goal", "size", limits=POINT),
    }
    found = measured(case, given, tools, OURS, settings)
    sizes = weighed(given, tools)
    ours, missed = sizes[OURS]["bytes"] / sizes["fp32"]["bytes"], []
    if ours > wanted.size:
        missed.append("size")
    if not within(found["scores"][OURS], POINT):
        missed.append("accuracy")
    if found["gain"][OURS][2] < NOT_SLOWER:
        missed.append("speed")
    report = tools[OURS].pop("said")
    return {"tools": tools, "sizes": sizes, "measured": found, "kept": kept(report), "missed": missed}


def measured(
    case: Case, given: Given, tools: Mapping[str, Mapping[str, Any]], against: str, settings: Settings
) -> dict[str, Any]:
    """What ``turns.py`` finds for all files that were made."""
    models = {"fp32": str(given.model), **{tool: one["path"] for tool, one in tools.items() if not one["error"]}}
    job = {
        "models": models,
        "against": against,
        "data": str(given.calib),
        "eval_data": str(given.held_out),
        "metric": case.metric,
        "min_seconds": settings.seconds,
        "slow_seconds": 3 * settings.seconds,
    }
    found: dict[str, Any] = json.loads(
        called([sys.executable, str(HERE / "turns.py")], settings.limit, json.dumps(job))
    )
    return found


def weighed(given: Given, tools: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Bytes of each file, and after zstd."""
    paths = {"fp32": str(given.model), **{tool: one["path"] for tool, one in tools.items() if not one["error"]}}
    return {
        tool: {"bytes": Path(path).stat().st_size, "zstd": download_bytes(files.load(path))}
        for tool, path in paths.items()
    }


def kept(report: Mapping[str, Any]) -> list[str]:
    """The lossy passes that were kept, with what the first change says of all."""
    steps = [step for step in report["steps"] if step["outcome"] == "kept" and step["exactness"] == "lossy"]
    return [
        f"{step['pass']} ({step['changes'][0]['what']})" if step["changes"][0]["node"] == "model" else step["pass"]
        for step in steps
    ]


FILES = """Shares are of the original's file; zstd: of the original's bytes, too. Speed: the original's
time over that of the file, interval of 95 % over 3 loads. `!`: loses more than a point (0.01 Spearman), or is under
half as fast and not scored.

| model | tool | file | zstd | drop [95 %] | speed | s | wanted | reached |
|---|---|---|---|---|---|---|---|---|"""


def files_lines(wanted: Wanted, found: Row) -> str:
    """A line for each tool."""
    whole = found["sizes"]["fp32"]["bytes"]
    zstd = found["sizes"]["fp32"]["zstd"] / whole
    lines = [f"| {wanted.case.name} | fp32 ({whole:,} bytes) | 1.000 | {zstd:.3f} | | | | | |"]
    for tool in (*RIVALS, OURS):
        one = found["tools"][tool]
        if one["error"]:
            lines.append(f"| | {tool} | fails: {one['error'][:60]} | | | | | | |")
            continue
        sizes, score = found["sizes"][tool], found["measured"]["scores"][tool]
        cells = ["", tool, f"{sizes['bytes'] / whole:.4f}", f"{sizes['zstd'] / whole:.4f}", drop(score, POINT)]
        cells += [interval(found["measured"]["gain"][tool]), f"{one['seconds']:.0f}"]
        cells += [f"<= {wanted.size}", reached(found)] if tool == OURS else ["", ""]
        lines.append(f"| {' | '.join(map(cell, cells))} |")
    return "\n".join([*lines, f"| | kept | {cell('; '.join(found['kept']))} |{loaded(found)}"])


def drop(score: Mapping[str, Any], limits: Limits) -> str:
    """The drop with its interval, marked where it is beyond the limit."""
    if "error" in score:
        return f"! {score['error'][:50]}"
    mark = "" if within(score, limits) else "! "
    return f"{mark}{score['drop']:+.4f} [{score['low']:+.4f}, {score['high']:+.4f}]"


def reached(found: Row) -> str:
    """Yes, or what is not."""
    return "no: " + ", ".join(found["missed"]) if found["missed"] else "yes"


def loaded(found: Row) -> str:
    """How busy the machine was, where it was."""
    load = found["measured"]["environment"]["foreign_load"]
    return f" foreign load {load:.0%} |" if load > LOAD_LIMIT else ""


# --- small and fast ---


def small_and_fast(wanted: Wanted, given: Given, settings: Settings) -> Row:
    """The int8 engine, and codes for its weights; the clock asks for nearly its speed."""
    case, limits = wanted.case, wanted.fast_limits
    int8 = optimized("int8", case, given, settings, limits=limits)
    if int8["error"]:
        raise RuntimeError(int8["error"])
    ratio = int8["said"]["speed"]["ratio"]
    slowdown = f"{1 / (OF_INT8 * SLACK * ratio):.3f}"
    fast = optimized("fast", case, given, settings, "--goal", "size", "--max-slowdown", slowdown, limits=limits)
    tools = {"int8": int8, "fast": fast}
    found = measured(case, given, tools, "int8", settings)
    sizes, missed = weighed(given, tools), []
    if fast["error"] or wanted.fast is None or sizes["fast"]["bytes"] / sizes["fp32"]["bytes"] > wanted.fast:
        missed.append("size")
    if not within(found["scores"]["fast"], limits):
        missed.append("accuracy")
    if 1 / found["against"]["fast"][0] < OF_INT8:
        missed.append("speed")
    report = tools["fast"].pop("said")
    return {"tools": tools, "sizes": sizes, "measured": found, "kept": kept(report), "missed": missed}


FAST = f"""int8: the default recipe, for speed. Speed of int8: the time of int8's file over that of the small one
(wanted: {OF_INT8}).

| model | int8: file | speed | small: file | zstd | drop [95 %] | speed | speed of int8 | kept | wanted | reached |
|---|---|---|---|---|---|---|---|---|---|---|"""


def fast_line(wanted: Wanted, found: Row) -> str:
    """A row of the table."""
    sizes, measured_ = found["sizes"], found["measured"]
    whole = sizes["fp32"]["bytes"]
    ratio, low, high = measured_["against"]["fast"]
    cells = [
        wanted.case.name,
        f"{sizes['int8']['bytes'] / whole:.4f}",
        interval(measured_["gain"]["int8"]),
        f"{sizes['fast']['bytes'] / whole:.4f}",
        f"{sizes['fast']['zstd'] / whole:.4f}",
        drop(measured_["scores"]["fast"], wanted.fast_limits),
        interval(measured_["gain"]["fast"]),
        interval([1 / ratio, 1 / high, 1 / low]),
        "; ".join(found["kept"]),
        f"<= {wanted.fast}",
        reached(found),
    ]
    return f"| {' | '.join(map(cell, cells))} |{loaded(found)}"


# --- uniform ---


def uniform_row(wanted: Wanted, given: Given, settings: Settings) -> Row:
    """Divergences, and whether they are as far below the others' as is wanted."""
    found = uniform(given)
    missed = [] if found["ours"] <= found["nearest"] / 3 else ["a third of round-to-nearest"]
    missed += [] if found["ours"] <= found["k-means"] / 2 else ["half of k-means"]
    return {"divergence": found, "missed": missed}


UNIFORM = """Divergence of the outputs (KL of class scores; of MiniLM the squared error over the variance),
on calibration samples, all weights of layers with 16 values: rounded to nearest (a scale for each channel, searched),
plain k-means (a table for each tensor), ours each layer by itself, ours in step. Wanted of ours: a third of the first,
half of the second.

| model | nearest | k-means | ours, apart | ours | of nearest | of k-means | reached |
|---|---|---|---|---|---|---|---|"""


def uniform_line(wanted: Wanted, found: Row) -> str:
    """A row of the table."""
    one = found["divergence"]
    cells = [wanted.case.name, *(f"{one[tool]:.5f}" for tool in ("nearest", "k-means", "apart", "ours"))]
    cells += [f"{one['ours'] / one['nearest']:.3f}", f"{one['ours'] / one['k-means']:.3f}", reached(found)]
    return f"| {' | '.join(cells)} |"


Part = tuple[str, Callable[[Wanted, Given, Settings], Row], Callable[[Wanted, Row], str]]
PARTS: Mapping[str, Part] = {
    "files": (FILES, smallest, files_lines),
    "fast": (FAST, small_and_fast, fast_line),
    "uniform": (UNIFORM, uniform_row, uniform_line),
}


if __name__ == "__main__":
    sys.exit(main())
