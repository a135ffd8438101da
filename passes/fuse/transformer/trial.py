"""Whether a fused model computes the same with tokens masked out, and at two sizes of what is dynamic."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxopt.check import Difference, largest
from onnxopt.core import Context
from onnxopt.data import InputSpec, random_dataset
from onnxopt.errors import DataError, ModelError, UsageError
from onnxopt.runtime import Outputs, Session, input_specs
from onnxopt.target import Target

FILLS = ((5, 9), (16, 24), (64, 96), (224, 256))
"""Sizes of dynamic dimensions, tried until the model runs at both."""
BATCHES = (3, 2)
HIGHS = (100, 10, 2)
"""Bounds of random integers, likewise: some count rows of a short table."""
PASSED_ON = frozenset({"Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten"})


@dataclass(frozen=True)
class Trial:
    """Inputs, and what the model gives for them.

    Attributes:
        feeds: of each run.
        outputs: of the model before.
        sizes: how many different sizes they have.
        dynamic: whether there could be others.
        target: where it ran.
    """

    feeds: Sequence[Outputs]
    outputs: Sequence[Outputs]
    sizes: int
    dynamic: bool
    target: Target

    @property
    def doubt(self) -> str:
        """What was not tried, in words for the report."""
        return "; checked at one size only, as no other runs" if self.dynamic and self.sizes == 1 else ""

    def compare(self, model: ir.Model) -> Difference:
        """The largest difference of the outputs of another model.

        Raises:
            ModelError: if it does not load or run.
        """
        session = Session(model, self.target, optimize=False)
        found = [session.run(feeds) for feeds in self.feeds]
        return largest([*self.outputs], found, {*self.outputs[0]}, exact=False)


def prepare(model: ir.Model, context: Context) -> Trial:
    """Run a model on random inputs of two sizes, masks with gaps and with padding among them.

    Where it runs on none, the first sample of the data is taken, with its masks changed in the same way.

    Raises:
        ModelError: if there are no inputs on which it runs.
    """
    session, masks = Session(model, context.target, optimize=False), _masks(model)
    specs = input_specs(model)
    tried = [_running(session, specs, context, place) for place in (0, 1)]
    found = [feeds for feeds in tried if feeds is not None]
    if not found and context.calibration is not None:
        found = [context.calibration.first()]
    if not found:
        raise ModelError("it runs on no random inputs, so its fusions cannot be checked; give --data, or --shape")
    runs = [masked for one in found for masked in _with_masks(one, masks)]
    shapes = {tuple(array.shape for array in one.values()) for one in found}
    dynamic = any(not isinstance(dim, int) for spec in specs for dim in spec.shape or (None,))
    return Trial(runs, [session.run(one) for one in runs], len(shapes), dynamic, context.target)


def _running(session: Session, specs: Sequence[InputSpec], context: Context, place: int) -> Outputs | None:
    """Random inputs of the smaller or larger sizes on which the model runs."""
    given = context.target.shapes if place == 0 else {}
    for fills, high in itertools.product(FILLS, HIGHS):
        for shapes in _named(specs, fills[place], BATCHES[place]):
            try:
                data = random_dataset(
                    specs, {**shapes, **given}, count=1, seed=context.seed, fill=fills[place], high=high
                )
                feeds = {name: np.asarray(array) for name, array in next(iter(data.batches(1))).feeds.items()}
                session.run(feeds)
            except (ModelError, UsageError, DataError):
                continue
            return feeds
    return None


def _named(specs: Sequence[InputSpec], fill: int, batch: int) -> Iterator[dict[str, tuple[int, ...]]]:
    """Sizes of named dimensions: the first ones are batches; one that is only a mask's may be the sum of two others."""
    batches = {spec.shape[0] for spec in specs if spec.shape and isinstance(spec.shape[0], str)}
    shapes: dict[str, tuple[int, ...]] = {str(name): (batch,) for name in batches}
    yield shapes
    last = {spec.shape[-1] for spec in specs if len(spec.shape or ()) > 1 and spec.shape}
    others = {dim for spec in specs for dim in spec.shape or () if isinstance(dim, str)} - batches
    for total in sorted(str(name) for name in last & others):
        if len(others) == 3:
            yield {**shapes, total: (2 * fill,)}
        if len(others) == 2:
            yield {**shapes, total: (fill + 1,)}


def _masks(model: ir.Model) -> set[str]:
    """The integer inputs of two dimensions that number no rows: masks, of zeros and ones."""
    return {
        value.name or ""
        for value in model.graph.inputs
        if value.dtype in (ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL, ir.DataType.FLOAT)
        and value.shape is not None
        and len(value.shape) == 2
        and (value.dtype is not ir.DataType.FLOAT or "mask" in (value.name or ""))
        and not _numbers_rows(value)
    }


def _numbers_rows(value: ir.Value) -> bool:
    queue, seen = [value], {value}
    while queue:
        for use in queue.pop().uses():
            if use.node.op_type == "Gather" and use.idx == 1:
                return True
            if use.node.op_type in PASSED_ON and use.node.outputs[0] not in seen:
                seen.add(use.node.outputs[0])
                queue.append(use.node.outputs[0])
    return False


def _with_masks(feeds: Mapping[str, np.ndarray], masks: set[str]) -> Iterator[Outputs]:
    """These inputs with all tokens read; the last ones not, as many as differ from row to row; and some others not.

    The first token is always read: scores of a row that reads nothing are equal but for rounding.
    """
    own = masks & feeds.keys()
    yield {**feeds, **{name: np.ones_like(feeds[name]) for name in own}}
    if not own:
        return
    padded, gaps = {}, {}
    for name in own:
        rows, length = feeds[name].shape
        read = length - 1 - np.arange(rows)[:, None] % max(length - 1, 1)
        kept = np.arange(length)[None] < np.maximum(read, 1)
        open_ = (np.arange(length)[None] + np.arange(rows)[:, None]) % 3 != 1
        open_[:, 0] = True
        padded[name], gaps[name] = kept.astype(feeds[name].dtype), open_.astype(feeds[name].dtype)
    yield {**feeds, **padded}
    yield {**feeds, **gaps}
