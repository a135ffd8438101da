"""What a run is doing is told while it runs."""

import numpy as np
import onnx_ir as ir
import pytest

from onnxopt import progress
from onnxopt.runtime import Session
from onnxopt.samples import random_samples
from onnxopt.target import Target
from onnxopt.testing import parse


def model() -> ir.Model:
    return parse("g (float[n,2] x) => (float[n,2] y) { y = Neg(x) }")


def test_samples_are_counted_within_their_stage() -> None:
    told: list[str] = []
    samples = random_samples(model(), Target(), {}, count=3)
    with progress.heard(told.append):
        progress.stage("quantize-int8")
        for _ in samples.run(Session(model(), Target())):
            pass
    assert told[0] == "quantize-int8"
    assert told[-1] == "quantize-int8: sample 3 of 3"


def test_what_is_left_is_told_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    told, now = list[str](), [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.heard(told.append):
        progress.stage("cluster-weights", 3, 9)
        for done in range(1, 5):
            progress.count("layer", done, 40)
            now[0] += 1.5
        progress.count("group", 1, 2)
    assert told == [
        "[3/9] cluster-weights",
        "[3/9] cluster-weights: layer 1 of 40",
        "[3/9] cluster-weights: layer 2 of 40",
        "[3/9] cluster-weights: layer 3 of 40, about 56 s left",
        "[3/9] cluster-weights: layer 4 of 40, about 54 s left",
        "[3/9] cluster-weights: group 1 of 2",
    ]


@pytest.mark.parametrize(("seconds", "words"), [(99, "99 s"), (100, "2 min"), (3_500, "58 min"), (5_000, "1 h 23 min")])
def test_durations_in_words(seconds: float, words: str) -> None:
    assert progress.left_words(seconds) == words


def test_without_a_listener_nothing_happens() -> None:
    told: list[str] = []
    with progress.heard(told.append):
        pass
    progress.stage("later")
    progress.detail("words")
    assert told == []
    assert np.all(Session(model(), Target()).run({"x": np.zeros((1, 2), np.float32)})["y"] == 0)
