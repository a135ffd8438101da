"""Nodes that stay on the CPU although the GPU was asked for, and why.

ONNX Runtime says which nodes they are, and not why. So each is loaded once more, alone and with other types: where
another type is taken, the type is the reason. Nodes that compute shapes are told apart: ONNX Runtime keeps them on the
CPU on purpose, because their numbers are few and the CPU needs them (``GetCpuPreferredNodes`` in its source).
"""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

import onnx
import onnx_ir as ir

from onnxopt import files
from onnxopt.errors import ModelError, UsageError
from onnxopt.graph import inferred, label, subgraphs, tensor, walk
from onnxopt.runtime.placement import Placed
from onnxopt.runtime.probe import alone, types_of
from onnxopt.runtime.session import Session
from onnxopt.target import Target

SHAPES = ("Shape", "Size")
FEW = 100
"""Numbers of a constant that the CPU may read beside a shape (kSmallInitializerThreshold)."""
NAMED = 3
"""Nodes that a sentence names."""
OWN = "onnxopt/"
"""What nodes are called while ONNX Runtime is asked: their own names may be missing, or the same."""

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
INTEGERS = (ir.DataType.INT64, ir.DataType.INT32, ir.DataType.FLOAT)
"""Types that are tried in the place of another."""

Probe = Callable[[ir.Model], bool | None]
"""Whether all of a model runs on the GPU; None where it does not load."""


@dataclasses.dataclass(frozen=True)
class Fallback:
    """A node that is not on the GPU.

    Attributes:
        node: as reports name it.
        operator: what it is.
        why: half a sentence.
        deliberate: whether it computes shapes, and is meant to be there.
    """

    node: str
    operator: str
    why: str
    deliberate: bool = False

    def to_dict(self) -> dict[str, str | bool]:
        """Ready for JSON."""
        return dataclasses.asdict(self)


def fallbacks(model: ir.Model | Path, target: Target) -> tuple[Fallback, ...]:
    """The nodes that are not on the GPU, real ones first; none where the target is the CPU.

    Args:
        model: not changed.
        target: where it runs.

    Raises:
        ModelError: if ONNX Runtime does not load the model.
        RuntimeMissing: if something is missing to run on the GPU.
    """
    if not target.on_gpu:
        return ()
    plain = dataclasses.replace(target, require_gpu=False, cuda_graph=False)
    copy = (model if isinstance(model, ir.Model) else files.load(model)).clone()
    for number, node in enumerate(walk(copy)):
        node.name = f"{OWN}{number}"
    there = [one for one in Session(copy, plain).placed or () if one.on_cpu]
    known = {node.name for node in walk(copy)}
    built = _built(copy, plain) if any(one.node not in known for one in there) else None
    return explained(copy, there, functools.partial(_on_gpu, target=plain), built)


def explained(
    model: ir.Model, on_cpu: Sequence[Placed], probe: Probe, built: ir.Model | None = None
) -> tuple[Fallback, ...]:
    """Why nodes are on the CPU, real fallbacks first.

    Args:
        model: whose nodes have names of their own.
        on_cpu: what ONNX Runtime put there.
        probe: asks whether a small model runs on the GPU.
        built: the graph that ONNX Runtime made of the model, for nodes that it made itself.
    """
    nodes = {node.name: node for node in walk(model)}
    shapes = shape_computation(model)
    made = {node.name for node in shape_computation(built)} if built is not None else set()
    there = {nodes[one.node] for one in on_cpu if one.node in nodes}
    types = inferred(model) if there - shapes else {}
    found, known = list[Fallback](), dict[tuple[object, ...], str]()
    for one in on_cpu:
        node = nodes.get(one.node)
        if node in shapes or (node is None and one.node in made):
            name = label(node) if node is not None else one.node
            found.append(Fallback(name, one.operator, "it computes shapes", deliberate=True))
        elif node is None:
            found.append(Fallback(one.node or one.operator, one.operator, "ONNX Runtime made it itself"))
        else:
            key = (one.operator, *types_of(node, types))
            if key not in known:
                known[key] = _why(node, types, probe, there | shapes)
            found.append(Fallback(label(node), one.operator, known[key]))
    return tuple(sorted(found, key=lambda one: one.deliberate))


def notes(model: ir.Model | Path, target: Target) -> tuple[str, ...]:
    """What a reader must know of the nodes that are not on the GPU: a sentence on real ones, one on shapes.

    Raises:
        UsageError: if the target requires that there be no real ones.
    """
    found = fallbacks(model, target)
    if target.require_gpu:
        _refuse(found)
    return told(found)


def told(found: Iterable[Fallback]) -> tuple[str, ...]:
    """Sentences on fallbacks."""
    found = list(found)
    real, meant = [one for one in found if not one.deliberate], [one for one in found if one.deliberate]
    said = [f"{listed(real)}; what they read and give is copied (--require-gpu refuses that)"] if real else []
    if meant:
        count = Counter(one.operator for one in meant)
        kinds = ", ".join(f"{kind} {times}" for kind, times in count.most_common(NAMED))
        several = len(meant) > 1
        compute, run, them = ("compute", "run", "them") if several else ("computes", "runs", "it")
        said.append(
            f"{_nodes(len(meant))} that {compute} shapes ({kinds}) {run} on the CPU, where ONNX Runtime wants {them}"
        )
    return tuple(said)


def listed(real: Sequence[Fallback]) -> str:
    """The first of them with their reasons."""
    named = "; ".join(f"{one.operator} {one.node!r}: {one.why}" for one in real[:NAMED])
    more = f"; and {len(real) - NAMED} more" if len(real) > NAMED else ""
    return f"{_nodes(len(real))} run{'s' if len(real) == 1 else ''} on the CPU ({named}{more})"


def require_gpu(model: ir.Model | Path, target: Target, placed: tuple[Placed, ...] | None) -> None:
    """Refuse a model of which nodes are on the CPU, beside those that compute shapes.

    Raises:
        UsageError: with the first of them and their reasons, or if ONNX Runtime cannot tell.
    """
    if placed is None:
        raise UsageError("--require-gpu: this ONNX Runtime cannot say where its nodes are; 1.24 and newer can")
    if not any(one.on_cpu for one in placed):
        return
    _refuse(fallbacks(model, target))


def _refuse(found: Iterable[Fallback]) -> None:
    if real := [one for one in found if not one.deliberate]:
        raise UsageError(f"--require-gpu: {listed(real)}")


def shape_computation(model: ir.Model) -> set[ir.Node]:
    """Shape, Size, and what follows from them, from few constants and from inputs alone; never in float16."""
    found: set[ir.Node] = set()
    for node in walk(model):
        if node.op_type in SHAPES and not node.domain:
            found.add(node)
            continue
        inputs = [value for value in node.inputs if value is not None]
        makers = [value.producer() for value in inputs]
        follows = any(maker in found for maker in makers)
        allowed = all(maker in found or _few(value) for value, maker in zip(inputs, makers, strict=True))
        halves = any(value.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16) for value in inputs)
        if (follows or not inputs) and allowed and not halves and not subgraphs(node):
            found.add(node)
    return found


def _few(value: ir.Value) -> bool:
    """Whether the CPU may read it beside a shape: a small constant, or an input of the model."""
    numbers = tensor(value)
    return value.is_graph_input() if numbers is None else numbers.size <= FEW


def _why(node: ir.Node, types: Mapping[ir.Value, ir.Value], probe: Probe, there: Collection[ir.Node]) -> str:
    """Why one node is on the CPU; known by trying it alone on the GPU, as it is and with other types."""
    if subgraphs(node):
        return f"{node.op_type} holds graphs of its own"
    if node.domain not in ("", "ai.onnx", "com.microsoft"):
        return f"operators of {node.domain} have no CUDA kernel"
    runs = probe(alone(node, types, {}))
    if runs is None:
        return "ONNX Runtime does not say why"
    if runs:
        makers = [maker for value in node.inputs if value is not None and (maker := value.producer()) is not None]
        first = next((maker for maker in makers if maker in there), None)
        return f"it reads what {label(first)!r} gives there" if first else "ONNX Runtime expects it to be faster there"
    for wrong in types_of(node, types):
        for other in FLOATS if wrong in FLOATS else INTEGERS:
            if other is not wrong and probe(alone(node, types, {wrong: other})):
                return f"CUDA has a kernel for {node.op_type} of {other.name.lower()}, not of {wrong.name.lower()}"
    return f"CUDA has no kernel for {node.op_type}"


def _on_gpu(model: ir.Model, target: Target) -> bool | None:
    try:
        found = Session(model, target).placed
    except ModelError:
        return None
    return bool(found) and not any(one.on_cpu for one in found or ())


def _built(model: ir.Model, target: Target) -> ir.Model:
    """The graph that ONNX Runtime makes of it, without its weights."""
    with tempfile.TemporaryDirectory(prefix="onnxopt-") as folder:
        path = Path(folder) / "built.onnx"
        Session(model, target, save_as=path)
        return ir.serde.deserialize_model(onnx.load(path, load_external_data=False))


def _nodes(count: int) -> str:
    return f"{count} node{'' if count == 1 else 's'}"
