"""Conversion of a model to a newer opset, by onnx's converter and what it forgets."""

from __future__ import annotations

import onnx
import onnx.version_converter
import onnx_ir as ir

from onnxopt import files
from onnxopt.errors import ModelError
from onnxopt.graph import STANDARD_DOMAINS, adopt, array, given, initializers, nodes, opset, signature
from onnxopt.sparse import SparseTensor

OLDEST = 7
"""Before this opset the converter has gaps (broadcasting, BatchNormalization's state)."""

FAILURES = (
    ModelError,
    RuntimeError,
    ValueError,
    onnx.checker.ValidationError,
    onnx.shape_inference.InferenceError,
)
"""What onnx's converter and checker raise."""


def raise_opset(model: ir.Model, version: int) -> str | None:
    """Convert the model in place to a newer opset of the standard operators; all its nodes are new ones.

    Returns:
        Why it cannot be, and then nothing was changed; None if it was.
    """
    before = opset(model)
    why = _hindrance(model, before, version)
    if why:
        return why
    try:
        proto = onnx.load_model_from_string(files.to_bytes(model))
        converted = onnx.version_converter.convert_version(proto, version)
        if before < 11:
            _restore_resize(converted.graph)
        onnx.checker.check_model(converted)
        other = ir.serde.deserialize_model(converted)
    except FAILURES as error:
        return f"onnx cannot convert from {before} to {version}: {_last_line(error)}"
    if signature(other) != signature(model):
        return "onnx's converter changes the model's inputs or outputs"
    adopt(model, other)
    return None


def _hindrance(model: ir.Model, before: int, version: int) -> str | None:
    newest = onnx.defs.onnx_opset_version()
    if version > newest:
        return f"the installed onnx knows opsets up to {newest}"
    if before < OLDEST:
        return f"opset {before} is too old to be converted safely; export the model again"
    if model.functions:
        return "the model has local functions, which onnx's converter loses; inline-functions first"
    if any(isinstance(value.const_value, SparseTensor) for value in initializers(model)):
        return "the model has sparse weights, which onnx's converter does not know"
    if before < 13 <= version and nodes(model, "Hardmax"):
        return "onnx's converter keeps Hardmax, whose meaning changes in opset 13"
    if before < 11 <= version and any(_shrinks(node) for node in nodes(model, "Resize")):
        return "what Resize to a smaller size means before opset 11 is not specified"
    return None


def _shrinks(resize: ir.Node) -> bool:
    """Whether a Resize of opset 10 makes something smaller, or may."""
    scales = array(given(resize, 1))
    return scales is None or bool((scales < 1).any())


def _restore_resize(graph: onnx.GraphProto) -> None:
    """Give each Resize the meaning of opset 10: in opset 11 the defaults became others."""
    old = {"coordinate_transformation_mode": b"asymmetric", "nearest_mode": b"floor"}
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs]:
                _restore_resize(inner)
        if node.op_type == "Resize" and node.domain in STANDARD_DOMAINS:
            for name, mode in old.items():
                node.attribute.add(name=name, s=mode, type=onnx.AttributeProto.STRING)


def _last_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[-1][-200:]
