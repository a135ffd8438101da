"""Forms of constants, written into a model with the nodes that decode them."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from onnxopt.core import Change, Saved
from onnxopt.passes.cluster.forms import Form
from onnxopt.passes.cluster.writing import Writer
from onnxopt.passes.settling import Stored
from onnxopt.sizes import constant_bytes, node_bytes


@dataclass(frozen=True, eq=False)
class Clustered(Stored):
    """A constant in another form.

    Attributes:
        unit: how reports name it.
        form: of its numbers.
        looked_up: whether it is a table, and decoded after its lookups.
    """

    unit: str
    form: Form
    looked_up: bool

    @property
    def must_fold(self) -> bool:
        """All but tables."""
        return not self.looked_up

    def write(self, model: ir.Model) -> Change:
        """Put it into the place of the constant."""
        graph = model.graph
        value = graph.initializers[self.name]
        before = constant_bytes(value)
        writer = Writer(model)
        if self.looked_up:
            before += node_bytes([use.node for use in value.uses()])
            writer.look_up(value, self.form)
        else:
            writer.store(value, self.form)
        saved = before - constant_bytes(*writer.constants) - node_bytes(writer.nodes)
        held = sum(one.const_value.nbytes for one in writer.constants if one.const_value is not None)
        memory = self.form.values.nbytes - held if self.looked_up else 0
        return Change(self.unit, f"stored as {self.form.words}", Saved(saved, memory))
