"""What a run is doing is told while it runs."""

import numpy as np
import onnx_ir as ir

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
    assert told[-1] == "quantize-int8: 3 samples"


def test_without_a_listener_nothing_happens() -> None:
    told: list[str] = []
    with progress.heard(told.append):
        pass
    progress.stage("later")
    progress.detail("words")
    assert told == []
    assert np.all(Session(model(), Target()).run({"x": np.zeros((1, 2), np.float32)})["y"] == 0)
