"""Attention as one operator: heads go whole, with all that is inside them, and those that stay are counted anew.

A tensor has its heads on axis 2 beside all else of them, ``[batch, steps, heads * size]``; on axis 1, ``[batch,
heads, steps, size]``; or on axis 2 with query, key and value packed inside, ``[batch, steps, heads, 3, size]``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import onnx_ir as ir

from onnxopt.graph import given
from onnxopt.passes.prune.groups.tracer import UNKNOWN, Axes, Barrier, Classes, Kept, Tracer, rule

CONTRIB = "com.microsoft"
PLACES = {3: 2, 4: 1, 5: 2}
"""Rank to the axis of the heads."""
INSIDE = "it is inside the heads of an attention, or beside them"


@rule("Attention", domain=CONTRIB)
def projected(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """X [B, S, I], W [I, query + key + value], bias, mask, past [2, B, H, P, D] to [B, S, value] and present."""
    x, weight = tracer.of(node.inputs[0]), tracer.of(node.inputs[1])
    heads = _counted(tracer, node, "num_heads")
    if weight[1] is None:
        raise Barrier(UNKNOWN)
    sizes = node.attributes.get_ints("qkv_hidden_sizes", [len(weight[1]) // 3] * 3)
    parts = [_spread(heads, size) for size in sizes]
    tracer.tie(weight[1], np.concatenate(parts))
    tracer.tie(x[2], weight[0])
    tracer.bar(x[:2], INSIDE)
    tracer.writes(node, node.inputs[1], 1)
    tracer.reads(node, node.inputs[1], 0)
    if (bias := given(node, 2)) is not None:
        tracer.tie(tracer.of(bias)[0], weight[1])
    _headed(tracer, [given(node, 4)], heads, 2)
    _scores(tracer, given(node, 5), heads)
    _bar(tracer, [given(node, 3), given(node, 6)])

    def adjust(kept: Kept) -> None:
        left = [kept.count(part) for part in parts]
        if "qkv_hidden_sizes" in node.attributes:
            node.attributes["qkv_hidden_sizes"] = ir.AttrInt64s("qkv_hidden_sizes", left)

    tracer.adjust(adjust)
    return [[None, None, parts[2]], [None, None, heads, None, None]]


@rule("MultiHeadAttention", domain=CONTRIB)
def multi_head(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """Query, key, value, bias [query + key + value], mask, scores, past key and value; the three may be packed."""
    heads = _counted(tracer, node, "num_heads")
    widths = [_wide(tracer, value, heads) for value in node.inputs[:3] if value is not None]
    widths += [widths[-1]] * (3 - len(widths))
    if (bias := given(node, 3)) is not None:
        tracer.tie(tracer.of(bias)[0], np.concatenate(widths))
    _scores(tracer, given(node, 5), heads)
    _headed(tracer, [given(node, 6), given(node, 7)], heads, 1)
    _bar(tracer, [given(node, 4), *node.inputs[8:]])
    return [[None, None, widths[2]], *[[None, heads, None, None]] * 3]


@rule("GroupQueryAttention", domain=CONTRIB)
def group_query(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """Several heads of the query share one of key and value; these go together. Without a key, all are in the query."""
    shared, heads = _shared(tracer, node, "num_heads")
    if given(node, 1) is None:
        packed = tracer.of(node.inputs[0])
        if packed[2] is None:
            raise Barrier(UNKNOWN)
        both = np.concatenate([heads, shared, shared])
        tracer.tie(packed[2], _spread(both, len(packed[2])))
        tracer.bar(packed[:2], INSIDE)
        width = _spread(heads, len(packed[2]) // len(both) * len(heads))
    else:
        width, *_ = (_wide(tracer, node.inputs[index], each) for index, each in enumerate((heads, shared, shared)))
    _headed(tracer, [given(node, 3), given(node, 4)], shared, 1)
    _scores(tracer, given(node, 10), heads)
    _headed(tracer, [given(node, 11)], heads, 0)
    _bar(tracer, [*node.inputs[5:10], *node.inputs[12:]])
    return [[None, None, width], *[[None, shared, None, None]] * 2, [None, heads, None, None]]


@rule("Attention")
def attention(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """Query, key and value of rank 3 or 4, mask, past key and value; opset 23."""
    rank = len(tracer.of(node.inputs[0]))
    shared, heads = _shared(tracer, node, "q_num_heads")
    for value, each in zip(node.inputs[:3], (heads, shared, shared), strict=True):
        width = _wide(tracer, value, each)
    _scores(tracer, given(node, 3), heads)
    _headed(tracer, [given(node, 4), given(node, 5)], shared, 1)
    _bar(tracer, node.inputs[6:])
    apart: Axes = [None, heads, None, None]
    joined: Axes = [None, None, np.repeat(heads, len(width) // len(shared))]
    return [apart if rank == 4 else joined, *[[None, shared, None, None]] * 2, apart]


@rule("RotaryEmbedding")
@rule("RotaryEmbedding", domain=CONTRIB)
def rotary(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """X of rank 3 or 4; cosines and sines [..., size / 2] are for one head, of whose numbers all may turn or some."""
    axes = tracer.of(node.inputs[0])
    caches = (2, 3) if node.domain == CONTRIB else (1, 2)
    _bar(tracer, [value for index, value in enumerate(node.inputs) if index])
    if len(axes) == 4:
        tracer.bar([axes[0], *axes[2:]], INSIDE)
        return [axes]
    count, half = node.attributes.get_int("num_heads", 0), tracer.of(node.inputs[caches[0]])[-1]
    if axes[2] is None or half is None:
        raise Barrier(UNKNOWN)
    heads = _counted(tracer, node, "num_heads") if count else tracer.fresh(len(axes[2]) // (2 * len(half)))
    _wide(tracer, node.inputs[0], heads)
    return [axes]


def _counted(tracer: Tracer, node: ir.Node, attribute: str, heads: Classes | None = None) -> Classes:
    """Classes of the heads that an attribute counts; and count those that stay."""
    known = tracer.fresh(node.attributes.get_int(attribute, 0)) if heads is None else heads

    def adjust(kept: Kept) -> None:
        if attribute in node.attributes:
            node.attributes[attribute] = ir.AttrInt64(attribute, kept.count(known))

    tracer.adjust(adjust)
    return known


def _shared(tracer: Tracer, node: ir.Node, attribute: str) -> tuple[Classes, Classes]:
    """Classes of the heads of keys and values, and of those of queries, of which as many follow as share one."""
    counts = []
    for value, name in zip(node.inputs[:2], (attribute, "kv_num_heads"), strict=True):
        axes = [] if value is None else tracer.of(value)
        by_shape = len(axes[1]) if len(axes) == 4 and axes[1] is not None else 0
        counts.append(node.attributes.get_int(name, by_shape))
    every, few = counts
    if not few or every % few:
        raise Barrier("how many heads it has is not known")
    shared = tracer.fresh(few)
    _counted(tracer, node, "kv_num_heads", shared)
    return shared, _counted(tracer, node, attribute, np.repeat(shared, every // few))


def _spread(heads: Classes, size: int) -> Classes:
    """The class of each of ``size`` channels, head after head."""
    if not len(heads) or size % len(heads):
        raise Barrier("its heads are not equal")
    return np.repeat(heads, size // len(heads))


def _wide(tracer: Tracer, value: ir.Value | None, heads: Classes) -> Classes:
    """Tie the heads of a query, key or value; the classes of all its channels, as they are on one axis."""
    axes = tracer.of(value)
    last = axes[-1] if len(axes) in PLACES else None
    if last is None:
        raise Barrier(UNKNOWN)
    place = PLACES[len(axes)]
    width = _spread(heads, len(last)) if len(axes) == 3 else np.repeat(heads, len(last))
    tracer.tie(axes[place], width if len(axes) == 3 else heads)
    tracer.bar([*axes[:place], *axes[place + 1 :]], INSIDE)
    return width


def _headed(tracer: Tracer, values: Iterable[ir.Value | None], heads: Classes, place: int) -> None:
    """Tie the heads on one axis of what is given."""
    for value in filter(None, values):
        axes = tracer.of(value)
        tracer.tie(axes[place], heads)
        tracer.bar([*axes[:place], *axes[place + 1 :]], INSIDE)


def _scores(tracer: Tracer, value: ir.Value | None, heads: Classes) -> None:
    """Tie the heads of what broadcasts to the scores, ``[batch, heads, steps, steps]``."""
    axes = [] if value is None else tracer.of(value)
    if len(axes) < 3:
        tracer.bar(axes, INSIDE)
        return
    *outer, count, queries, keys = axes
    tracer.bar([*outer, queries, keys], INSIDE)
    if count is None or len(count) > 1:
        tracer.tie(count, heads)


def _bar(tracer: Tracer, values: Iterable[ir.Value | None]) -> None:
    """Let nothing go from other inputs."""
    for value in filter(None, values):
        tracer.bar(tracer.of(value), INSIDE)
