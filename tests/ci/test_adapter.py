"""The calls to the rest of onnxopt, on small models. Nothing here asserts how long something takes."""

import json
import os
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from onnxopt import files, optimize
from onnxopt.ci import adapter, read, run
from onnxopt.ci.adapter import where
from onnxopt.ci.config import Config
from onnxopt.testing import parse

HEAD = "version = 1\n[defaults]\nseconds = 0.05\nfail_if_slower = 'off'\n[[model]]\nname = 'net'\npath = 'model.onnx'\n"


@pytest.fixture
def asked(conv_net_file: Path, tmp_path: Path):
    """The network and more keys of its table."""

    def read_with(text: str) -> Config:
        path = tmp_path / "onnxopt.toml"
        path.write_text(HEAD + text)
        return read(path)

    return read_with


@pytest.fixture
def labelled(save_npz, images: np.ndarray) -> Path:
    return save_npz("eval.npz", x=images, labels=np.arange(60) % 4)


def test_a_model_against_itself(asked, labelled: Path) -> None:
    result = run(asked("baseline = 'model.onnx'\neval_data = 'eval.npz'"))
    (outcome,) = result.outcomes
    assert result.exit_code == 0, outcome.findings
    assert outcome.accuracy.score["drop"] == 0
    assert outcome.accuracy.score["samples"] == 60
    (speed,) = outcome.speed
    assert speed.where == "cpu, 1 thread"
    assert 0 < speed.low <= speed.ratio <= speed.high
    assert speed.after.low <= speed.after.median <= speed.after.high
    assert speed.environment["processor"] == result.machine["processor"]
    assert outcome.bytes[0] == outcome.bytes[1] > 0


def test_an_optimized_model(asked, tmp_path: Path, monkeypatch) -> None:
    usual = optimize.compare_speed
    monkeypatch.setattr(optimize, "compare_speed", lambda *given, **_: usual(*given, max_seconds=0.1))
    result = run(asked("passes = ['fold-batch-norm']"))
    (outcome,) = result.outcomes
    assert result.exit_code == 0, outcome.findings
    assert "BatchNormalization" not in {node.op_type for node in files.load(tmp_path / "out" / "net.onnx").graph}
    assert outcome.accuracy.reference == str(tmp_path / "model.onnx")
    assert "accuracy" in outcome.optimized
    assert outcome.accuracy.line.startswith("output 'y' off by")


def test_a_damaged_weight(asked, conv_net: ir.Model, tmp_path: Path) -> None:
    weight = conv_net.graph.initializers["w2"]
    array = weight.const_value.numpy().copy()
    array[0] = 100
    weight.const_value = ir.tensor(array, name="w2")
    files.save(conv_net, tmp_path / "damaged.onnx")
    result = run(asked("baseline = 'damaged.onnx'"))
    assert result.exit_code == 4
    sentences = [finding.sentence for finding in result.outcomes[0].findings]
    assert "output 'y' is off by" in sentences[0]
    assert "weights 'w2' differ" in sentences[-1]
    assert len(result.outcomes[0].accuracy.layers) == 1


def test_a_signal_to_noise_ratio_that_is_asked_for(asked, conv_net: ir.Model, tmp_path: Path) -> None:
    """A weight that is a thousandth off: enough for 40 dB, not for 100."""
    weight = conv_net.graph.initializers["w1"]
    weight.const_value = ir.tensor(weight.const_value.numpy() * np.float32(1.001), name="w1")
    files.save(conv_net, tmp_path / "off.onnx")
    assert run(asked("baseline = 'off.onnx'\nmin_sqnr = 40")).exit_code == 0
    result = run(asked("baseline = 'off.onnx'\nmin_sqnr = 100"))
    assert result.exit_code == 4
    assert "dB" in result.outcomes[0].findings[0].sentence


def test_an_output_that_has_no_place(asked, tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    result = run(asked("optimize = true"))
    assert result.exit_code == 2
    assert "cannot be made" in result.outcomes[0].findings[0].sentence


def test_a_first_run_stores_what_the_next_compares_with(asked, labelled: Path, tmp_path: Path) -> None:
    keys = "baseline = 'stored.json'\nbaseline_optional = true\neval_data = 'eval.npz'"
    first = run(asked(keys))
    assert first.exit_code == 0
    assert first.outcomes[0].accuracy.score["metric"] == "top1"
    (tmp_path / "stored.json").write_text(json.dumps(first.to_dict()))
    second = run(asked(keys))
    assert second.exit_code == 0, second.outcomes[0].findings
    assert second.outcomes[0].speed[0].stored
    assert second.outcomes[0].accuracy.score["drop"] == 0


def test_agreement_has_no_score_alone(asked, save_npz, images: np.ndarray) -> None:
    save_npz("eval.npz", x=images)
    result = run(asked("baseline = 'stored.json'\nbaseline_optional = true\neval_data = 'eval.npz'"))
    assert result.outcomes[0].accuracy is None
    assert any("the accuracy was not compared" in note for note in result.outcomes[0].notes)


def test_batches_are_timed_by_the_name_of_the_dimension(asked) -> None:
    result = run(asked("baseline = 'model.onnx'\nbatch = [1, 4]"))
    assert [speed.where for speed in result.outcomes[0].speed] == [
        "cpu, 1 thread, batch 1",
        "cpu, 1 thread, batch 4",
    ]
    assert result.outcomes[0].speed[1].details["measurements"][1]["shapes"]["x"] == (4, 3, 8, 8)


def test_a_fixed_batch_cannot_be_another(asked, tmp_path: Path) -> None:
    files.save(parse("g (float[2,4] x) => (float[2,4] y) { y = Relu(x) }"), tmp_path / "model.onnx")
    result = run(asked("baseline = 'model.onnx'\nbatch = 4"))
    assert result.exit_code == 2
    assert "no input of the model has a dynamic axis 0" in result.outcomes[0].findings[0].sentence


def test_an_interrupted_optimization_interrupts_the_run(asked, monkeypatch) -> None:
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(optimize, "compare_speed", interrupt)
    result = run(asked("passes = ['fold-batch-norm']"))
    assert (result.exit_code, result.ended) == (130, "interrupted")


def test_the_output_is_not_the_baseline(asked, tmp_path: Path) -> None:
    """By another name, too."""
    (tmp_path / "out").mkdir()
    os.link(tmp_path / "model.onnx", tmp_path / "out" / "net.onnx")
    result = run(asked("optimize = true"))
    assert result.exit_code == 2
    assert "is read as input" in result.outcomes[0].findings[0].sentence


def test_sizes_count_external_data(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(files, "SINGLE_FILE_LIMIT", 100)
    model = parse("g (float[n,400] x) => (float[n,400] y) <float[400,400] w> { y = MatMul(x, w) }")
    written = files.save(model, tmp_path / "large.onnx")
    assert len(written) == 2
    assert adapter.size(tmp_path / "large.onnx") == sum(path.stat().st_size for path in written)


def test_places_have_words() -> None:
    assert where("cpu", 1, None) == "cpu, 1 thread"
    assert where("cuda", 4, 8) == "cuda, 4 threads, batch 8"
