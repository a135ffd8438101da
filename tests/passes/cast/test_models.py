"""CastFloat16 on random graphs, on ONNX's own backend tests and on real models: valid, alike, nothing left to do."""

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from halves import CPU, cast, emulated
from hypothesis import given

from onnxopt import files
from onnxopt.core import Change, Context
from onnxopt.data import open_dataset
from onnxopt.errors import ModelError
from onnxopt.graph import nodes
from onnxopt.passes.cast import least_casts
from onnxopt.passes.cast.cast_float16 import CastFloat16
from onnxopt.runtime import Session, input_specs
from onnxopt.samples import Samples

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("ONNXOPT_SHARED", ROOT.parents[1] / "shared")) / "data"
CLOSE = 0.02
"""Relative to the largest magnitude of an output, after a handful of roundings to 11 bits."""
CHUNKS = 40
"""Of the backend tests; the quick tests take the first."""
OTHER_MASK = "qk_matmul_bias"
"""ONNX's tests of Attention that return its scores with the mask, which is another number in float16."""


def _beside(name: str) -> ModuleType:
    """A test module of the folder above, for what it generates."""
    spec = importlib.util.spec_from_file_location(f"beside_{name}", ROOT / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


property_tests, backend = _beside("test_property"), _beside("test_backend")


@pytest.fixture
def worthwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that can be in float16 is, however small: these graphs are too small for Casts to pay."""
    monkeypatch.setattr(least_casts, "WIDER", 1e9)


def relative(expected: Any, got: Any) -> float:
    """The largest difference, of the largest magnitude; infinite where infinities differ."""
    a, b = np.asarray(expected, np.float64), np.asarray(got, np.float64)
    finite = np.isfinite(a)
    if a.shape != b.shape or not np.array_equal(finite, np.isfinite(b)):
        return float("inf")
    largest = float(np.abs(a[finite]).max(initial=0))
    return float(np.abs(a[finite] - b[finite]).max(initial=0)) / largest if largest else 0.0


@property_tests.EXAMPLES
@given(property_tests.models())
def test_random_graphs(proto: onnx.ModelProto) -> None:
    model = ir.serde.deserialize_model(proto)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(least_casts, "WIDER", 1e9)
        got, changes, _ = cast(model)
    assert changes
    for q in (True, False):
        feeds = {"x": np.random.default_rng(0).normal(size=(2, 4, 6, 6)).astype(np.float32), "q": np.array(q)}
        expected, found, rounded = (Session(one, CPU, optimize=False).run(feeds) for one in (model, got, emulated(got)))
        for name, numbers in expected.items():
            assert found[name].dtype == numbers.dtype
            assert relative(numbers, found[name]) < CLOSE
            assert relative(numbers, rounded[name]) < CLOSE


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("chunk", [pytest.param(one, marks=[pytest.mark.slow] if one else []) for one in range(CHUNKS)])
def test_the_backend_tests_of_onnx(chunk: int, dtype: str, worthwhile: None) -> None:
    """Valid in, valid out; in float16 also run (ONNX Runtime runs no bfloat16 on the CPU)."""
    changed = 0
    for case in backend.cases()[chunk::CHUNKS]:
        model = ir.serde.deserialize_model(case.model)
        got, rewrite = model.clone(), CastFloat16(dtype)
        if not any(isinstance(item, Change) for item in rewrite.run(got, Context(CPU))):
            continue
        changed += 1
        try:
            onnx.checker.check_model(files.to_proto(model), full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError):
            continue
        onnx.checker.check_model(files.to_proto(got), full_check=True)
        assert not [item for item in rewrite.run(got, Context(CPU)) if isinstance(item, Change)], case.name
        if dtype == "float16" and OTHER_MASK not in case.name:
            _assert_close(case, model, got)
    assert changed > 10


def _assert_close(case: Any, model: ir.Model, got: ir.Model) -> None:
    names = [value.name for value in model.graph.inputs if value.name not in model.graph.initializers]
    feeds = dict(zip(names, case.inputs, strict=False))
    try:
        expected = Session(model, CPU, optimize=False).run(feeds)
    except ModelError:
        return
    found = Session(got, CPU, optimize=False).run(feeds)
    for name, numbers in expected.items():
        if isinstance(numbers, np.ndarray) and numbers.dtype == np.float32:
            assert found[name].dtype == np.float32, case.name
            assert relative(numbers, found[name]) < CLOSE, case.name


REAL = {
    "squeezenet11": ("models/squeezenet11.onnx", (1, 3, 227, 227), 2),
    "resnet56_cifar10": ("models/resnet56_cifar10.onnx", (1, 3, 32, 32), 2),
    "mobilenet_v2": ("models/mobilenet_v2_100_224.onnx", (1, 3, 224, 224), 2),
}


@pytest.mark.parametrize(("place", "shape", "casts"), REAL.values(), ids=REAL.keys())
def test_real_models(place: str, shape: tuple[int, ...], casts: int, tmp_path: Path) -> None:
    """Accuracy within the noise of float32: the same class for each image, with values rounded at every node."""
    if not (SHARED / place).exists():
        pytest.skip(f"no {SHARED / place}; set ONNXOPT_SHARED")
    model = files.load(SHARED / place)
    images = np.random.default_rng(0).normal(size=(4, *shape)).astype(np.float32)
    (spec,) = input_specs(model)
    np.savez(tmp_path / "images.npz", **{spec.name: images})
    samples = Samples(open_dataset(str(tmp_path / "images.npz"), (spec,)))
    got, _, refusals = cast(model, given=samples)
    assert refusals == {}
    assert len(nodes(got, "Cast")) == casts
    a, b = Session(model, CPU), Session(emulated(got), CPU, optimize=False)
    for image in images:
        (expected,), (found,) = (list(one.run({spec.name: image}).values()) for one in (a, b))
        cosine = (expected * found).sum() / np.sqrt((expected**2).sum() * (found**2).sum())
        assert cosine > 0.9999
        assert expected.argmax() == found.argmax()
