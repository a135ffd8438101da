"""LSTM, GRU and RNN: a hidden unit is a row of each gate, and a column that all gates read one step later."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxopt.graph import given
from onnxopt.passes.prune.groups.tracer import Axes, Barrier, Kept, Tracer, rule

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
STEPS = "it counts steps, samples or directions"


@rule(*GATES)
def recurrent(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
    """Both directions lose the same units; with G gates of H units, the gates one after the other.

    X [steps, batch, I], W [directions, G H, I], R [directions, G H, H], B [directions, 2 G H], lengths [batch],
    initial h and c [directions, batch, H], P [directions, 3 H] to Y [steps, directions, batch, H], h, c. With
    layout 1, the batch comes first.
    """
    gates = GATES[node.op_type]
    x, weight, recurrence = (tracer.of(value) for value in node.inputs[:3])
    rows, units = weight[1], recurrence[2]
    if rows is None or units is None or len(rows) != gates * len(units):
        raise Barrier("its hidden units are not known")
    tracer.tie(rows, np.tile(units, gates))
    tracer.tie(recurrence[1], rows)
    tracer.tie(x[2], weight[2])
    tracer.bar([*x[:2], weight[0], recurrence[0]], STEPS)
    for index, times in ((3, 2 * gates), (5, 1), (6, 1), (7, 3)):
        if (value := given(node, index)) is not None:
            *others, last = tracer.of(value)
            tracer.tie(last, np.tile(units, times))
            tracer.bar(others, STEPS)
    if (lengths := given(node, 4)) is not None:
        tracer.bar(tracer.of(lengths), STEPS)
    tracer.writes(node, node.inputs[1], 1)
    tracer.writes(node, node.inputs[2], 1)
    tracer.reads(node, node.inputs[1], 2)
    tracer.reads(node, node.inputs[2], 2)

    def adjust(kept: Kept) -> None:
        node.attributes["hidden_size"] = ir.AttrInt64("hidden_size", kept.count(units))

    tracer.adjust(adjust)
    return [[None, None, None, units], [None, None, units], [None, None, units]]
