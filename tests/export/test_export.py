"""The road of export: the file is what the module computes, or there is no file."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

from onnxopt import files  # noqa: E402
from onnxopt.errors import ModelError, UsageError  # noqa: E402
from onnxopt.export.convert import Exporter, reason  # noqa: E402
from onnxopt.export.export import Exported, Settings, export  # noqa: E402
from onnxopt.export.inputs import Input  # noqa: E402
from onnxopt.export.locate import literals, load_module  # noqa: E402

NETS = Path(__file__).with_name("nets.py")
BATCH = {0: "batch"}
IMAGE = [Input("image", (1, 3, 8, 8), dynamic=BATCH)]
RANKER = [
    Input("tokens", (1, 16), "int64", dynamic={0: "batch", 1: "sequence"}),
    Input("features", (1, 3), dynamic=BATCH),
]
both = pytest.mark.parametrize("exporter", Exporter, ids=lambda one: one.value)


def exported(tmp_path: Path, name: str, inputs: list[Input], arguments: dict | None = None, **words: Any) -> Exported:
    return export(load_module(f"{NETS}:{name}", arguments or {}), tmp_path / "net.onnx", inputs, Settings(**words))


def names(values: Any) -> list[str]:
    return [f"{value.name}{value.shape}" for value in values]


@both
def test_a_module_with_all_kinds_of_inputs_and_outputs(tmp_path: Path, exporter: Exporter) -> None:
    found = exported(tmp_path, "Ranker", RANKER, exporter=exporter)
    model = files.load(found.paths[0])
    assert names(model.graph.inputs) == ["tokens[batch,sequence]", "features[batch,3]"]
    assert names(model.graph.outputs) == ["score[batch,1]", "hidden.pooled[batch,8]"]
    assert {"embed.weight", "score.weight"} <= {*model.graph.initializers}
    assert [sizes for sizes, _ in found.checks] == [{"batch": 1, "sequence": 16}, {"batch": 3, "sequence": 8}]
    assert all(check.ok for _, check in found.checks)
    onnx.checker.check_model(onnx.load(tmp_path / "net.onnx"), full_check=True)
    assert b"nets.py" not in (tmp_path / "net.onnx").read_bytes()  # no paths of this machine


@both
def test_an_lstm_keeps_its_length_dynamic(tmp_path: Path, exporter: Exporter) -> None:
    steps = [Input("x", (1, 6, 3), dynamic={0: "batch", 1: "steps"})]
    found = exported(tmp_path, "Recurrent", steps, exporter=exporter)
    assert names(found.model.graph.outputs) == ["output[batch,steps,4]"]
    onnx.checker.check_model(onnx.load(tmp_path / "net.onnx"), full_check=True)


@both
def test_the_same_module_gives_the_same_bytes(tmp_path: Path, exporter: Exporter) -> None:
    first = exported(tmp_path, "small", IMAGE, exporter=exporter).paths[0].read_bytes()
    assert exported(tmp_path, "small", IMAGE, exporter=exporter).paths[0].read_bytes() == first


def test_without_dynamic_dimensions_two_inputs_are_compared(tmp_path: Path) -> None:
    found = exported(tmp_path, "small", [Input("image", (2, 3, 8, 8))], exporter=Exporter.TORCHSCRIPT, opset=13)
    assert names(found.model.graph.inputs) == ["image[2,3,8,8]"]
    assert found.model.opset_imports[""] == 13
    assert len(found.checks) == 2


def test_outputs_are_called_as_asked(tmp_path: Path) -> None:
    found = exported(tmp_path, "Ranker", RANKER, outputs=("a", "b"), exporter=Exporter.TORCHSCRIPT)
    assert [value.name for value in found.model.graph.outputs] == ["a", "b"]


def test_layers_are_kept_or_folded_as_asked(tmp_path: Path) -> None:
    kept, folded = (
        [node.op_type for node in exported(tmp_path, "small", IMAGE, keep_layers=keep).model.graph]
        for keep in (True, False)
    )
    assert "BatchNormalization" in kept
    assert "BatchNormalization" not in folded


def test_exact_passes_run_where_asked(tmp_path: Path) -> None:
    found = exported(tmp_path, "small", IMAGE, keep_layers=True, optimize=True)
    assert "fold-batch-norm" in [step.words for step in found.steps if step.kept]
    assert "BatchNormalization" not in [node.op_type for node in found.model.graph]


WRONG = {
    "depends on the numbers, dynamo": ("Branch", [Input("x", (2, 3))], "dynamo", "Could not guard on data-dependent"),
    "depends on the numbers, traced": (
        "Branch",
        [Input("x", (2, 3))],
        "torchscript",
        "'output' at random input . is off",
    ),
    "fails on another batch": ("Fixed", [Input("x", (2, 3), dynamic=BATCH)], "dynamo", r"does not run with x \[3, 3\]"),
    "takes the batch for a constant": ("Frozen", [Input("x", (2, 3), dynamic=BATCH)], "torchscript", "batch=3"),
    "an operator ONNX has not": ("Unknown", [Input("x", (3, 3))], "dynamo", "No ONNX function found for .*eig"),
    "an operator ONNX has not, traced": ("Unknown", [Input("x", (3, 3))], "torchscript", "aten::linalg_eigvals"),
}


@pytest.mark.parametrize(("name", "inputs", "exporter", "said"), WRONG.values(), ids=WRONG.keys())
def test_what_cannot_be_exported_is_explained_and_not_written(
    tmp_path: Path, capfd: pytest.CaptureFixture, name: str, inputs: list[Input], exporter: str, said: str
) -> None:
    with pytest.raises(ModelError, match=said) as caught:
        exported(tmp_path, name, inputs, exporter=Exporter(exporter))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 900
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")


def test_the_line_of_the_module_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nets.py:\d+: if x.sum\(\) > 0"):
        exported(tmp_path, "Branch", [Input("x", (2, 3))])


def test_an_opset_that_the_exporter_does_not_reach_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"gives opset 18 and cannot convert it to 9; ask for --opset 18"):
        exported(tmp_path, "small", IMAGE, opset=9)


def test_no_input_or_one_twice_is_refused(tmp_path: Path) -> None:
    for inputs in ([], [*IMAGE, *IMAGE]):
        with pytest.raises(UsageError, match="each input of the module once"):
            exported(tmp_path, "small", inputs)


def test_indices_that_are_too_large_are_found_out(tmp_path: Path) -> None:
    found = exported(tmp_path, "Ranker", RANKER, {"vocab": 2}, exporter=Exporter.TORCHSCRIPT)
    assert all(check.ok for _, check in found.checks)


@pytest.mark.parametrize("name", ["small", "INSTANCE"])
def test_a_factory_a_class_and_an_instance_are_modules(name: str) -> None:
    module = load_module(f"{NETS}:{name}", {})
    assert not module.training
    assert module(torch.zeros(1, 3, 8, 8)).shape == (1, 4)


def test_arguments_go_to_the_factory() -> None:
    module = load_module(f"{NETS}:small", literals({"classes": "7"}))
    assert module(torch.zeros(1, 3, 8, 8)).shape == (1, 7)
    assert literals({"a": "(1, 2)", "b": "gelu", "c": "True"}) == {"a": (1, 2), "b": "gelu", "c": True}


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("smal", {}, "cannot be imported: .*has no attribute 'smal'"),
        ("NOTHING", {}, "is a int; give a torch.nn.Module"),
        ("broken", {}, "cannot be built: ValueError: no such thing"),
        ("small", {"layers": 3}, "unexpected keyword argument 'layers'"),
        ("INSTANCE", {"layers": 3}, "takes no --arg"),
        ("literal", {}, "cannot be imported"),
    ],
)
def test_what_is_no_module_is_explained(name: str, arguments: dict, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        load_module(f"{NETS}:{name}", arguments)


def test_weights_above_the_limit_go_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "SINGLE_FILE_LIMIT", 1000)
    found = exported(tmp_path, "small", IMAGE, exporter=Exporter.TORCHSCRIPT)
    assert [path.suffix for path in found.paths] == [".onnx", ".data"]
    reloaded = files.load(found.paths[0])
    np.testing.assert_array_equal(
        reloaded.graph.initializers["4.weight"].const_value.numpy(),
        found.model.graph.initializers["4.weight"].const_value.numpy(),
    )


def test_the_reason_is_the_first_cause_in_one_paragraph() -> None:
    failure = RuntimeError("\x1b[96mfailed\x1b[0m")
    assert reason(failure) == "failed"
    failure.__cause__ = ValueError("first line\nof it\n\nmuch more")
    assert reason(failure) == "first line of it"
