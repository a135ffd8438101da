"""Remove what no output depends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
from onnx_ir.passes import common

from onnxopt.core import Change, Context, Exactness, Pass
from onnxopt.graph import adopt, census, changes_since, drop_unread, initializers


@dataclass(frozen=True)
class RemoveDeadCode(Pass):
    """Remove nodes, weights, functions and opset imports that nothing uses.

    Before:
        ``h = Relu(x)`` that nobody reads, an initializer that nobody reads
    After:
        neither; inputs and outputs stay as they are
    Left alone:
        inputs of the model, and their defaults.
    Exact up to:
        nothing.
    Source:
        onnx_ir RemoveUnusedNodesPass, RemoveUnusedFunctionsPass, RemoveUnusedOpsetsPass.
    """

    name: ClassVar[str] = "remove-dead-code"
    exactness: ClassVar[Exactness] = Exactness.EXACT

    def run(self, model: ir.Model, context: Context) -> list[Change]:
        """Work on a copy: onnx_ir also tidies optional inputs, which is no reason to report a change."""
        copy, left = model, -1
        while left != (left := len(census(copy))):
            copy = copy.clone()  # without the bodies of removed nodes, which would still read weights
            common.RemoveUnusedNodesPass()(copy)
            drop_unread(list(initializers(copy)))  # onnx_ir looks at the main graph only
        common.RemoveUnusedFunctionsPass()(copy)  # type: ignore[no-untyped-call]
        common.RemoveUnusedOpsetsPass()(copy)
        changes = [*changes_since(census(model), copy), *_parts_gone(model, copy)]
        if changes:
            adopt(model, copy)
        return changes


def _parts_gone(before: ir.Model, after: ir.Model) -> list[Change]:
    """What went besides nodes."""
    weights = [value.name or "" for value in initializers(before)]
    for value in initializers(after):
        weights.remove(value.name or "")
    functions = [f"{key[0]}.{key[1]}" for key in before.functions if key not in after.functions]
    domains = [domain for domain in before.opset_imports if domain not in after.opset_imports]
    return [
        *(Change(name, "unread weight removed") for name in weights),
        *(Change(name, "uncalled function removed") for name in functions),
        *(Change(domain, "unused opset import removed") for domain in domains),
    ]
