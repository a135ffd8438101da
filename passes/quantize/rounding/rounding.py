"""Rounding of weights that looks at what the layers read: the error of their outputs counts, not that of the weights.

The mean squared error of a channel is ``(w - w') H (w - w')^T`` with ``H = E[x x^T]`` over the vectors x that meet its
weights, so H is all that is kept of the calibration samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxopt.calibrate.hessian import Numbers
from onnxopt.core import Context
from onnxopt.passes.quantize.grids.grid import Array, Grid, quantized_rows
from onnxopt.passes.quantize.int8.chains import Chains
from onnxopt.passes.quantize.int8.layers import Int8Layer
from onnxopt.passes.quantize.rounding.adaround import adaround
from onnxopt.passes.quantize.rounding.inputs import stream
from onnxopt.passes.quantize.rounding.optq import optq

METHODS = {"optq": optq, "adaround": adaround}
VECTORS = 4096
"""Drawn for each layer."""
BUDGET = 512 * 2**20
"""Bytes of all Hessians at one time; there are as many runs over the calibration samples as it takes.

Factoring one takes some four times its own size beside that.
"""


@dataclass
class _Task:
    """A weight that is rounded once, for all layers that read it with the same scales.

    Attributes:
        layers: at least one.
        rows: the weights, ``[channels, products]``.
        scales: ``[channels]``.
        nearest: rounded to nearest, ``[channels, products]``.
        pairs: whether pair sums are bounded.
        hessian: the sum of ``x x^T``, ``[groups, products, products]``, once there is one.
    """

    layers: list[Int8Layer]
    rows: Array
    scales: Array
    nearest: npt.NDArray[np.int8]
    pairs: bool
    hessian: Numbers = field(default_factory=lambda: np.zeros(0))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the Hessian."""
        return (self.layers[0].group, *[self.rows.shape[1]] * 2)

    @property
    def size(self) -> int:
        """Of the Hessian, in bytes."""
        return 8 * int(np.prod(self.shape))


def rounded(
    model: ir.Model, chains: Chains, grids: Mapping[ir.Value, Grid], context: Context, method: str, *, pairs: bool
) -> dict[ir.Node, npt.NDArray[np.int8]]:
    """The integers of each layer, int8 ``[channels, products]``; their scales are those of ``Layer.quantized``.

    A channel stays rounded to nearest where its error is not smaller then, on the calibration samples. Layers whose
    Hessian is larger than the budget (of more than 8192 products) are left out.

    Args:
        model: in float, not changed.
        chains: its layers in int8.
        grids: of their inputs.
        context: calibration samples, where to run, seed.
        method: ``optq`` or ``adaround``.
        pairs: whether the processor adds neighbouring products in 16 bits (see ``grid``).

    Raises:
        UsageError: if the method needs PyTorch and it is not installed.
    """
    found = {}
    for tasks in _portions(_tasks(chains, grids, pairs)):
        for task in tasks:
            task.hessian = np.zeros(task.shape)
        home = {layer.node: task for task in tasks for layer in task.layers}
        for layer, x in stream(model, [layer for task in tasks for layer in task.layers], grids, context, VECTORS):
            home[layer.node].hessian += x.transpose(0, 2, 1) @ x
        for task in tasks:
            integers = _chosen(task, method)
            found.update({layer.node: integers for layer in task.layers})
            task.hessian = np.zeros(0)
    return found


def _tasks(chains: Chains, grids: Mapping[ir.Value, Grid], pairs: bool) -> list[_Task]:
    """The weights of all layers; a shared one that has the same integers twice is written once."""
    tasks: dict[tuple[ir.Value, bool, int, bytes], _Task] = {}
    for node, layer in chains.layers.items():
        source = node.inputs[0]
        assert source is not None
        nearest, scales = layer.quantized(float(grids[source].scale), pairs=pairs)
        key = (layer.weight, layer.transposed, layer.group, scales.tobytes())
        if key not in tasks:
            tasks[key] = _Task([], layer.rows(), scales, nearest, pairs and layer.pairs)
        tasks[key].layers.append(layer)
    return list(tasks.values())


def _portions(tasks: list[_Task]) -> Iterator[list[_Task]]:
    """The tasks in lists whose Hessians fit into the budget, without those too large for it."""
    portion: list[_Task] = []
    for task in tasks:
        if task.size > BUDGET:
            continue
        if sum(other.size for other in portion) + task.size > BUDGET:
            yield portion
            portion = []
        portion.append(task)
    if portion:
        yield portion


def _chosen(task: _Task, method: str) -> npt.NDArray[np.int8]:
    """The integers of one weight."""
    groups, products, _ = task.shape
    weights = (task.rows.astype(np.float64) / task.scales[:, None]).reshape(groups, -1, products)
    found = METHODS[method](weights, task.hessian, pairs=task.pairs).reshape(task.rows.shape)
    chosen = quantized_rows(found.astype(np.float32), np.ones_like(task.scales), pairs=task.pairs)
    errors = [_errors(weights, integers, task.hessian) for integers in (chosen, task.nearest)]
    result: npt.NDArray[np.int8] = np.where((errors[0] < errors[1])[:, None], chosen, task.nearest)
    return result


def _errors(weights: Numbers, integers: npt.NDArray[np.int8], hessian: Numbers) -> Numbers:
    """``(w - q) H (w - q)^T`` of each row, ``[channels]``."""
    off = weights - integers.reshape(weights.shape)
    errors: Numbers = ((off @ hessian) * off).sum(axis=2).reshape(-1)
    return errors
