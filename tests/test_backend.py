"""Every exact pass over every model of ONNX's own backend tests: the outputs stay, the model stays valid.

The reference is ONNX Runtime on the model as it was, its own optimizations off. Each model is tried twice:
as it is, and with all inputs but the first bound as constants, which gives the passes more to do.
"""

from __future__ import annotations

import functools
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.backend.test.loader as loader
import onnx_ir as ir
import pytest

from onnxopt import files
from onnxopt.check import largest
from onnxopt.core import Change, Context, Exactness, Pass
from onnxopt.errors import ModelError
from onnxopt.passes import PASSES
from onnxopt.passes.convert.conversions import CONVERSIONS
from onnxopt.passes.convert.convert_layer import ConvertLayer
from onnxopt.runtime import Outputs, Session
from onnxopt.target import Target

CPU = Target()
CHUNKS = 40
NEWEST_IR, NEWEST_OPSET = 11, 26
"""The installed onnx writes newer ones than ONNX Runtime reads; few of the generated models need them."""
KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")
EXPENSIVE = {"simplify", "fuse-transformer"}
"""Passes that start a process per model: the quick tests run them on a handful, a slow one in this process."""
TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "float16": 4e-3}
"""Of ROUNDING passes, relative to the largest magnitude of an output. EXACT passes have none."""

KNOWN = {("test_affine_grid_2d", "fold-constants")}
"""Model and pass. Range of a tensor [1] is invalid in ONNX's own model, and hidden until an If is folded away."""

UNTIMED = {"convert-layer": {"choose": "always"}}
"""Options that make a pass act whatever the clock says."""
BACK = ConvertLayer(conversions=tuple(one.name for one in CONVERSIONS if one.undoes), choose="always")
"""The other half of its conversions."""
EXACT_PASSES = [
    *(found.configured(UNTIMED.get(found.name, {})) for found in PASSES if found.exactness is not Exactness.LOSSY),
    BACK,
]
QUICK = [found for found in EXACT_PASSES if found.name not in EXPENSIVE]
SLOW = [found for found in EXACT_PASSES if found.name in EXPENSIVE]


@dataclass(frozen=True)
class Case:
    """A model with one set of inputs, in the order of the model's inputs."""

    name: str
    model: onnx.ModelProto
    inputs: tuple[Any, ...]


@functools.cache
def cases() -> tuple[Case, ...]:
    state = np.random.get_state()
    np.random.seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        raw = [case for kind in KINDS for case in loader.load_model_tests(kind=kind)]
    np.random.set_state(state)
    plain = sorted((_case(case) for case in raw), key=lambda case: case.name)
    bound = (_with_constants(case) for case in plain)
    return (*plain, *(case for case in bound if case is not None))


def _case(case: Any) -> Case:
    if case.model_dir is None:
        given = (np.asarray(x) if isinstance(x, np.generic) else x for x in case.data_sets[0][0])
        _lower(case.model)
        return Case(case.name, case.model, tuple(given))
    folder = Path(case.model_dir)
    stored = sorted(folder.glob("test_data_set_0/input_*.pb"), key=lambda file: int(file.stem.split("_")[1]))
    arrays = (onnx.numpy_helper.to_array(onnx.load_tensor(file)) for file in stored)
    return Case(case.name, onnx.load(folder / "model.onnx"), tuple(arrays))


def _lower(model: onnx.ModelProto) -> None:
    """Declare older versions where nothing in the model is newer."""
    model.ir_version = min(model.ir_version, NEWEST_IR)
    plain = all(node.domain == "" and not any(a.HasField("g") for a in node.attribute) for node in model.graph.node)
    for opset in model.opset_import:
        if opset.domain == "" and opset.version > NEWEST_OPSET and plain and not model.functions:
            version = opset.version
            newest = max(onnx.defs.get_schema(node.op_type, version).since_version for node in model.graph.node)
            opset.version = NEWEST_OPSET if newest <= NEWEST_OPSET else version


def _with_constants(case: Case) -> Case | None:
    """The same case with every input but the first as an initializer; None where that cannot be."""
    rest = list(zip(case.model.graph.input, case.inputs, strict=False))[1:]
    if not rest or case.model.graph.initializer or not all(isinstance(x, np.ndarray) for _, x in rest):
        return None
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    model.ir_version = max(model.ir_version, 4)  # before, every initializer is an input as well
    for info, numbers in rest:
        weight = onnx.numpy_helper.from_array(numbers, info.name)
        if weight.data_type != info.type.tensor_type.elem_type:
            return None
        model.graph.initializer.append(weight)
    del model.graph.input[1:]
    return Case(f"{case.name}, constants", model, case.inputs[:1])


def _reference(case: Case, path: Path) -> tuple[dict[str, Any], Outputs] | str:
    """The inputs by name with the outputs of the unchanged model, or why there are none."""
    path.write_bytes(case.model.SerializeToString())
    try:
        session = Session(path, CPU, optimize=False)
    except ModelError:
        return "not loaded by ONNX Runtime"
    feeds = dict(zip(session.inputs, case.inputs, strict=False))
    try:
        first, second = session.run(feeds), session.run(feeds)
    except ModelError:
        return "not run by ONNX Runtime"
    if any(not isinstance(value, (np.ndarray, list)) for value in first.values()):
        return "an output is no tensor"
    if largest([first], [second], set(first), exact=True).relative > 0:
        return "random"
    return feeds, first


def _complaints(case: Case, passes: Sequence[Pass], path: Path, counts: Counter[str]) -> Iterator[str]:
    """What the passes did wrong with one model."""
    reference = _reference(case, path)
    if isinstance(reference, str):
        counts[f"skipped: {reference}"] += 1
        return
    counts["run"] += 1
    feeds, expected = reference
    untouched = files.load(path)
    before, model = _contents(untouched), untouched.clone()
    for rewrite in passes:
        if any(case.name.startswith(name) and rewrite.name == known for name, known in KNOWN):
            counts["known to break"] += 1
            continue
        try:
            changes = [item for item in rewrite.run(model, Context(CPU)) if isinstance(item, Change)]
            if not changes:
                assert _contents(model) == before, "changed without saying so"
                continue
            counts["changes"] += 1
            _check(case, model, rewrite, feeds, expected)
            assert _contents(untouched) == before, "changed the model of which it was given a clone"
        except Exception as error:
            yield f"{case.name}: {rewrite}: {type(error).__name__}: {str(error)[:300]}"
            untouched = files.load(path)
        model = untouched.clone()


def _contents(model: ir.Model) -> bytes:
    """The bytes of a model; the names of tensors in attributes, which mean nothing and clones share, left out."""
    proto = files.to_proto(model)
    graphs = [proto.graph]
    while graphs:
        for node in graphs.pop().node:
            for attribute in node.attribute:
                attribute.t.ClearField("name")
                graphs.extend([attribute.g] if attribute.HasField("g") else [])
    return bytes(proto.SerializeToString(deterministic=True))


def _check(case: Case, model: ir.Model, rewrite: Pass, feeds: dict[str, Any], expected: Outputs) -> None:
    onnx.checker.check_model(files.to_proto(model), full_check=_fully_valid(case))
    session = Session(model, CPU, optimize=False)
    kept = {name: value for name, value in feeds.items() if name in session.inputs}
    assert set(kept) == set(feeds), "an input of the model was removed"
    got = session.run(kept)
    assert list(got) == list(expected), "outputs were renamed or reordered"
    for name, value in expected.items():
        difference = largest([expected], [got], {name}, exact=rewrite.exactness is Exactness.EXACT)
        dtype = str(value.dtype) if isinstance(value, np.ndarray) else ""
        allowed = 0.0 if rewrite.exactness is Exactness.EXACT else TOLERANCE.get(dtype, 0.0)
        assert difference.relative <= allowed, f"{name} differs by {difference.relative:.2g}"
    again = [item for item in rewrite.run(model, Context(CPU)) if isinstance(item, Change)]
    assert not again, f"a second run changed {again}"


def _fully_valid(case: Case) -> bool:
    try:
        onnx.checker.check_model(case.model, full_check=True)
    except Exception:
        return False
    return True


@pytest.fixture
def counts(record_property: Any) -> Iterator[Counter[str]]:
    """How many models were run and skipped; conftest adds them up and prints them at the end."""
    found: Counter[str] = Counter()
    yield found
    record_property("backend models", dict(found))


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_exact_passes_keep_the_outputs(chunk: int, tmp_path: Path, counts: Counter[str]) -> None:
    complaints = []
    for index, case in enumerate(cases()[chunk::CHUNKS]):
        passes = EXACT_PASSES if index == 0 and chunk % 10 == 0 else QUICK
        complaints += _complaints(case, passes, tmp_path / "model.onnx", counts)
    assert counts["run"] > 0
    assert not complaints, "\n".join(complaints)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_simplify_keeps_the_outputs(chunk: int, tmp_path: Path, counts: Counter[str], monkeypatch) -> None:
    """On every model; in this process, since starting one for each takes hours."""
    monkeypatch.setattr(subprocess, "run", _run_here)
    complaints: list[str] = []
    for case in cases()[chunk::CHUNKS]:
        complaints += _complaints(case, SLOW, tmp_path / "model.onnx", counts)
    assert counts["run"] > 0
    assert not complaints, "\n".join(complaints)


def _run_here(command: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
    """Run the script of a ``python -c`` command in this process; what it raises becomes its exit code."""
    script, words = command[command.index("-c") + 1], command[command.index("-c") :]
    argv, sys.argv = sys.argv, words
    words.pop(1)
    try:
        exec(script, {"__name__": "__main__"})
    except Exception as error:
        return subprocess.CompletedProcess(command, 1, b"", f"{type(error).__name__}: {error}".encode())
    finally:
        sys.argv = argv
    return subprocess.CompletedProcess(command, 0, b"", b"")
