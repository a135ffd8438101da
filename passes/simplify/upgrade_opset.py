"""Convert a model to a newer opset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx
import onnx.version_converter
import onnx_ir as ir

from onnxopt import files
from onnxopt.core import Change, Context, Exactness, Pass, Refusal, option
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


@dataclass(frozen=True)
class UpgradeOpset(Pass):
    """Convert the model to opset ``version`` of the standard operators.

    Before:
        ``y = Squeeze<axes = [0]>(x)``, opset 11
    After:
        ``y = Squeeze(x, axes)``, opset 17
    Left alone:
        models that are there already or below opset 7; those with sparse weights, model-local functions
        (onnx's converter loses them) or operators of a domain the file does not import; Hardmax before
        opset 13 and Resize by less than 1 before opset 11, whose meaning the converter changes.
    Exact up to:
        float rounding.
    Source:
        onnx.version_converter, run on every operator whose meaning changed (see the test). It forgets that
        Resize before opset 11 was asymmetric, which is put right here. onnxscript's converter knows opset 18
        to 25 only.
    """

    name: ClassVar[str] = "upgrade-opset"
    exactness: ClassVar[Exactness] = Exactness.ROUNDING

    version: int = option(17, "opset of the standard operators", low=OLDEST)

    def run(self, model: ir.Model, context: Context) -> list[Change | Refusal]:
        """Convert a copy and take it over if it is valid."""
        before = opset(model)
        if before >= self.version:
            return []
        why = self._hindrance(model, before)
        if why:
            return [Refusal("opset", why)]
        try:
            proto = onnx.load_model_from_string(files.to_bytes(model))
            converted = onnx.version_converter.convert_version(proto, self.version)
            if before < 11:
                _restore_resize(converted.graph)
            onnx.checker.check_model(converted)
            other = ir.serde.deserialize_model(converted)
        except FAILURES as error:
            why = f"onnx cannot convert from {before} to {self.version}: {_last_line(error)}"
            return [Refusal("opset", why)]
        if signature(other) != signature(model):
            return [Refusal("opset", "onnx's converter changes the model's inputs or outputs")]
        adopt(model, other)
        return [Change("opset", f"{before} became {self.version}")]

    def _hindrance(self, model: ir.Model, before: int) -> str | None:
        newest = onnx.defs.onnx_opset_version()
        if self.version > newest:
            return f"the installed onnx knows opsets up to {newest}"
        if before < OLDEST:
            return f"opset {before} is too old to be converted safely; export the model again"
        if model.functions:
            return "the model has local functions, which onnx's converter loses; inline-functions first"
        if any(isinstance(value.const_value, SparseTensor) for value in initializers(model)):
            return "the model has sparse weights, which onnx's converter does not know"
        if before < 13 <= self.version and nodes(model, "Hardmax"):
            return "onnx's converter keeps Hardmax, whose meaning changes in opset 13"
        if before < 11 <= self.version and any(_shrinks(node) for node in nodes(model, "Resize")):
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
