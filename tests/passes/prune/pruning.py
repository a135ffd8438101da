"""A small network to prune, and what to ask of the result."""

from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir

from onnxopt import files
from onnxopt.core import Change, Context, Refusal
from onnxopt.macs import KnownShapes, count
from onnxopt.passes.prune.prune_channels import PruneChannels
from onnxopt.runtime import Session
from onnxopt.samples import Samples, random_samples
from onnxopt.target import Target
from onnxopt.testing import parse

CPU = Target()
NET = """g (float[n,3,8,8] x) => (float[n,4] y)
<float[32,3,3,3] w1, float[32] b1, float[24,32,3,3] w2, float[24] b2, float[32,24,1,1] w3, float[32] b3,
 float[32,4] w4, float[4] b4>
{ h1 = Conv<pads=[1,1,1,1]>(x, w1, b1)  r1 = Relu(h1)
  h2 = Conv<pads=[1,1,1,1]>(r1, w2, b2)  r2 = Relu(h2)
  h3 = Conv(r2, w3, b3)  s = Add(h3, r1)  r3 = Relu(s)
  p = GlobalAveragePool(r3)  f = Flatten(p)  y = Gemm(f, w4, b4) }"""
"""Two groups: the 32 channels of the sum (h1), and the 24 inside (h2)."""
NORMED = """g (float[n,6] x) => (float[n,3] y) <float[6,16] w, float[16] s, float[16] b, float[16,3] v>
{ h = MatMul(x, w)  m = LayerNormalization(h, s, b)  y = MatMul(m, v) }"""


def samples(model: ir.Model, *, count: int = 48, state: Mapping[str, str] | None = None) -> Samples:
    return random_samples(model, CPU, state or {}, count=count)


def pruned(
    rewrite: PruneChannels, model: ir.Model | str = NET, *, data: Samples | None = None, no_data: bool = False
) -> tuple[ir.Model, list[Change | Refusal]]:
    """The model after the pass, checked; the same inputs and outputs; and what the pass said."""
    before = parse(model) if isinstance(model, str) else model
    after = before.clone()
    found = rewrite.run(after, Context(CPU, None if no_data else data or samples(before)))
    proto = files.to_proto(after)
    onnx.checker.check_model(proto, full_check=True)
    original = files.to_proto(before)
    assert list(proto.graph.input) == list(original.graph.input)
    assert list(proto.graph.output) == list(original.graph.output)
    assert [node.op_type for node in proto.graph.node] == [node.op_type for node in original.graph.node]
    return after, found


def changes(found: list[Change | Refusal]) -> dict[str, str]:
    """Group to what became of it."""
    return {item.node: item.what for item in found if isinstance(item, Change) and "became" in item.what}


def refusals(found: list[Change | Refusal]) -> dict[str, str]:
    return {item.node: item.why for item in found if isinstance(item, Refusal)}


def shapes(model: ir.Model) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.const_value.shape.numpy()) for name, value in model.graph.initializers.items()}


def widths(model: ir.Model) -> tuple[int, int]:
    """Of the two groups of NET."""
    found = shapes(model)
    assert found["w1"][0] == found["w2"][1] == found["w3"][0] == found["w4"][0] == found["b1"][0]
    assert found["w2"][0] == found["w3"][1] == found["b2"][0]
    return found["w1"][0], found["w2"][0]


def macs(model: ir.Model) -> int:
    copy = model.clone()
    copy.graph.inputs[0].shape = ir.Shape([1, *list(copy.graph.inputs[0].shape or ())[1:]])
    shape = KnownShapes(copy, {})
    return sum(count(node, shape) or 0 for node in copy.graph)


def error(before: ir.Model, after: ir.Model, data: Samples) -> float:
    """The squared error of the first output on samples, as a share of its variance."""
    wanted, got = (
        np.concatenate([next(iter(outputs.values())) for _, outputs in data.run(Session(model, CPU))]).astype(float)
        for model in (before, after)
    )
    return float(((got - wanted) ** 2).sum() / ((wanted - wanted.mean(0)) ** 2).sum())


def l1(**options: object) -> PruneChannels:
    """Without data, which is quick."""
    return PruneChannels(importance="l1", repair="none", **options)  # type: ignore[arg-type]


def write(model: ir.Model, name: str, numbers: np.ndarray) -> None:
    model.graph.initializers[name].const_value = ir.Tensor(numbers.astype(np.float32), name=name)
