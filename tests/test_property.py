"""Random small graphs through every exact pass: the same outputs, a valid model, nothing left to do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnxopt import files
from onnxopt.check import largest
from onnxopt.core import Context, Exactness, Pass
from onnxopt.passes import PASSES
from onnxopt.passes.convert.conversions import CONVERSIONS
from onnxopt.passes.convert.convert_layer import ConvertLayer
from onnxopt.runtime import Outputs, Session
from onnxopt.target import Target
from onnxopt.testing import run_pass

CPU = Target()
TOLERANCE = 2e-5
"""Of ROUNDING passes, relative to the largest magnitude of an output."""
EXPENSIVE = {"simplify"}
LOW = {"share-initializers": {"min_bytes": 256}, "convert-layer": {"choose": "always"}}
"""Options that make a pass act on weights as small as these, and whatever the clock says."""
BACK = ConvertLayer(conversions=tuple(one.name for one in CONVERSIONS if one.undoes), choose="always")
"""The other half of its conversions."""
PASSES_HERE = [
    *(
        found.configured(LOW.get(found.name, {}))
        for found in PASSES
        if found.exactness is not Exactness.LOSSY and found.name not in EXPENSIVE
    ),
    BACK,
]
EXAMPLES = settings(
    derandomize=True, deadline=None, max_examples=60, database=None, suppress_health_check=list(HealthCheck)
)
IMAGE = (2, 4, 6, 6)
KINDS = [*["initializer"] * 8, "node", "node", "overridable", "shared"]


@dataclass
class Builder:
    """A graph as it grows: its nodes, its constants, and the values there are, with their shapes."""

    draw: st.DrawFn
    opset: int
    prefix: str = ""
    outer: Builder | None = None
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    overridable: list[onnx.ValueInfoProto] = field(default_factory=list)
    values: dict[str, tuple[int, ...]] = field(default_factory=dict)
    constants: dict[str, tuple[int, ...]] = field(default_factory=dict)
    count: int = 0

    def name(self) -> str:
        self.count += 1
        return f"{self.prefix}v{self.count}"

    def add(self, op: str, inputs: Sequence[str], shape: Sequence[int], **attributes: object) -> str:
        name = self.name()
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attributes))
        self.values[name] = tuple(shape)
        return name

    def constant(self, *shape: int) -> str:
        """A constant with numbers in [0.5, 1.5): an initializer, a node, one that may be overridden, one in use."""
        used = [name for name, known in self.constants.items() if known == shape]
        kind = self.draw(st.sampled_from(KINDS))
        if kind == "shared" and used:
            return self.draw(st.sampled_from(used))
        numbers = np.random.default_rng(self.draw(st.integers(0, 3))).uniform(0.5, 1.5, shape)
        return self._constant(numbers.astype(np.float32), kind)

    def integers(self, *numbers: int) -> str:
        return self._constant(np.array(numbers, np.int64), self.draw(st.sampled_from(["initializer", "node"])))

    def _constant(self, numbers: np.ndarray, kind: str) -> str:
        name = self.name()
        tensor = numpy_helper.from_array(numbers, name)
        if kind == "node":
            self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        else:
            self.weights.append(tensor)
        if kind == "overridable" and self.outer is None:
            self.overridable.append(helper.make_tensor_value_info(name, tensor.data_type, numbers.shape))
        elif numbers.dtype == np.float32:
            self.constants[name] = numbers.shape
        return name

    def value(self, rank: int) -> str | None:
        """A value of this rank, here or in the outer graph; the newest half of the time."""
        known = {**(self.outer.values if self.outer else {}), **self.values}
        fitting = [name for name, shape in known.items() if len(shape) == rank]
        if not fitting:
            return None
        return fitting[-1] if self.draw(st.booleans()) else self.draw(st.sampled_from(fitting))

    def shape(self, name: str) -> tuple[int, ...]:
        return self.values[name] if name in self.values or self.outer is None else self.outer.shape(name)


def conv(b: Builder, x: str) -> None:
    n, c, h, w = b.shape(x)
    if min(h, w) < 3:
        return
    group = b.draw(st.sampled_from([1, 2])) if c % 2 == 0 else 1
    pad = b.draw(st.sampled_from([0, 1]))
    bias = [b.constant(4)] if b.draw(st.booleans()) else []
    more = {"kernel_shape": [3, 3]} if b.draw(st.booleans()) else {}
    weight = b.constant(4, c // group, 3, 3)
    shape = (n, 4, h - 2 + 2 * pad, w - 2 + 2 * pad)
    y = b.add("Conv", [x, weight, *bias], shape, group=group, pads=[pad] * 4, **more)
    after = b.draw(st.sampled_from([None, norm, norm, affine, affine]))
    if after:
        after(b, y)


def conv_transpose(b: Builder, x: str) -> None:
    n, c, h, w = b.shape(x)
    group = b.draw(st.sampled_from([1, 2])) if c % 2 == 0 else 1
    y = b.add("ConvTranspose", [x, b.constant(c, 4 // group, 2, 2)], (n, 4, h + 1, w + 1), group=group)
    b.draw(st.sampled_from([norm, affine]))(b, y)


def norm(b: Builder, x: str) -> None:
    shape = b.shape(x)
    parameters = [b.constant(shape[1]) for _ in range(4)]
    b.add("BatchNormalization", [x, *parameters], shape, epsilon=b.draw(st.sampled_from([1e-5, 0.1])))


def affine(b: Builder, x: str) -> None:
    shape = b.shape(x)
    channels = (shape[1], *[1] * (len(shape) - 2))
    c = b.constant(*b.draw(st.sampled_from([(), channels, (1, *channels), shape[-1:], (1,)])))
    inputs = [x, c] if b.draw(st.booleans()) else [c, x]
    op = b.draw(st.sampled_from(["Add", "Mul", "Sub", "Div"]))
    b.add(op if inputs[0] == x else "Mul", inputs, shape)


def unary(b: Builder, x: str) -> None:
    b.add(b.draw(st.sampled_from(["Relu", "Identity", "Tanh", "Identity"])), [x], b.shape(x))


def dropout(b: Builder, x: str) -> None:
    b.add("Dropout", [x, "", ""][: b.draw(st.sampled_from([1, 3])) if b.opset >= 12 else 1], b.shape(x))


def clip(b: Builder, x: str) -> None:
    b.add("Clip", [x, "", b.constant()] if b.draw(st.booleans()) else [x], b.shape(x))


def pad_conv(b: Builder, x: str) -> None:
    n, c, h, w = b.shape(x)
    inputs = [x, b.integers(0, 0, 1, 0, 0, 0, 2, 1)]
    if b.opset >= 18 and b.draw(st.booleans()):
        inputs = [x, b.integers(1, 0, 2, 1), "", b.integers(2, -1)]
    b.add("Pad", inputs, (n, c, h + 3, w + 1), mode=b.draw(st.sampled_from(["constant", "constant", "edge"])))
    conv(b, next(reversed(b.values)))


def mean(b: Builder, x: str) -> None:
    n, c, _, _ = b.shape(x)
    axes = b.draw(st.sampled_from([[2, 3], [-1, -2]]))
    keep = b.draw(st.sampled_from([0, 1]))
    shape = (n, c, 1, 1) if keep else (n, c)
    if b.opset >= 18:
        b.add("ReduceMean", [x, b.integers(*axes)], shape, keepdims=keep)
    else:
        b.add("ReduceMean", [x], shape, keepdims=keep, axes=axes)


def flatten(b: Builder, x: str) -> None:
    shape = b.shape(x)
    rest = int(np.prod(shape[1:]))
    if b.draw(st.booleans()):
        b.add("Reshape", [x, b.integers(0, -1)], (shape[0], rest))
    else:
        b.add("Flatten", [x], (shape[0], rest))


def matmul(b: Builder, x: str) -> None:
    n, k = b.shape(x)
    y = b.add("MatMul", [x, b.constant(k, 3)], (n, 3))
    b.draw(st.sampled_from([norm, affine]))(b, y)


def gemm(b: Builder, x: str) -> None:
    n, k = b.shape(x)
    transposed = b.draw(st.integers(0, 1))
    weight = b.constant(*((3, k) if transposed else (k, 3)))
    bias = b.constant(*b.draw(st.sampled_from([(3,), (), (1, 3), (n, 3)])))
    inputs = [x, weight, bias] if b.draw(st.booleans()) else [x, weight]
    y = b.add("Gemm", inputs, (n, 3), transB=transposed, alpha=0.5, beta=b.draw(st.sampled_from([1.0, 2.0])))
    b.draw(st.sampled_from([norm, affine]))(b, y)


def transpose(b: Builder, x: str) -> None:
    n, c, h, w = b.shape(x)
    b.add("Transpose", [x], (n, c, w, h), perm=[0, 1, 3, 2])


def concat(b: Builder, x: str) -> None:
    n, c, h, w = b.shape(x)
    b.add("Concat", [x, x], (n, 2 * c, h, w), axis=1)


def twice(b: Builder, x: str) -> None:
    """The same node two times."""
    y, z = (b.add("Relu", [x], b.shape(x)) for _ in range(2))
    b.add("Add", [y, z], b.shape(x))


def branch(b: Builder, x: str) -> None:
    """An If whose branches read values and constants of the graph around it."""
    if b.outer is not None:
        return
    graphs = {}
    for name in ("then_branch", "else_branch"):
        inner = Builder(b.draw, b.opset, f"{b.name()}_", b)
        inner.constants.update(b.constants)
        b.draw(st.sampled_from([norm, affine, unary, twice]))(inner, x)
        if b.draw(st.booleans()):
            b.draw(st.sampled_from([norm, affine, unary]))(inner, next(reversed(inner.values)))
        result = next(reversed(inner.values))
        output = helper.make_tensor_value_info(result, TensorProto.FLOAT, inner.shape(result))
        graphs[name] = helper.make_graph(inner.nodes, name, [], [output], inner.weights)
    b.add("If", ["q"], b.shape(x), **graphs)


PLAIN: list[Callable[[Builder, str], None]] = [affine, unary, clip, twice, branch]
STEPS: dict[int, list[Callable[[Builder, str], None]]] = {
    4: [*PLAIN, conv, conv, conv_transpose, norm, dropout, pad_conv, mean, flatten, transpose, concat],
    2: [*PLAIN, matmul, gemm],
}


@st.composite
def models(draw: st.DrawFn) -> onnx.ModelProto:
    """Small valid graphs over one image ``x`` and one truth value ``q``."""
    b = Builder(draw, draw(st.integers(11, 20)))
    b.values["x"] = IMAGE
    for _ in range(draw(st.integers(1, 7))):
        rank = draw(st.sampled_from([4, 4, 2]))
        x = b.value(rank)
        if x is not None and int(np.prod(b.shape(x))) < 4000:
            draw(st.sampled_from(STEPS[rank]))(b, x)
    made = [name for name in b.values if name != "x"] or [b.add("Relu", ["x"], IMAGE)]
    chosen = list(dict.fromkeys([made[-1], *draw(st.lists(st.sampled_from(made), max_size=2))]))
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, b.shape(name)) for name in chosen]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *IMAGE[1:]] if draw(st.booleans()) else IMAGE)
    ]
    inputs += [helper.make_tensor_value_info("q", TensorProto.BOOL, []), *b.overridable]
    graph = helper.make_graph(b.nodes, "g", inputs, info, b.weights)
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", b.opset)])


def outputs(model: ir.Model) -> list[Outputs]:
    session = Session(model, CPU, optimize=False)
    x = np.random.default_rng(0).normal(size=IMAGE).astype(np.float32)
    return [session.run({"x": x, "q": np.array(q)}) for q in (True, False)]


def valid(model: ir.Model) -> None:
    """ONNX's checker, in full unless there are sparse weights: its shape inference knows no operator that takes them."""
    proto = files.to_proto(model)
    onnx.checker.check_model(proto, full_check=not proto.graph.sparse_initializer)


def check(before: list[Outputs], model: ir.Model, *, exact: bool) -> None:
    valid(model)
    after = outputs(model)
    assert list(before[0]) == list(after[0])
    difference = largest(before, after, set(before[0]), exact=exact)
    assert difference.relative <= (0.0 if exact else TOLERANCE), difference


@pytest.mark.parametrize("rewrite", PASSES_HERE, ids=str)
@given(proto=models())
@EXAMPLES
def test_exact_pass_keeps_outputs_and_finds_nothing_more(rewrite: Pass, proto: onnx.ModelProto) -> None:
    model = ir.serde.deserialize_model(proto)
    contents, before = files.to_bytes(model), outputs(model)
    if not run_pass(rewrite, model):
        assert files.to_bytes(model) == contents, "changed without saying so"
        return
    check(before, model, exact=rewrite.exactness is Exactness.EXACT)
    contents = files.to_bytes(model)
    assert run_pass(rewrite, model) == [], "a second run changed something"
    assert files.to_bytes(model) == contents, "a second run changed bytes without saying so"


@given(proto=models())
@EXAMPLES
def test_all_exact_passes_one_after_the_other_keep_outputs(proto: onnx.ModelProto) -> None:
    model = ir.serde.deserialize_model(proto)
    before = outputs(model)
    for _ in range(2):
        for rewrite in PASSES_HERE:
            rewrite.run(model, Context(CPU))
            valid(model)
    check(before, model, exact=False)
