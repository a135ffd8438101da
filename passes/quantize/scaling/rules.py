"""How each operator passes factors of channels on: one function for each kind (see ``scaling``).

A rule gives the classes of the node's outputs; None where the operator does not commute with factors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

import numpy as np
import onnx_ir as ir

from onnxopt.core import Refusal
from onnxopt.graph import STANDARD_DOMAINS, array, given, inferred, label, scalar, tensor
from onnxopt.passes.quantize.scaling.scaling import FIXED, FLOAT, Classes, Parameter, Reader, Scaling, Tracer, padded

Rule = Callable[[Tracer, ir.Node], list[Classes] | None]


def _layer(tracer: Tracer, node: ir.Node) -> list[Classes] | None:
    """Conv, ConvTranspose, Gemm, MatMul: a new class for each output channel."""
    weight = node.inputs[1]
    if node.op_type == "MatMul" and tensor(weight) is None and not (weight is not None and weight.is_initializer()):
        return _product(tracer, node)
    reason = _fixed_weights(tracer, node)
    if reason:
        tracer.found.refusals.append(Refusal(label(node), reason))
        return None
    numbers = array(weight)
    assert numbers is not None
    image, group = node.op_type in ("Conv", "ConvTranspose"), node.attributes.get_int("group", 1)
    by_rows = node.op_type == "Conv" or node.attributes.get_int("transB", 0) == 1
    outputs, inputs = numbers.shape[:2] if by_rows else numbers.shape[1::-1]
    places = np.arange(inputs * group).reshape(group, inputs)
    places = places if group == 1 else np.repeat(places, outputs // group, axis=0)
    read = _channels(tracer, node.inputs[0], inputs * group, numbers.ndim if image else None)
    out = tracer.ties.fresh(outputs)
    ends = [1] * (numbers.ndim - 2)
    axes = (read[places], out[:, None]) if by_rows else (read[places].T, out[None])
    times, over = (part.reshape(*part.shape, *ends) for part in axes)
    tracer.found.parameters.append(Parameter(node, 1, times, over))
    if given(node, 2) is not None:
        tracer.found.parameters.append(Parameter(node, 2, over=out))
    tracer.found.readers.append(Reader(node, read, places, by_rows))
    return [out.reshape(-1, *ends) if image else out]


def _fixed_weights(tracer: Tracer, node: ir.Node) -> str | None:
    """Why the weights of a layer cannot be changed."""
    weight, bias = given(node, 1), given(node, 2)
    numbers = array(weight)
    if weight is None or numbers is None or (bias is not None and tensor(bias) is None):
        return "its weights are not constant"
    if tracer.twins[weight].dtype is not FLOAT or numbers.size == 0:
        return "its weights are empty, or not float32"
    if len(weight.uses()) > 1 or weight.is_graph_output():
        return f"its weight {weight.name!r} is also read elsewhere"
    if node.op_type in ("Gemm", "MatMul") and (numbers.ndim != 2 or node.attributes.get_int("transA", 0) == 1):
        return "its weight is no matrix, or its input is transposed"
    if node.op_type == "ConvTranspose" and node.attributes.get_int("group", 1) != 1:
        return "it is a ConvTranspose with groups"
    return None


def _channels(tracer: Tracer, value: ir.Value | None, size: int, image_rank: int | None) -> Classes:
    """The classes of the channels that a layer reads, ``[size]``; fixed if they differ along other axes, too."""
    classes = tracer.of(value)
    full = padded(classes, max(image_rank or 1, classes.ndim))
    if full.shape[-1 if image_rank is None else 1] != full.size:
        tracer.fix([classes])
        full = FIXED
    return np.broadcast_to(full.reshape(-1), [size])


def _product(tracer: Tracer, node: ir.Node) -> list[Classes] | None:
    """MatMul of two activations: what is fixed on the left sums rows of the right, and leaves its columns."""
    left, right = tracer.of(node.inputs[0]), tracer.full(node.inputs[1])
    if right is None or right.ndim < 2 or right.shape[-2] != 1 or not tracer.fixed(left):
        return None
    return [right]


def _normalization(tracer: Tracer, node: ir.Node) -> list[Classes] | None:
    """LayerNormalization over the last axis: scale and bias take a factor for each channel, whatever it reads."""
    shape, constants = tracer.shape(node.inputs[0]), [array(value) for value in node.inputs[1:] if value is not None]
    if shape is None or node.attributes.get_int("axis", -1) not in (-1, len(shape) - 1) or len(node.outputs) > 1:
        return None
    if any(c is None or c.dtype != np.float32 or c.shape != (shape[-1],) for c in constants):
        return None
    tracer.fix([tracer.of(node.inputs[0])])
    out = tracer.ties.fresh(shape[-1] or 0)
    for index in range(1, 1 + len(constants)):
        tracer.found.parameters.append(Parameter(node, index, over=out))
    return [out]


def _scale(tracer: Tracer, node: ir.Node) -> list[Classes] | None:
    """Mul: a constant for each channel takes a factor; what is fixed changes none."""
    for index in (0, 1):
        numbers, other = array(node.inputs[index]), node.inputs[1 - index]
        classes = tracer.full(other)
        if numbers is None or classes is None or numbers.dtype != np.float32 or numbers.size == 1:
            continue
        if numbers.size == max(numbers.shape) and numbers.ndim <= classes.ndim:
            times = _trimmed(classes, numbers.ndim)
            if times.size == 1 or times.shape == numbers.shape:
                out = tracer.ties.fresh(numbers.size).reshape(numbers.shape)
                tracer.found.parameters.append(Parameter(node, index, times, out))
                return [out]
    one, other_classes = (tracer.of(value) for value in node.inputs)
    if tracer.fixed(one):
        return [other_classes]
    return [one] if tracer.fixed(other_classes) else None


def _trimmed(classes: Classes, rank: int) -> Classes:
    """Without leading dimensions of size 1, down to ``rank`` dimensions."""
    while classes.ndim > rank and classes.shape[0] == 1:
        classes = classes[0]
    return classes


def _sum(tracer: Tracer, node: ir.Node) -> list[Classes] | None:
    """Add, Sub, Sum: operands have the same classes; constants take their factors."""
    constants = [index for index, value in enumerate(node.inputs) if tensor(value) is not None]
    operands = [tracer.of(value) for index, value in enumerate(node.inputs) if index not in constants]
    for operand in operands[1:]:
        tracer.ties.tie(operands[0], operand)
    result = np.broadcast_arrays(*operands)[0] if operands else FIXED
    for index in constants if result.any() else ():
        over = _trimmed(result, len(tensor(node.inputs[index]).shape))  # type: ignore[union-attr]
        tracer.found.parameters.append(Parameter(node, index, over=over))
    return [result]


def _same(tracer: Tracer, node: ir.Node) -> list[Classes] | None:
    """What works on each number, or each channel, by itself; other inputs must be fixed."""
    tracer.fix(tracer.of(value) for value in node.inputs[1:])
    return [tracer.of(node.inputs[0])]


def _spatial(tracer: Tracer, node: ir.Node) -> list[Classes] | None:
    """Pooling and resizing of images: each channel by itself, if it has one class."""
    classes, shape, out = tracer.full(node.inputs[0]), tracer.shape(node.inputs[0]), tracer.shape(node.outputs[0])
    if classes is None or shape is None or out is None or len(shape) < 3 or classes.size != classes.shape[1]:
        return None
    if node.op_type == "Resize" and (shape[1] is None or shape[1] != out[1] or _crops(node)):
        return None
    return [classes]


def _crops(node: ir.Node) -> bool:
    return node.attributes.get_string("coordinate_transformation_mode", "") == "tf_crop_and_resize"


def _transpose(tracer: Tracer, node: ir.Node) -> list[Classes] | None:
    classes = tracer.full(node.inputs[0])
    if classes is None:
        return None
    return [classes.transpose(node.attributes.get_ints("perm", range(classes.ndim)[::-1]))]


def _reshape(tracer: Tracer, node: ir.Node) -> list[Classes] | None:
    """Reshape, Flatten, Squeeze, Unsqueeze: what lies behind the first axis with classes must keep its size."""
    classes, shape = tracer.full(node.inputs[0]), tracer.shape(node.inputs[0])
    out = tracer.shape(node.outputs[0])
    if classes is None or shape is None or out is None:
        return None
    if classes.size == 1:
        return [classes.reshape(())]
    first = next(axis for axis, size in enumerate(classes.shape) if size > 1)
    sizes = _known(shape[first:])
    if sizes is None:
        return None
    for start in range(len(out) - 1, -1, -1):
        tail = _known(out[start:])
        if tail is None:
            return None
        if prod(tail) == prod(sizes):
            return [np.broadcast_to(classes.reshape(classes.shape[first:]), sizes).reshape(tail)]
    return None


def _known(sizes: list[int | None]) -> list[int] | None:
    known = [size for size in sizes if size is not None]
    return known if len(known) == len(sizes) else None


def _concat(tracer: Tracer, node: ir.Node) -> list[Classes] | None:
    """Classes side by side; along an axis without classes all inputs must have the same."""
    found = [tracer.full(value) for value in node.inputs]
    shapes = [tracer.shape(value) for value in node.inputs]
    parts = [part for part in found if part is not None]
    rank = parts[0].ndim if parts else 0
    axis = node.attributes.get_int("axis", 0) % max(rank, 1)
    if len(parts) < len(found) or any(part.ndim != rank for part in parts):
        return None
    if all(part.shape[axis] == 1 for part in parts):
        for part in parts[1:]:
            tracer.ties.tie(parts[0], part)
        return [max(parts, key=np.size)]
    sizes = [shape[axis] if shape is not None else None for shape in shapes]
    known = _known(sizes)
    if known is None:
        return None
    others = np.broadcast_shapes(*(np.take(part, [0], axis).shape for part in parts))
    wide = [
        np.broadcast_to(part, (*others[:axis], size, *others[axis + 1 :]))
        for part, size in zip(parts, known, strict=True)
    ]
    return [np.concatenate(wide, axis)]


def _split(tracer: Tracer, node: ir.Node) -> list[Classes] | None:
    classes = tracer.full(node.inputs[0])
    if classes is None:
        return None
    axis = node.attributes.get_int("axis", 0) % classes.ndim
    if classes.shape[axis] == 1:
        return [classes] * len(node.outputs)
    sizes = [(tracer.shape(value) or [None] * classes.ndim)[axis] for value in node.outputs]
    known = _known(sizes)
    return None if known is None else np.split(classes, np.cumsum(known)[:-1], axis)


def _slice(tracer: Tracer, node: ir.Node) -> list[Classes] | None:
    """Axes without classes may be cut anyhow, with classes by constants, forwards."""
    classes = tracer.full(node.inputs[0])
    numbers = [array(given(node, index)) for index in range(1, 5)]
    starts, ends, axes, steps = (None if found is None else found.tolist() for found in numbers)
    if classes is None or starts is None or ends is None:
        return None
    if any(given(node, index) is not None and numbers[index - 1] is None for index in (3, 4)):
        return None
    for start, end, axis, step in zip(
        starts, ends, axes or range(len(starts)), steps or [1] * len(starts), strict=True
    ):
        if classes.shape[axis] > 1:
            if step < 1:
                return None
            classes = np.take(classes, range(classes.shape[axis])[start:end:step], axis)
    return [classes]


def _pad(tracer: Tracer, node: ir.Node) -> list[Classes] | None:
    """Padding with zeros, which have every factor: channels that are added to an image get new classes."""
    classes, pads, filled = tracer.full(node.inputs[0]), array(given(node, 1)), given(node, 2)
    if classes is None or pads is None or given(node, 3) is not None or (filled is not None and scalar(filled) != 0):
        return None
    if node.attributes.get_string("mode", "constant") != "constant":
        return None
    for axis, (before, after) in enumerate(pads.reshape(2, -1).T.tolist()):
        if classes.shape[axis] == 1:
            continue
        if min(before, after) < 0:
            return None
        rest = classes.shape[:axis], classes.shape[axis + 1 :]
        shapes = [(*rest[0], count, *rest[1]) for count in (before, after)]
        new = [tracer.ties.fresh(prod(shape)).reshape(shape) for shape in shapes]
        classes = np.concatenate([new[0], classes, new[1]], axis)
    return [classes]


RULES: Mapping[str, Rule] = {
    **dict.fromkeys(("Conv", "ConvTranspose", "Gemm", "MatMul"), _layer),
    "LayerNormalization": _normalization,
    "Mul": _scale,
    **dict.fromkeys(("Add", "Sub", "Sum"), _sum),
    **dict.fromkeys(("Relu", "LeakyRelu", "PRelu", "Identity", "Abs", "Neg"), _same),
    **dict.fromkeys(("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Resize"), _spatial),
    "Transpose": _transpose,
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _reshape),
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Pad": _pad,
}


def trace(model: ir.Model) -> Scaling:
    """What can be scaled in the main graph; float32 only."""
    tracer = Tracer(inferred(model))
    for node in model.graph:
        rule = RULES.get(node.op_type) if node.domain in STANDARD_DOMAINS else None
        tracer.note(node, rule(tracer, node) if rule else None)
    return tracer.result()
