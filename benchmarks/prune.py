"""Channel pruning without training, beside torch-pruning's: scores over the MACs that go, and the speed this buys.

    python benchmarks/prune.py [--models NAME ...] [--at CUT ...] [--quick] [--reuse peers|rivals|all] [--json out.json]
    python benchmarks/prune.py --only-peers          # beforehand: what torch-pruning makes; then --reuse peers
    python benchmarks/prune.py --latency             # only speed and size, of files that an earlier run has made

All in one process. Calibration samples are one split, without labels; scores are on the other, with ONNX Runtime,
all tools' files alike. The latency part wants a quiet machine.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from contenders import Settings
from int8 import cell
from prune_cases import NEURONS, OURS, PEERS, RIVALS, SUBJECTS, TITLES, Ground, Subject, file_of
from prune_plot import draw, write_csv
from prune_speed import speeds

from onnxopt import files
from onnxopt.runtime import version

VERSION = 1
"""Of the JSON form. 1: first."""
CUTS, QUICK_CUTS = (0.1, 0.2, 0.3, 0.4, 0.5), (0.3,)
SLACK = 0.005
"""Share of the MACs by which our cut may stay under what was asked; a rival's never goes over it."""
COARSE = 0.03
"""Share of the MACs from which a rival's cut stays too far under what was asked to be compared."""
NEURONS_DROP, NEURONS_COSINE = 0.005, 0.91
"""Wanted where nothing but neurons go: Spearman lost at most; mean cosine of the embeddings with the original's."""
HEADER = """Scores: held-out samples; the drop has a paired bootstrap interval of 95 %. Cuts: shares of the MACs of the
whole network, the real one counted in the file that is scored. All but ours prune the most that they can without going
over the cut, and their seconds hold the search for that. Wanted beside the limits: a smaller drop than each of them.

| model | tool | cut asked | real cut | score | drop | s | reached |
|---|---|---|---|---|---|---|---|"""

Row = dict[str, Any]


def main() -> int:
    """Print the tables row by row; 1 if a row failed or what is wanted is not reached."""
    names = [subject.name for subject in SUBJECTS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=names, metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument("--at", nargs="+", type=float, metavar="CUT", help="shares of the MACs that go")
    parser.add_argument("--quick", action="store_true", help="only the smallest model at 30 %%, and no latency")
    parser.add_argument("--only-peers", action="store_true", help="only torch-pruning")
    parser.add_argument("--latency", action="store_true", help="only the latency part")
    parser.add_argument("--reuse", choices=["peers", "rivals", "all"], help="take rows that an earlier run has left")
    parser.add_argument("--work", type=Path, default=Path("out/prune"), help="where the files go, and stay")
    parser.add_argument("--json", type=Path)
    words = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what runs beneath is ended, too
    chosen = [one for one in SUBJECTS if (one.name in words.models if words.models else one.quick or not words.quick)]
    cuts = words.at or (QUICK_CUTS if words.quick else CUTS)
    reuse = {None: (), "peers": PEERS, "rivals": RIVALS, "all": tuple(TITLES)}[words.reuse]
    settings, tools = Settings(words.work, reuse), PEERS if words.only_peers else (*RIVALS, OURS)
    found: Row = {"version": VERSION, "onnxruntime": version(), "rows": [], "speed": []}
    parts = [] if words.latency else [curves(chosen, tools, cuts, settings, found["rows"])]
    if words.latency or not (words.quick or words.only_peers):
        parts.append(speeds(chosen, cuts, settings, found["speed"]))
    for text in itertools.chain(*parts):
        print(text, flush=True)
        if words.json:
            words.json.write_text(json.dumps(found, indent=2) + "\n")
    return int(any(row["error"] or row["missed"] for row in (*found["rows"], *found["speed"])))


def curves(
    subjects: Sequence[Subject], tools: Sequence[str], cuts: Sequence[float], settings: Settings, rows: list[Row]
) -> Iterator[str]:
    """The lines of the table; ``rows`` grows with them."""
    yield HEADER
    for subject in subjects:
        ground, mine = functools.cache(functools.partial(Ground, subject, settings)), list[Row]()
        plan = [(tool, cut) for cut in cuts for tool in tools]
        plan += [(NEURONS, subject.neurons)] if subject.neurons and OURS in tools else []
        for tool, asked in plan:
            mine.append(made(tool, asked, subject, ground, settings))
            mine[-1]["missed"] = list(missed(subject, mine[-1], mine))
            rows.append(mine[-1])
            yield line(mine[-1])
            write_csv(settings.work / f"{subject.name}.csv", mine)
        try:
            draw(settings.work / f"{subject.name}.png", subject.name, mine)
        except ImportError as error:
            yield f"no picture: {error}"


def made(tool: str, asked: float, subject: Subject, ground: Callable[[], Ground], settings: Settings) -> Row:
    """A row; kept beside its file for --reuse. What failed says why, and is tried again."""
    path = file_of(settings, subject.name, tool, asked)
    record = path.with_suffix(".json")
    kept = json.loads(record.read_text()) if tool in settings.reuse and record.exists() else {}
    if kept and not kept["error"]:
        return dict(kept)
    path.parent.mkdir(parents=True, exist_ok=True)
    row: Row = {"name": subject.name, "tool": tool, "asked": asked, "error": None}
    try:
        row |= pruned(ground(), tool, asked, path)
    except Exception as error:  # a row must never take the table down with it
        row["error"] = f"{type(error).__name__}: {error}"
    record.write_text(json.dumps(row) + "\n")
    return row


def pruned(ground: Ground, tool: str, asked: float, path: Path) -> Row:
    """Prune, save, count and score."""
    started = time.perf_counter()
    model, how = ground.pruned(tool, asked)
    seconds = time.perf_counter() - started
    files.save(model, path)
    near = {"cosine": ground.nearness().measure(model).after} if ground.only and tool not in PEERS else {}
    drop = ground.gate.measure(model).to_dict()
    return {
        "how": how,
        "cut": ground.cut(model),
        "seconds": seconds,
        "bytes": path.stat().st_size,
        "drop": drop,
        **near,
    }


def missed(subject: Subject, row: Row, rows: Sequence[Row]) -> Iterator[str]:
    """What of the wanted is not there; nothing is wanted of others than ours, and a row that failed says so itself."""
    if row["error"] or row["tool"] not in (OURS, NEURONS):
        return
    drop = row["drop"]["drop"]
    if row["tool"] == NEURONS:
        if drop > NEURONS_DROP:
            yield f"drop over {NEURONS_DROP}"
        if row["cosine"] < NEURONS_COSINE:
            yield f"cosine under {NEURONS_COSINE}"
        return
    if row["cut"] < row["asked"] - SLACK:
        yield "the cut"
    if drop > subject.limits.get(row["asked"], math.inf) + 1e-12:
        yield f"drop over {subject.limits[row['asked']]:g}"
    rivals = [other for other in rows if other["asked"] == row["asked"] and other["tool"] in RIVALS]
    better = [one for one in rivals if not (one["error"] or coarse(one)) and one["drop"]["drop"] <= drop]
    yield from (f"not better than {TITLES[one['tool']]}" for one in better)


def coarse(row: Row) -> bool:
    """Whether a rival has no amount that comes near the cut."""
    return bool(row["tool"] in RIVALS and row["cut"] < row["asked"] - COARSE)


def line(row: Row) -> str:
    """A row of the table."""
    asked = f"{row['asked']:.0%}" + " of the neurons" * (row["tool"] == NEURONS)
    start = [row["name"], TITLES[row["tool"]], asked]
    if row["error"]:
        return f"| {' | '.join(map(cell, [*start, 'failed: ' + row['error'][:200]]))} |"
    drop = row["drop"]
    near = f", cosine {row['cosine']:.3f}" if "cosine" in row else ""
    reached = "no: " + "; ".join(row["missed"]) if row["missed"] else "yes" if row["tool"] not in RIVALS else ""
    cells = [
        *start,
        f"{row['cut']:.1%}",
        f"{drop['metric']} {drop['before']:.4f} -> {drop['after']:.4f}{near}",
        f"{drop['drop']:+.4f} [{drop['low']:+.4f}, {drop['high']:+.4f}]",
        f"{row['seconds']:.0f}",
        "not compared" if coarse(row) else reached,
    ]
    return f"| {' | '.join(map(cell, cells))} |"


if __name__ == "__main__":
    sys.exit(main())
