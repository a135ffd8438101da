"""How to reproduce: hashes, machine, and the command."""

import dataclasses
import hashlib
import subprocess
from pathlib import Path

import pytest

from onnxopt import passes
from onnxopt.cli.common import GPU_WORDS, target
from onnxopt.cli.optimize import _options
from onnxopt.cli.optimize import command as optimize_command
from onnxopt.gate import Limits
from onnxopt.optimize import Options
from onnxopt.pipeline import Goal
from onnxopt.report import origin
from onnxopt.report.numbers import shell
from onnxopt.report.origin import hashed, hashes, machine, now, versions
from onnxopt.target import Target

ALL = Options(
    data="d a/t'a.npz",
    eval_data="-e.npz",
    preprocess="imagenet",
    metric="top1",
    limits=Limits(0.02, 0.5, True, 0.9),
    goal=Goal.SIZE,
    target=Target("cpu", 2, {"x": (1, 3), "n": ()}),
    state={"h": "h_out"},
    passes=tuple(map(passes.parse_stage, ("fold-batch-norm", "quantize-int8 | quantize-dynamic", "prune-channels:macs=0.3..0.95"))),
    time_limit=30.5,
    seed=3,
    force=True,
    allow_contrib=True,
    max_slowdown=1.5,
    prune=True,
)  # fmt: skip


def parsed(words: tuple[str, ...]) -> tuple[Path, Path, Options]:
    """What the command line makes of them."""
    assert words[:2] == ("onnxopt", "optimize")
    found = optimize_command.make_context("optimize", list(words[2:])).params
    others = ("output", "reports", "save_recipe", "strict", "verbose", "as_json")
    model, output, *_ = found.pop("model"), *[found.pop(name) for name in others]
    of_target = {word: found.pop(word) for word in ("provider", "threads", "shapes", "ranges", *GPU_WORDS)}
    return model, output, _options(target(**of_target), **found)


ON_GPU = Options(
    target=Target(
        "cuda",
        ranges={"x": (-1.5, 2.0)},
        provider_options={"use_tf32": "0"},
        device_id=1,
        cuda_graph=True,
        require_gpu=True,
    )
)


@pytest.mark.parametrize("options", [Options(), ALL, ON_GPU], ids=["defaults", "everything", "on a GPU"])
def test_the_command_asks_for_the_same(options: Options) -> None:
    model, output, found = parsed(options.command("-m.onnx", "o.onnx"))
    assert (str(model), str(output)) == ("-m.onnx", "o.onnx")
    assert found == options


def test_the_command_says_only_what_is_not_the_default() -> None:
    assert Options().command("m.onnx", "o.onnx") == ("onnxopt", "optimize", "--output=o.onnx", "--", "m.onnx")


@pytest.mark.parametrize("options", [Options(), ALL, ON_GPU], ids=["defaults", "everything", "on a GPU"])
def test_a_shell_reads_the_command_as_it_is_shown(options: Options) -> None:
    words = options.command("my model's.onnx", "o.onnx")
    done = subprocess.run(["sh", "-c", f"printf '%s\\n' {shell(words)}"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == list(words)
    assert len(shell(words).splitlines()) == len(words) - 2


def test_every_option_is_told() -> None:
    """A new option belongs into ``Options.command``, and here."""
    usual, told = Options(), {field.name for field in dataclasses.fields(Options)} - {"details"}
    assert {name for name in told if getattr(ALL, name) != getattr(usual, name)} == told


def test_files_and_folders_have_hashes(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for name in ("b", "a"):
        (tmp_path / "d" / name).write_text(name)
    found = hashed("data", tmp_path / "d" / "a")
    assert (found.size, found.sha256) == (1, hashlib.sha256(b"a").hexdigest())
    listing = "".join(f"{hashlib.sha256(name.encode()).hexdigest()}  {name}\n" for name in "ab")
    folder = hashed("data", tmp_path / "d")
    assert (folder.size, folder.sha256) == (2, hashlib.sha256(listing.encode()).hexdigest())


def test_a_folder_that_is_too_large_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(origin, "LARGEST", 0)
    (tmp_path / "a").write_text("a")
    assert hashed("data", tmp_path).sha256 is None


def test_what_is_no_file_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "m").write_text("m")
    assert [file.role for file in hashes([("model", tmp_path / "m"), ("data", "module:function"), ("data", None)])] == [
        "model"
    ]


def test_the_machine_and_the_versions_are_told() -> None:
    found = machine()
    assert found["cores"] >= 1
    assert found["memory"] > 2**20
    assert set(found["instruction_sets"]) <= set(origin.DECISIVE)
    assert {"onnxopt", "python", "onnx", "numpy"} <= versions().keys()
    assert now().endswith("+00:00")
