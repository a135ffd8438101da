"""Int8 by onnxopt beside ONNX Runtime's own three tools: speed of each in one interleaved run, accuracy, one table.

    python benchmarks/int8.py [NAME ...] [--quick] [--work out/int8] [--reuse others|all] [--json out.json]
    python benchmarks/int8.py --prepare              # beforehand: models, data, the others' files; then --reuse others

Each file is made in a process of its own. Then all of a model's files are timed together, one iteration each in turn,
batch 1, one thread, and scored on held-out samples. The processor must be quiet then, and while ours are made, which
are timed, too. About half an hour; a third less after --prepare.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from contenders import HERE, OTHERS, OURS, POINT, Case, Given, Settings, called, commands, last_line, made, prepare

from onnxopt.benchmark import LOAD_LIMIT, Verdict, judge
from onnxopt.gate import Limits
from onnxopt.runtime import version
from onnxopt.target import Target, instruction_sets

VERSION = 1
"""Of the JSON form. 1: first."""
WANTED_ON = frozenset({"avx512_vnni", "amx_int8"})
FEATURES = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8")
NOT_SLOWER = 0.98
"""The interval of a model that is wanted "never slower" begins here or above."""
SPEARMAN = Limits(0.005)
ANY, DECIBELS = Limits(0.5), Limits(min_score=25.0)
COLUMNS = (
    "model", "accuracy fp32 -> ours", "static default", "static good", "dynamic", "ours", "ours to best other",
    "lossy passes kept", "s of each tool", "foreign load", "wanted",
)  # fmt: skip


def random_weights(name: str, gain: float, against: float) -> Case:
    """A network of the zoo: its accuracy means nothing, so that only an output like noise is refused."""
    return Case(name, gain, against, ANY, ANY, "relative-error", real=False)


CASES = (
    random_weights("resnet18", 3.2, 1.25),
    random_weights("resnet50", 3.0, 1.2),
    Case("mobilenet_v2_100_224", 1.9, 1.1),
    Case("squeezenet11", 2.2, 1.1),
    Case("resnet56_cifar10", 2.1, 1.0, quick=True),
    Case("mobilenet_v1_025_128", 1.0, 1.05, ours=POINT, quick=True),
    random_weights("vit_small_patch16", 2.6, 1.15),
    Case("minilm_l6", 3.2, 1.25, others=SPEARMAN, metric="spearman-cosine", length=128),
    random_weights("bert_base", 4.5, 1.2),
    random_weights("gpt2", 3.4, 1.0),
    random_weights("gpt2_past", 2.5, 1.0),
    replace(random_weights("lstm_tagger", 1.5, 1.3), quick=True, contrib=True),
    Case("silero_vad", ours=POINT, quick=True),
    Case("kws_dscnn", quick=True),
    Case("magika_v3_3", quick=True),
    Case("gtcrn", ours=DECIBELS, others=DECIBELS, metric="sqnr", quick=True),
    Case("ultraface_rfb_320", ours=DECIBELS, others=DECIBELS, metric="sqnr"),
    Case("fastestdet", ours=DECIBELS, others=DECIBELS, metric="sqnr"),
)
"""Rows and wanted numbers of issue 4, section "Must reach": batch 1, one thread, AVX512-VNNI and AMX."""


def main() -> int:
    """Print the table row by row; 1 if a row failed, or did not reach what is wanted of this processor."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="small models only, timed for one second")
    parser.add_argument("--work", type=Path, default=Settings.work, help="where the files go, and stay")
    parser.add_argument("--prepare", action="store_true", help="make all but our files, and measure nothing")
    parser.add_argument("--reuse", choices=["others", "all"], help="take files that an earlier run here has made")
    parser.add_argument("--limit", type=float, default=Settings.limit, help="seconds for each tool")
    parser.add_argument("--pass", dest="passes", action="append", default=[], help="of onnxopt optimize")
    parser.add_argument("--json", type=Path)
    words = parser.parse_args()
    known = {case.name: case for case in CASES}
    if unknown := set(words.names) - set(known):
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    cases = [known[name] for name in words.names] or [case for case in CASES if case.quick or not words.quick]
    reuse = {None: (), "others": OTHERS, "all": (*OTHERS, OURS)}[words.reuse]
    settings = Settings(words.work, reuse, 1.0 if words.quick else 3.0, words.limit, tuple(words.passes))
    if words.prepare:
        missing = [case.name for case in cases if not prepared(case, settings)]
        return int(bool(missing))
    print(header(features()))
    rows = []
    for case in cases:
        rows.append(row(case, settings))
        print(line(case, rows[-1]), flush=True)
        if words.json:
            found = {"version": VERSION, "features": features(), "onnxruntime": version(), "rows": rows}
            words.json.write_text(json.dumps(found, indent=2) + "\n")
    counts = set(features()) >= WANTED_ON
    return int(any(row["error"] or (counts and row["missed"]) for row in rows))


def prepared(case: Case, settings: Settings) -> bool:
    """Make and keep all but ours; whether there is a model, whatever the others make of it."""
    try:
        others = [one for one in commands(case, prepare(case, settings), settings) if one[0] != OURS]
    except Exception as error:
        print(f"{case.name}: {error}", flush=True)
        return False
    tools = {tool: made(tool, command, case, settings) for tool, command in others}
    said = [f"{tool} {one['seconds']:.0f} s{' fails' * bool(one['error'])}" for tool, one in tools.items()]
    print(f"{case.name}: {', '.join(said)}", flush=True)
    return True


def row(case: Case, settings: Settings) -> dict[str, Any]:
    """All there is to say of a model; a failure is said, too."""
    goal = {"gain": case.gain, "against": case.against}
    empty = {
        "name": case.name,
        "error": None,
        "wanted": goal,
        "tools": {},
        "measured": None,
        "best": None,
        "missed": [],
    }
    try:
        given = prepare(case, settings)
        tools = {tool: made(tool, command, case, settings) for tool, command in commands(case, given, settings)}
        found = measure(case, given, tools, settings)
    except Exception as error:  # a row must never take the table down with it
        return {**empty, "error": f"{type(error).__name__}: {last_line(str(error))}"}
    best = best_other(case, found)
    left = list(missed(case, tools, found, best))
    report = tools[OURS].pop("said")
    passes = {"kept": kept(report), "broken": broken(report)}
    return {**empty, **passes, "tools": tools, "measured": found, "best": best, "missed": left}


def measure(case: Case, given: Given, tools: Mapping[str, Mapping[str, Any]], settings: Settings) -> dict[str, Any]:
    """What ``turns.py`` finds for all files that were made."""
    models = {"fp32": str(given.model), **{tool: one["path"] for tool, one in tools.items() if not one["error"]}}
    job = {
        "models": models,
        "against": OURS,
        "data": str(given.calib),
        "eval_data": str(given.held_out),
        "metric": case.metric,
        "state": dict(given.state),
        "min_seconds": settings.seconds,
        "slow_seconds": 3 * settings.seconds,
    }
    command = [sys.executable, str(HERE / "turns.py")]
    found: dict[str, Any] = json.loads(called(command, settings.limit, json.dumps(job)))
    return found


def best_other(case: Case, found: Mapping[str, Any]) -> str | None:
    """The fastest of the three tools that kept the accuracy."""
    rivals = [tool for tool in OTHERS if tool in found["gain"] and within(found["scores"][tool], case.others)]
    return max(rivals, key=lambda tool: found["gain"][tool][0], default=None)


def within(score: Mapping[str, Any], limits: Limits) -> bool:
    """Whether the point, not its interval, keeps the limit; scores that have a least one are better when higher."""
    if "error" in score:
        return False
    if limits.min_score is not None:
        return bool(score["after"] >= limits.min_score)
    return bool(score["drop"] <= limits.max_drop + 1e-12)


def missed(
    case: Case, tools: Mapping[str, Mapping[str, Any]], found: Mapping[str, Any], best: str | None
) -> Iterator[str]:
    """What of the wanted is not there."""
    if OURS not in found["gain"]:
        yield f"failed: {tools[OURS]['error']}"
        return
    if not within(found["scores"][OURS], case.ours):
        yield "accuracy"
    ratio, low, _ = found["gain"][OURS]
    if (low < NOT_SLOWER) if case.gain is None else (ratio < case.gain):
        yield "against fp32"
    if best is not None:
        ratio, low, high = found["against"][best]
        slower = judge(low, high) is Verdict.SLOWER if case.against is None else ratio < case.against
        if slower:
            yield f"against {best}"


# --- the table ---


def features() -> list[str]:
    """The instruction sets of this processor that matter here."""
    return [name for name in FEATURES if name in instruction_sets()]


def header(there: Sequence[str]) -> str:
    """What the columns mean, and their names."""
    right = set(there) >= WANTED_ON
    columns = [*COLUMNS, "reached" if right else "reached (on another processor)"]
    narrow = ", reduce_range because 8-bit products saturate here" if Target().int8_saturates else ""
    return f"""ONNX Runtime {version()}, {", ".join(there) or "no instruction set known"}; batch 1, one thread.
The wanted numbers are for AVX512-VNNI with AMX; this is {"such a" if right else "ANOTHER"} processor.

- Ratios: time of fp32 over that of the file, with an interval of 95 % over 3 loads of all files, which are timed one
  iteration each in turn on the first calibration sample. "To best other": time of the fastest rival over ours.
- "static default" and "dynamic": quantize_static and quantize_dynamic with nothing but a model and data.
  "static good": after quant_pre_process, QDQ, uint8 activations, int8 weights per channel{narrow}.
- A rival loses at most 1 point (0.005 Spearman; 25 dB at least); others are marked ! with what they lose. Under half
  the speed of fp32 an other is not scored, and no rival.
- "Relative error": random weights and data, of which accuracy means nothing; all may be off by {ANY.max_drop:.0%}.

| {" | ".join(columns)} |
|{"---|" * len(columns)}"""


def line(case: Case, row: Mapping[str, Any]) -> str:
    """A row of the table."""
    if row["error"]:
        return f"| {case.name} | failed: {cell(row['error'])} |"
    found, tools, best = row["measured"], row["tools"], row["best"]
    load = found["environment"]["foreign_load"]
    cells = [
        case.name,
        accuracy(found["scores"].get(OURS), case),
        *(speed(tool, case, tools[tool], found) for tool in (*OTHERS, OURS)),
        f"{interval(found['against'][best])} ({best})" if best in found["against"] else "-",
        "; ".join([", ".join(row["kept"]) or "none", *row["broken"]]),
        " / ".join(f"{tools[tool]['seconds']:.0f}" for tool in (*OTHERS, OURS)),
        f"{load:.0%}{' !' if load > LOAD_LIMIT else ''}",
        wanted(case),
        "no: " + ", ".join(row["missed"]) if row["missed"] else "yes",
    ]
    return f"| {' | '.join(map(cell, cells))} |"


def accuracy(score: Mapping[str, Any] | None, case: Case) -> str:
    """Before and after, and the drop where the limit is one."""
    if score is None or "error" in score:
        return score["error"] if score else "-"
    words = f"{score['metric']} {score['before']:.4g} -> {score['after']:.4g}"
    if case.real and case.ours.min_score is None:
        words += f", drop {score['drop']:+.4f} [{score['low']:+.4f}, {score['high']:+.4f}]"
    return words


def speed(tool: str, case: Case, one: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """The ratio to fp32; and, where too much accuracy is lost, what is left or lost."""
    if one["error"]:
        return f"fails: {one['error'][:60]}"
    score, ratio = found["scores"][tool], interval(found["gain"][tool])
    limits = case.ours if tool == OURS else case.others
    if within(score, limits):
        return ratio
    if "error" in score:
        return f"{ratio} ! {score['error'][:60]}"
    lost = f"drop {score['drop']:.4f}" if limits.min_score is None else f"{score['metric']} {score['after']:.1f}"
    return f"{ratio} ! {lost}"


def interval(found: Sequence[float]) -> str:
    """A ratio with its interval."""
    ratio, low, high = found
    return f"{ratio:.2f} [{low:.2f}, {high:.2f}]"


def wanted(case: Case) -> str:
    """Both wanted numbers: to fp32, and to the best other."""
    gain = f"interval from {NOT_SLOWER}" if case.gain is None else f">= {case.gain}"
    return f"{gain}; {'not slower' if case.against is None else f'>= {case.against}'}"


def kept(report: Mapping[str, Any] | None) -> list[str]:
    """The lossy passes that were kept, with the ratio predicted of them where the report says it."""
    steps = [step for step in (report or {}).get("steps", []) if step["outcome"] == "kept"]
    lossy = [step for step in steps if step["exactness"] == "lossy"]
    return [step["pass"] + (f" (predicted {step['predicted']:.2f})" if step.get("predicted") else "") for step in lossy]


def broken(report: Mapping[str, Any] | None) -> list[str]:
    """The passes that raised an error or changed the results, and how; one whose options alone differ once."""
    steps = [step for step in (report or {}).get("steps", []) if step["outcome"] in ("failed", "undone")]
    said = [f"{step['pass'].partition(':')[0]} {step['outcome']}: {step['why'][:60]}" for step in steps]
    return list(dict.fromkeys(said))


def cell(text: str) -> str:
    """Text that does not break a table."""
    return text.replace("|", "/").replace("\n", " ")


if __name__ == "__main__":
    sys.exit(main())
