"""Inline model-local functions."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import onnx.defs
import onnx_ir as ir
from onnx_ir.passes import common

from onnxopt.core import Change, Context, Exactness, Pass, Refusal
from onnxopt.graph import adopt, signature, walk


@dataclass(frozen=True)
class InlineFunctions(Pass):
    """Put the body of every model-local function where it is called.

    Before:
        ``y = local.Dense(x, W)`` with a function ``Dense``
    After:
        ``y = MatMul(x, W)``, as the body says; the function is gone
    Left alone:
        a function of another opset, where an operator of its body means something else there; functions
        that call themselves; a function that returns its own input, or whose caller takes fewer outputs
        than it has. One of them keeps all functions from being inlined.
    Exact up to:
        nothing: the same operators on the same numbers.
    Source:
        ONNX IR specification, FunctionProto; onnx_ir InlinePass.
    """

    name: ClassVar[str] = "inline-functions"
    exactness: ClassVar[Exactness] = Exactness.EXACT

    def run(self, model: ir.Model, context: Context) -> list[Change | Refusal]:
        """Inline all functions, or none where one of them cannot be."""
        calls = Counter(n.op_identifier() for n in walk(model) if n.op_identifier() in model.functions)
        if not calls:
            return []
        found = [why for key in model.functions if (why := _hindrance(model, key))]
        if found:
            return list(found)
        copy, first = model.clone(), next(iter(calls))
        for function in copy.functions.values():
            common_domains = function.opset_imports.keys() & model.opset_imports.keys()
            function.opset_imports.update({domain: model.opset_imports[domain] for domain in common_domains})
        try:
            common.InlinePass()(copy)
        except (ValueError, ir.passes.InvariantError) as error:
            return [Refusal(_text(first), f"onnx_ir does not inline it: {error}")]
        common.NameFixPass()(copy)
        if signature(copy) != signature(model):
            return [Refusal(_text(first), "inlining would rename an input or output of the model")]
        adopt(model, copy)
        return [Change(_text(key), f"inlined where it is called, {n} times") for key, n in calls.items()]


def _hindrance(model: ir.Model, key: ir.OperatorIdentifier) -> Refusal | None:
    """Why a function cannot be inlined: what onnx_ir gets wrong, or cannot know."""
    function = model.functions[key]
    nodes = [*function.all_nodes()]
    for domain, version in function.opset_imports.items():
        ours = model.opset_imports.get(domain, version)
        for node in nodes:
            known = node.op_identifier() in model.functions or node.domain != domain
            if not known and not _same_meaning(node, version, ours):
                why = f"its {node.op_type} of opset {version} means something else in opset {ours}"
                return Refusal(_text(key), f"{why} of the model")
    if any(output in function.inputs for output in function.outputs):
        return Refusal(_text(key), "it returns its own input")
    callers = [*walk(model), *(node for other in model.functions.values() for node in other.all_nodes())]
    if any(n.op_identifier() == key and len(n.outputs) != len(function.outputs) for n in callers):
        return Refusal(_text(key), "a caller takes fewer outputs than it has")
    return None


def _same_meaning(node: ir.Node, version: int, other: int) -> bool:
    """Whether an operator is the same in two versions of its opset."""
    if version == other:
        return True
    try:
        old, new = (onnx.defs.get_schema(node.op_type, v, node.domain) for v in (version, other))
    except onnx.defs.SchemaError:
        return False
    return bool(old.since_version == new.since_version)


def _text(key: ir.OperatorIdentifier) -> str:
    return f"{key[0]}.{key[1]}"
