"""From a PyTorch module to a checked ONNX file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from onnxscript.optimizer import fold_constants, remove_unused_nodes

from onnxopt.errors import ModelError

OPSET = 20
TOLERANCE = 1e-4


def export(
    module: torch.nn.Module,
    path: Path,
    inputs: Mapping[str, torch.Tensor],
    outputs: Sequence[str],
    opset: int = OPSET,
) -> onnx.ModelProto:
    """Write `module` as ONNX with a dynamic batch, one node per layer: BatchNormalization stays itself.

    The file is written only if onnx's reference evaluator computes what the module does, on the
    whole example and on its first sample.

    Args:
        module: in evaluation mode.
        path: of the file to write.
        inputs: an example of each input by its name in the file, in the order of `forward`;
            axis 0 is the batch, of two samples or more.
        outputs: names of the outputs in the file.
        opset: version of the operator set.

    Raises:
        ModelError: the exported model is not what the module computes.
    """
    batch = torch.export.Dim("batch")
    program = torch.onnx.export(
        module,
        tuple(inputs.values()),
        dynamo=True,
        optimize=False,
        opset_version=opset,
        input_names=list(inputs),
        output_names=list(outputs),
        dynamic_shapes=tuple({0: batch} for _ in inputs),
        verbose=False,
    )
    tidy(program.model)
    model = ir.to_proto(program.model)
    check(module, model, inputs)
    check(module, model, {name: example[:1] for name, example in inputs.items()})
    path.write_bytes(model.SerializeToString(deterministic=True))
    return model


def tidy(model: ir.Model) -> None:
    """Remove, in place, what only the exporter needs.

    That is the arithmetic of constants around its operators (a zero bias comes as five nodes), and
    beside each node the source lines, with paths of this machine.
    """
    fold_constants(model)
    remove_unused_nodes(model)
    ClearMetadataAndDocStringPass()(model)
    for value in (*model.graph.inputs, *model.graph.initializers.values(), *model.graph.outputs):
        value.metadata_props.clear()


def check(module: torch.nn.Module, model: onnx.ModelProto, inputs: Mapping[str, torch.Tensor]) -> None:
    """Compare each output of the file with the module's, absolutely and relatively within 1e-4.

    Raises:
        ModelError: they differ.
    """
    onnx.checker.check_model(model, full_check=True)
    with torch.no_grad():
        wanted = module(*inputs.values())
    wanted = (wanted,) if isinstance(wanted, torch.Tensor) else wanted
    given = evaluate(model, {name: example.numpy() for name, example in inputs.items()})
    for output, want, got in zip(model.graph.output, wanted, given, strict=True):
        if want.shape != got.shape or not np.allclose(got, want.numpy(), rtol=TOLERANCE, atol=TOLERANCE):
            raise ModelError(f"the exported model is wrong at output '{output.name}', batch {want.shape[0]}")


def evaluate(model: onnx.ModelProto, feeds: Mapping[str, NDArray[np.generic]]) -> list[NDArray[np.generic]]:
    """Compute the outputs with onnx's reference evaluator, which shares no code with any runtime."""
    return list(ReferenceEvaluator(model).run(None, dict(feeds)))
