"""Which passes in which order for which goal and target: the only place that says so; and recipe files.

A recipe file is TOML::

    version = 1

    [[pass]]
    name = "fold-batch-norm"

    [[pass]]
    name = "quantize-int8"
    portable = "yes"

    [[pass]]
    words = "space-to-depth-stem + quantize-int8 | quantize-int8"

    [[pass]]
    words = "prune-channels:macs=0.3..0.95"
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

from onnxopt import passes
from onnxopt.core import Pass
from onnxopt.errors import UsageError
from onnxopt.passes.quantize.quantize_int8 import MINIMUM_OPSET
from onnxopt.pipeline import MAX_SLOWDOWN, Goal
from onnxopt.stages import Stage
from onnxopt.target import Target

VERSION = 1

TIDY = (
    "inline-functions",
    "freeze-weights",
    "lift-constants",
    "fold-constants",
    "remove-identities",
    "merge-duplicates",
)
FUSE = ("fold-batch-norm", "fold-affine", "fuse-pad", "mean-to-global-pool")
UNCOVERED = ("lift-constants", *FUSE, "merge-linear")
"""Simplification may uncover what our own passes then fuse, so they run once more."""
EXACT = (*TIDY, *FUSE, "simplify", *UNCOVERED, "remove-dead-channels", "residual-sum", "remove-dead-code")

CONVERTED = "convert-layer"
"""After int8: what is still computed in float."""
CLOSE = ("share-initializers", "strip-metadata")
"""Sharing comes last: it ties weights that a pass before it may have to tell apart."""

_QUICK = "quantize-int8:rounding=nearest"
FORMS = (
    _QUICK,
    f"space-to-depth-stem + {_QUICK}",
    f"flatten-matmul + {_QUICK}",
    f"merge-projections + flatten-matmul + {_QUICK}",
    "quantize-dynamic",
    "quantize-weights:share=0.2",
    "quantize-weights:share=0.2,bits=4",
)
"""Int8 and what may make it faster still, and float not; the fastest is kept, and then rounded with more care."""
CONTRIB_FORMS = ("fold-constants:growth-bytes=100000000 + quantize-lstm",)
"""The same with operators that only ONNX Runtime has. A recurrent layer's weights come out of the exporter in parts."""
SMALLEST = ("quantize-int8:placement=everywhere", "quantize-dynamic")
"""The same where bytes count, not time."""
LOW_RANK = "factorize:error=0.0005,limit=0.6"
"""What has a low rank already, but for noise: weights of a product of two matrices, trained or merged so."""
CODED = "cluster-weights:drop={:.4g}"
SHARES = (0.5, 0.25, 0.1)
"""Of the drop that the gate allows, what codes may be expected to take: the gate's samples are others. The first that
is kept ends it, for there is nothing left to code then."""
BOLDER = (0.75, *SHARES)
"""The same in front of codes for int8, of which the gate has said before what int8 itself loses."""
REST = ("store-half", "store-sparse")
"""What else makes a file smaller: biases, and what is mostly zeros."""
ANONYMOUS = ("strip-names",)
QUIETER = (
    "quantize-int8",
    "equalize-channels + quantize-int8",
    "smooth-activations + quantize-int8",
    "quantize-int8:noise=0.5",
    "quantize-int8:noise=0.2",
    "quantize-int8:noise=0.05",
)
"""Where the gate refuses all of them: better rounding, fairer channels, then layers whose noise is large for what they
save stay in float. The first that is kept ends it."""
FUSED = "fuse-transformer"
HALF = "cast-float16"
HALVES = (f"{FUSED} + {HALF} | {HALF}", FUSED)
"""For GPUs. Fusions pay most in float16, and find nothing behind it: they look for the nodes of an exporter."""
FEW_ROWS = "quantize-weights:bits=4,share=0.2 | quantize-weights:share=0.2"
"""For GPUs and decoders, which wait for their weights; behind float16, whose type the scales have then."""
PRUNING = {Goal.LATENCY: "prune-channels:macs=0.3..0.95", Goal.SIZE: "prune-channels:bytes=0.3..0.95"}
"""As much as the gate lets through, in front of what was kept before it."""


def default(
    model: ir.Model,
    goal: Goal,
    target: Target,
    *,
    has_data: bool,
    allow_contrib: bool = False,
    prune: bool = False,
    allowed: float = 0.01,
    max_slowdown: float = MAX_SLOWDOWN,
) -> tuple[Stage, ...]:
    """The recipe for a model, a goal and a target.

    Without data only exact passes are in it, since no accuracy could be measured. On CUDA there is float16 in the place
    of int8: ONNX Runtime has no fused integer kernels there, and the Q/DQ nodes would make it slower.

    Args:
        model: as it is now.
        goal: what a lossy pass must improve.
        target: where it will run.
        has_data: whether accuracy can be measured.
        allow_contrib: whether operators may be used that only ONNX Runtime has.
        prune: whether channels may go.
        allowed: the largest drop that the gate lets through.
        max_slowdown: with the goal of size, how many times as long as the original's a run may take.
    """
    words, on_cpu = [*EXACT], target.provider == "cpu"
    if has_data and on_cpu and model.opset_imports.get("", 0) < MINIMUM_OPSET:
        words.append("upgrade-opset")
    if has_data and goal is Goal.SIZE:
        words += _smallest(on_cpu, allowed, max_slowdown)
    elif has_data and on_cpu:
        words += [" | ".join((*FORMS, *(CONTRIB_FORMS if allow_contrib else ()))), *QUIETER]
    elif not on_cpu:
        words += HALVES if has_data else [FUSED]
    if has_data and prune:
        words.append(PRUNING[goal])
    if has_data and not on_cpu and goal is Goal.LATENCY:
        words.append(FEW_ROWS)  # what prunes comes right behind what it is tried in front of
    if goal is Goal.SIZE:
        words += [*REST, *CLOSE, *ANONYMOUS]
    else:
        words += [*([CONVERTED] if on_cpu else []), *CLOSE]
    return tuple(passes.parse_stage(word) for word in words)


def _smallest(on_cpu: bool, allowed: float, max_slowdown: float) -> list[str]:
    """Low ranks and codes for floats, decoded while the model is loaded; where it must be faster, codes for int8.

    Int8 comes after codes for floats, too, where the gate or the clock refuses these.
    """
    coded = [CODED.format(share * allowed) for share in (SHARES if max_slowdown >= 1 else BOLDER)]
    int8 = [" | ".join(SMALLEST), *QUIETER] if on_cpu else [HALF]
    return [LOW_RANK, *coded, *int8, coded[-1]] if max_slowdown >= 1 else [*int8, *coded]


def load(path: Path) -> tuple[Stage, ...]:
    """Read a recipe file.

    Raises:
        UsageError: if it is missing, not TOML, of another version, or names an unknown pass or option.
    """
    import tomllib

    try:
        content = tomllib.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"recipe {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"recipe {path} is not TOML: {error}") from error
    if content.get("version") != VERSION:
        raise UsageError(f"recipe {path} has version {content.get('version')}; this onnxopt reads version {VERSION}")
    entries = content.get("pass", [])
    if not isinstance(entries, list) or not entries:
        raise UsageError(f"recipe {path} has no [[pass]] entries")
    return tuple(_read(entry, path) for entry in entries)


def dump(recipe: Sequence[Stage]) -> str:
    """The text of a recipe file; only options that differ from their defaults are written."""
    import tomli_w

    return tomli_w.dumps({"version": VERSION, "pass": [_entry(rewrite) for rewrite in recipe]})


def _read(entry: Any, path: Path) -> Stage:
    if isinstance(entry, dict) and entry.keys() == {"words"}:
        return passes.parse_stage(str(entry["words"]))
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise UsageError(f"recipe {path}: each [[pass]] needs a name")
    options = {key: value for key, value in entry.items() if key != "name"}
    return passes.by_name(entry["name"]).configured(options)


def _entry(rewrite: Stage) -> dict[str, Any]:
    if not isinstance(rewrite, Pass):
        return {"words": str(rewrite)}
    fields = dataclasses.fields(rewrite)  # type: ignore[arg-type]
    given = {field.name: getattr(rewrite, field.name) for field in fields}
    changed = {f.name: given[f.name] for f in fields if given[f.name] != f.default}
    return {"name": rewrite.name, **{k: list(v) if isinstance(v, tuple) else v for k, v in changed.items()}}
