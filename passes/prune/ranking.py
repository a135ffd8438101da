"""In which order the channels of each group go, and what is lost with each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxopt import progress
from onnxopt.core import Context, Refusal
from onnxopt.layers import layers
from onnxopt.passes.prune import store
from onnxopt.passes.prune.costs import Costs
from onnxopt.passes.prune.elimination import eliminated
from onnxopt.passes.prune.gain import Judge
from onnxopt.passes.prune.groups import Group, Groups
from onnxopt.passes.prune.importance import OF_NUMBERS, OF_WEIGHTS, by_both, by_numbers, by_weights
from onnxopt.passes.prune.reading import LARGEST, Numbers, Reading, measure, readings
from onnxopt.passes.prune.widths import Prunable

IMPORTANCES = ("reconstruction", *OF_WEIGHTS, *OF_NUMBERS, "weight-activation")


def ranked(
    model: ir.Model,
    groups: Groups,
    stops: Mapping[str, tuple[int, ...]],
    importance: str,
    costs: Costs,
    context: Context,
) -> tuple[list[Prunable], list[Refusal]]:
    """The groups, ready to choose how many channels of each go.

    Args:
        model: that the groups are of, not changed.
        groups: all of it.
        stops: how many may go, by the name of those groups that may lose channels.
        importance: one of IMPORTANCES.
        costs: a channel that costs more than its neighbours goes before them, where it matters as much.
        context: calibration samples, where to run, seed.
    """
    chosen = [group for group in groups if group.name in stops]
    prices = {group.name: _prices(group, groups, costs) for group in chosen}
    refusals: list[Refusal] = []
    if importance == "reconstruction":
        return _reconstructed(model, groups, chosen, stops, prices, context)
    if importance in OF_WEIGHTS:
        scores = {group.name: by_weights(importance, group, groups) for group in chosen}
    elif importance in OF_NUMBERS:
        scores = by_numbers(importance, model, chosen, groups, context)
    else:
        scores, refusals = _read(model, groups, chosen, context)
    kept = [group for group in chosen if group.name in scores]
    return [_by_score(group, scores[group.name], prices[group.name], stops[group.name]) for group in kept], refusals


def _by_score(group: Group, scores: Numbers, prices: Numbers, stops: tuple[int, ...]) -> Prunable:
    order = np.argsort(scores / prices, kind="stable")
    loss = np.concatenate([[0.0], np.cumsum(scores[order])]) / max(float(scores.sum()), 1e-30)
    return Prunable(group, group.classes[order], scores[order], loss, stops)


def _prices(group: Group, groups: Groups, costs: Costs) -> Numbers:
    """What each class costs, over the mean of the group; alike where every layer that makes one makes all."""
    made = (groups.channels(role.value, role.axis) for role in group.writers)
    if all(axis is not None and np.isin(group.classes, axis).all() for axis in made):
        return np.ones(len(group))
    nothing = np.zeros(groups.count, bool)
    found = np.array([costs.saved(nothing, np.array([one])) for one in group.classes.tolist()])
    return found / found.mean() if found.min(initial=1) > 0 else np.ones(len(group))


def _reading(
    model: ir.Model, groups: Groups, chosen: Sequence[Group]
) -> tuple[dict[str, list[Reading]], list[Refusal]]:
    """The readings of each group by its name, and why others have none."""
    every = readings(layers(model)[0], groups)
    found: dict[str, list[Reading]] = {}
    refusals = []
    for group in chosen:
        own = [reading for reading in every if np.isin(reading.classes, group.classes).any()]
        widest = max((len(reading.classes) for reading in own), default=0)
        if not own:
            refusals.append(Refusal(group.name, "no layer with weights reads its channels"))
        elif widest > LARGEST:
            refusals.append(Refusal(group.name, f"a layer that reads it sums {widest} products, more than {LARGEST}"))
        else:
            found[group.name] = own
    return found, refusals


def _read(
    model: ir.Model, groups: Groups, chosen: Sequence[Group], context: Context
) -> tuple[dict[str, Numbers], list[Refusal]]:
    """Scores by what is read and the weights that read it."""
    wanted, refusals = _reading(model, groups, chosen)
    classes = {group.name: group.classes for group in chosen}
    names, scores = list(wanted), dict[str, Numbers]()
    for number in measure(model, list(wanted.values()), context):
        scores[names[number]] = by_both(wanted[names[number]], classes[names[number]])
    return scores, refusals


def _reconstructed(
    model: ir.Model,
    groups: Groups,
    chosen: Sequence[Group],
    stops: Mapping[str, tuple[int, ...]],
    prices: Mapping[str, Numbers],
    context: Context,
) -> tuple[list[Prunable], list[Refusal]]:
    """By backward elimination, with what an error at the readers means at the outputs."""
    wanted, refusals = _reading(model, groups, chosen)
    kept = [group for group in chosen if group.name in wanted]
    place = store.place(model, {group.name: stops[group.name] for group in kept}, context)
    known = store.load(place, kept, stops)
    if known is not None:
        return known, refusals
    judge = Judge(model, context)
    found = []
    for number in measure(model, [wanted[group.name] for group in kept], context):
        group = kept[number]
        progress.count("group", number + 1, len(kept))
        own = wanted[group.name]
        gone = eliminated(own, group.classes, prices[group.name], max(stops[group.name]))
        gain = judge.gain(own, gone, len(group))
        loss = np.concatenate([[0.0], gone.loss])
        found.append(Prunable(group, gone.order, np.diff(loss), gain * loss, stops[group.name]))
    store.keep(place, found)
    return found, refusals
