"""Optimize the real models of ../shared/data with ``onnxopt optimize``, one process each, and print one table.

    python benchmarks/suite.py [NAME ...] [--all] [--json out.json]

Accuracy is on the ``eval`` samples, which nothing else sees; the ratio is the original's time over the result's
(above 1 is faster), one thread, batch 1. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SHARED = Path(os.environ.get("ONNXOPT_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "data"
NAMED = (
    "squeezenet11", "resnet56_cifar10", "mobilenet_v2_100_224", "kws_dscnn", "magika_v3_3", "silero_vad", "mnist_cntk",
)  # fmt: skip
METRICS = {"spearman_cosine": "spearman-cosine", "snr_db": "relative-error"}
"""Metrics of the manifest whose name is another here; the rest is onnxopt's own choice."""


def main() -> int:
    """Run the suite; exit 1 if a run failed, lost more accuracy than allowed, or ended slower."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--all", action="store_true", help="every model that is there")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--max-drop", type=float, default=0.01)
    words = parser.parse_args()
    if not SHARED.is_dir():
        print(f"skipped: there is no {SHARED} (set ONNXOPT_SHARED to the folder that holds data/)")
        return 0
    models = {m["name"]: m for m in json.loads((SHARED / "manifest.json").read_text())["models"]}
    there = [name for name, m in models.items() if (SHARED / m["file"]).exists()]
    rows = [measure(models[name], words.max_drop) for name in words.names or (there if words.all else NAMED)]
    show(rows)
    if words.json:
        words.json.write_text(json.dumps(rows, indent=2) + "\n")
    return int(any(row["error"] or not row["ok"] for row in rows))


def measure(model: dict[str, Any], max_drop: float) -> dict[str, Any]:
    """One model through ``onnxopt optimize`` in its own process."""
    with tempfile.TemporaryDirectory(prefix="onnxopt-suite-") as scratch:
        export = [sys.executable, str(SHARED / "load.py"), "export", model["name"], "--out", scratch]
        subprocess.run(export, check=True, capture_output=True)
        data = ["--data", f"{scratch}/calib.npz", "--eval-data", f"{scratch}/eval.npz", "--max-drop", str(max_drop)]
        for name, output in (model.get("state") or {}).items():
            data += ["--state", f"{name}={output}"]
        if model["metric"] in METRICS:
            data += ["--metric", METRICS[model["metric"]]]
        command = [sys.executable, "-m", "onnxopt.cli.main", "optimize", str(SHARED / model["file"])]
        done = subprocess.run([*command, "-o", f"{scratch}/out.onnx", *data, "--json"], capture_output=True, text=True)
    if done.returncode:
        return {"name": model["name"], "error": done.stderr.strip(), "ok": False}
    return row(model["name"], json.loads(done.stdout), max_drop)


def row(name: str, report: dict[str, Any], max_drop: float) -> dict[str, Any]:
    """What the table shows of a report."""
    accuracy, speed = report["accuracy"], report["speed"]
    return {
        "name": name,
        "error": None,
        "metric": accuracy["metric"],
        "before": accuracy["before"],
        "after": accuracy["after"],
        "drop": accuracy["drop"],
        "drop_interval": [accuracy["low"], accuracy["high"]],
        "ratio": speed["ratio"] if speed else 1.0,
        "ratio_interval": [speed["low"], speed["high"]] if speed else None,
        "verdict": speed["verdict"] if speed else "the original is kept",
        "bytes": [report["before"]["bytes"], report["after"]["bytes"]],
        "seconds": report["seconds"],
        "peak_memory": report["peak_memory"],
        "foreign_load": speed["environment"]["foreign_load"] if speed else None,
        "kept": [step["pass"] for step in report["steps"] if step["outcome"] == "kept"],
        "notes": report["notes"],
        "ok": accuracy["drop"] <= max_drop and (not speed or speed["verdict"] != "slower"),
    }


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table."""
    print("| model | metric | before | after | drop [95 %] | ratio [95 %] | size | s | MiB | lossy passes kept |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for r in rows:
        if r["error"]:
            print(f"| {r['name']} | failed: {r['error']} |")
            continue
        low, high = r["drop_interval"]
        ratio = (
            f"{r['ratio']:.2f} [{r['ratio_interval'][0]:.2f}, {r['ratio_interval'][1]:.2f}]"
            if r["ratio_interval"]
            else ""
        )
        size = f"{r['bytes'][0] / 1e6:.2f} -> {r['bytes'][1] / 1e6:.2f} MB"
        lossy = ", ".join(name for name in r["kept"] if name.startswith("quantize")) or "none"
        print(
            f"| {r['name']} | {r['metric']} | {r['before']:.4f} | {r['after']:.4f} | {r['drop']:+.4f} "
            f"[{low:+.4f}, {high:+.4f}] | {ratio} {r['verdict']} | {size} | {r['seconds']:.0f} "
            f"| {r['peak_memory'] / 2**20:.0f} | {lossy} |"
        )


if __name__ == "__main__":
    sys.exit(main())
