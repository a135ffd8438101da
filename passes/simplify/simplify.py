"""Simplify with onnxsim, in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import onnx_ir as ir

from onnxopt import files
from onnxopt.core import Change, Context, Exactness, Pass, Refusal, option
from onnxopt.errors import ModelError
from onnxopt.graph import (
    RANDOM,
    adopt,
    census,
    changes_since,
    decodes,
    initializers,
    nodes,
    signature,
    walk,
    weight_bytes,
)
from onnxopt.sparse import SparseTensor

SLACK = 64 * 1024
"""Bytes that a small model may grow by: names and shapes that onnxsim writes down."""
HEAVY = 256 * 1024
"""Bytes above which a float weight is not shown to onnxsim."""
CODED = 16
"""The same for weights that are stored small, which it would decode."""
ROUNDS = 4
"""One run of onnxsim may uncover what the next removes."""
SCRIPT = f"""
import sys, onnx, onnxsim
model, operators = onnx.load(sys.argv[1]), None
for _ in range({ROUNDS}):
    folding = sys.argv[3] == "True"
    model, _ = onnxsim.simplify(model, check_n=0, mutable_initializer=True, skip_constant_folding=not folding)
    before, operators = operators, [node.op_type for node in model.graph.node]
    if before == operators:
        break
onnx.save(model, sys.argv[2])
"""


@dataclass(frozen=True)
class Simplify(Pass):
    """Simplify the graph with onnxsim: shapes, constants, pairs of operators that cancel or fuse.

    Before:
        ``s = Shape(x)``, ``n = Gather(s, 0)``, ``t = Concat(n, -1)``, ``y = Reshape(h, t)``, n static
    After:
        ``y = Reshape(h, const)``
    Left alone:
        sparse weights, weights that are stored small and decoded, random operators, weights above 1.8 GB, a
        model that would lose an input, or grow beyond ``growth`` even where no constants are folded, and one on
        which onnxsim fails, crashes or takes longer than ``seconds``. Names and shapes of inputs and outputs stay.
    Exact up to:
        float rounding.
    Source:
        https://github.com/daquexian/onnx-simplifier; it runs in another process, for its C++ core may crash.
    """

    name: ClassVar[str] = "simplify"
    exactness: ClassVar[Exactness] = Exactness.ROUNDING

    growth: float = option(1.1, "how many times its size the model may have afterwards", low=1.0)
    seconds: float = option(120.0, "time limit", low=1.0)

    def run(self, model: ir.Model, context: Context) -> list[Change | Refusal]:
        """Simplify a copy and take it over if it is sound and has other nodes."""
        why = _hindrance(model)
        if why:
            return [Refusal("model", why)]
        light, weights = _without_weights(model)
        before = files.to_bytes(light)
        try:
            other, size = self._simplified(before, folding=True)
            if size > self.growth * len(before) + SLACK:
                other, size = self._simplified(before, folding=False)
        except ModelError as error:
            return [Refusal("model", str(error))]
        _put_back(other, weights)
        other.metadata_props.clear()
        other.metadata_props.update(model.metadata_props)
        _restore_signature(model, other)
        if signature(other) != signature(model):
            return [Refusal("model", "onnxsim changes the model's inputs or outputs")]
        if _operators(model) == _operators(other):
            return []  # nothing but new names
        if size > self.growth * len(before) + SLACK:
            return [Refusal("model", f"onnxsim makes the file grow from {len(before)} to {size} bytes")]
        changes = changes_since(census(model), other)
        adopt(model, other)
        return list(changes)

    def _simplified(self, contents: bytes, *, folding: bool) -> tuple[ir.Model, int]:
        """The model as onnxsim leaves it, and the bytes of its file; without ``folding`` it unrolls nothing.

        Raises:
            ModelError: if onnxsim fails, crashes, takes too long or leaves no model.
        """
        with tempfile.TemporaryDirectory(prefix="onnxopt-") as folder:
            source, target = Path(folder) / "before.onnx", Path(folder) / "after.onnx"
            source.write_bytes(contents)
            command = [sys.executable, "-P", "-c", SCRIPT, str(source), str(target), str(folding)]
            try:
                done = subprocess.run(command, capture_output=True, timeout=self.seconds, cwd=folder)
            except subprocess.TimeoutExpired:
                raise ModelError(f"onnxsim took longer than {self.seconds:g} seconds") from None
            if done.returncode < 0:
                raise ModelError(f"onnxsim crashed (signal {-done.returncode})")
            if done.returncode != 0:
                raise ModelError(f"onnxsim failed: {_reason(done.stderr)}")
            return files.load(target), target.stat().st_size


def _without_weights(model: ir.Model) -> tuple[ir.Model, dict[str, ir.TensorProtocol]]:
    """A copy whose large float weights and coded weights are inputs, and these weights.

    onnxsim copies and infers the whole file again and again (GPT-2 small: 85 s with its weights, 7 s without),
    and what it could do with them, folding and fusing, other passes do.
    """
    light = model.clone()
    heavy = {
        name: value
        for name, value in light.graph.initializers.items()
        if value.const_value is not None
        and not value.is_graph_input()
        and not value.is_graph_output()
        and _is_hidden(value, value.const_value)
    }
    weights = {name: value.const_value for name, value in heavy.items() if value.const_value is not None}
    for name, value in heavy.items():
        del light.graph.initializers[name]
        value.const_value = None
        light.graph.inputs.append(value)
    return light, weights


def _is_hidden(value: ir.Value, weight: ir.TensorProtocol) -> bool:
    if weight.nbytes > CODED and any(decodes(use.node) and use.idx == 0 for use in value.uses()):
        return True
    return weight.nbytes > HEAVY and weight.dtype.is_floating_point()


def _put_back(model: ir.Model, weights: Mapping[str, ir.TensorProtocol]) -> None:
    for value in [value for value in model.graph.inputs if value.name in weights]:
        model.graph.inputs.remove(value)
        value.const_value = weights[value.name or ""]
        model.graph.register_initializer(value)


def _hindrance(model: ir.Model) -> str | None:
    if weight_bytes(model) > files.SINGLE_FILE_LIMIT:
        return "the weights are larger than 1.8 GB, more than onnxsim takes"
    if any(isinstance(value.const_value, SparseTensor) for value in initializers(model)):
        return "onnxsim does not know sparse weights"
    if nodes(model, *RANDOM):
        return "onnxsim may freeze random numbers"
    return None


def _operators(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in walk(model))


def _restore_signature(model: ir.Model, other: ir.Model) -> None:
    """Write the original types and shapes back to inputs and outputs of the same name."""
    known = {value.name: value for value in (*model.graph.inputs, *model.graph.outputs)}
    for value in (*other.graph.inputs, *other.graph.outputs):
        old = known.get(value.name)
        if old is not None:
            value.type, value.shape, value.doc_string = old.type, old.shape, old.doc_string
            value.metadata_props.clear()
            value.metadata_props.update(old.metadata_props)


def _reason(stderr: bytes) -> str:
    """The line with the exception, else the last one."""
    lines = [line for line in stderr.decode(errors="replace").splitlines() if line.strip()]
    raised = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Interrupt)\b", line)]
    return (raised or lines or ["no message"])[-1][:300]
