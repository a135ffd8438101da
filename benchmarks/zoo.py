"""Export every network of the zoo, inspect it, optimize it without data, and print one table.

    python benchmarks/zoo.py [NAME ...] [--json out.json] [--folder out/zoo]

Each command is a process of its own. Fails where one fails, where the MACs of the file are not those that
``onnxopt export --list`` states, and where the result of ``optimize`` is slower than the file.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from onnxopt.models.zoo import ZOO, Network

COLUMNS = (
    "network", "parameters", "MACs", "file", "export", "difference to the module", "optimize", "exact passes kept",
    "nodes", "speed",
)  # fmt: skip


def main() -> int:
    """Run the zoo; exit 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("out/zoo"), help="where the files go")
    words = parser.parse_args()
    words.folder.mkdir(parents=True, exist_ok=True)
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    rows = []
    for name in words.names or ZOO:
        rows.append(measure(name, ZOO[name], words.folder))
        print(line(rows[-1]), flush=True)
    if words.json:
        words.json.write_text(json.dumps(rows, indent=2) + "\n")
    return int(any(row["problems"] for row in rows))


def measure(name: str, network: Network, folder: Path) -> dict[str, Any]:
    """One network through the three commands."""
    path, result = folder / f"{name}.onnx", folder / f"{name}.opt.onnx"
    shapes = [word for one in network.inputs for word in ("--shape", f"{one.name}={'x'.join(map(str, one.shape))}")]
    row: dict[str, Any] = {"name": name, "problems": []}
    steps = (
        ("export", ["export", name, "-o", str(path)]),
        ("inspect", ["inspect", str(path), *shapes]),
        ("optimize", ["optimize", str(path), "-o", str(result), *shapes]),
    )
    for step, command in steps:
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "onnxopt.cli.main", *command, "--json"], capture_output=True, text=True
        )
        row[f"{step}_seconds"] = round(time.perf_counter() - started, 1)
        if done.returncode:
            row["problems"].append(f"{step}: {done.stderr.strip()}")
            return row
        row[step] = json.loads(done.stdout)
    if row["inspect"]["macs"] != network.macs:
        row["problems"].append(f"MACs: the list says {network.macs}, the file has {row['inspect']['macs']}")
    if (speed := row["optimize"]["speed"]) and speed["verdict"] == "slower":
        row["problems"].append("optimize: slower")
    return row


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    if "optimize" not in row:
        return f"| {row['name']} | {'; '.join(row['problems'])} |"
    export, inspect, optimize = (row[step] for step in ("export", "inspect", "optimize"))
    worst = max(check["relative"] for check in export["checks"])
    kept = [step["pass"] for step in optimize["steps"] if step["outcome"] == "kept"]
    speed = optimize["speed"]
    ratio = (
        f"{speed['ratio']:.2f}x [{speed['low']:.2f}, {speed['high']:.2f}] {speed['verdict']}" if speed else "unchanged"
    )
    nodes = f"{optimize['before']['nodes']} -> {optimize['after']['nodes']}"
    cells = [
        row["name"],
        f"{ZOO[row['name']].parameters:,}",
        f"{inspect['macs']:,}",
        f"{export['bytes'] / 1e6:.1f} MB",
        f"{row['export_seconds']:.0f} s",
        f"{worst:.0e}",
        f"{row['optimize_seconds']:.0f} s",
        ", ".join(kept) or "none",
        nodes,
        "; ".join([ratio, *row["problems"]]),
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
