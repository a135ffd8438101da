"""Which inputs and outputs of a node change their type with it, by the specification of its operator."""

from __future__ import annotations

import enum
import functools
from collections.abc import Mapping
from dataclasses import dataclass

import onnx.defs
import onnx_ir as ir

from onnxopt.graph import STANDARD_DOMAINS
from onnxopt.passes.cast.half import Half
from onnxopt.passes.cast.kernels import CONTRIB, missing_kernel


class Slot(enum.Enum):
    """How a float input or output of a node takes 16 bits."""

    FOLLOWS = "follows"
    """It has the type that the node computes in."""
    FIXED = "fixed"
    """It is float32 always."""
    FREE = "free"
    """It may have either type, whatever the node computes in."""


@dataclass(frozen=True)
class Slots:
    """Of an operator: its inputs and outputs, the last of each standing for all after it."""

    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]

    def input(self, index: int) -> Slot:
        """Of input number ``index``."""
        return self.inputs[min(index, len(self.inputs) - 1)] if self.inputs else Slot.FIXED

    def output(self, index: int) -> Slot:
        """Of output number ``index``."""
        return self.outputs[min(index, len(self.outputs) - 1)] if self.outputs else Slot.FIXED


ALL_FIXED = Slots((Slot.FIXED,), (Slot.FIXED,))
FREE_INPUT = ("Cast", "RandomNormalLike", "RandomUniformLike", "Shape", "Size")
"""Operators that take any type, and give the same."""
DRAWN = ("Bernoulli", "RandomNormal", "RandomUniform")
"""Operators that draw numbers."""
FIXED_INPUTS: Mapping[tuple[str, str], tuple[int, ...]] = {
    ("", "Resize"): (1, 2),
    ("", "Upsample"): (1,),
    (CONTRIB, "GroupNorm"): (1, 2),
    (CONTRIB, "SkipGroupNorm"): (1, 2),
    (CONTRIB, "GroupQueryAttention"): (12, 13),
}
FIXED_OUTPUTS: Mapping[tuple[str, str], tuple[int, ...]] = {
    ("", "LayerNormalization"): (1, 2),
    ("", "SimplifiedLayerNormalization"): (1,),
    (CONTRIB, "SkipLayerNormalization"): (1, 2),
    (CONTRIB, "SkipSimplifiedLayerNormalization"): (1, 2),
}
"""Statistics that are kept in float32 (``stash_type``)."""
OWN_SCHEMAS = ("LayerNormalization", "SimplifiedLayerNormalization")
"""ONNX Runtime has them in the standard domain in every opset; its fusions write them."""
MANY = 16
"""Inputs or outputs of an operator that has no schema here, at most."""


def domain_of(node: ir.Node) -> str:
    """The domain; empty for the standard operators."""
    return "" if node.domain in STANDARD_DOMAINS else node.domain


def slots(node: ir.Node, opset: int, half: Half) -> Slots | str:
    """The slots of a node, or why all of it stays in float32."""
    domain = domain_of(node)
    if domain == "" and node.op_type in FREE_INPUT:
        return Slots((Slot.FREE,), (Slot.FOLLOWS if node.op_type == "Cast" else Slot.FIXED,))
    if domain == "" and node.op_type in DRAWN:
        return f"{node.op_type} would draw other numbers in {half.name}"
    why = missing_kernel(domain, node.op_type, opset, half.name)
    if why is not None:
        return why
    found = _slots(domain, node.op_type, opset, half.name)
    if found is None:
        return f"{node.op_type} takes no {half.name} in opset {opset}"
    return found


@functools.cache
def _slots(domain: str, op_type: str, opset: int, half: str) -> Slots | None:
    try:
        schema = onnx.defs.get_schema(op_type, opset, domain)
    except onnx.defs.SchemaError:
        schema = None
    if schema is None and domain == "" and op_type not in OWN_SCHEMAS:
        return None
    if schema is None:
        inputs, outputs = [Slot.FOLLOWS] * MANY, [Slot.FOLLOWS] * MANY
    else:
        kinds = {one.type_param_str: set(one.allowed_type_strs) for one in schema.type_constraints}
        follows = {name for name, allowed in kinds.items() if {f"tensor({half})", "tensor(float)"} <= allowed}
        inputs, outputs = (
            [Slot.FOLLOWS if one.type_str in follows else Slot.FIXED for one in side]
            for side in (schema.inputs, schema.outputs)
        )
    for side, fixed in ((inputs, FIXED_INPUTS), (outputs, FIXED_OUTPUTS)):
        for index in fixed.get((domain, op_type), ()):
            if index < len(side):
                side[index] = Slot.FIXED
    found = Slots(tuple(inputs), tuple(outputs))
    return found if Slot.FOLLOWS in (*inputs, *outputs) else None
