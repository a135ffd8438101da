"""PyTorch's two exporters, made quiet, and their failures in one paragraph."""

from __future__ import annotations

import contextlib
import enum
import io
import logging
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from onnxscript.optimizer import fold_constants, remove_unused_nodes
from torch import Tensor, nn

from onnxopt import files
from onnxopt.errors import ModelError
from onnxopt.export.calling import Call
from onnxopt.graph import initializers

ADVICE = "change the module, or try --exporter {other}"
LOGGERS = ("torch", "torch.onnx", "torch.fx", "torch._export", "onnxscript", "onnx_ir")
LONGEST = 500
"""Characters of an exporter's reason."""


class Exporter(enum.Enum):
    """Which of PyTorch's exporters: the one on torch.export, or the old one on TorchScript traces."""

    DYNAMO = "dynamo"
    TORCHSCRIPT = "torchscript"

    @property
    def other(self) -> str:
        """The one to try next."""
        return next(one.value for one in Exporter if one is not self)


def convert(
    call: Call,
    tensors: Mapping[str, Tensor],
    dynamic: Mapping[str, Mapping[int, str]],
    outputs: Sequence[str],
    exporter: Exporter,
    opset: int,
    *,
    keep_layers: bool = False,
) -> ir.Model:
    """Export a module.

    Args:
        call: the module with its inputs, in evaluation mode.
        tensors: an example of each input; dynamic dimensions have sizes of 2 or more, all different.
        dynamic: input name to axis to dimension name.
        outputs: their names in the file.
        exporter: which one.
        opset: version of the standard operators.
        keep_layers: leave out the dynamo exporter's own optimizer, which folds BatchNormalization.

    Raises:
        ModelError: with the exporter's reason, if it cannot.
    """
    arguments = {"opset_version": opset, "verbose": False, "input_names": [*call.names], "output_names": [*outputs]}
    flat, ordered = _Flat(call).eval(), tuple(tensors[name] for name in call.names)
    try:
        with _quiet():
            if exporter is Exporter.DYNAMO:
                model = _dynamo(flat, ordered, dynamic, arguments, optimize=not keep_layers)
            else:
                model = _torchscript(flat, ordered, dynamic, arguments)
    except Exception as error:
        advice = ADVICE.format(other=exporter.other)
        raise ModelError(
            f"PyTorch's {exporter.value} exporter cannot export the module: {reason(error)}; {advice}"
        ) from error
    _unwrap(model)
    if keep_layers:
        fold_constants(model)
        remove_unused_nodes(model)
    _strip(model)
    if (given := model.opset_imports.get("")) != opset:
        raise ModelError(
            f"PyTorch's {exporter.value} exporter gives opset {given} and cannot convert it to {opset}; "
            f"ask for --opset {given}, or try --exporter {exporter.other}"
        )
    return model


def _dynamo(
    flat: nn.Module,
    tensors: Sequence[Tensor],
    dynamic: Mapping[str, Mapping[int, str]],
    arguments: Mapping[str, Any],
    *,
    optimize: bool,
) -> ir.Model:
    shapes = (tuple(dict(dynamic.get(name, {})) for name in arguments["input_names"]),)
    program = torch.onnx.export(flat, tensors, dynamo=True, dynamic_shapes=shapes, optimize=optimize, **arguments)
    return program.model  # type: ignore[no-any-return]


def _torchscript(
    flat: nn.Module, tensors: Sequence[Tensor], dynamic: Mapping[str, Mapping[int, str]], arguments: Mapping[str, Any]
) -> ir.Model:
    """Through a file: the old exporter knows nothing else, and large weights lie beside it."""
    axes = {name: dict(one) for name, one in dynamic.items() if one}
    with tempfile.TemporaryDirectory(prefix="onnxopt-") as folder:
        path = Path(folder) / "model.onnx"
        with torch.no_grad():
            torch.onnx.export(flat, tensors, str(path), dynamo=False, dynamic_axes=axes, **arguments)
        return ir.external_data.load_to_model(files.load(path))


class _Flat(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """The module with tensors in order as inputs and a tuple of tensors as output: what both exporters take."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self.module, self._call = call.module, call

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(self._call(dict(zip(self._call.names, tensors, strict=True))).values())


def _unwrap(model: ir.Model) -> None:
    """Call the weights as the user's module does."""
    for value in [*initializers(model)]:
        value.name = (value.name or "").removeprefix("module.")


def reason(error: BaseException) -> str:
    """Why an exporter failed, in one paragraph: the message of the first cause, and the line it points at."""
    root = error
    while root.__cause__ is not None:
        root = root.__cause__
    text = re.sub(r"\x1b\[\d+m", "", str(root)).strip() or type(root).__name__
    said = " ".join(text.split("\n\n")[0].split())
    where = re.search(r'File "([^"]+)", line (\d+), in forward\n\s*(.+)', text)
    said = said if len(said) <= LONGEST else said[:LONGEST] + "..."
    return f"{said.rstrip('.')} (at {where[1]}:{where[2]}: {where[3].strip()})" if where else said.rstrip(".")


def _strip(model: ir.Model) -> None:
    """Remove what the exporter notes beside each node: source lines with paths of this machine."""
    ClearMetadataAndDocStringPass()(model)
    for value in (*model.graph.inputs, *model.graph.initializers.values(), *model.graph.outputs):
        value.metadata_props.clear()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No logs, warnings and printed graphs of PyTorch: what matters comes as an exception."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [one.level for one in loggers]
    with warnings.catch_warnings(), _nothing_printed():
        warnings.simplefilter("ignore")
        try:
            for one in loggers:
                one.setLevel(logging.CRITICAL + 1)
            yield
        finally:
            for one, level in zip(loggers, levels, strict=True):
                one.setLevel(level)


@contextlib.contextmanager
def _nothing_printed() -> Iterator[None]:
    """Standard output and error lead nowhere, those of C++ too."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = {number: os.dup(number) for number in (1, 2)}
    sink = io.StringIO()
    with open(os.devnull, "wb") as nowhere, contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
        try:
            for number in kept:
                os.dup2(nowhere.fileno(), number)
            yield
        finally:
            for number, copy in kept.items():
                os.dup2(copy, number)
                os.close(copy)
