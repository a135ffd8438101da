"""``onnxopt export`` as typed."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from click.testing import CliRunner

from onnxopt.cli.main import cli
from onnxopt.errors import OnnxoptError
from onnxopt.models.zoo import ZOO

NETS = Path(__file__).parents[1] / "export" / "nets.py"
RANKER = (
    f"{NETS}:Ranker --shape tokens=1,16 --dtype tokens=int64 --range tokens=0:49 --shape features=1,3 "
    "--dynamic tokens:0=batch --dynamic tokens:1=sequence --dynamic features:0=batch"
)
ZOO_IN_SECONDS = ("dscnn", "autoencoder", "resnet20_cifar", "lstm_tagger")


def run(words: str) -> Any:
    result = CliRunner().invoke(cli, words.split())
    if isinstance(result.exception, OnnxoptError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def needs_torch() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")


def test_the_zoo_is_listed_without_pytorch() -> None:
    block = "import sys; sys.modules['torch'] = None; sys.argv = ['onnxopt', 'export', '--list', '--json']"
    script = f"{block}; from onnxopt.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    listed = json.loads(done.stdout)
    assert [*listed] == [*ZOO]
    assert listed["resnet50"]["parameters"] == 25_557_032
    assert listed["resnet50"]["inputs"]["image"]["shape"] == [1, 3, 224, 224]


def test_the_list_shows_numbers_and_shapes() -> None:
    text = run("export --list")
    for words in ("resnet50", "25.6 M", "4.09 G", "1x3x224x224", "Hugging Face BertModel"):
        assert words in text


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
@pytest.mark.parametrize("name", ZOO_IN_SECONDS)
def test_small_networks_of_the_zoo(tmp_path: Path, name: str, exporter: str) -> None:
    needs_torch()
    found = json.loads(run(f"export {name} -o {tmp_path}/net.onnx --exporter {exporter} --json"))
    assert found["inputs"] == [one.name for one in ZOO[name].inputs]
    assert found["outputs"] == [*ZOO[name].outputs]
    assert all(check["ok"] for check in found["checks"])
    inspected = json.loads(run(f"inspect {tmp_path}/net.onnx --json{shapes(name)}"))
    assert inspected["macs"] == ZOO[name].macs
    assert inspected["uncounted"] == {}


def shapes(name: str) -> str:
    return "".join(f" --shape {one.name}={'x'.join(map(str, one.shape))}" for one in ZOO[name].inputs)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ZOO if name not in ZOO_IN_SECONDS])
def test_large_networks_of_the_zoo(tmp_path: Path, name: str) -> None:
    needs_torch()
    found = json.loads(run(f"export {name} -o {tmp_path}/net.onnx --json"))
    assert all(check["ok"] for check in found["checks"])
    inspected = json.loads(run(f"inspect {tmp_path}/net.onnx --json{shapes(name)}"))
    assert inspected["macs"] == ZOO[name].macs


def test_a_module_of_the_user(tmp_path: Path) -> None:
    needs_torch()
    text = run(f"export {RANKER} -o {tmp_path}/net.onnx")
    for line in (
        "input    tokens int64[batch,sequence]",
        "output   hidden.pooled float32[batch,8]",
        "weights  as the module has them",
        "batch=3, sequence=8: largest relative difference to the module",
    ):
        assert line in text
    onnx.checker.check_model(onnx.load(tmp_path / "net.onnx"), full_check=True)


def test_the_example_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_torch()
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (source,) = re.findall(r"```python\n(# ranker.py\n.*?)```", readme, re.S)
    (command,) = re.findall(r"^\$ onnxopt (export ranker.py.*)$", readme, re.M)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ranker.py").write_text(source)
    found = json.loads(run(f"{command} --json"))
    assert (found["inputs"], found["outputs"]) == (["tokens", "features"], ["score", "pooled"])
    assert [check["sizes"] for check in found["checks"]] == [{"batch": 1, "sequence": 16}, {"batch": 3, "sequence": 8}]


def test_the_file_is_called_after_the_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_torch()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("from torch import nn\n\ndef net():\n    return nn.Linear(3, 2)\n")
    run("export mine:net --shape x=2,3 --exporter torchscript")
    assert [path.name for path in tmp_path.glob("*.onnx")] == ["net.onnx"]


def test_shapes_of_the_zoo_change_and_can_be_fixed(tmp_path: Path) -> None:
    needs_torch()
    run(f"export dscnn --static --shape image=2,1,49,10 --exporter torchscript -o {tmp_path}/net.onnx")
    inputs = onnx.load(tmp_path / "net.onnx").graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_value for dim in inputs] == [2, 1, 49, 10]


def test_weights_are_loaded_and_random_ones_follow_the_seed(tmp_path: Path) -> None:
    needs_torch()
    import torch

    options = "--exporter torchscript --opset 17"
    torch.save({f"module.{k}": v for k, v in ZOO["dscnn"].build().state_dict().items()}, tmp_path / "net.pt")
    text = run(f"export dscnn --weights {tmp_path}/net.pt -o {tmp_path}/a.onnx {options}")
    assert "prefix 'module.' removed" in text
    for number, seed in enumerate((1, 1, 2)):
        run(f"export dscnn --seed {seed} -o {tmp_path}/{number}.onnx {options}")
    files = [(tmp_path / f"{number}.onnx").read_bytes() for number in range(3)]
    assert files[0] == files[1] != files[2]


def test_exact_passes_are_shown(tmp_path: Path) -> None:
    needs_torch()
    assert "passes   " in run(f"export dscnn --optimize --exporter torchscript -o {tmp_path}/net.onnx")


BAD = {
    "no such network": ("resnet51", 2, "did you mean 'resnet"),
    "nothing to export": ("", 2, "name a network of the zoo"),
    "no shape": (f"{NETS}:Ranker", 2, "give the shape of every input"),
    "no such file": ("nowhere.py:net --shape x=1,2", 2, "cannot be imported"),
    "no such input": ("dscnn --shape imagee=1,1,49,10", 2, "did you mean 'image'"),
    "no such dtype": ("dscnn --dtype image=floatt", 2, "no dtype 'floatt'"),
    "a dynamic axis without a name": ("dscnn --dynamic image:0", 2, "write --dynamic name:axis=dimension"),
    "a range of words": ("dscnn --range image=a:b", 2, "write --range name=lowest:highest"),
    "fixed and dynamic": ("dscnn --static --dynamic image:0=n", 2, "contradict"),
    "an argument the network has not": ("dscnn --arg depth=3", 2, "unexpected keyword argument 'depth'"),
    "no such weights": ("dscnn --weights nowhere.pt", 3, "no weights file nowhere.pt"),
    "no such folder": ("dscnn -o nowhere/net.onnx", 2, "no folder"),
    "cannot be exported": (f"{NETS}:Branch --shape x=2,3", 3, "cannot export the module: Could not guard"),
    "is not what was traced": (f"{NETS}:Branch --shape x=2,3 --exporter torchscript", 3, "is off by"),
}


@pytest.mark.parametrize(("words", "code", "said"), BAD.values(), ids=BAD.keys())
def test_bad_words_are_explained(tmp_path: Path, monkeypatch, words: str, code: int, said: str) -> None:
    needs_torch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OnnxoptError, match=said) as caught:
        run(f"export {words}")
    assert caught.value.exit_code == code
    assert not list(tmp_path.iterdir())


def test_without_pytorch_the_way_to_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(OnnxoptError, match=r"pip install 'onnxopt\[torch\]'"):
        run(f"export dscnn -o {tmp_path}/net.onnx")
