"""The proof of the groups: channels whose numbers are zero everywhere can be taken away, and nothing changes."""

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
import onnx_ir as ir

from onnxopt import files
from onnxopt.data import random_dataset
from onnxopt.graph import weight_bytes
from onnxopt.passes.prune import groups
from onnxopt.passes.prune.groups.groups import Group, Groups
from onnxopt.passes.prune.groups.tracer import Classes
from onnxopt.runtime import Session, input_specs
from onnxopt.target import Target
from onnxopt.testing import compare_outputs

CPU = Target()
TOLERANCE = 1e-4
"""Of the largest magnitude of an output."""

Feeds = Mapping[str, np.ndarray]


def random_feeds(model: ir.Model) -> Feeds:
    """One random input of each kind, of three of whatever is dynamic."""
    (batch,) = random_dataset(input_specs(model), {}, count=1, seed=0, fill=3, high=2).batches(1)
    return batch.feeds


def choose(found: Groups, among: Iterable[Group], share: float, rng: np.random.Generator) -> Classes:
    """A random share of the channels of each group (one at least), so that each axis keeps one."""
    chosen = [rng.permutation(group.classes)[: max(1, round(share * len(group)))] for group in among]
    gone = np.zeros(found.count, bool)
    gone[np.concatenate([np.zeros(0, np.int64), *chosen])] = True
    for axes in found.axes.values():
        for axis in axes:
            if axis is not None and len(axis) and gone[axis].all():
                gone[axis[0]] = False
    return np.flatnonzero(gone)


def assert_exact(
    model: ir.Model, feeds: Feeds | None = None, *, share: float = 0.5, each: bool = True, check: bool = True
) -> Groups:
    """Take away a random share of each group, one after the other, and of all at once.

    Args:
        model: not changed.
        feeds: random if not given.
        share: of the channels.
        each: whether groups are also tried one by one.
        check: whether the result must be valid for ONNX's checker, in full.

    Returns:
        The groups, exact ones and others.
    """
    found, feeds = groups.find(model), random_feeds(model) if feeds is None else feeds
    exact = [number for number, group in enumerate(found) if not group.inexact]
    tries = [[number] for number in exact] if each and len(exact) > 1 else []
    for numbers in [*tries, exact]:
        try:
            _try(model, feeds, numbers, share, check)
        except Exception as error:
            error.add_note("\n".join(str(found.groups[number]) for number in numbers[:3]))
            raise
    return found


def _try(model: ir.Model, feeds: Feeds, numbers: Iterable[int], share: float, check: bool) -> None:
    """Zero, run, remove, run, compare."""
    pruned = model.clone()
    found = groups.find(pruned)
    gone = choose(found, [found.groups[number] for number in numbers], share, np.random.default_rng(0))
    found.zero(gone)
    zeroed = Session(pruned, CPU, optimize=False).run(feeds)
    found.remove(gone)
    if check:
        onnx.checker.check_model(files.to_bytes(pruned), full_check=True)
    after = Session(pruned, CPU, optimize=False).run(feeds)
    compare_outputs(zeroed, after, TOLERANCE)
    assert not len(gone) or weight_bytes(pruned) < weight_bytes(model)


def assert_runs(model: ir.Model, feeds: Feeds | None = None, *, share: float = 0.25) -> None:
    """Without a share of each group, those of normalised axes too, the model is valid and its outputs have their shapes."""
    pruned = model.clone()
    found, feeds = groups.find(pruned, normalised=True), random_feeds(model) if feeds is None else feeds
    found.remove(choose(found, found, share, np.random.default_rng(0)))
    onnx.checker.check_model(files.to_bytes(pruned), full_check=True)
    before, after = (Session(one, CPU, optimize=False).run(feeds) for one in (model, pruned))
    assert [np.shape(one) for one in before.values()] == [np.shape(one) for one in after.values()]


def sizes(found: Groups) -> dict[str, int]:
    """Name of each group, and how many channels can go."""
    return {group.name: len(group) for group in found}


def refused(model: ir.Model) -> dict[str, str]:
    """Name of each layer whose channels must stay, and why."""
    return {refusal.node: refusal.why for refusal in groups.find(model).refusals}
