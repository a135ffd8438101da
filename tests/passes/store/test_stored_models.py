"""Real files through the passes that store weights otherwise."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from stored import CPU, LENGTH

from onnxopt import files, passes
from onnxopt.core import Change, Context
from onnxopt.data import random_dataset
from onnxopt.errors import ModelError
from onnxopt.runtime import Session, input_specs
from onnxopt.testing import compare_outputs

SHARED = Path(os.environ.get("ONNXOPT_SHARED", Path(__file__).resolve().parents[4] / "shared")) / "data"
MODELS = sorted([*SHARED.glob("zoo/*.onnx"), *SHARED.glob("models/*.onnx")])
SCALARS: Mapping[str, np.ndarray] = {"sr": np.array(16000)}
"""Inputs that are not any number."""
WORDS = ("store-half", "store-int8", "store-int8:form=dequantize", "share-similar:by=row")
LARGEST = {"store-half": 0.02, "store-int8": 0.4, "share-similar": 0.02}
"""Difference of an output, relative to its largest: these are random inputs to networks that were made for others."""

pytestmark = pytest.mark.skipif(not MODELS, reason=f"no models in {SHARED}; set ONNXOPT_SHARED")


@pytest.mark.slow
@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_a_real_file_is_smaller_and_runs(path: Path, words: str) -> None:
    model, rewrite = files.load(path), passes.parse(words)
    before, opset = len(files.to_bytes(model)), model.opset_imports.get("", 0)
    changes = [item for item in rewrite.run(model, Context(CPU)) if isinstance(item, Change)]
    contents = files.to_bytes(model)
    if not changes:
        assert len(contents) == before
        return
    counted = sum(change.saved.file for change in changes if change.saved)
    assert counted > 0
    if model.opset_imports.get("", 0) == opset:
        assert abs(before - len(contents) - counted) <= LENGTH
    assert not [item for item in rewrite.run(model, Context(CPU)) if isinstance(item, Change)]
    assert files.to_bytes(model) == contents
    onnx.checker.check_model(contents)
    dataset = random_dataset(input_specs(files.load(path)), {}, count=1, seed=0, fill=1, high=100)
    feeds = {**next(iter(dataset.batches(1))).feeds}
    feeds |= {name: number for name, number in SCALARS.items() if name in feeds}
    try:
        wanted = Session(path, CPU).run(feeds)
    except ModelError:
        pytest.skip("random inputs do not fit it")
    got = Session(model, CPU).run(feeds)
    for name, numbers in wanted.items():
        if np.issubdtype(np.asarray(numbers).dtype, np.floating):
            assert np.abs(numbers - got[name]).max() <= LARGEST[rewrite.name] * np.abs(numbers).max(), name


def test_a_dequantized_int8_network_loses_nothing() -> None:
    path = SHARED / "models" / "mobilenet_v2_100_224.onnx"
    if not path.exists():
        pytest.skip(f"no {path}")
    model = files.load(path)
    said = passes.parse("store-int8").run(model, Context(CPU))
    assert len(said) == 53
    exact = [isinstance(item, Change) and item.what.endswith("in 8 bits, without error") for item in said]
    assert exact.count(True) >= 52  # one number of one weight is off by its last bit
    assert len(files.to_bytes(model)) < 0.27 * path.stat().st_size
    session = Session(path, CPU, optimize=False)
    feeds = {session.inputs[0]: np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)}
    compare_outputs(session.run(feeds), Session(model, CPU, optimize=False).run(feeds), rtol=1e-5)
