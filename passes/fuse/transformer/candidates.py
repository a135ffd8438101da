"""A model fused in several ways."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from onnxopt.core import Refusal
from onnxopt.errors import ModelError
from onnxopt.graph import inferred, label, opset, walk
from onnxopt.passes.fuse.transformer.attention import Attention, attentions
from onnxopt.passes.fuse.transformer.building import Builder
from onnxopt.passes.fuse.transformer.sizes import Sizes
from onnxopt.passes.fuse.transformer.undoing import undo
from onnxopt.passes.fuse.transformer.writing import CONTRIB, STANDARD_SINCE, write_contrib, write_standard
from onnxopt.transformer_fusions import Wish, fused, kept

ATTENTIONS = ("Attention", "MultiHeadAttention", "GroupQueryAttention")
FUSED = (
    *ATTENTIONS,
    "EmbedLayerNormalization",
    "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization",
    "LayerNormalization",
    "SimplifiedLayerNormalization",
    "RMSNormalization",
    "RotaryEmbedding",
    "BiasGelu",
    "FastGelu",
    "QuickGelu",
    "Gelu",
)
ARRANGE = frozenset(
    {"Concat", "Constant", "Gather", "Identity", "Reshape", "Shape", "Slice", "Split", "Squeeze", "Unsqueeze"}
)
RENAMED = {"Gelu": "none", "FastGelu": "tanh"}
"""Operators of ONNX Runtime that the standard has too, and the approximation that they are there."""


@dataclass(frozen=True)
class Candidate:
    """A model as fused.

    Attributes:
        model: the model.
        words: as what it was fused, and what is in it now.
        odd: attention that was left as it was.
    """

    model: ir.Model
    words: str
    odd: tuple[Refusal, ...]


def candidates(start: ir.Model, wish: Wish, seconds: float) -> Iterator[Candidate | Refusal]:
    """The model as the libraries fuse it, and without them, attention that they leave included; the best first.

    The one with fewer attentions left, then with fewer nodes that compute, is better. Why a library gives nothing is
    a Refusal.

    Args:
        start: not changed.
        wish: what to fuse.
        seconds: time limit of the libraries.
    """
    stated = {value.name: twin for value, twin in inferred(start).items()}
    found: list[Candidate] = []
    try:
        with fused(start, wish, seconds) as models:
            for kind, model in models.items():
                if isinstance(model, str):
                    yield Refusal("model", f"as {kind}: {model}")
                else:
                    _restore(start, model, stated)
                    found.append(_candidate(kept(model), f"as {kind}", wish))
    except ModelError as error:
        yield Refusal("model", str(error))
    found.append(_candidate(start.clone(), "by the rule for attention", wish))
    yield from sorted(found, key=lambda one: (len(one.odd), _work(one.model)))


def _candidate(model: ir.Model, words: str, wish: Wish) -> Candidate:
    """Fuse the attention that is left; name the operators."""
    if not wish.contrib:
        _rename(model)
    undo(model, sums=wish.additions)  # a library may have folded it
    sizes = Sizes(inferred(model))
    build, odd = Builder.of(model, sizes), []
    standard = not wish.contrib
    for node, one in list(attentions(model, sizes)):
        if isinstance(one, Attention) and not (standard and opset(model) < STANDARD_SINCE):
            (write_standard if standard else write_contrib)(build, one)
        else:
            odd.append(Refusal(label(node), one if isinstance(one, str) else "no standard operator at this opset"))
    RemoveUnusedNodesPass()(model)
    _import(model)
    counts = Counter(node.op_type for node in walk(model))
    listed = ", ".join(f"{counts[op]} {op}" for op in FUSED if counts[op])
    return Candidate(model, f"{words}: {listed or 'nothing'}", tuple(odd))


def _rename(model: ir.Model) -> None:
    """Use the standard's Gelu in the place of ONNX Runtime's."""
    for node in walk(model):
        if node.domain == CONTRIB and node.op_type in RENAMED and len(node.inputs) == 1:
            node.attributes["approximate"] = ir.AttrString("approximate", RENAMED[node.op_type])
            node.domain, node.op_type = "", "Gelu"


def _import(model: ir.Model) -> None:
    """Import ONNX Runtime's domain exactly where it is used."""
    if any(node.domain == CONTRIB for node in walk(model)):
        model.opset_imports.setdefault(CONTRIB, 1)
    else:
        model.opset_imports.pop(CONTRIB, None)


def _work(model: ir.Model) -> int:
    """How many nodes compute, and do not just arrange."""
    return sum(node.op_type not in ARRANGE for node in walk(model))


def _restore(start: ir.Model, model: ir.Model, stated: Mapping[str | None, ir.Value]) -> None:
    """Give a library's model what it may have lost: types and shapes, metadata, weights that share memory.

    Nothing infers types behind a fused node: values that have kept their names have those of before, ``stated``.
    """
    known = {value.name: value for value in (*start.graph.inputs, *start.graph.outputs)}
    for value in (*model.graph.inputs, *model.graph.outputs):
        if (old := known.get(value.name)) is not None:
            value.type, value.shape, value.doc_string = old.type, old.shape, old.doc_string
    model.metadata_props.clear()
    model.metadata_props.update(start.metadata_props)
    for name, value in model.graph.initializers.items():
        old = start.graph.initializers.get(name)
        if old is not None and old.const_value is not None and value.const_value is not None:
            a, b = old.const_value, value.const_value
            if a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a.numpy(), b.numpy()):
                value.const_value = a
    for node in walk(model):
        for value in node.outputs:
            twin = stated.get(value.name)
            if twin is not None and twin.type is not None:
                value.type, value.shape = twin.type, twin.shape
