"""Real files and odd files through every exact pass: same bits, still valid, or a clear refusal to load."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxopt import files, passes
from onnxopt.core import Change, Context, Exactness, Refusal
from onnxopt.data import open_dataset
from onnxopt.errors import ModelError
from onnxopt.graph import signature
from onnxopt.inspection import inspect
from onnxopt.optimize import Options, optimize
from onnxopt.passes import PASSES
from onnxopt.passes.simplify.freeze_weights import FreezeWeights
from onnxopt.passes.simplify.simplify import Simplify
from onnxopt.runtime import Session, input_specs
from onnxopt.samples import Samples
from onnxopt.target import Target
from onnxopt.testing import compare_outputs

SHARED = Path(os.environ.get("ONNXOPT_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "data"
MODELS = sorted([*SHARED.glob("zoo/*.onnx"), *SHARED.glob("models/*.onnx")])
SHAPES = {"silero_vad": {"input": (1, 576)}, "silero_vad_16k_op15": {"input": (1, 576)}}
ROAD_SHAPES = {"silero_vad": {"input": (1, 288)}}
"""A random sampling rate is not 16000, and at any other silero takes half as many samples."""
SILERO = {"sr": np.array(16000), "state": np.zeros((2, 1, 128), np.float32)}
UNKNOWN_OPERATORS = {"qkeras_jettagging", "qonnx_tfc_2w2a", "superres_prepost_op18"}
"""Files with operators that ONNX Runtime does not know."""
INVALID = {"qkeras_jettagging", "qonnx_tfc_2w2a"}
"""Files that do not import the domain of their operators, so that the checker does not take them."""
CONTEXT = Context(Target())
UNTIMED = {"convert-layer": {"choose": "always"}}
"""Options that make a pass act whatever the clock says."""

LOSSY = (
    "cast-float16",
    "cluster-weights",
    "cluster-weights:bits=3",
    "factorize:error=0.3,limit=1",
    "factorize:macs=0.8",
    "prune-channels:macs=0.8",
    "prune-weights:ratio=0.8",
    "quantize-int8:placement=everywhere",
    "quantize-dynamic",
    "quantize-weights",
    "share-similar",
    "store-half",
    "store-int8",
    "store-sparse",
)
"""Each so that it acts where it can."""
SMALLER = {
    "cluster-weights",
    "factorize",
    "share-similar",
    "store-half",
    "store-int8",
    "store-sparse",
}
SAMPLES = 12

pytestmark = pytest.mark.skipif(not MODELS, reason=f"no models in {SHARED}; set ONNXOPT_SHARED")
each_model = pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)


def feeds(path: Path, seed: int = 0) -> dict[str, np.ndarray]:
    """One random input of each kind; dynamic dimensions are 1 where nothing else is said."""
    rng, found = np.random.default_rng(seed), {}
    for spec in input_specs(files.load(path)):
        shape = SHAPES.get(path.stem, {}).get(
            spec.name, tuple(dim if isinstance(dim, int) else 1 for dim in spec.shape or ())
        )
        floating = np.issubdtype(spec.dtype, np.floating)
        numbers = rng.normal(size=shape) if floating else rng.integers(0, 200, size=shape)
        found[spec.name] = (
            SILERO[spec.name] if path.stem in SHAPES and spec.name in SILERO else numbers.astype(spec.dtype)
        )
    return found


@each_model
def test_exact_passes_keep_every_bit(path: Path) -> None:
    model = files.load(path)
    inputs, runs = feeds(path), path.stem not in UNKNOWN_OPERATORS
    expected = Session(model, CONTEXT.target, optimize=False).run(inputs) if runs else {}
    sides = signature(model)
    for rewrite in PASSES:
        if rewrite.exactness is not Exactness.EXACT:
            continue
        changes = [item for item in rewrite().run(model, CONTEXT) if isinstance(item, Change)]
        after = files.to_bytes(model)
        assert not [i for i in rewrite().run(model, CONTEXT) if isinstance(i, Change)], f"{rewrite.name} twice"
        assert files.to_bytes(model) == after
        if rewrite is FreezeWeights:
            sides = signature(model)
        assert signature(model) == sides
        if path.stem not in INVALID:
            onnx.checker.check_model(after)
        if changes and runs:
            compare_outputs(expected, Session(model, CONTEXT.target, optimize=False).run(inputs), rtol=0.0)


@pytest.mark.slow
@each_model
def test_rounding_passes_keep_outputs(path: Path) -> None:
    model = files.load(path)
    inputs, runs = feeds(path), path.stem not in UNKNOWN_OPERATORS
    expected = Session(model, CONTEXT.target, optimize=False).run(inputs) if runs else {}
    for rewrite in PASSES:
        if rewrite.exactness is not Exactness.ROUNDING or rewrite is Simplify:
            continue
        sides, one = signature(model), rewrite.configured(UNTIMED.get(rewrite.name, {}))
        one.run(model, CONTEXT)
        assert signature(model) == sides
        assert not [i for i in one.run(model, CONTEXT) if isinstance(i, Change)], f"{one} twice"
        if runs:
            compare_outputs(expected, Session(model, CONTEXT.target, optimize=False).run(inputs), rtol=1e-4)


@pytest.mark.slow
@each_model
def test_simplify_keeps_outputs(path: Path) -> None:
    model = files.load(path)
    inputs, runs = feeds(path), path.stem not in UNKNOWN_OPERATORS
    expected = Session(model, CONTEXT.target, optimize=False).run(inputs) if runs else {}
    sides, size = signature(model), len(files.to_bytes(model))
    Simplify().run(model, CONTEXT)
    assert signature(model) == sides
    assert len(files.to_bytes(model)) <= 1.1 * size + 65536
    if runs:
        compare_outputs(expected, Session(model, CONTEXT.target, optimize=False).run(inputs), rtol=1e-4)


@pytest.mark.slow
@each_model
@pytest.mark.parametrize("words", LOSSY)
def test_lossy_passes_leave_a_sound_model(path: Path, words: str, save_npz: Callable[..., Path]) -> None:
    """Whatever the outputs are then: valid, of the same signature, it runs, and is smaller where that is the purpose."""
    model, rewrite = files.load(path), passes.parse(words)
    if path.stem in UNKNOWN_OPERATORS:
        context = CONTEXT
    else:
        specs, drawn = input_specs(model), [feeds(path, seed) for seed in range(SAMPLES)]
        arrays = {name: np.stack([one[name] for one in drawn]) for name in drawn[0]}
        context = Context(CONTEXT.target, Samples(open_dataset(str(save_npz(**arrays)), specs)))
    sides, before = signature(model), files.to_bytes(model)
    if (rewrite.name, path.stem) == ("factorize", "superres_prepost_op18"):  # it has to run it
        with pytest.raises(ModelError, match="uses operators of"):
            rewrite.run(model, context)
        return
    said = rewrite.run(model, context)
    after = files.to_bytes(model)
    assert signature(model) == sides
    assert all(item.why for item in said if isinstance(item, Refusal))
    if not [item for item in said if isinstance(item, Change)]:
        assert after == before or model.opset_imports != files.load(path).opset_imports
        return
    if rewrite.name in SMALLER:
        assert len(after) < len(before)
    if path.stem not in INVALID and rewrite.name != "store-sparse":  # the checker refuses sparse initializers
        onnx.checker.check_model(after)
    if path.stem not in UNKNOWN_OPERATORS:
        expected = Session(path, CONTEXT.target).run(drawn[0])
        got = Session(model, CONTEXT.target).run(drawn[0])
        assert {name: np.shape(one) for name, one in got.items()} == {
            name: np.shape(one) for name, one in expected.items()
        }


@pytest.mark.parametrize("name", sorted(UNKNOWN_OPERATORS))
def test_a_file_that_does_not_run_says_which_operators_are_unknown(name: str) -> None:
    with pytest.raises(ModelError, match="uses operators of"):
        Session(files.load(SHARED / "zoo" / f"{name}.onnx"), CONTEXT.target)


@each_model
def test_inspect_reads_the_file(path: Path) -> None:
    found = inspect(path)
    assert found.operators
    assert found.size > 0


@pytest.mark.slow
@each_model
def test_the_road_without_data(path: Path, tmp_path: Path) -> None:
    """Optimized with the default recipe on random inputs: no pass breaks it, or one sentence says why it cannot be."""
    shapes = ROAD_SHAPES.get(path.stem, SHAPES.get(path.stem, {}))
    out, options = tmp_path / "out.onnx", Options(target=Target(shapes=shapes))
    if path.stem in UNKNOWN_OPERATORS:
        with pytest.raises(ModelError, match="uses operators of"):
            optimize(path, out, options)
        assert not out.exists()
        return
    report = optimize(path, out, options)
    assert report.drop is None
    assert not [step.words for step in report.broken if step.words != "simplify"]
    inputs = feeds(path)
    expected = Session(path, CONTEXT.target, optimize=False).run(inputs)
    compare_outputs(expected, Session(out, CONTEXT.target, optimize=False).run(inputs), rtol=1e-4)
