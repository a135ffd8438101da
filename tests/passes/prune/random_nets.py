"""Random small networks of the blocks that real ones are made of, for the proof of the groups."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from hypothesis import strategies as st
from onnx import NodeProto, TensorProto, helper, numpy_helper

OPSET = 20
CONTRIB = "com.microsoft"


@dataclass
class Net:
    """A network as it grows, with the shape of each value; the batch is two, and may have a name in the file."""

    draw: st.DrawFn
    nodes: list[NodeProto] = field(default_factory=list)
    weights: list[TensorProto] = field(default_factory=list)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    shared: dict[tuple[int, ...], str] = field(default_factory=dict)
    count: int = 0

    def name(self, prefix: str = "v") -> str:
        self.count += 1
        return f"{prefix}{self.count}"

    def one(self, *choices: object) -> object:
        return self.draw(st.sampled_from(choices))

    def add(
        self, op: str, inputs: Sequence[str], *shape: int, outputs: Sequence[str] = (), **attributes: object
    ) -> str:
        """A node; its first output has this shape, or that of the first input."""
        names = list(outputs) or [self.name()]
        domain = CONTRIB if op in ("MultiHeadAttention", "SkipLayerNormalization") else ""
        self.nodes.append(helper.make_node(op, list(inputs), names, domain=domain, **attributes))
        self.shapes[names[0]] = shape or self.shapes[inputs[0]]
        return names[0]

    def weight(self, *shape: int, positive: bool = False) -> str:
        """A constant: an initializer, a node, or one of this shape that is already there."""
        kind = self.one("new", "new", "new", "node", "shared")
        if kind == "shared" and shape in self.shared and not positive:
            return self.shared[shape]
        rng = np.random.default_rng(self.count)
        numbers = rng.uniform(0.5, 1.5, shape) if positive else rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
        name = self.constant(numbers.astype(np.float32), node=kind == "node")
        if not positive:
            self.shared[shape] = name
        return name

    def integers(self, *numbers: int) -> str:
        return self.constant(np.array(numbers, np.int64), node=bool(self.one(False, True)))

    def constant(self, numbers: np.ndarray, *, node: bool) -> str:
        name = self.name("c")
        tensor = numpy_helper.from_array(numbers, name)
        if node:
            self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        else:
            self.weights.append(tensor)
        return name

    def reshape(self, x: str, *shape: int) -> str:
        """The batch is told as it is, kept, or taken from what is left."""
        first = self.one(0, -1)
        return self.add("Reshape", [x, self.integers(first, *shape[1:])], *shape)

    def unary(self, x: str) -> str:
        return self.add(self.one("Relu", "Sigmoid", "Tanh", "HardSwish", "Elu"), [x])


def conv(net: Net, x: str, made: int | None = None, group: int = 1) -> str:
    """A convolution that keeps the image's size, with or without bias."""
    n, c, h, w = net.shapes[x]
    made, kernel = made or net.one(4, 6, 8), net.one(1, 3)
    bias = [net.weight(made)] if net.one(False, True) else []
    weight = net.weight(made, c // group, kernel, kernel)
    return net.add("Conv", [x, weight, *bias], n, made, h, w, group=group, pads=[kernel // 2] * 4)


def plain(net: Net, x: str) -> str:
    return net.unary(conv(net, x))


def depthwise(net: Net, x: str) -> str:
    c = net.shapes[x][1]
    return conv(net, net.unary(conv(net, x, c * net.one(1, 2), c)))


def grouped(net: Net, x: str) -> str:
    return conv(net, conv(net, x, 8), net.one(4, 8, 12), net.one(2, 4))


def transposed(net: Net, x: str) -> str:
    n, c, h, w = net.shapes[x]
    group = net.one(1, 2) if c % 2 == 0 else 1
    return net.add("ConvTranspose", [x, net.weight(c, 4 // group, 2, 2)], n, 4, h + 1, w + 1, group=group)


def batch_norm(net: Net, x: str) -> str:
    c = net.shapes[x][1]
    return net.add("BatchNormalization", [x, *(net.weight(c, positive=True) for _ in range(4))])


def image_norm(net: Net, x: str) -> str:
    c = net.shapes[x][1]
    return net.add("InstanceNormalization", [x, *(net.weight(c, positive=True) for _ in range(2))])


def group_norm_written_out(net: Net, x: str) -> str:
    """As exporters write GroupNormalization where there is none."""
    n, c, h, w = net.shapes[x]
    groups = net.one(2, c)
    if c % groups:
        return x
    parts = net.add("Reshape", [x, net.integers(0, groups, -1)], n, groups, c // groups * h * w)
    ones, zeros = (net.constant(np.full(groups, number, np.float32), node=False) for number in (1, 0))
    y = net.add("InstanceNormalization", [parts, ones, zeros])
    y = net.reshape(y, n, c, h, w)
    return net.add("Add", [net.add("Mul", [y, net.weight(c, 1, 1)]), net.weight(c, 1, 1)])


def slopes(net: Net, x: str) -> str:
    return net.add("PRelu", [x, net.weight(net.shapes[x][1], 1, 1)])


def pool(net: Net, x: str) -> str:
    n, c, h, w = net.shapes[x]
    if min(h, w) < 3:
        return x
    return net.add(net.one("MaxPool", "AveragePool"), [x], n, c, h - 1, w - 1, kernel_shape=[2, 2])


def upsample(net: Net, x: str) -> str:
    n, c, h, w = net.shapes[x]
    scales = net.constant(np.array([1, 1, 2, 2], np.float32), node=False)
    return net.add("Resize", [x, "", scales], n, c, 2 * h, 2 * w) if h < 10 else x


def residual(net: Net, x: str) -> str:
    c = net.shapes[x][1]
    return net.add("Add", [x, conv(net, net.unary(conv(net, x)), c)])


def dense(net: Net, x: str) -> str:
    """Channels of two layers beside each other, or of one layer and its input."""
    n, _, h, w = net.shapes[x]
    others = [conv(net, x), net.one(x, conv(net, x))]
    return net.add("Concat", others, n, sum(net.shapes[one][1] for one in others), h, w, axis=net.one(1, -3))


def branches(net: Net, x: str) -> str:
    """Split into parts of one size or two, one of them through a layer, and joined in any order."""
    n, _, h, w = net.shapes[conv_ := conv(net, x, 8)]
    sizes = net.one([4, 4], [2, 6], [3, 4, 1])
    names = [net.name() for _ in sizes]
    said = [net.integers(*sizes)] if sizes != [4, 4] or net.one(False, True) else []
    more = {} if said else {"num_outputs": 2}
    net.add("Split", [conv_, *said], n, sizes[0], h, w, outputs=names, axis=1, **more)
    net.shapes.update({name: (n, size, h, w) for name, size in zip(names, sizes, strict=True)})
    names[0] = net.one(conv, lambda _, y: y)(net, names[0])
    joined = net.draw(st.permutations(names))
    return net.add("Concat", joined, n, sum(net.shapes[name][1] for name in joined), h, w, axis=1)


def cut(net: Net, x: str) -> str:
    """Some channels alone."""
    n, _, h, w = net.shapes[y := conv(net, x, 8)]
    start, end = net.one((0, 4), (2, -1), (1, 2**63 - 1))
    count = len(range(8)[start:end])
    if net.one(False, True):
        return net.add("Gather", [y, net.integers(*range(8)[start:end])], n, count, h, w, axis=1)
    return net.add("Slice", [y, *map(net.integers, (start, end, 1))], n, count, h, w)


def padded(net: Net, x: str) -> str:
    """Channels of zeros before and after."""
    n, c, h, w = net.shapes[x]
    before, after = net.one((0, 2), (1, 1))
    return net.add("Pad", [x, net.integers(0, before, 0, 0, 0, after, 0, 0)], n, c + before + after, h, w)


def shuffle(net: Net, x: str) -> str:
    """ShuffleNet's."""
    n, c, h, w = net.shapes[y := conv(net, x, 8, 1)]
    groups = net.one(2, 4)
    y = net.reshape(y, n, groups, c // groups, h, w)
    y = net.add("Transpose", [y], n, c // groups, groups, h, w, perm=[0, 2, 1, 3, 4])
    return conv(net, net.reshape(y, n, c, h, w), 8, net.one(1, 2))


def squeeze(net: Net, x: str) -> str:
    """Squeeze-and-excitation by convolutions or by products."""
    n, c, h, w = net.shapes[x]
    y = net.add("GlobalAveragePool", [x], n, c, 1, 1)
    if net.one(False, True):
        gate = conv(net, net.unary(conv(net, y, 4)), c)
    else:
        y = net.add("Gemm", [net.add("Flatten", [y], n, c), net.weight(c, 4), net.weight(4)], n, 4)
        y = net.add("Gemm", [net.unary(y), net.weight(c, 4)], n, c, transB=1)
        gate = net.reshape(y, n, c, 1, 1)
    return net.add("Mul", [x, net.add("Sigmoid", [gate], *net.shapes[gate])], n, c, h, w)


def tokens(net: Net, x: str) -> str:
    """An image to a row of vectors."""
    n, c, h, w = net.shapes[x]
    y = net.reshape(x, n, c, h * w)
    return net.add("Transpose", [y], n, h * w, c, perm=[0, 2, 1])


def head(net: Net, x: str) -> str:
    """An image to a row of numbers, through its mean or all of it."""
    n, c, h, w = net.shapes[x]
    if net.one(False, True):
        return net.add("Gemm", [net.add("Flatten", [x], n, c * h * w), net.weight(c * h * w, 6)], n, 6)
    y = net.add("ReduceMean", [x, net.integers(2, 3)], n, c, keepdims=0)
    return net.add("Gemm", [y, net.weight(6, c), net.weight(6)], n, 6, transB=1)


def linear(net: Net, x: str, made: int | None = None) -> str:
    *outer, inner = net.shapes[x]
    made = made or net.one(6, 8)
    y = net.add("MatMul", [x, net.weight(inner, made)], *outer, made)
    return net.add("Add", [y, net.weight(made)]) if net.one(False, True) else y


def mlp(net: Net, x: str) -> str:
    return net.add("Add", [linear(net, net.unary(linear(net, x)), net.shapes[x][-1]), x])


def gated(net: Net, x: str) -> str:
    """SwiGLU: two layers multiplied, from two weights or the halves of one."""
    *outer, inner = net.shapes[x]
    if net.one(False, True):
        gate, up = linear(net, x, 8), linear(net, x, 8)
    else:
        gate, up = net.name(), net.name()
        net.add("Split", [linear(net, x, 16)], *outer, 8, outputs=[gate, up], axis=-1, num_outputs=2)
        net.shapes[up] = (*outer, 8)
    return linear(net, net.add("Mul", [net.unary(gate), up]), inner)


def layer_norm(net: Net, x: str) -> str:
    inner = net.shapes[x][-1]
    return net.add("LayerNormalization", [x, net.weight(inner, positive=True), net.weight(inner)])


def attention(net: Net, x: str) -> str:
    """Heads by Reshape and Transpose, from three layers or one."""
    n, t, d = net.shapes[x]
    heads, size = net.one(2, 3), 4
    parts = net.one(_apart, _split, _packed)(net, x, heads, size)
    query, key, value = (net.add("Transpose", [part], n, heads, t, size, perm=[0, 2, 1, 3]) for part in parts)
    turned = net.add("Transpose", [key], n, heads, size, t, perm=[0, 1, 3, 2])
    scores = net.add("MatMul", [query, turned], n, heads, t, t)
    read = net.add("MatMul", [net.add("Softmax", [scores]), value], n, heads, t, size)
    read = net.add("Transpose", [read], n, t, heads, size, perm=[0, 2, 1, 3])
    return linear(net, net.reshape(read, n, t, heads * size), d)


def _apart(net: Net, x: str, heads: int, size: int) -> list[str]:
    n, t, _ = net.shapes[x]
    return [net.reshape(linear(net, x, heads * size), n, t, heads, size) for _ in range(3)]


def _split(net: Net, x: str, heads: int, size: int) -> list[str]:
    n, t, _ = net.shapes[x]
    names = [net.name() for _ in range(3)]
    net.add("Split", [linear(net, x, 3 * heads * size)], outputs=names, axis=2, num_outputs=3)
    net.shapes.update(dict.fromkeys(names, (n, t, heads * size)))
    return [net.reshape(name, n, t, heads, size) for name in names]


def _packed(net: Net, x: str, heads: int, size: int) -> list[str]:
    n, t, _ = net.shapes[x]
    y = net.reshape(linear(net, x, 3 * heads * size), n, t, 3, heads, size)
    picks = [net.constant(np.array(index, np.int64), node=False) for index in range(3)]
    return [net.add("Gather", [y, pick], n, t, heads, size, axis=2) for pick in picks]


def fused_attention(net: Net, x: str) -> str:
    n, t, d = net.shapes[x]
    parts = [linear(net, x, 12) for _ in range(3)]
    return linear(net, net.add("MultiHeadAttention", parts, n, t, 12, num_heads=net.one(2, 3)), d)


def recurrent(net: Net, x: str) -> str:
    """Forward or both ways, with the directions side by side."""
    n, t, d = net.shapes[x]
    kind, ways, units = net.one("LSTM", "GRU", "RNN"), net.one(1, 2), 4
    rows = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind] * units
    y = net.add("Transpose", [x], t, n, d, perm=[1, 0, 2])
    weights = [net.weight(ways, rows, d), net.weight(ways, rows, units), net.weight(ways, 2 * rows)]
    way = "bidirectional" if ways == 2 else "forward"
    y = net.add(kind, [y, *weights], t, ways, n, units, hidden_size=units, direction=way)
    y = net.add("Transpose", [y], n, t, ways, units, perm=[2, 0, 1, 3])
    return linear(net, net.reshape(y, n, t, ways * units), d)


def mean(net: Net, x: str) -> str:
    n, _, d = net.shapes[x]
    return net.add("ReduceMean", [x, net.integers(1)], n, d, keepdims=0)


Step = Callable[[Net, str], str]
STEPS: dict[int, list[Step]] = {
    4: [
        *[
            plain,
            plain,
            depthwise,
            grouped,
            transposed,
            batch_norm,
            image_norm,
            group_norm_written_out,
            slopes,
            pool,
        ],
        *[upsample, residual, residual, dense, branches, cut, padded, shuffle, squeeze, tokens, head],
    ],
    3: [linear, mlp, gated, layer_norm, attention, attention, fused_attention, recurrent, mean],
    2: [linear, mlp, gated],
}
LAST: dict[int, Step] = {4: lambda net, x: conv(net, x, 3), 3: linear, 2: linear}


@st.composite
def networks(draw: st.DrawFn) -> ir.Model:
    """An image or a row of vectors through some blocks, and a layer at the end, as a rule."""
    net = Net(draw)
    shape = draw(st.sampled_from([(2, 3, 6, 6), (2, 5, 6)]))
    net.shapes["x"] = shape
    value = LAST[len(shape)](net, "x")
    for _ in range(draw(st.integers(2, 6))):
        rank = len(net.shapes[value])
        value = draw(st.sampled_from(STEPS[rank]))(net, value)
    if draw(st.integers(0, 3)):
        value = LAST[len(net.shapes[value])](net, value)
    named = draw(st.booleans())
    batch = ["n" if named else 2]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, batch + list(shape[1:]))]
    outputs = [helper.make_tensor_value_info(value, TensorProto.FLOAT, batch + list(net.shapes[value][1:]))]
    graph = helper.make_graph(net.nodes, "g", inputs, outputs, net.weights)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)]
    return ir.serde.deserialize_model(helper.make_model(graph, ir_version=9, opset_imports=opsets))
