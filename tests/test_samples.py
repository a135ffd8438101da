"""Samples: batches, states, splits, and random inputs on which a model runs."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from onnxopt.data import open_dataset
from onnxopt.errors import ModelError, UsageError
from onnxopt.runtime import Session, input_specs
from onnxopt.samples import BATCH, Samples, random_samples, with_state
from onnxopt.target import Target
from onnxopt.testing import parse

CPU = Target()
PLAIN = "g (float[n,2] x) => (float[n,2] y) { y = Neg(x) }"
SUM = "g (float[n,2] x, float[n,2] s) => (float[n,2] y, float[n,2] next) { next = Add(x, s)  y = Neg(next) }"


def opened(text: str, state: dict[str, str], folder: Path, count: int = 70) -> tuple[ir.Model, Samples]:
    model = parse(text)
    np.savez(folder / "d.npz", x=np.arange(2 * count, dtype=np.float32).reshape(count, 2))
    data = open_dataset(str(folder / "d.npz"), input_specs(model), optional=state)
    return model, with_state(data, model, state)


def test_batches_are_full_without_a_state(tmp_path: Path) -> None:
    model, samples = opened(PLAIN, {}, tmp_path)
    assert [batch.size for batch, _ in samples.run(Session(model, CPU))] == [BATCH, BATCH, 70 - 2 * BATCH]


def test_a_state_goes_from_sample_to_sample(tmp_path: Path) -> None:
    model, samples = opened(SUM, {"s": "next"}, tmp_path, count=4)
    sums = [outputs["next"].tolist() for _, outputs in samples.run(Session(model, CPU))]
    assert sums == [[[0, 1]], [[2, 4]], [[6, 9]], [[12, 16]]]
    assert samples.first().keys() == {"x", "s"}


def test_a_sequence_is_cut_once_and_other_data_are_drawn(tmp_path: Path) -> None:
    _, sequence = opened(SUM, {"s": "next"}, tmp_path)
    calibration, held_out = sequence.split(0.3, seed=1)
    assert calibration.data.index.tolist() == list(range(21))
    assert held_out.data.index.tolist() == list(range(21, 70))
    assert held_out.state == {"s": "next"}

    _, drawn = opened(PLAIN, {}, tmp_path)
    first, again, other = (drawn.split(0.3, seed=seed)[0].data.index.tolist() for seed in (1, 1, 2))
    assert first == again != other


def test_views_keep_the_state(tmp_path: Path) -> None:
    _, samples = opened(SUM, {"s": "next"}, tmp_path)
    for view in (samples.take(3), samples.grouped(2)):
        assert (view.state, view.start.keys()) == (samples.state, samples.start.keys())
    assert len(samples.take(3)) == 3


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("g (float[n,2] x) => (float[n,2] y) { y = Neg(x) }", (1, 2)),
        ("g (float[1,h] x) => (float[1,32] y) <float[16,32] w> { y = MatMul(x, w) }", (1, 16)),
        (
            "g (float[1,3,h,h] x) => (float[1,1,a,b] y) <float[1,3,50,50] w> { y = Conv(x, w) }",
            (1, 3, 64, 64),
        ),
    ],
    ids=["any size", "16 features", "at least 50 pixels"],
)
def test_sizes_are_tried_until_the_model_runs(text: str, shape: tuple[int, ...]) -> None:
    assert random_samples(parse(text), CPU, {}).first()["x"].shape == shape


def test_integers_are_small_enough_for_a_table() -> None:
    model = parse("g (int64[1,3] x) => (float[1,3,4] y) <float[2,4] w> { y = Gather(w, x) }")
    samples = random_samples(model, CPU, {})
    assert samples.first()["x"].max() < 2


def test_a_shape_that_is_given_is_used() -> None:
    target = Target(shapes={"x": (5, 2)})
    assert random_samples(parse(PLAIN), target, {}).first()["x"].shape == (5, 2)
    with pytest.raises(UsageError, match="has no input 'xx'; did you mean 'x'"):
        random_samples(parse(PLAIN), Target(shapes={"xx": (5, 2)}), {})


def test_a_model_that_takes_no_random_input_says_what_to_do() -> None:
    model = parse("g (float[1,h] x) => (float[1,4] y) <float[7,4] w> { y = MatMul(x, w) }")
    with pytest.raises(ModelError, match="give --shape name=1x3x224x224, or --data"):
        random_samples(model, CPU, {})


def test_random_samples_leave_states_at_zero() -> None:
    first = random_samples(parse(SUM), CPU, {"s": "next"}).first()
    assert not first["s"].any()
    assert first["x"].any()
