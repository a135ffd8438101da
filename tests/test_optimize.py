"""The road, from file to file, on a small network."""

import json
from pathlib import Path

import numpy as np
import pytest

from onnxopt import files, passes, pipeline, recipes
from onnxopt import optimize as road
from onnxopt.errors import UsageError
from onnxopt.gate import Limits
from onnxopt.optimize import Options, optimize
from onnxopt.pipeline import Goal
from onnxopt.runtime import Session
from onnxopt.target import Target
from onnxopt.testing import assert_same_outputs


def named(*words: str):
    return tuple(passes.parse(word) for word in words)


def test_without_data_only_exact_passes_run_and_the_report_says_so(conv_net_file: Path, tmp_path: Path) -> None:
    report = optimize(conv_net_file, tmp_path / "out.onnx", Options(passes=named("fold-batch-norm")))
    assert [step.words for step in report.steps if step.kept] == ["fold-batch-norm"]
    assert report.accuracy_line() == "no accuracy was measured: there were no data"
    assert "No data were given: only exact passes ran, and no accuracy was measured." in report.notes
    before, after = files.load(conv_net_file), files.load(tmp_path / "out.onnx")
    assert "BatchNormalization" not in {node.op_type for node in after.graph}
    assert_same_outputs(before, after)


def test_with_data_int8_is_judged_on_samples_that_were_not_calibrated_on(
    conv_net_file: Path, tmp_path: Path, save_npz, images
) -> None:
    data = save_npz(x=images)
    out = tmp_path / "out.onnx"
    options = Options(
        data=str(data),
        goal=Goal.SIZE,
        limits=Limits(max_drop=0.2),
        max_slowdown=100.0,
        passes=named("quantize-int8:placement=everywhere"),
    )
    report = optimize(conv_net_file, out, options)
    assert report.drop is not None
    assert report.drop.samples == 42
    assert report.drop.metric == "agreement"
    assert report.steps[0].kept
    assert report.after.size < report.before.size
    assert Session(out, Target()).run({"x": images})["y"].shape == (60, 4)
    json.dumps(report.to_dict())
    assert "| accuracy: agreement |" in report.to_markdown()


def test_evaluation_data_are_used_for_nothing_else(conv_net_file: Path, tmp_path: Path, save_npz, images) -> None:
    labels = np.arange(60) % 4
    options = Options(
        data=str(save_npz("c.npz", x=images)),
        eval_data=str(save_npz("e.npz", x=images, labels=labels)),
        passes=named("fold-batch-norm"),
    )
    report = optimize(conv_net_file, tmp_path / "out.onnx", options)
    assert report.drop is not None
    assert (report.drop.metric, report.drop.samples, report.drop.drop) == ("top1", 60, 0.0)


@pytest.mark.parametrize(
    "lossy", ["quantize-int8:placement=everywhere", "cluster-weights:size=16", "factorize:error=0.3,limit=1"]
)
def test_the_same_command_gives_the_same_bytes(
    lossy: str, conv_net_file: Path, tmp_path: Path, save_npz, images, monkeypatch, timed
) -> None:
    for module in (road, pipeline):
        monkeypatch.setattr(module, "compare_speed", lambda *_, **__: timed(1.0, 1.0))
    options = Options(
        data=str(save_npz(x=images)),
        goal=Goal.SIZE,
        limits=Limits(max_drop=1.0),
        max_slowdown=100.0,
        passes=named("fold-batch-norm", lossy, "share-initializers", "strip-metadata"),
    )
    outputs = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    for out in outputs:
        assert optimize(conv_net_file, out, options).steps[1].kept
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


def test_a_result_that_is_slower_gives_way_to_the_original(
    conv_net_file: Path, tmp_path: Path, monkeypatch, timed
) -> None:
    monkeypatch.setattr(road, "compare_speed", lambda *_, **__: timed(1.0, 2.0))
    report = optimize(conv_net_file, tmp_path / "out.onnx", Options(passes=named("fold-batch-norm")))
    assert any("slower than the original" in note for note in report.notes)
    assert (tmp_path / "out.onnx").read_bytes() == files.to_bytes(files.load(conv_net_file))


def test_the_input_is_never_changed(conv_net_file: Path, tmp_path: Path) -> None:
    before = conv_net_file.read_bytes()
    with pytest.raises(UsageError, match="is the input itself"):
        optimize(conv_net_file, conv_net_file, Options())
    optimize(conv_net_file, tmp_path / "out.onnx", Options(passes=named("fold-batch-norm")))
    assert conv_net_file.read_bytes() == before


def test_states_are_fed_back(tmp_path: Path, save_npz) -> None:
    from onnxopt.testing import parse

    model = parse("""g (float[1,4] x, float[1,4] h) => (float[1,4] y, float[1,4] n) <float[4,4] w>
    { a = MatMul(h, w)  b = Add(a, x)  n = Tanh(b)  i = Identity(n)  y = Neg(i) }""")
    source = files.save(model, tmp_path / "m.onnx")[0]
    x = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    options = Options(
        data=str(save_npz(x=x)), state={"h": "n"}, metric="max-abs-error", passes=named("remove-identities")
    )
    report = optimize(source, tmp_path / "out.onnx", options)
    assert report.drop is not None
    assert report.drop.drop == 0.0
    assert report.steps[0].kept


def test_channels_are_removed_before_quantization_and_as_many_as_the_gate_allows(
    conv_net_file: Path, tmp_path: Path, monkeypatch, save_npz, images, timed
) -> None:
    monkeypatch.setattr(recipes, "EXACT", ("fold-batch-norm",))
    for module in (road, pipeline):
        monkeypatch.setattr(module, "compare_speed", lambda *_, **__: timed(1.0, 1.0))
    monkeypatch.setattr(recipes, "_smallest", lambda *_: ["quantize-int8:placement=everywhere"])
    monkeypatch.setattr(recipes, "REST", ())
    limits = Limits(max_drop=1.0)
    options = Options(data=str(save_npz(x=images)), goal=Goal.SIZE, limits=limits, max_slowdown=100.0, prune=True)
    report = optimize(conv_net_file, tmp_path / "out.onnx", options)
    lossy = [step.words for step in report.steps if step.kept and step.drop]
    assert len(lossy) == 1
    assert lossy[0].startswith("prune-channels:bytes=0.")
    assert lossy[0].endswith(" + quantize-int8:placement=everywhere")
    out = files.load(tmp_path / "out.onnx")
    assert "DequantizeLinear" in {node.op_type for node in out.graph}
    assert Session(out, Target()).run({"x": images})["y"].shape == (60, 4)


def test_without_data_nothing_is_pruned_and_the_report_says_so(
    conv_net_file: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(recipes, "EXACT", ("fold-batch-norm",))
    report = optimize(conv_net_file, tmp_path / "out.onnx", Options(prune=True))
    assert not any(step.words.startswith("prune-channels") for step in report.steps)
    assert "nothing was pruned: without data (--data) no accuracy can be measured" in report.notes


def test_a_recipe_of_ones_own_says_itself_what_is_pruned(conv_net_file: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"write prune-channels:macs=0.3..0.95"):
        optimize(conv_net_file, tmp_path / "out.onnx", Options(prune=True, passes=named("fold-batch-norm")))
