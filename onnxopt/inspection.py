"""What a model is made of: signature, operators, constants, parameters and multiply-accumulates per layer.

It reads the file alone: ONNX Runtime is not needed, and need not know the operators.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from onnxopt import files
from onnxopt.core import suggestion
from onnxopt.dimensions import dimension, split_sizes
from onnxopt.errors import UsageError
from onnxopt.graph import STANDARD_DOMAINS, attribute_tensors, initializers, label, walk
from onnxopt.macs import FORMULAS, KnownShapes, Shape, UnknownShape, count, operator

VERSION = 1
"""Of the JSON form. 1: first."""

Shapes = Mapping[str, Shape]
"""Input name to its shape."""


@dataclass(frozen=True)
class ValueInfo:
    """An input or output of a model.

    Attributes:
        name: as in the model.
        dtype: of its elements (``float32``); ``seq(float32)`` and ``optional(...)`` for what is not a tensor.
        shape: a fixed dimension is an int, a dynamic one a str or None; None alone where the rank is unknown.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None

    def __str__(self) -> str:
        """As users read it: ``float32[batch,3,224,224]``."""
        return f"{self.dtype}[{_dims(self.shape)}]"

    @property
    def dynamic(self) -> tuple[str, ...]:
        """Its dynamic dimensions by name, ``?`` for those without."""
        return tuple(dim or "?" for dim in self.shape or () if not isinstance(dim, int))

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {**self.__dict__, "dynamic": list(self.dynamic)}


@dataclass(frozen=True)
class Layer:
    """A node in numbers.

    Attributes:
        name: its first output, as in reports.
        op: operator, with its domain where that is not the standard one.
        shape: of the first output; None where it is not known.
        parameters: elements of the float constants that it reads and no layer before it does.
        macs: multiply-accumulates for one run; None where they cannot be told.
    """

    name: str
    op: str
    shape: Shape | None
    parameters: int
    macs: int | None

    @property
    def why_unknown(self) -> str:
        """Why ``macs`` is None: ``shape`` or ``operator``; empty where it is not."""
        return "" if self.macs is not None else "shape" if self.op in FORMULAS else "operator"

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {**self.__dict__, "why_unknown": self.why_unknown}


@dataclass(frozen=True)
class Constants:
    """All constants of one dtype, each tensor counted once however many nodes share it."""

    dtype: str
    is_float: bool
    elements: int
    size: int
    """Bytes."""

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"dtype": self.dtype, "elements": self.elements, "bytes": self.size}


@dataclass(frozen=True)
class Inspection:
    """A model file in numbers.

    Attributes:
        source: its path.
        file_size: bytes of the model file, without external data.
        external: external data file to the bytes that the model reads of it.
        ir_version: of the ONNX file format.
        opsets: domain to version.
        producer: name and version of the program that wrote it.
        inputs, outputs: without those inputs that only name an initializer.
        assumed: the inputs' shapes for which MACs are counted, where they are dynamic.
        operators: number of nodes by operator, function bodies inlined, the most frequent first.
        constants: by dtype, the largest first.
        layers: every node but constants, in the order of the graph, subgraphs after their node.
        functions: names of the model's own functions.
        subgraphs: number of graphs inside of nodes.
        custom_domains: domain to number of nodes, where it is neither standard nor of a function.
    """

    source: str
    file_size: int
    external: Mapping[str, int]
    ir_version: int
    opsets: Mapping[str, int]
    producer: str
    inputs: tuple[ValueInfo, ...]
    outputs: tuple[ValueInfo, ...]
    assumed: tuple[ValueInfo, ...]
    operators: Mapping[str, int]
    constants: tuple[Constants, ...]
    layers: tuple[Layer, ...]
    functions: tuple[str, ...]
    subgraphs: int
    custom_domains: Mapping[str, int]

    @property
    def size(self) -> int:
        """Bytes of the model file and its external data."""
        return self.file_size + sum(self.external.values())

    @property
    def parameters(self) -> int:
        """Elements of all float constants."""
        return sum(found.elements for found in self.constants if found.is_float)

    @property
    def macs(self) -> int:
        """Of all layers where they are known."""
        return sum(layer.macs or 0 for layer in self.layers)

    @property
    def uncounted(self) -> dict[str, dict[str, int]]:
        """``shape`` and ``operator`` (why MACs are unknown) to the number of layers by operator."""
        found: dict[str, Counter[str]] = {"shape": Counter(), "operator": Counter()}
        for layer in self.layers:
            if layer.why_unknown:
                found[layer.why_unknown][layer.op] += 1
        return {why: dict(counts) for why, counts in found.items() if counts}

    def heaviest(self, count: int) -> tuple[Layer, ...]:
        """The layers with the most MACs, those without any left out."""
        busy = [layer for layer in self.layers if layer.macs]
        return tuple(sorted(busy, key=lambda layer: -(layer.macs or 0))[:count])

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "version": VERSION,
            "source": self.source,
            "bytes": self.size,
            "external": dict(self.external),
            "ir_version": self.ir_version,
            "opsets": dict(self.opsets),
            "producer": self.producer,
            "inputs": [value.to_dict() for value in self.inputs],
            "outputs": [value.to_dict() for value in self.outputs],
            "parameters": self.parameters,
            "constants": [found.to_dict() for found in self.constants],
            "macs": self.macs,
            "macs_for": {value.name: value.shape for value in self.assumed},
            "uncounted": self.uncounted,
            "operators": dict(self.operators),
            "functions": list(self.functions),
            "subgraphs": self.subgraphs,
            "custom_domains": dict(self.custom_domains),
            "layers": [layer.to_dict() for layer in self.layers],
        }


def inspect(path: Path, shapes: Shapes | None = None) -> Inspection:
    """Count what is in a model file.

    Args:
        path: of the model.
        shapes: of inputs with dynamic dimensions; else axis 0 counts as 1, and other dynamic dimensions stay
            unknown, and with them the MACs that depend on them.

    Raises:
        ModelError: if the file cannot be read.
        UsageError: if ``shapes`` names no input or does not fit one.
    """
    model = files.load(path)
    flat = inlined(model)
    fixed, sizes = with_shapes(flat, shapes or {})
    operators = Counter(operator(node) for node in walk(flat))
    return Inspection(
        source=str(path),
        file_size=path.stat().st_size,
        external=_external(model),
        ir_version=model.ir_version,
        opsets={domain or "ai.onnx": version for domain, version in model.opset_imports.items()},
        producer=" ".join(filter(None, (model.producer_name, model.producer_version))),
        inputs=input_infos(model),
        outputs=output_infos(model),
        assumed=_assumed(model, fixed),
        operators=dict(operators.most_common()),
        constants=_constants(model),
        layers=tuple(_layers(fixed, sizes)),
        functions=tuple(f"{domain}.{name}" for domain, name, *_ in model.functions),
        subgraphs=sum(1 for _ in model.graphs()) - 1,
        custom_domains=Counter(node.domain for node in walk(flat) if node.domain not in STANDARD_DOMAINS),
    )


def input_infos(model: ir.Model) -> tuple[ValueInfo, ...]:
    """The inputs a caller must give: those without an initializer behind them."""
    return tuple(_info(value) for value in model.graph.inputs if value.name not in model.graph.initializers)


def output_infos(model: ir.Model) -> tuple[ValueInfo, ...]:
    """The outputs, with the shapes that the file states."""
    return tuple(_info(value) for value in model.graph.outputs)


def _layers(model: ir.Model, sizes: Mapping[str, int]) -> Iterator[Layer]:
    shape = KnownShapes(model, sizes)
    counted: set[int] = set()
    for node in walk(model):
        if node.op_type == "Constant" and node.domain in STANDARD_DOMAINS:
            continue
        new = {id(t): t for t in map(_constant, node.inputs) if t is not None and id(t) not in counted}
        counted |= new.keys()
        parameters = sum(t.size for t in new.values() if t.dtype.is_floating_point())
        try:
            output = shape(node.outputs[0]) if node.outputs else None
        except UnknownShape:
            output = None
        yield Layer(label(node), operator(node), output, parameters, count(node, shape))


# --- shapes ---


def inlined(model: ir.Model) -> ir.Model:
    """A copy in which the bodies of the model's functions stand where they are called."""
    copy = model.clone()
    if copy.functions:
        InlinePass()(copy)
    return copy


def with_shapes(model: ir.Model, shapes: Shapes) -> tuple[ir.Model, dict[str, int]]:
    """A copy whose inputs have these shapes, axis 0 being 1 elsewhere; and the sizes of named dimensions."""
    infos = {info.name: info for info in input_infos(model)}
    shapes, chosen = split_sizes(shapes, {name: info.shape for name, info in infos.items()})
    for name, shape in shapes.items():
        _check_shape(name, shape, infos)
    sizes = {info.shape[0]: 1 for info in infos.values() if info.shape and isinstance(info.shape[0], str)}
    for name, shape in shapes.items():
        dims = zip(infos[name].shape or (), shape, strict=False)
        sizes |= {dim: size for dim, size in dims if isinstance(dim, str)}
    sizes |= chosen
    copy = model.clone()
    for value in copy.graph.inputs:
        info = infos.get(value.name or "")
        if info is not None and info.name in shapes:
            value.shape = ir.Shape(shapes[info.name])
        elif info is not None and info.shape is not None:
            known = [dimension(dim, sizes) or dim if isinstance(dim, str) else dim for dim in info.shape]
            batch = [1 if dim is None else dim for dim in known[:1]]
            value.shape = ir.Shape([*batch, *known[1:]])
    return copy, sizes


def _assumed(model: ir.Model, fixed: ir.Model) -> tuple[ValueInfo, ...]:
    """The dynamic inputs as they were fixed."""
    both = zip(input_infos(model), input_infos(fixed), strict=True)
    return tuple(new for old, new in both if old.dynamic or old.shape is None)


def _check_shape(name: str, shape: Shape, infos: Mapping[str, ValueInfo]) -> None:
    if name not in infos:
        raise UsageError(f"the model has no input {name!r}{suggestion(name, infos)}")
    wanted = infos[name].shape if infos[name].shape is not None else shape
    fits = len(wanted or ()) == len(shape)
    if not fits or any(isinstance(w, int) and w != n for w, n in zip(wanted or (), shape, strict=True)):
        given = "x".join(map(str, shape)) or "scalar"
        raise UsageError(f"shape {given} does not fit the input {name!r}, which is {infos[name]}")


# --- names and constants ---


def _info(value: ir.Value) -> ValueInfo:
    shape = None if value.shape is None else tuple(d if isinstance(d, int) else d.value for d in value.shape)
    return ValueInfo(value.name or "", _type(value.type), shape)


def _type(kind: ir.TypeProtocol | None) -> str:
    match kind:
        case None:
            return "?"
        case ir.SequenceType():
            return f"seq({_type(kind.elem_type)})"
        case ir.OptionalType():
            return f"optional({_type(kind.elem_type)})"
        case _:
            return _dtype(kind.dtype)


def _dtype(dtype: ir.DataType) -> str:
    """As numpy names it."""
    return {"FLOAT": "float32", "DOUBLE": "float64"}.get(dtype.name, dtype.name.lower())


def _dims(shape: tuple[int | str | None, ...] | None) -> str:
    return "..." if shape is None else ",".join("?" if dim is None else str(dim) for dim in shape)


def _constant(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor of an initializer or a Constant node; also where a caller may override it."""
    if value is None:
        return None
    if value.const_value is not None:
        return value.const_value
    producer = value.producer()
    attribute = None if producer is None else producer.attributes.get("value")
    if producer is None or attribute is None or producer.op_type != "Constant":
        return None
    return attribute.as_tensor() if attribute.type is ir.AttributeType.TENSOR else None


def _tensors(model: ir.Model) -> list[ir.TensorProtocol]:
    """All constants, each tensor once."""
    held = [v.const_value for v in initializers(model) if v.const_value is not None]
    return list({id(tensor): tensor for tensor in [*held, *attribute_tensors(model)]}.values())


def _constants(model: ir.Model) -> tuple[Constants, ...]:
    found: dict[ir.DataType, Constants] = {}
    for tensor in _tensors(model):
        dtype = tensor.dtype
        so_far = found.get(dtype, Constants(_dtype(dtype), dtype.is_floating_point(), 0, 0))
        elements, size = so_far.elements + tensor.size, so_far.size + tensor.nbytes
        found[dtype] = replace(so_far, elements=elements, size=size)
    return tuple(sorted(found.values(), key=lambda constants: -constants.size))


def _external(model: ir.Model) -> dict[str, int]:
    found: Counter[str] = Counter()
    for tensor in _tensors(model):
        if isinstance(tensor, ir.ExternalTensor):
            found[str(tensor.location)] += tensor.nbytes
    return dict(found)
