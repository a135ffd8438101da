"""Which transformer a model is, by its structure, in the types that onnxruntime.transformers knows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxopt.graph import array, nodes, rank, walk
from onnxopt.passes.fuse.transformer.attention import Attention
from onnxopt.transformer_script import ONNXSCRIPT

KINDS = (
    "bart",
    "bert",
    "bert_keras",
    "bert_tf",
    "clip",
    "conformer",
    "gpt2",
    "gpt2_tf",
    "gpt_neox",
    "mmdit",
    "phi",
    "qwen3",
    "sam2",
    "swin",
    "t5",
    "tnlr",
    "unet",
    "vae",
    "vit",
)
"""MODEL_TYPES of onnxruntime.transformers 1.31."""
NEAR = 24
"""Nodes before a bias of the scores among which its cause is looked for."""
CAUSES = frozenset({"Trilu", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"})


@dataclass(frozen=True)
class Structure:
    """What tells one transformer from another.

    Attributes:
        heads: of every attention; 0 where they have different numbers.
        hidden: their width, heads times size; 0 likewise.
        causal: whether what is read depends on the place: a triangle, or a comparison of places.
        past: whether keys of tokens before are an input.
        crossed: whether some queries come from elsewhere than their keys.
        patches: whether an image is cut into patches by a convolution.
        convolutions: how many of them have kernels, patches aside.
        depthwise: how many of those, over one axis, leave channels apart.
        rotary: whether places turn queries.
        rms: whether its norms do not subtract the mean.
        windows: whether attention is within windows of an image.
        biased_unscaled: whether scores are not scaled but biased.
    """

    heads: int = 0
    hidden: int = 0
    causal: bool = False
    past: bool = False
    crossed: bool = False
    patches: bool = False
    convolutions: int = 0
    depthwise: int = 0
    rotary: bool = False
    rms: bool = False
    windows: bool = False
    biased_unscaled: bool = False


def structure(model: ir.Model, found: Sequence[Attention]) -> Structure:
    """Read the structure of a model and of its attentions."""
    shapes = Counter((one.heads, one.heads * one.size) for one in found)
    heads, hidden = next(iter(shapes)) if len(shapes) == 1 else (0, 0)
    kernels = [(node, weight.shape.numpy()) for node in nodes(model, "Conv") if (weight := _weight(node)) is not None]
    patches = [node for node, shape in kernels if len(shape) == 4 and _strides(node) == shape[2:] != (1, 1)]
    inputs = {value for value in model.graph.inputs if value.name not in model.graph.initializers}
    return Structure(
        heads=heads,
        hidden=hidden,
        causal=any(_is_causal(one) for one in found),
        past=any(_joins_input(value, inputs) for one in found for value in (one.key, one.value)),
        crossed=any(_source(one.query) is not _source(one.key) for one in found),
        patches=bool(patches),
        convolutions=sum(len(shape) == 4 for _, shape in kernels) - len(patches),
        depthwise=sum(len(shape) == 3 and shape[1] == 1 < shape[0] for _, shape in kernels),
        rotary=any(_is_turned(one.query) for one in found),
        rms=_has_rms(model),
        windows=any((rank(node.outputs[0]) or 0) >= 6 for node in nodes(model, "Transpose")),
        biased_unscaled=any(one.scale == 1.0 and one.bias is not None for one in found),
    )


def likely(seen: Structure) -> tuple[str, ...]:
    """The kinds that a structure may be, the likeliest first; where several fuse, the one that fuses most is taken."""
    if seen.rms:
        return ("t5", ONNXSCRIPT) if seen.biased_unscaled and not seen.rotary else ("qwen3", ONNXSCRIPT)
    if seen.depthwise:
        return ("conformer", "bert")
    if seen.convolutions > 4:
        return ("unet", "vae")
    if seen.patches:
        return ("swin", "vit") if seen.windows else ("vit", "clip")
    if seen.rotary:
        return (ONNXSCRIPT, "gpt_neox")
    if seen.crossed:
        return ("bart", "bert")
    if seen.causal or seen.past:
        return ("gpt2", "clip")
    return ("bert",)


def _weight(node: ir.Node) -> ir.TensorProtocol | None:
    value = node.inputs[1]
    return None if value is None else value.const_value


def _strides(node: ir.Node) -> tuple[int, ...]:
    return tuple(node.attributes.get_ints("strides", ()))


def _before(value: ir.Value | None, limit: int = NEAR) -> Iterable[ir.Node]:
    """The nodes that a value depends on, the nearest first."""
    queue: list[ir.Value | None] = [value]
    seen: set[ir.Node] = set()
    while queue and len(seen) < limit:
        node = None if (one := queue.pop(0)) is None else one.producer()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            queue.extend(node.inputs)


def _is_causal(one: Attention) -> bool:
    start = one.bias if one.mask is None else one.mask.inputs[0]
    for node in _before(start):
        if node.op_type in CAUSES or any(_is_triangle(value) for value in node.inputs):
            return True
    return _is_triangle(start)


def _is_triangle(value: ir.Value | None) -> bool:
    """Whether a constant is a square whose upper half is another number than its diagonal."""
    square = value is not None and value.const_value is not None and len(value.const_value.shape) >= 2
    numbers = array(value) if square else None
    if numbers is None or numbers.shape[-1] != numbers.shape[-2] or numbers.shape[-1] < 2:
        return False
    plane = numbers.reshape(-1, *numbers.shape[-2:])[0]
    return bool(plane[0, -1] != plane[0, 0] and plane[-1, 0] == plane[0, 0] == plane[-1, -1])


def _joins_input(value: ir.Value, inputs: set[ir.Value]) -> bool:
    return any(node.op_type == "Concat" and inputs.intersection(node.inputs) for node in _before(value, 4))


def _source(value: ir.Value) -> ir.Value | None:
    """What a query or key is a linear map of."""
    for node in _before(value, 12):
        if node.op_type in ("MatMul", "Gemm"):
            x = node.inputs[0]
            flat = None if x is None else x.producer()
            return flat.inputs[0] if flat is not None and flat.op_type == "Reshape" else x
    return None


def _is_turned(query: ir.Value) -> bool:
    """Whether parts of a query are negated and put together, as rotary embeddings are."""
    near = {node.op_type for node in _before(query, 8)}
    return {"Neg", "Concat"} <= near or "RotaryEmbedding" in near


def _has_rms(model: ir.Model) -> bool:
    """Whether a mean of squares is taken of what no mean was subtracted from."""
    for node in walk(model):
        if node.op_type in ("RMSNormalization", "SimplifiedLayerNormalization"):
            return True
        if node.op_type != "ReduceMean" or node.inputs[0] is None:
            continue
        square = node.inputs[0].producer()
        base = None if square is None or square.op_type not in ("Pow", "Mul") else square.inputs[0]
        maker = None if base is None else base.producer()
        if base is not None and (maker is None or maker.op_type not in ("Sub", "ReduceMean")):
            return True
    return False
