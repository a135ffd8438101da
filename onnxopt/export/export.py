"""The road of ``onnxopt export``: trace, convert, compare with the module, write. Read this first."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir
import torch
from torch import Tensor, nn

from onnxopt import files
from onnxopt.check import Difference
from onnxopt.errors import ModelError, UsageError
from onnxopt.export.calling import Call
from onnxopt.export.convert import Exporter, convert
from onnxopt.export.inputs import INTEGERS, Input, Sizes, draw, example_sizes, short_sizes, tracing_sizes
from onnxopt.export.verify import compare
from onnxopt.optimize import tidy
from onnxopt.pipeline import Step
from onnxopt.target import Target

OPSET = 20


@dataclass(frozen=True)
class Settings:
    """How to export.

    Attributes:
        exporter: which of PyTorch's.
        opset: version of the standard operators.
        outputs: names for the outputs; without them, those that the module gives (see ``calling.flatten``).
        optimize: run the exact passes of ``onnxopt optimize``.
        keep_layers: one node per layer; else the exporter folds BatchNormalization.
        seed: of the random inputs.
    """

    exporter: Exporter = Exporter.DYNAMO
    opset: int = OPSET
    outputs: Sequence[str] = ()
    optimize: bool = False
    keep_layers: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Exported:
    """What was written, and how near it is to the module.

    Attributes:
        model: as written.
        paths: the files, the model first.
        checks: sizes of the dynamic dimensions to the largest difference between file and module there.
        steps: of the exact passes, where they were asked for.
        seconds: it took.
    """

    model: ir.Model
    paths: Sequence[Path]
    checks: Sequence[tuple[Sizes, Difference]]
    steps: Sequence[Step] = field(default=())
    seconds: float = 0.0


@torch.no_grad()  # type: ignore[untyped-decorator]
def export(module: nn.Module, path: Path, inputs: Sequence[Input], settings: Settings | None = None) -> Exported:
    """Write a module as an ONNX file that computes what the module does.

    File and module are compared through ONNX Runtime on random inputs: at the sizes of the examples, and at
    other sizes of every dynamic dimension; without dynamic dimensions, on two different inputs.

    Args:
        module: in evaluation mode.
        path: of the file; weights above 1.8 GB go beside it.
        inputs: names, shapes, dynamic dimensions.
        settings: how to export.

    Raises:
        UsageError: inputs or output names do not fit the module.
        ModelError: the module does not run, cannot be exported, or the file computes something else; nothing
            was written.
    """
    started = time.perf_counter()
    settings = settings or Settings()
    files.check_writable(path, source=None, force=False)
    if len({one.name for one in inputs}) != len(inputs) or not inputs:
        raise UsageError("give each input of the module once")
    call = Call(module, [one.name for one in inputs])
    sizes = example_sizes(inputs)
    integers = _runs(call, inputs, sizes, settings.seed)

    example = _example(call, inputs, sizes, settings.seed, integers)
    outputs = [*call(example, settings.outputs)]
    model = convert(
        call,
        example,
        {one.name: one.dynamic for one in inputs},
        outputs,
        settings.exporter,
        settings.opset,
        keep_layers=settings.keep_layers,
    )
    steps: Sequence[Step] = ()
    if settings.optimize:
        model, steps = tidy(model, Target(shapes={one.name: one.shape for one in inputs if one.dynamic}))
    checks = compare(call, model, inputs, sizes, settings.seed, integers)
    paths = files.save(model, path)
    return Exported(model, paths, checks, steps, time.perf_counter() - started)


def tensors(inputs: Sequence[Input], sizes: Sizes, seed: int, integers: int = INTEGERS) -> dict[str, Tensor]:
    """Random inputs as tensors."""
    return {name: torch.from_numpy(array) for name, array in draw(inputs, sizes, seed, integers).items()}


def _example(call: Call, inputs: Sequence[Input], sizes: Sizes, seed: int, integers: int) -> dict[str, Tensor]:
    """The inputs to trace with: short ones, if the module runs on them."""
    short = tensors(inputs, tracing_sizes(short_sizes(sizes)), seed, integers)
    with contextlib.suppress(ModelError):
        call(short)
        return short
    return tensors(inputs, tracing_sizes(sizes), seed, integers)


def _runs(call: Call, inputs: Sequence[Input], sizes: Sizes, seed: int) -> int:
    """The greatest random integer with which the module runs: it may be an index into something short."""
    *larger, least = (INTEGERS, 9, 1)
    for integers in larger:
        with contextlib.suppress(ModelError):
            call(tensors(inputs, sizes, seed, integers))
            return integers
    call(tensors(inputs, sizes, seed, least))
    return least
