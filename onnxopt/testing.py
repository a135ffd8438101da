"""Test a pass: text in, operator lines out. For our passes and for other people's.

Models are written in ONNX text. Names declared in ``<...>`` without a value become seeded weights.
Outputs of before and after are compared through ONNX Runtime with its own optimizations off, else it
might make the same rewrite itself and we would compare it with itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir

from onnxopt import files
from onnxopt.core import Change, Context, Exactness, Pass, Refusal
from onnxopt.data import random_dataset
from onnxopt.graph import tensor
from onnxopt.runtime import Outputs, Session, input_specs
from onnxopt.target import Target

CPU = Target()


def parse(text: str, *, opset: int = 20, opsets: Mapping[str, int] | None = None) -> ir.Model:
    """A model from ONNX text: a graph, or a whole model when it starts with ``<``."""
    if not text.lstrip().startswith("<"):
        imports = ", ".join(f'"{name}" : {version}' for name, version in {"": opset, **(opsets or {})}.items())
        text = f"<ir_version: 8, opset_import: [{imports}]> {text}"
    proto = onnx.parser.parse_model(text)
    _fill_weights(proto.graph)
    onnx.checker.check_model(proto)
    return ir.serde.deserialize_model(proto)


def lines(model: ir.Model) -> list[str]:
    """One line per node: ``Conv(x, const, const) -> y``; constants are ``const``, subgraphs follow their node."""
    return [f"{depth * '  '}{_line(node)}" for depth, node in _ordered(model.graph, 0)]


def run_pass(rewrite: Pass, model: ir.Model, context: Context | None = None) -> list[Change]:
    """Run a pass and return its changes."""
    return [item for item in rewrite.run(model, context or Context(CPU)) if isinstance(item, Change)]


def assert_rewrites(
    rewrite: Pass, text: str, *, after: Sequence[str], opset: int = 20, rtol: float = 1e-5, **given: np.ndarray
) -> ir.Model:
    """The pass turns the model into these lines, computes the same, and finds nothing more to do.

    Args:
        rewrite: the pass.
        text: the model before, in ONNX text.
        after: the nodes after, as ``lines`` prints them.
        opset: of the default domain.
        rtol: allowed difference of outputs, relative to the largest magnitude; 0 for exact passes.
        given: inputs by name, where random ones would not do.
    """
    before = parse(text, opset=opset)
    model = before.clone()
    assert run_pass(rewrite, model), "the pass reported no change"
    onnx.checker.check_model(files.to_proto(model), full_check=True)
    assert lines(model) == list(after)
    assert_same_outputs(before, model, rtol=0.0 if rewrite.exactness is Exactness.EXACT else rtol, **given)
    bytes_after = files.to_bytes(model)
    assert run_pass(rewrite, model) == [], "a second run changed something"
    assert files.to_bytes(model) == bytes_after, "a second run changed bytes without saying so"
    return model


def assert_leaves(rewrite: Pass, text: str, *, opset: int = 20) -> None:
    """The pass reports no change, and the bytes of the model are the same."""
    model = parse(text, opset=opset)
    before = files.to_bytes(model)
    assert run_pass(rewrite, model) == []
    assert files.to_bytes(model) == before


def assert_refuses(rewrite: Pass, text: str, why: str | None, *, opset: int = 20) -> None:
    """The pass leaves the model as it is, and its one refusal says ``why`` (in part); None: it says nothing."""
    assert_leaves(rewrite, text, opset=opset)
    refusals = [item.why for item in rewrite.run(parse(text, opset=opset), Context(CPU)) if isinstance(item, Refusal)]
    assert len(refusals) == (0 if why is None else 1), refusals
    assert why is None or why in refusals[0], refusals


def assert_same_outputs(before: ir.Model, after: ir.Model, *, rtol: float = 1e-5, **given: np.ndarray) -> None:
    """Both models give the same outputs, by name, on random inputs (two batches)."""
    for batch in random_dataset(input_specs(before), {}, count=2, seed=0, fill=3, high=3).batches(1):
        feeds = {**batch.feeds, **given}
        compare_outputs(_outputs(before, feeds), _outputs(after, feeds), rtol)


def compare_outputs(before: Outputs, after: Outputs, rtol: float) -> None:
    """Assert that outputs agree within ``rtol`` of the largest magnitude of each."""
    assert before.keys() == after.keys()
    for name, expected in before.items():
        got = after[name]
        assert np.shape(expected) == np.shape(got), f"shape of output {name}"
        if rtol == 0.0 or not np.issubdtype(np.asarray(expected).dtype, np.floating):
            np.testing.assert_array_equal(got, expected, err_msg=f"output {name}")
        else:
            scale = float(np.max(np.abs(expected), initial=0.0, where=np.isfinite(expected)))
            np.testing.assert_allclose(got, expected, rtol=0, atol=rtol * scale, err_msg=f"output {name}")


def _outputs(model: ir.Model, feeds: Mapping[str, np.ndarray]) -> Outputs:
    return Session(model, CPU, optimize=False).run(feeds)


def _fill_weights(graph: onnx.GraphProto) -> None:
    """Values declared but made by no node become weights: normal, or in [0.5, 1.5) for vectors (variances)."""
    made = {name for node in graph.node for name in node.output}
    rng = np.random.default_rng(0)
    for info in [info for info in graph.value_info if info.name not in made]:
        shape = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        numbers = rng.normal(size=shape) if len(shape) > 1 else rng.uniform(0.5, 1.5, size=shape)
        graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(numbers).astype(dtype), info.name))
        graph.value_info.remove(info)


def _ordered(graph: ir.Graph, depth: int) -> Iterator[tuple[int, ir.Node]]:
    for node in graph:
        if node.op_type == "Constant" and node.domain == "":
            continue
        yield depth, node
        for attribute in node.attributes.values():
            for subgraph in _subgraphs(attribute):
                yield from _ordered(subgraph, depth + 1)


def _subgraphs(attribute: ir.Attr) -> Sequence[ir.Graph]:
    if attribute.type is ir.AttributeType.GRAPH:
        return [attribute.as_graph()]
    return attribute.as_graphs() if attribute.type is ir.AttributeType.GRAPHS else []


def _line(node: ir.Node) -> str:
    inputs = ", ".join("" if v is None else "const" if tensor(v) is not None else v.name or "?" for v in node.inputs)
    op = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    return f"{op}({inputs}) -> {', '.join(v.name or '' for v in node.outputs)}"
