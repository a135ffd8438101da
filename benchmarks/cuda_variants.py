"""What cuda_float16.py compares: a model in float32, our float16 of it, and that of ONNX Runtime's converter.

All are made on the CPU, from the same file, so that a machine that is lent with a GPU has only to time them.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir
from cuda_models import Case, feeds, filled

from onnxopt import files, passes, recipes
from onnxopt.core import Change, Context
from onnxopt.samples import Samples, random_samples
from onnxopt.target import Target

FLOAT, OURS, SHIPPED = "fp32", "ours", "shipped"
HEADS = {"vit": (6, 384), "bert": (12, 768), "gpt2": (12, 768)}
"""Attention heads and width, which onnxruntime.transformers asks for."""
FOR_CPUS = ("residual-sum",)
"""Exact passes that know kernels of the CPU."""
SAMPLES = 4
"""Random ones, on which float16 is calibrated."""


def build(case: Case, folder: Path, *, small: bool, anew: bool = False) -> dict[str, Path]:
    """The files of a network, made where they are not there yet, or ``anew``; label to path."""
    paths = {label: folder / f"{case.zoo}.{label}.onnx" for label in (FLOAT, OURS, SHIPPED)}
    for path in paths.values() if anew else ():
        path.unlink(missing_ok=True)
    if not paths[FLOAT].exists():
        model = ir.serde.deserialize_model(filled(folder / f"{case.zoo}.onnx"))
        passes.parse("fold-batch-norm").run(model, Context(Target()))  # as an exporter gives it to everybody
        _put(files.to_proto(model), paths[FLOAT])
    if not paths[OURS].exists():
        _put(files.to_proto(ours(case, files.load(paths[FLOAT]), small=small)), paths[OURS])
    if not paths[SHIPPED].exists():
        _put(shipped(case, paths[FLOAT]), paths[SHIPPED])
    return paths


def words() -> list[str]:
    """The recipe for a GPU, without what a clock and a gate decide."""
    exact = [word for word in recipes.EXACT if word not in FOR_CPUS]
    return [*exact, f"{recipes.FUSED}:additions=yes", recipes.HALF, *recipes.CLOSE]


def ours(case: Case, model: ir.Model, *, small: bool) -> ir.Model:
    """Exact passes, transformer fusions, float16."""
    target = Target(shapes={name: array.shape for name, array in feeds(case, 1, small=small).items()})
    samples: Samples = random_samples(model, target, {}, count=SAMPLES)
    for word in words():
        rewrite = passes.parse(word)
        found = rewrite.run(model, Context(Target(), samples, allow_contrib=True))
        done = [item for item in found if isinstance(item, Change)]
        if done and word.partition(":")[0] in (recipes.FUSED, recipes.HALF):
            print(f"{case.name}: {rewrite}: {len(done)} changes", flush=True)
    return model


def shipped(case: Case, path: Path) -> onnx.ModelProto:
    """ONNX Runtime's own: its optimizer for transformers, then its converter; inputs and outputs stay as they are."""
    if case.kind is None:
        from onnxruntime.transformers.float16 import convert_float_to_float16  # noqa: TID251

        return convert_float_to_float16(onnx.load(path), keep_io_types=True)
    from onnxruntime.transformers.optimizer import optimize_model  # noqa: TID251

    heads, hidden = HEADS[case.kind]
    # opt_level 0: its own fusions alone, because those of ONNX Runtime are for the machine that runs this
    fused = optimize_model(str(path), case.kind, num_heads=heads, hidden_size=hidden, opt_level=0, use_gpu=True)
    fused.convert_float_to_float16(keep_io_types=True)
    return fused.model


def _put(model: onnx.ModelProto, path: Path) -> None:
    half = path.with_suffix(".part")
    half.write_bytes(model.SerializeToString())
    half.rename(path)
