"""benchmarks/int8.py: the arithmetic of its table, and every tool on a small network."""

import importlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxopt import files
from onnxopt.gate import Limits
from onnxopt.models.zoo import ZOO
from onnxopt.target import Target
from onnxopt.testing import parse

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
contenders, int8, peers, turns = map(importlib.import_module, ("contenders", "int8", "peers", "turns"))

CASE = contenders.Case("small", 2.0, 1.2, Limits(0.5), Limits(0.5), "relative-error", real=False)
NEVER_SLOWER = contenders.Case("small")
GOOD, BAD = {"drop": 0.001, "after": 0.9}, {"drop": 0.7, "after": 0.2}


# --- the clock ---


def test_each_contender_runs_once_in_a_round_and_the_next_round_is_the_reverse() -> None:
    now, ran = [0.0], []

    def contender(place: int):
        return lambda: (ran.append(place), now.__setitem__(0, now[0] + 1.0 + place))

    taken = turns.take_turns([contender(i) for i in range(4)], (20, 0.0, 0.0), np.random.default_rng(0), lambda: now[0])
    assert taken.shape == (10, 2, 4)
    assert (taken == [1.0, 2.0, 3.0, 4.0]).all()
    rounds = np.array(ran[-80:]).reshape(10, 2, 4)
    assert (rounds[:, 0] == rounds[:, 1, ::-1]).all()
    assert (np.sort(rounds, axis=2) == np.arange(4)).all()
    assert len({tuple(order) for order in rounds[:, 0]}) > 5


def test_slow_contenders_are_timed_longer() -> None:
    now = [0.0]
    slow = turns.take_turns(
        [lambda: now.__setitem__(0, now[0] + 0.06)], (12, 1.2, 12.0), np.random.default_rng(0), lambda: now[0]
    )
    assert slow.sum() == pytest.approx(12.0, abs=0.13)


def test_ratio_is_the_time_of_the_first_over_that_of_the_second() -> None:
    noise = np.random.default_rng(0).lognormal(0, 0.01, (4, 40, 2, 1))
    drift = np.linspace(1, 2, 40)[None, :, None, None]
    loads = list(noise * drift * np.array([3.0, 1.0, 2.0]))
    assert turns.ratio(loads, 0, 1) == pytest.approx([3.0, 3.0, 3.0])
    assert turns.ratio(loads, 1, 2) == pytest.approx([0.5, 0.5, 0.5])
    other_load = [loads[0], loads[1], loads[2] * [1.2, 1.0, 1.0], loads[3] * [1.2, 1.0, 1.0]]
    ratio, low, high = turns.ratio(other_load, 0, 1)
    assert ratio == pytest.approx(3.0 * 1.2**0.5)
    assert low < 3.0 < 3.6 < high


# --- what is reached ---


def found(gain: dict[str, float], scores: dict[str, dict] | None = None) -> dict:
    """What turns.py finds, where intervals are 1 % wide on each side."""

    def near(ratio: float) -> list[float]:
        return [ratio, ratio * 0.99, ratio * 1.01]

    return {
        "gain": {tool: near(ratio) for tool, ratio in gain.items()},
        "against": {tool: near(gain["ours"] / ratio) for tool, ratio in gain.items() if "ours" in gain},
        "scores": {tool: {**GOOD, "metric": "top1", "before": 0.901, "low": 0, "high": 0} for tool in gain}
        | (scores or {}),
        "environment": {"foreign_load": 0.02},
    }


def tools(**errors: str) -> dict:
    return {
        tool: {"path": "", "seconds": 1.4, "said": None, "error": errors.get(tool)}
        for tool in ("default", "good", "dynamic", "ours")
    }


def test_the_best_other_is_the_fastest_that_keeps_the_accuracy() -> None:
    gain = {"default": 1.1, "good": 3.0, "dynamic": 2.0, "ours": 2.5}
    assert int8.best_other(CASE, found(gain)) == "good"
    assert int8.best_other(CASE, found(gain, {"good": BAD})) == "dynamic"
    assert int8.best_other(CASE, found(gain, {"good": {"error": "does not run"}})) == "dynamic"
    assert int8.best_other(CASE, found({"ours": 2.5})) is None


def test_a_least_score_stands_in_place_of_the_drop() -> None:
    assert int8.within({"after": 25.0, "drop": 125.0}, int8.DECIBELS)
    assert not int8.within({"after": 24.9, "drop": 125.1}, int8.DECIBELS)


MISSED = {
    "both reached": (CASE, {"good": 1.6, "ours": 2.0}, None, []),
    "too slow against fp32": (CASE, {"good": 1.6, "ours": 1.99}, None, ["against fp32"]),
    "too slow against the best": (CASE, {"good": 1.8, "dynamic": 1.1, "ours": 2.0}, None, ["against good"]),
    "too much accuracy lost": (CASE, {"ours": 2.0}, {"ours": BAD}, ["accuracy"]),
    "an inaccurate rival does not count": (CASE, {"good": 9.0, "ours": 2.0}, {"good": BAD}, []),
    "ours failed": (CASE, {"good": 1.6}, None, ["failed: it broke"]),
    "never slower, and is not": (NEVER_SLOWER, {"good": 1.0, "ours": 1.0}, None, []),
    "never slower, but the interval begins lower": (NEVER_SLOWER, {"ours": 0.98}, None, ["against fp32"]),
    "slower than a rival": (NEVER_SLOWER, {"good": 1.1, "ours": 1.0}, None, ["against good"]),
}


@pytest.mark.parametrize(("case", "gain", "scores", "expected"), MISSED.values(), ids=MISSED.keys())
def test_missed(case, gain, scores, expected) -> None:
    measured = found(gain, scores)
    assert list(int8.missed(case, tools(ours="it broke"), measured, int8.best_other(case, measured))) == expected


# --- the table ---


def row(**parts) -> dict:
    measured = found({"good": 1.6, "dynamic": 2.2, "ours": 2.0}, {"dynamic": BAD})
    made = {"name": "small", "error": None, "tools": tools(default="no | such\nkernel"), "measured": measured}
    return {**made, "kept": ["quantize-int8"], "broken": [], "best": "good", "missed": [], **parts}


def test_line() -> None:
    cells = int8.line(CASE, row()).strip("| ").split(" | ")
    assert len(cells) == len(int8.COLUMNS) + 1
    assert cells == [
        "small", "top1 0.901 -> 0.9", "fails: no / such kernel", "1.60 [1.58, 1.62]",
        "2.20 [2.18, 2.22] ! drop 0.7000", "2.00 [1.98, 2.02]", "1.25 [1.24, 1.26] (good)", "quantize-int8",
        "1 / 1 / 1 / 1", "2%", ">= 2.0; >= 1.2", "yes",
    ]  # fmt: skip
    row_without_score = row(measured=found({"good": 0.1, "dynamic": 2.2, "ours": 2.0}, {"good": {"error": "too slow"}}))
    assert "| 0.10 [0.10, 0.10] ! too slow |" in int8.line(CASE, row_without_score)
    assert int8.line(CASE, row(missed=["accuracy"])).endswith("| no: accuracy |")
    assert int8.line(CASE, row(error="KeyError: x")) == "| small | failed: KeyError: x |"


def test_header_says_whether_this_is_the_processor_of_the_numbers() -> None:
    assert "this is such a processor" in int8.header(["avx512_vnni", "amx_int8"])
    assert "| reached |" in int8.header(["avx512_vnni", "amx_int8"])
    assert "this is ANOTHER processor" in int8.header(["avx512_vnni"])


def test_line_names_passes_that_broke() -> None:
    assert "| none; tidy failed: NameError |" in int8.line(CASE, row(kept=[], broken=["tidy failed: NameError"]))


def test_lossy_passes_that_were_kept_and_what_was_predicted_and_what_broke() -> None:
    steps = [
        {"pass": "tidy", "outcome": "kept", "exactness": "exact"},
        {"pass": "quantize-int8", "outcome": "kept", "exactness": "lossy", "predicted": 2.104},
        {"pass": "quantize-dynamic", "outcome": "refused", "exactness": "lossy"},
        {"pass": "fold", "outcome": "undone", "exactness": "exact", "why": "changed the results"},
        {"pass": "fold:deep=true", "outcome": "undone", "exactness": "exact", "why": "changed the results"},
    ]
    assert int8.kept({"steps": steps}) == ["quantize-int8 (predicted 2.10)"]
    assert int8.broken({"steps": steps}) == ["fold undone: changed the results"]
    assert int8.kept(None) == int8.broken(None) == []


def test_every_case_can_be_made() -> None:
    names = [case.name for case in int8.CASES]
    assert len(set(names)) == len(names)
    assert [case.name for case in int8.CASES if not case.real and case.name not in ZOO] == []
    if not contenders.SHARED.is_dir():
        pytest.skip(f"there is no {contenders.SHARED} to look the real models up in")
    known = [model["name"] for model in json.loads((contenders.SHARED / "manifest.json").read_text())["models"]]
    assert [case.name for case in int8.CASES if case.real and case.name not in known] == []


# --- the files ---


def test_random_data_fit_the_network(tmp_path: Path) -> None:
    contenders.save_random("gpt2", tmp_path / "data")
    with np.load(tmp_path / "data" / "calib.npz") as calib, np.load(tmp_path / "data" / "eval.npz") as held_out:
        assert calib["input_ids"].shape == (contenders.CALIBRATION, 64)
        assert held_out["input_ids"].shape == (contenders.HELD_OUT, 64)
        assert not (calib["input_ids"][: contenders.HELD_OUT] == held_out["input_ids"]).all()
        assert (held_out["attention_mask"] == np.ones((contenders.HELD_OUT, 64), np.int64)).all()


def test_padding_leaves_labels() -> None:
    assert contenders.padded_to(5, np.ones((2, 3), int)).tolist() == [[1, 1, 1, 0, 0]] * 2
    assert contenders.padded_to(5, np.ones(2)).shape == (2,)


@pytest.mark.parametrize(
    ("script", "limit", "error"),
    [
        ("raise ValueError('no kernel')", 60, "ValueError: no kernel"),
        ("import time; time.sleep(60)", 0.1, "over 0.1 s"),
    ],
)
def test_a_tool_that_fails_says_why_and_is_remembered(tmp_path: Path, script: str, limit: float, error: str) -> None:
    settings = contenders.Settings(tmp_path, limit=limit)
    (tmp_path / "small").mkdir()
    assert contenders.made("good", ["-c", script], CASE, settings)["error"] == error
    again = contenders.Settings(tmp_path, reuse=("good",))
    assert contenders.made("good", ["-c", "print('[]')"], CASE, again)["error"] == error
    assert contenders.made("good", ["-c", "print('[]')"], CASE, contenders.Settings(tmp_path))["error"] is None


def test_a_row_that_fails_says_why(tmp_path: Path) -> None:
    error = int8.row(contenders.Case("of nobody"), contenders.Settings(tmp_path))["error"]
    assert error.startswith("RuntimeError: ")
    assert "does not name it" in error


def test_prepare_makes_all_but_ours(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(int8, "prepare", lambda case, settings: contenders.Given(Path("m"), Path("c"), Path("h")))
    monkeypatch.setattr(int8, "made", lambda tool, *_: {"error": "broke" if tool == "good" else None, "seconds": 2.0})
    assert int8.prepared(CASE, contenders.Settings(tmp_path))
    assert capsys.readouterr().out == "small: default 2 s, good 2 s fails, dynamic 2 s\n"


def test_prepare_goes_on_after_a_model_that_is_not_there(tmp_path: Path, capsys) -> None:
    assert not int8.prepared(contenders.Case("of nobody"), contenders.Settings(tmp_path))
    assert "of nobody: " in capsys.readouterr().out


def test_dynamic_without_value_info_that_contradicts(tmp_path: Path) -> None:
    text = "g (float[1,4] x) => (float[1,3] y) <float[3,4] w, float[3] b> { y = Gemm<transB=1>(x, w, b) }"
    path = files.save(parse(text), tmp_path / "gemm.onnx")[0]
    proto = onnx.load(path)
    proto.graph.value_info.append(onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [3, 4]))
    onnx.save(proto, path)
    assert peers.dynamic(path, "", tmp_path / "out.onnx") == ["value_info deleted"]
    assert "MatMulInteger" in operators(tmp_path / "out.onnx")


# --- from the model to the table ---


def operators(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(path).graph.node}


@pytest.fixture
def work(conv_net_file: Path, images: np.ndarray, tmp_path: Path) -> Path:
    """A work folder that has the model and its data already."""
    data = tmp_path / "small" / "data"
    data.mkdir(parents=True)
    shutil.copy(conv_net_file, tmp_path / "small" / "fp32.onnx")
    np.savez(data / "calib.npz", x=images[:8])
    np.savez(data / "eval.npz", x=images[8:24])
    return tmp_path


def test_the_others_are_made_timed_and_scored(work: Path, capsys) -> None:
    given = contenders.prepare(CASE, contenders.Settings(work))
    paths = {tool: str(work / f"{tool}.onnx") for tool in contenders.OTHERS}
    for tool, path in paths.items():
        peers.main(tool, str(given.model), str(given.calib), path)
    assert json.loads(capsys.readouterr().out.splitlines()[1]) == ["reduce_range"] * Target().int8_saturates
    assert "QuantizeLinear" in operators(Path(paths["default"])) & operators(Path(paths["good"]))
    assert "ConvInteger" in operators(Path(paths["dynamic"]))

    models = {"fp32": str(given.model), **paths, "ours": str(given.model)}
    job = turns.Job(models, "ours", str(given.calib), str(given.held_out), CASE.metric, {}, 30, 0.01, 0.01)
    measured = turns.measured(job)
    assert list(measured["seconds"]) == ["fp32", "default", "good", "dynamic", "ours"]
    assert measured["rounds"] >= 30
    assert list(measured["gain"]) == ["default", "good", "dynamic", "ours"]
    assert list(measured["against"]) == ["fp32", "default", "good", "dynamic"]
    assert all(0 < low <= ratio <= high for ratio, low, high in measured["gain"].values())
    assert turns.scores(job, ["good"])["good"] == {"error": "too slow to be scored"}
    assert 0 < turns.scores(job)["good"]["after"] < 0.1
    assert measured["scores"]["ours"]["after"] == 0


def test_what_is_hopelessly_slow_is_not_scored(monkeypatch) -> None:
    times = {"gain": {"good": [1.2, 1.1, 1.3], "dynamic": [0.1, 0.1, 0.1], "ours": [0.1, 0.1, 0.1]}}
    monkeypatch.setattr(turns, "times", lambda job: times)
    monkeypatch.setattr(turns, "scores", lambda job, left_out: left_out)
    assert turns.measured(turns.Job({}, "ours", "", ""))["scores"] == ["dynamic"]


@pytest.mark.slow
def test_a_row_from_end_to_end(work: Path) -> None:
    row = int8.row(CASE, contenders.Settings(work, seconds=0.02, passes=("fold-batch-norm",)))
    assert row["error"] is None
    assert {tool: made["error"] for tool, made in row["tools"].items()} == dict.fromkeys([*contenders.OTHERS, "ours"])
    assert row["measured"]["gain"].keys() == {*contenders.OTHERS, "ours"}
    assert 0 <= row["measured"]["scores"]["ours"]["after"] < 1e-5
    assert int8.line(CASE, row).startswith("| small | relative-error 0 -> ")
