"""Transformer fusions by onnxruntime.transformers and onnxscript, in a process of their own."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx_ir as ir

from onnxopt import files
from onnxopt.errors import ModelError
from onnxopt.graph import weight_bytes
from onnxopt.runtime import onnxruntime
from onnxopt.transformer_script import Request

SCRIPT = Path(__file__).with_name("transformer_script.py")
MISSING = re.compile(r"No module named '(\w+)'")


@dataclasses.dataclass(frozen=True)
class Wish:
    """What is to be fused; see ``transformer_script.Request``."""

    kinds: Sequence[str]
    heads: int
    hidden: int
    contrib: bool
    gelu: bool
    additions: bool


@contextlib.contextmanager
def fused(model: ir.Model, wish: Wish, seconds: float) -> Iterator[dict[str, ir.Model | str]]:
    """For each kind the model as fused, or why there is none. Their weights may be in files until the block ends.

    Args:
        model: valid; not changed.
        wish: what to fuse, and as which kinds.
        seconds: time limit for all kinds together.

    Raises:
        ModelError: if the process crashes, fails or takes too long.
        RuntimeMissing: if ONNX Runtime is not installed.
    """
    onnxruntime()
    with tempfile.TemporaryDirectory(prefix="onnxopt-") as scratch:
        folder, beside = Path(scratch), weight_bytes(model) > files.SINGLE_FILE_LIMIT
        source = files.save(model, folder / "before.onnx")[0]
        ask = {**dataclasses.asdict(wish), "source": str(source), "folder": scratch, "beside": beside}
        request = Request(**{**ask, "kinds": tuple(wish.kinds)})
        (folder / "request.json").write_text(json.dumps(dataclasses.asdict(request)))
        said = _said(folder, seconds)
        yield {kind: _refused(why) if why else _loaded(folder / f"{kind}.onnx") for kind, why in said.items()}


def kept(model: ir.Model) -> ir.Model:
    """The model with its weights in memory, good after the files are gone."""
    return ir.external_data.load_to_model(model)


def _said(folder: Path, seconds: float) -> dict[str, str]:
    """Run the script; what it says of each kind."""
    command = [sys.executable, "-P", "-W", "ignore", str(SCRIPT), str(folder / "request.json")]
    try:
        done = subprocess.run(command, capture_output=True, timeout=seconds, cwd=folder)
    except subprocess.TimeoutExpired:
        raise ModelError(f"the transformer fusions took longer than {seconds:g} seconds") from None
    if done.returncode < 0:
        raise ModelError(f"the transformer fusions crashed (signal {-done.returncode})")
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise ModelError(f"the transformer fusions failed: {(lines or ['no message'])[-1][:300]}")
    said: dict[str, str] = json.loads((folder / "said.json").read_text())
    return said


def _loaded(path: Path) -> ir.Model | str:
    try:
        return files.load(path)
    except ModelError as error:
        return str(error)


def _refused(why: str) -> str:
    """The reason, with advice where a module is missing that onnxruntime.transformers does not bring along."""
    missing = MISSING.search(why)
    return f"{why[:300]}; pip install {missing[1]}" if missing else why[:300]
