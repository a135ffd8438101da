"""Layers split into layers of low rank: where the rank is known, on real models by budget, form by form, and in int8.

    python benchmarks/factorize.py [PART ...] [--models NAME ...] [--quick] [--work FOLDER] [--json out.json]

Parts: known (weights of low rank by construction: are the ranks found, and what does it gain), curves (scores of real
models over what is left), tucker (errors of 3x3 convolutions, ours beside the higher-order SVD), int8 (does low rank
gain anything in front of int8: the clock decides). All in one process; the clock wants a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from contenders import Settings
from factorize_curves import CURVES, curves
from factorize_int8 import INT8, contests
from factorize_known import KNOWN, known
from factorize_tucker import TUCKER, errors

from onnxopt.runtime import version

VERSION = 1
"""Of the JSON form. 1: first."""
PARTS = {"known": (known, KNOWN), "curves": (curves, CURVES), "tucker": (errors, TUCKER), "int8": (contests, INT8)}
"""How each part is made, and of which models; the first model is that of --quick."""

Row = dict[str, Any]


def main() -> int:
    """Print the tables row by row; 1 if a row failed or what is wanted is not reached."""
    names = sorted({name for _, models in PARTS.values() for name in models})
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all of them if none is named")
    parser.add_argument("--models", nargs="+", choices=names, metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument("--quick", action="store_true", help="only one model of each part")
    parser.add_argument("--work", type=Path, default=Path("out/factorize"), help="where the files go, and stay")
    parser.add_argument("--json", type=Path)
    words = parser.parse_args()
    if unknown := set(words.parts) - PARTS.keys():
        parser.error(f"there is no part {' or '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    settings, found = (
        Settings(words.work),
        {"version": VERSION, "onnxruntime": version(), **{part: [] for part in PARTS}},
    )
    for part in words.parts or PARTS:
        make, models = PARTS[part]
        chosen = [name for name in models if not words.models or name in words.models][: 1 if words.quick else None]
        for text in make(chosen, settings, found[part]):
            print(text, flush=True)
            if words.json:
                words.json.parent.mkdir(parents=True, exist_ok=True)
                words.json.write_text(json.dumps(found, indent=2) + "\n")
    return int(any(row["error"] or row["missed"] for part in PARTS for row in found[part]))


if __name__ == "__main__":
    sys.exit(main())
