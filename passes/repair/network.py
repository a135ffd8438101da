"""Repair of a pruned network in closed form, without labels and without training.

The layers are taken in order. Each reads the pruned network as repaired so far, and is fitted so that it gives what the
original's layer gives on the original's inputs: errors made before it are corrected where they are met, not carried on.
Where something is added to its outputs that has changed, too (a skip path), the fit makes up for that change.

Sources: Zhang, Zou, He, Sun, "Accelerating Very Deep Convolutional Networks for Classification and Detection", TPAMI
2016, for least squares from drifted inputs towards the original outputs; He, Zhang, Sun, "Channel Pruning for
Accelerating Very Deep Neural Networks", ICCV 2017, for skip paths. Measured (`facts/pruning.md`, ResNet-56, 30 % fewer
MACs): bias correction 76.7, least squares on the original's inputs 80.4, on the pruned network's 82.7, with skip paths
and layers refitted that lost nothing themselves 83.4 of 83.9 points.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from onnxopt import progress
from onnxopt.core import Change, Context, Refusal
from onnxopt.passes.repair.drawn import VECTORS, draw
from onnxopt.passes.repair.fit import fit
from onnxopt.passes.repair.lockstep import Lockstep
from onnxopt.passes.repair.norms import Norm, estimate
from onnxopt.passes.repair.shelf import BUDGET, Shelf
from onnxopt.passes.repair.sites import KeptChannels, plan

METHODS = ("least-squares", "bias")


def repair(
    original: ir.Model,
    pruned: ir.Model,
    kept: Mapping[str, KeptChannels],
    context: Context,
    *,
    method: str = "least-squares",
    vectors: int = VECTORS,
    memory: int = BUDGET,
) -> list[Change | Refusal]:
    """Fit the layers of the pruned network whose inputs have changed, in place.

    Args:
        original: not changed.
        pruned: a clone from which channels were removed.
        kept: what is left of each Conv, Gemm, MatMul and BatchNormalization that lost channels, by label.
        context: calibration samples, where to run, seed.
        method: ``least-squares``, or ``bias`` for biases alone.
        vectors: drawn for each layer, over all samples.
        memory: bytes of values that are kept in memory at one time; the rest lies in files.
    """
    flow, sites, refusals = plan(original, pruned, kept)
    found: list[Change | Refusal] = [*refusals]
    if not sites:
        return found
    with Shelf(memory) as shelf:
        walk = Lockstep(original, pruned, flow, shelf, context)
        for number, site in enumerate(sites, 1):
            progress.count("layer", number, len(sites))
            walk.advance(site.place)
            if isinstance(site, Norm):
                found.append(estimate(site, walk))
            else:
                found += fit(site, *draw(site, walk, vectors, context.seed), method)
    return found
