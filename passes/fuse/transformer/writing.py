"""Attention as one node: Attention or MultiHeadAttention of ONNX Runtime, or Attention of opset 23."""

from __future__ import annotations

import onnx_ir as ir

from onnxopt.core import Change
from onnxopt.passes.fuse.transformer.attention import HEADS_OUT, Attention, where
from onnxopt.passes.fuse.transformer.building import Builder, full_bias, heads_inside, joined, turned_from
from onnxopt.passes.fuse.transformer.packing import packed

CONTRIB = "com.microsoft"
STANDARD_SINCE = 23
"""The opset from which Attention is a standard operator."""


def write_standard(build: Builder, attention: Attention) -> Change:
    """Put the Attention of opset 23 in the place of an attention."""
    before, key = attention.product, attention.key
    if attention.key_heads_inside:
        key = build.node("Transpose", [key], before, perm=HEADS_OUT)
    inputs = [attention.query, key, attention.value, full_bias(build, attention)]
    out = build.node("Attention", inputs, before, scale=attention.scale)
    _take_over(before.outputs[0], out)
    return _change(attention, "Attention")


def write_contrib(build: Builder, attention: Attention) -> Change:
    """Put an operator of ONNX Runtime in the place of an attention, its projections included where they are alike."""
    before, heads = attention.product, attention.heads
    bias = full_bias(build, attention)
    projection = packed(build, attention)
    if projection is not None:
        op, inputs = "Attention", [*projection, None, None, bias]
    else:
        op, inputs = "MultiHeadAttention", [*_parts(build, attention), None, None, bias]
    out = build.node(op, inputs, before, CONTRIB, num_heads=heads, scale=attention.scale)
    _join(build, attention, out)
    return _change(attention, op)


def _change(attention: Attention, op: str) -> Change:
    return Change(where(attention), f"attention of {attention.heads} heads of size {attention.size} became {op}")


def _parts(build: Builder, attention: Attention) -> list[ir.Value]:
    """Query [batch, sequence, width]; key and value likewise, or with their heads in front where they come so."""
    before, heads, size = attention.product, attention.heads, attention.size
    query = joined(build, heads_inside(build, attention.query, before), heads * size, before)
    key = attention.key if attention.key_heads_inside else turned_from(attention.key)
    value = turned_from(attention.value)
    if key is not None and value is not None:
        widths = (key, heads * size), (value, heads * attention.value_size)
        return [query, *(joined(build, one, width, before) for one, width in widths)]
    if attention.key_heads_inside:
        return [query, build.node("Transpose", [attention.key], before, perm=HEADS_OUT), attention.value]
    return [query, attention.key, attention.value]


def _join(build: Builder, attention: Attention, out: ir.Value) -> None:
    """Let the readers of an attention read ``out``, [batch, sequence, width], as it is where they join its heads."""
    heads, size, sizes = attention.heads, attention.value_size, build.sizes
    old = attention.product.outputs[0]
    wanted = [sizes.of(attention.query, 0), sizes.of(attention.query, 2), heads * size]
    for use in list(old.uses()):
        turned = use.node.outputs[0]
        if turned_from(turned) is not old:
            continue
        for reader in [one.node for one in turned.uses()]:
            if reader.op_type == "Reshape" and sizes.shape(reader.outputs[0]) == wanted:
                _take_over(reader.outputs[0], out)
    if old.uses() or old.is_graph_output():
        before = attention.product
        parted = build.node("Reshape", [out, build.integers(before, 0, 0, heads, size)], before)
        _take_over(old, build.node("Transpose", [parted], before, perm=HEADS_OUT))


def _take_over(old: ir.Value, new: ir.Value) -> None:
    """Let everybody read ``new`` instead; what the graph returns keeps its name."""
    new.type = old.type
    if old.is_graph_output():
        old.name, new.name, new.shape = f"{old.name}/before", old.name, old.shape
    old.replace_all_uses_with(new, replace_graph_outputs=True)
