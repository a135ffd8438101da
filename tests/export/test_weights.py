"""Weights: what fits is loaded, what does not is named, what runs code is refused."""

import pickle  # noqa: TID251
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")

from torch import nn  # noqa: E402

from onnxopt.errors import DataError  # noqa: E402
from onnxopt.export.weights import Loaded, load_weights  # noqa: E402


class Tied(nn.Module):
    """An embedding whose weight is that of the last layer, too."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight


def net() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4), fc=nn.Linear(4, 2)))


@pytest.fixture
def state() -> dict[str, Any]:
    torch.manual_seed(2)
    return {name: torch.randn_like(tensor.float()).to(tensor) for name, tensor in net().state_dict().items()}


def load(path: Path, state: Any, **words: Any) -> tuple[nn.Module, Loaded]:
    if path.suffix == ".safetensors":
        safetensors.save_file(state, path)
    else:
        torch.save(state, path)
    module = net()
    return module, load_weights(module, path, **words)


@pytest.mark.parametrize("name", ["net.safetensors", "net.pt", "net.pth"])
def test_both_kinds_of_files_are_read(tmp_path: Path, state: dict[str, Any], name: str) -> None:
    module, loaded = load(tmp_path / name, state)
    assert loaded.count == len(state)
    assert torch.equal(module.fc.weight, state["fc.weight"])


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_a_state_dict_in_a_training_file_is_found(tmp_path: Path, state: dict[str, Any], key: str) -> None:
    module, _ = load(tmp_path / "net.pt", {"epoch": 3, key: state})
    assert torch.equal(module.conv.bias, state["conv.bias"])


@pytest.mark.parametrize("prefix", ["module.", "module.net."])
def test_a_prefix_of_the_file_is_removed(tmp_path: Path, state: dict[str, Any], prefix: str) -> None:
    _, loaded = load(tmp_path / "net.pt", {prefix + name: tensor for name, tensor in state.items()})
    assert loaded.prefix == f"-{prefix}"


def test_a_prefix_of_the_module_is_added(tmp_path: Path, state: dict[str, Any]) -> None:
    torch.save(state, tmp_path / "net.pt")
    module = nn.ModuleDict({"body": net()})
    assert load_weights(module, tmp_path / "net.pt").prefix == "+body."
    assert torch.equal(module["body"].fc.weight, state["fc.weight"])


def test_gamma_and_beta_are_weight_and_bias(tmp_path: Path, state: dict[str, Any]) -> None:
    old = {"norm.weight": "norm.gamma", "norm.bias": "norm.beta"}
    module, _ = load(tmp_path / "net.pt", {old.get(name, name): tensor for name, tensor in state.items()})
    assert torch.equal(module.norm.bias, state["norm.bias"])


def test_a_tied_weight_may_be_missing(tmp_path: Path) -> None:
    module = Tied()
    safetensors.save_file({"embed.weight": torch.ones(7, 4)}, tmp_path / "tied.safetensors")
    assert load_weights(module, tmp_path / "tied.safetensors").missing == ()
    assert module.head.weight.sum() == 28


def test_missing_and_unexpected_names_are_listed(tmp_path: Path, state: dict[str, Any]) -> None:
    del state["fc.bias"]
    state |= {f"extra.{number}": torch.ones(1) for number in range(20)}
    with pytest.raises(DataError) as caught:
        load(tmp_path / "net.pt", state)
    assert "1 missing from the file: fc.bias" in str(caught.value)
    assert "20 unknown to the module: extra.0, " in str(caught.value)
    assert "and 12 more" in str(caught.value)
    assert "--no-strict" in str(caught.value)


def test_what_is_not_strict_says_what_was_left(tmp_path: Path, state: dict[str, Any]) -> None:
    del state["fc.bias"]
    _, loaded = load(tmp_path / "net.pt", {**state, "extra": torch.ones(1)}, strict=False)
    assert (loaded.missing, loaded.unexpected) == (("fc.bias",), ("extra",))


def test_names_that_a_network_does_not_need_may_be_there(tmp_path: Path, state: dict[str, Any]) -> None:
    _, loaded = load(tmp_path / "net.pt", {**state, "pooler.weight": torch.ones(1)}, unused=["pooler.*"])
    assert loaded.unexpected == ()


@pytest.mark.parametrize("strict", [True, False])
def test_another_shape_is_an_error_that_changes_nothing(tmp_path: Path, state: dict[str, Any], strict: bool) -> None:
    state["fc.weight"] = torch.ones(5, 4)
    torch.save(state, tmp_path / "net.pt")
    module = net()
    before = module.conv.weight.clone()
    with pytest.raises(DataError, match=r"fc.weight is \[5, 4\], the module has \[2, 4\]"):
        load_weights(module, tmp_path / "net.pt", strict=strict)
    assert torch.equal(module.conv.weight, before)


class Bomb:
    """What a hostile file holds: code that runs where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("form", ["torch.save", "pickle"])
def test_code_in_a_file_is_refused_before_it_runs(tmp_path: Path, state: dict[str, Any], form: str) -> None:
    path, trace = tmp_path / "evil.pt", tmp_path / "it ran"
    content = {**state, "code": Bomb(trace)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    said = "perhaps code, and was not loaded" if form == "torch.save" else "cannot be read"
    with pytest.raises(DataError, match=said):
        load_weights(net(), path)
    assert not trace.exists()


def test_a_whole_module_is_refused(tmp_path: Path) -> None:
    torch.save(net(), tmp_path / "module.pt")
    with pytest.raises(DataError, match="holds more than tensors"):
        load_weights(net(), tmp_path / "module.pt")


def test_an_archive_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50_000_000))
    with pytest.raises(DataError, match="would grow to 50000000 bytes"):
        load_weights(net(), path)


@pytest.mark.parametrize("name", ["net.safetensors", "net.pt"])
@pytest.mark.parametrize("damage", ["cut", "empty", "missing", "text"])
def test_damaged_files_are_explained(tmp_path: Path, state: dict[str, Any], name: str, damage: str) -> None:
    path = tmp_path / name
    load(path, state)
    contents = {"cut": path.read_bytes()[:300], "empty": b"", "text": b"hello " * 100}
    path.unlink()
    if damage != "missing":
        path.write_bytes(contents[damage])
    with pytest.raises(DataError, match=r"net\.(pt|safetensors)"):
        load_weights(net(), path)


@pytest.mark.parametrize(("content", "said"), [([1, 2], "a list"), ({"a": 1}, "'a' is a int"), ({}, "it is empty")])
def test_what_is_no_state_dict_is_explained(tmp_path: Path, content: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        load(tmp_path / "net.pt", content)


def test_a_file_of_another_network_is_an_error_even_if_not_strict(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no tensor whose name the module knows"):
        load(tmp_path / "net.pt", {"other": torch.ones(2)}, strict=False)
