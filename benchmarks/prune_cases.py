"""What ``benchmarks/prune.py`` prunes, and with what: models with their data, and the tools that cut MACs off them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from contenders import Case, Settings, prepare
from prune_blocks import blocks, patterns

from onnxopt import files, passes
from onnxopt.core import Change, Context
from onnxopt.gate import Gate, Limits
from onnxopt.given import gather
from onnxopt.graph import walk
from onnxopt.macs import KnownShapes, count
from onnxopt.metrics import Metric
from onnxopt.metrics.base import Array, Arrays, column, cosine
from onnxopt.optimize import tidy
from onnxopt.options import Options
from onnxopt.runtime import input_specs
from onnxopt.target import Target

OURS, NEURONS, L1, L1_UNIFORM, UNIFORM, GLOBAL = "ours", "neurons", "l1", "l1-uniform", "uniform", "global"
PEERS = (UNIFORM, GLOBAL)
RIVALS = (*PEERS, L1_UNIFORM, L1)
TITLES: Mapping[str, str] = {
    OURS: "onnxopt",
    NEURONS: "onnxopt, neurons",
    L1: "onnxopt, L1, no repair",
    L1_UNIFORM: "onnxopt, L1, no repair, uniform",
    UNIFORM: "torch-pruning, uniform",
    GLOBAL: "torch-pruning, global",
}
MULTIPLE = 8
"""Of channels: with other numbers kernels are slower (facts/pruning.md)."""
HALVINGS = {UNIFORM: 9, GLOBAL: 9, L1: 6, L1_UNIFORM: 6}
"""Of the interval in which the amount is looked for; ours goes in steps of ``MULTIPLE`` channels anyway."""
MOST = 0.95
"""The largest amount that is tried."""
MASK = "attention_mask"
"""The input that says how long sequences are."""


@dataclass(frozen=True)
class Subject:
    """A model whose curve is drawn.

    Attributes:
        name: in the manifest of ../shared/data.
        limits: share of the MACs that goes, to the drop that is allowed then.
        metric: None takes top-1.
        neurons: share of the neurons of a transformer's blocks that goes in a row of its own; where it is given, all
            rows prune nothing else.
        quick: part of --quick.
    """

    name: str
    limits: Mapping[float, float] = field(default_factory=dict)
    metric: str | None = None
    neurons: float | None = None
    quick: bool = False


SUBJECTS = (
    Subject("resnet56_cifar10", {0.3: 0.01, 0.5: 0.04}, quick=True),
    Subject("mobilenet_v2_100_224", {0.1: 0.01}),
    Subject("squeezenet11", {0.1: 0.01}),
    Subject("minilm_l6", metric="spearman-cosine", neurons=0.45),
)
"""Models and limits of issue 5, section "Must reach"."""


class Ground:
    """A model that is ready to be pruned and scored.

    Attributes:
        model: after the exact passes; all tools start from it.
        context: with the calibration samples, the only ones that a tool may look at.
        only: names of the groups that are pruned, with stars; empty for all.
        gate: against the original, on held-out samples; ``nearness``: of sentence embeddings.
    """

    def __init__(self, subject: Subject, settings: Settings) -> None:
        """Make the files that are not there, and run the original on the held-out samples."""
        given = prepare(Case(subject.name), settings)
        original = files.load(given.model)
        self.model = files.load(tidied(original, settings.work / subject.name))
        options = Options(data=str(given.calib), eval_data=str(given.held_out), metric=subject.metric)
        samples = gather(original, options)
        if samples.calibration is None or samples.held_out is None or samples.metric is None:
            raise RuntimeError("there are no data")
        self.context, held_out = Context(Target(), samples.calibration), samples.held_out
        self.gate = Gate(original, samples.metric, held_out, Limits(), Target())
        self.nearness = functools.cache(lambda: Gate(original, PooledCosine(), held_out, Limits(), Target()))
        self.only = "+".join(patterns(self.model)) if subject.neurons else ""
        self.sizes = sizes(self.model, given.calib)
        self.full = macs(self.model, self.sizes)
        self.peer = functools.cache(self._peer)

    def cut(self, model: ir.Model) -> float:
        """Share of the MACs that is gone."""
        return 1 - macs(model, self.sizes) / self.full

    def pruned(self, tool: str, asked: float) -> tuple[ir.Model, str]:
        """The model as a tool prunes it, and the words or the ratio that did it.

        A rival gets the amount that cuts the most without going over what is asked.

        Raises:
            RuntimeError: if nothing changed.
        """
        if tool not in RIVALS:
            return self.changed(tool, asked)
        best, how, low, high = self.model, "nothing", 0.0, MOST
        for _ in range(HALVINGS[tool]):
            middle = (low + high) / 2
            model, words = self.changed(tool, middle)
            if self.cut(model) > asked:
                high = middle
            else:
                best, how, low = model, words, middle
        return best, how

    def changed(self, tool: str, amount: float) -> tuple[ir.Model, str]:
        """One run of a tool: see ``pruned``."""
        if tool in PEERS:
            return self.peer(tool == GLOBAL).pruned(amount), f"ratio={amount:.4f}"
        words, model = words_of(tool, amount, self.only), self.model.clone()
        found = passes.parse(words).run(model, self.context)
        if tool not in RIVALS and not any(isinstance(one, Change) for one in found):
            raise RuntimeError(f"nothing was pruned: {'; '.join(map(str, found[:3]))}")
        return model, words

    def _peer(self, everywhere: bool) -> Any:
        """torch-pruning on this model (see ``prune_peers``, which imports torch)."""
        import torch
        from prune_net import Blocks, Net, without_detours
        from prune_peers import Peer

        torch.set_num_threads(1)
        if self.only:
            wide = torch.zeros(2, blocks(self.model)[0].width)
            return Peer(Blocks, self.model, wide, everywhere=everywhere)
        assert self.context.calibration is not None
        feeds = next(iter(self.context.calibration.data.batches(2))).feeds
        example = torch.tensor(next(iter(feeds.values())))
        return Peer(Net, without_detours(self.model, feeds), example, everywhere=everywhere)


def words_of(tool: str, amount: float, only: str) -> str:
    """What --pass would be given; the amount is a share of MACs, or of the channels of each group."""
    share = f"ratio={amount:g}" if tool in (NEURONS, L1_UNIFORM) else f"macs={1 - amount:g}"
    words = ["importance=l1,repair=none"] if tool in (L1, L1_UNIFORM) else []
    words += [f"only={only}"] if only else []
    return "prune-channels:" + ",".join([share, f"multiple={MULTIPLE}", *words])


def file_of(settings: Settings, name: str, tool: str, asked: float) -> Path:
    """Where a pruned model goes."""
    return settings.work / name / f"{tool}-{asked:.0%}.onnx".replace("%", "")


def tidied(model: ir.Model, folder: Path) -> Path:
    """The file of the model after the exact passes; they run where it is not there."""
    path = folder / "tidy.onnx"
    if not path.exists():
        files.save(tidy(model, Target())[0], path)
    return path


def macs(model: ir.Model, sizes: Mapping[str, int]) -> int:
    """Multiply-accumulates of one sample.

    Raises:
        RuntimeError: if those of a node are not known.
    """
    model = model.clone()
    for value in model.graph.inputs:  # what computes shapes at run time can then be folded
        value.shape = ir.Shape(
            [dim if isinstance(dim, int) else sizes.get(dim.value or "") for dim in value.shape or ()]
        )
    shape = KnownShapes(model, sizes)
    counted = [count(node, shape) for node in walk(model)]
    if None in counted:
        raise RuntimeError("the MACs of a node are not known")
    return sum(one or 0 for one in counted)


def sizes(model: ir.Model, data: Path) -> dict[str, int]:
    """Sizes of dynamic dimensions: one sample, and the mean length of those that are there."""
    with np.load(data) as arrays:
        length = round(float(arrays[MASK].sum(1).mean())) if MASK in arrays else 1
    shapes = [spec.shape or () for spec in input_specs(model)]
    return {dim: length if axis else 1 for shape in shapes for axis, dim in enumerate(shape) if isinstance(dim, str)}


@dataclass(frozen=True)
class PooledCosine(Metric):
    """Cosine of each sentence's embedding, the mean over its tokens, with the original's."""

    name: str = "pooled-cosine"

    def evidence(self, outputs: Arrays, labels: Array | None, reference: Arrays, feeds: Arrays) -> Array:
        """(n, 1): the cosines."""
        weights = feeds[MASK][:, :, None].astype(np.float64)
        ours, theirs = ((next(iter(found.values())) * weights).sum(1) for found in (outputs, reference))
        return column(cosine(ours, theirs))
