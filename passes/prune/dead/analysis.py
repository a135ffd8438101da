"""What the numbers of every value lie between, found by one pass over the nodes with one small rule per operator.

A new operator is a function with ``@bounds("Its", "Names")`` in one of the files of this folder: it takes the analysis
and the node and gives an interval for each output it knows. Whatever has no rule may be anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from onnxopt.graph import STANDARD_DOMAINS, array, tensor, walk
from onnxopt.passes.prune.dead.interval import Interval

Rule = Callable[["Intervals", ir.Node], Sequence[Interval]]
RULES: dict[str, Rule] = {}
"""By operator, of the standard domain."""
FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE)
HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
LARGEST = 2**18
"""Elements of a bound; what would be larger is unknown."""


class Unknown(Exception):
    """What a rule raises where nothing can be said."""


def bounds(*operators: str) -> Callable[[Rule], Rule]:
    """Register a rule for operators."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(operators, function))
        return function

    return register


@dataclass
class Intervals:
    """The intervals of a model.

    Attributes:
        twins: of the model's values, with inferred types and shapes.
        known: of those values of which something is known.
    """

    twins: dict[ir.Value, ir.Value]
    known: dict[ir.Value, Interval] = field(default_factory=dict)

    def of(self, value: ir.Value | None) -> Interval:
        """The interval of a value.

        Raises:
            Unknown: if it is left out, or its rank is not known.
        """
        if value is None:
            raise Unknown
        if value in self.known:
            return self.known[value]
        contents = tensor(value)
        if contents is None or not 0 < contents.size <= LARGEST or contents.dtype not in (*FLOATS, *HALVES):
            return Interval.unknown(len(self.shape(value)))
        self.known[value] = Interval.constant(contents.numpy())
        return self.known[value]

    def shape(self, value: ir.Value | None) -> list[int | None]:
        """The sizes of a value, None for those that are not known.

        Raises:
            Unknown: if its rank is not known.
        """
        shape = self.twins[value].shape if value in self.twins else None
        if shape is None:
            raise Unknown
        return [size if isinstance(size, int) else None for size in shape]

    def add(self, node: ir.Node) -> None:
        """Take down what is known of the outputs of a node."""
        rule = RULES.get(node.op_type) if node.domain in STANDARD_DOMAINS else None
        if rule is None:
            return
        try:
            found = rule(self, node)
        except Unknown:
            return
        for value, interval in zip(node.outputs, found, strict=False):
            self._keep(value, interval)

    def _keep(self, value: ir.Value, interval: Interval) -> None:
        kind = self.twins[value].dtype if value in self.twins else None
        if kind in HALVES:  # whose rounding is not accounted for
            interval = Interval.constant(np.where(interval.fixed, interval.low, np.nan))
        if kind in (*FLOATS, *HALVES) and 0 < interval.low.size <= LARGEST and not interval.says_nothing:
            self.known[value] = interval


def intervals(model: ir.Model, twins: dict[ir.Value, ir.Value]) -> Intervals:
    """Of all values, those in the bodies of If, Loop and Scan included."""
    found = Intervals(twins)
    with np.errstate(all="ignore"):
        for node in walk(model):
            found.add(node)
    return found


def numbers_of(value: ir.Value | None) -> np.ndarray:
    """The numbers of a constant.

    Raises:
        Unknown: if it is none.
    """
    found = array(value)
    if found is None:
        raise Unknown
    return found
