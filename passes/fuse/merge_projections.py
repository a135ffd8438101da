"""Merge the linear maps that read the same value, as query, key and value do."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxopt.core import Change, Context, Exactness, Pass, Refusal
from onnxopt.graph import array, constant, drop_unread, given, label, nodes, only_read_by, opset, rank, tensor
from onnxopt.sparse import SparseTensor

OLDEST = 13
"""From here Split takes its sizes as an input; before, ONNX Runtime fuses BERT's attention from the parts."""


@dataclass(frozen=True)
class MergeProjections(Pass):
    """Merge MatMuls (or Gemms) of the same value with constant weights into one, and split its output.

    Before:
        ``q = MatMul(x, Wq) + bq``, ``k = MatMul(x, Wk) + bk``, ``v = MatMul(x, Wv)``, W* [K, N*], b* [N*]
    After:
        ``q, k, v = Split<axis=-1>(MatMul(x, [Wq Wk Wv]) + [bq bk 0], [Nq, Nk, Nv])``; Gemms of equal
        attributes in the same way, with their biases inside
    Left alone:
        weights that other nodes read too, that a caller can override, or that are sparse or quantized; a Gemm
        whose bias is not one constant per output; opsets before 13. A summand after a MatMul that is no
        constant of shape [N] stays where it is.
    Exact up to:
        float rounding, where the kernel sums a wider product in another order.
    Source:
        linearity. ONNX Runtime merges them by itself only inside its fused attention, up to opset 12. MiniLM on a
        Zen 3: 1.00x in float, and 1.00x in dynamic int8.
    """

    name: ClassVar[str] = "merge-projections"
    exactness: ClassVar[Exactness] = Exactness.ROUNDING

    def run(self, model: ir.Model, context: Context) -> list[Change | Refusal]:
        """Merge every group of two or more."""
        if opset(model) < OLDEST:
            return []
        groups: dict[Hashable, list[ir.Node]] = {}
        for node in nodes(model, "MatMul", "Gemm"):
            if (key := _key(node)) is not None:
                groups.setdefault(key, []).append(node)
        return [item for group in groups.values() if len(group) > 1 for item in _merge_group(group)]


@dataclass(frozen=True)
class _Projection:
    """One linear map with N outputs.

    Attributes:
        nodes: the MatMul or Gemm, and the Add or Sum of its bias where there is one.
        weight: [K, N], or [N, K] where Gemm transposes it.
        bias: [N], or None.
    """

    nodes: tuple[ir.Node, ...]
    weight: np.ndarray
    bias: np.ndarray | None

    @property
    def width(self) -> int:
        """N."""
        return int(self.weight.shape[_axis(self.nodes[0])])


def _key(node: ir.Node) -> Hashable | None:
    """What nodes to be merged have in common; None where the weight is no matrix of constants, overridable or not."""
    x, weight = node.inputs[:2]
    contents = tensor(weight)
    dimensions = rank(weight) if contents is None else len(contents.shape)
    if x is None or weight is None or dimensions != 2 or (contents is None and not weight.is_initializer()):
        return None
    transposed = [node.attributes.get_int(name, 0) for name in ("transA", "transB")]
    factors = [node.attributes.get_float(name, 1.0) for name in ("alpha", "beta")]
    return id(node.graph), id(x), node.op_type, *transposed, *factors


def _axis(node: ir.Node) -> int:
    """The axis of the outputs in the weight."""
    return 0 if node.attributes.get_int("transB", 0) else 1


def _merge_group(group: Sequence[ir.Node]) -> list[Change | Refusal]:
    """Merge those of the group that can be, and say why the others cannot."""
    read = [(node, _read(node)) for node in group]
    refused: list[Change | Refusal] = [Refusal(label(node), part) for node, part in read if isinstance(part, str)]
    parts = [part for _, part in read if isinstance(part, _Projection)]
    return [*refused, _merge(parts)] if len(parts) > 1 else refused


def _read(node: ir.Node) -> _Projection | str:
    """A linear map with its bias, or what keeps it by itself."""
    value, contents = node.inputs[1], tensor(node.inputs[1])
    assert value is not None
    if contents is None:
        return f"its weight {value.name!r} can be overridden at run time"
    if isinstance(contents, SparseTensor):
        return f"its weight {value.name!r} is sparse"
    if len(value.uses()) > 1 or value.is_graph_output():
        return f"its weight {value.name!r} is also read elsewhere"
    weight, inside = contents.numpy(), given(node, 2)
    if inside is None:
        return _with_adder(node, weight) if node.op_type == "MatMul" else _Projection((node,), weight, None)
    bias = _row(array(inside), weight.shape[_axis(node)])
    if bias is None:
        return f"its bias {inside.name!r} is not one constant per output"
    return _Projection((node,), weight, bias)


def _row(bias: np.ndarray | None, width: int) -> np.ndarray | None:
    """The bias of a Gemm as [N]; None where it differs from row to row."""
    if bias is None or bias.size not in (1, width) or (bias.size > 1 and bias.shape[-1] != width):
        return None
    return np.broadcast_to(bias.reshape(-1), [width])


def _with_adder(node: ir.Node, weight: np.ndarray) -> _Projection:
    """A MatMul with the node that adds a constant of shape [N] to it, if there is one."""
    out = node.outputs[0]
    for adder, index in out.uses():
        if adder.op_type in ("Add", "Sum") and len(adder.inputs) == 2 and only_read_by(out, adder):
            bias = array(adder.inputs[1 - index])
            if bias is not None and bias.shape == weight.shape[1:]:
                return _Projection((node, adder), weight, bias)
    return _Projection((node,), weight, None)


def _merge(parts: Sequence[_Projection]) -> Change:
    """Put one linear map and a Split in the place of the first of them."""
    first, outputs = parts[0].nodes[0], [part.nodes[-1].outputs[0] for part in parts]
    graph, x, name = first.graph, first.inputs[0], outputs[0].name
    assert graph is not None
    assert x is not None
    weight = constant(graph, f"{name}/{first.op_type}/1", np.concatenate([p.weight for p in parts], _axis(first)))
    bias = [constant(graph, f"{name}/bias", _biases(parts))] if any(part.bias is not None for part in parts) else []
    inside = bias if first.op_type == "Gemm" else []
    new = [ir.Node("", first.op_type, [x, weight, *inside], [*first.attributes.values()])]
    if bias and not inside:
        adder = next(part.nodes[1] for part in parts if len(part.nodes) > 1)
        new.append(ir.Node("", adder.op_type, [new[0].outputs[0], *bias]))
    for node in new:
        node.outputs[0].name, node.outputs[0].type = f"{name}/{node.op_type}", outputs[0].type
    sizes = constant(graph, f"{name}/Split/1", np.array([part.width for part in parts], np.int64))
    inputs = [new[-1].outputs[0], sizes]
    new.append(ir.Node("", "Split", inputs, [ir.AttrInt64("axis", -1)], num_outputs=len(parts)))
    old = [node for part in parts for node in part.nodes]
    read = [value for node in old for value in node.inputs if value is not None and value.is_initializer()]
    ir.convenience.replace_nodes_and_values(graph, first, old, new, outputs, new[-1].outputs)
    drop_unread(read)
    return Change(str(name), f"{len(parts)} {first.op_type} of {x.name!r} merged into one")


def _biases(parts: Sequence[_Projection]) -> np.ndarray:
    """[sum of N], zeros where a map has none."""
    return np.concatenate([np.zeros(p.width, p.weight.dtype) if p.bias is None else p.bias for p in parts])
