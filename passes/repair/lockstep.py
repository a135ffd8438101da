"""The original and the pruned network, run piece by piece beside each other over all calibration samples.

A piece is what lies between two layers that are repaired: the values that it needs come from the shelf, those that a
later piece needs go there. So each network runs once, however many layers there are, and every layer sees its inputs in
the pruned network as they are after the repair of all layers before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxopt.core import Context
from onnxopt.passes.repair.flow import Flow
from onnxopt.passes.repair.shelf import Shelf
from onnxopt.runtime import Outputs, Session
from onnxopt.samples import Samples
from onnxopt.target import Target

BATCH = 32
"""Samples in a batch, at most."""
BATCHES = 16
"""Batches, at least, where there are samples enough: some of them are held out."""
EVERY = 4
"""One batch in so many is held out."""


class Lockstep:
    """Both networks, at one place of the graph.

    Attributes:
        batches: how many there are.
        held: those that are held out.
    """

    def __init__(self, original: ir.Model, pruned: ir.Model, flow: Flow, shelf: Shelf, context: Context) -> None:
        """At the start.

        Args:
            original: not changed.
            pruned: changed by others between two pieces, from the place on where it stands.
            flow: of their values.
            shelf: empty.
            context: calibration samples, and where to run.
        """
        assert context.calibration is not None
        self._models, self._flow, self._shelf, self._target = (original, pruned), flow, shelf, context.target
        self._here, self.batches = 0, 0
        for feeds in _feeds(original, context.calibration, context.target):
            for name, array in feeds.items():
                shelf.put((0, name), self.batches, array)
            self.batches += 1
        self.held = _held_out(self.batches, ordered=bool(context.calibration.state))
        self._names = {value.name or "" for value in original.graph.inputs if (0, value.name) in shelf}

    def advance(self, place: int) -> None:
        """Run all nodes before this one; keep what it or a later one reads."""
        made = [name for name, at in self._flow.made.items() if self._here <= at < place]
        wanted = [name for name in made if self._flow.until.get(name, -1) >= place]
        self._run(0, wanted)
        self._run(1, [name for name in wanted if name in self._flow.drifted])
        self._names.update(wanted)
        for name in [name for name in self._names if self._flow.until.get(name, -1) < place]:
            self._names.remove(name)
            for network in range(2):
                self._shelf.drop((network, name))
        self._here = place

    def original(self, name: str, batch: int) -> np.ndarray:
        """A value of the original network."""
        return self._shelf.get((0, name), batch)

    def pruned(self, name: str, batch: int) -> np.ndarray:
        """A value of the pruned network."""
        return self._shelf.get((int((1, name) in self._shelf), name), batch)

    def _run(self, network: int, wanted: Sequence[str]) -> None:
        """One network, from what is on the shelf to the wanted values."""
        if not wanted:
            return
        read = (self.original, self.pruned)[network]
        piece = _piece(self._models[network], {name: read(name, 0) for name in sorted(self._names)}, wanted)
        session = Session(piece, self._target)
        for batch in range(self.batches):
            outputs = session.run({name: read(name, batch) for name in session.inputs})
            for name in wanted:
                self._shelf.put((network, name), batch, outputs[name])


def _piece(model: ir.Model, known: Mapping[str, np.ndarray], wanted: Sequence[str]) -> ir.Model:
    """The nodes between known values (samples of which tell their types) and wanted ones, as a model."""
    graph = ir.convenience.extract(model.graph, list(known), list(wanted))
    for value in list(graph.inputs):
        if not value.uses():
            graph.inputs.remove(value)
            continue
        array = known[value.name or ""]
        value.type, value.shape = ir.TensorType(ir.DataType.from_numpy(array.dtype)), ir.Shape([None] * array.ndim)
    return ir.Model(graph, ir_version=model.ir_version, functions=list(model.functions.values()))


def _held_out(batches: int, *, ordered: bool) -> frozenset[int]:
    """A quarter of the batches: whole ones, for no axis says in general which sample a number is of.

    Of a sequence, in which neighbours are alike, the last ones.
    """
    if ordered or batches < EVERY:
        return frozenset(range(batches - max(1, batches // EVERY) if batches > 1 else batches, batches))
    return frozenset(range(EVERY - 1, batches, EVERY))


def _feeds(model: ir.Model, samples: Samples, target: Target) -> Iterator[Outputs]:
    """All inputs of each run; states as the model makes them."""
    if not samples.state:
        size = max(1, min(BATCH, len(samples) // BATCHES))
        yield from (batch.feeds for batch in samples.data.batches(size))
        return
    fed = dict(samples.start)
    for batch, outputs in samples.run(Session(model, target)):
        yield {**batch.feeds, **fed}
        fed = {name: outputs[source] for name, source in samples.state.items()}
