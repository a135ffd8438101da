"""The places where a pruned network is repaired: layers whose inputs have changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxopt.core import Refusal
from onnxopt.graph import STANDARD_DOMAINS, array, inferred, label, tensor
from onnxopt.layers import Layer, layers
from onnxopt.passes.repair.flow import Flow, follow
from onnxopt.passes.repair.norms import Norm, is_norm
from onnxopt.passes.repair.rectified import Bounds, bounds_after
from onnxopt.passes.repair.sources import Source, unpooled

Channels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class KeptChannels:
    """The channels of the original's layer that the pruned one still has.

    Attributes:
        outputs: among those it makes, ascending.
        inputs: among those of what it reads, before a convolution parts them into groups, ascending.
    """

    outputs: Channels
    inputs: Channels


@dataclass(frozen=True)
class Site:
    """A layer that is fitted anew.

    Attributes:
        place: of its node in the original graph.
        before: in the original model.
        after: in the pruned one.
        kept: which of the original's channels it still has.
        source: of what it reads.
        pooled: the same before a pooling, if there is one.
        beside: the value that is added to what it gives; empty without one.
        bounds: of the Relu or Clip behind both; None without one.
    """

    place: int
    before: Layer
    after: Layer
    kept: KeptChannels
    source: Source
    pooled: Source | None
    beside: str
    bounds: Bounds | None


def plan(
    original: ir.Model, pruned: ir.Model, kept: Mapping[str, KeptChannels]
) -> tuple[Flow, list[Site | Norm], list[Refusal]]:
    """What is repaired, in the order of the graph, and why other layers that read something changed are not."""
    twins = inferred(original)
    flow = follow(original, pruned, twins)
    before, after = ({label(layer.node): layer for layer in layers(model)[0]} for model in (original, pruned))
    whys = {refusal.node: refusal.why for refusal in layers(pruned)[1]}
    nodes = {label(node): node for node in pruned.graph}
    sites: list[Site | Norm] = []
    refusals = []
    for place, node in enumerate(original.graph):
        name, read = label(node), node.inputs[0] if node.inputs else None
        changed = read is not None and read.name in flow.drifted and read.name in flow.made
        site: Site | Norm | None = None
        if name in before and name in after:
            site = _site(place, before[name], after[name], kept, flow, twins)
        elif changed and is_norm(node):
            site = _norm(place, node, nodes[name], kept.get(name))
            if site is None:
                refusals.append(Refusal(name, "which channels it has kept was not said"))
        elif changed and name in whys and tensor(node.inputs[1]) is not None:
            refusals.append(Refusal(name, whys[name]))
        if site is not None and place in flow.closed:
            refusals.append(Refusal(name, "a value that is no array of numbers is read across it"))
        elif site is not None:
            sites.append(site)
    return flow, sites, refusals


def _norm(place: int, before: ir.Node, after: ir.Node, kept: KeptChannels | None) -> Norm | None:
    """A BatchNormalization; None if it has lost channels and is not among what was kept."""
    sizes = [numbers.size for node in (before, after) if (numbers := array(node.inputs[1])) is not None]
    if kept is None:
        return Norm(place, before, after, np.arange(sizes[0])) if sizes[0] == sizes[1] else None
    _check(after, (len(kept.outputs),), (sizes[1],))
    return Norm(place, before, after, kept.outputs)


def _check(node: ir.Node, stays: tuple[int, ...], there: tuple[int, ...]) -> None:
    if stays != there:
        raise ValueError(f"{label(node)!r} has {there} channels; {stays} were kept")


def _site(
    place: int,
    before: Layer,
    after: Layer,
    kept: Mapping[str, KeptChannels],
    flow: Flow,
    twins: Mapping[ir.Value, ir.Value],
) -> Site | None:
    """A layer that is to be fitted: what it reads has changed, or what is added to what it gives."""
    read = before.node.inputs[0]
    name = (read.name or "") if read is not None else ""
    beside = added_to(before)
    if beside not in flow.drifted or flow.made.get(beside, place) >= place:
        beside = ""
    if name not in flow.made or not (beside or name in flow.drifted):
        return None
    pooled = unpooled(before.node, twins)
    if pooled is not None and pooled.name not in flow.made:
        pooled = None
    if pooled is not None:
        flow.until[pooled.name] = max(flow.until[pooled.name], place)
    stays = kept.get(label(before.node)) or KeptChannels(*map(np.arange, _widths(before)))
    _check(after.node, (len(stays.outputs), len(stays.inputs)), _widths(after))
    return Site(place, before, after, stays, Source(name), pooled, beside, _bounds(before, beside))


def _bounds(layer: Layer, beside: str) -> Bounds | None:
    """Of the activation behind the layer, its bias, and the sum with what stands beside it."""
    value = layer.node.outputs[0]
    for _ in range(int(layer.added is not None) + int(bool(beside))):
        ((user, _),) = value.uses()
        value = user.outputs[0]
    return bounds_after(value)


def _widths(layer: Layer) -> tuple[int, int]:
    """How many channels it makes and reads."""
    shape = layer.numbers().shape
    return shape[layer.axis], layer.group * shape[1 - layer.axis]


def added_to(layer: Layer) -> str:
    """The value that an Add alone adds to what the layer gives, its own bias included; empty if there is none."""
    (given_, *_), added = layer.node.outputs, layer.added
    if added is not None:
        ((user, _),) = given_.uses()
        given_ = user.outputs[0]
    uses = list(given_.uses())
    if len(uses) != 1 or given_.is_graph_output():
        return ""
    ((node, index),) = uses
    alone = node.op_type in ("Add", "Sum") and node.domain in STANDARD_DOMAINS and len(node.inputs) == 2
    if not alone or node.graph is not layer.node.graph:
        return ""
    other = node.inputs[1 - index]
    return (other.name or "") if other is not None and tensor(other) is None else ""
